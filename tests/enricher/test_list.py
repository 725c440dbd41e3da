# SPDX-License-Identifier: Apache-2.0
"""The list in README.md names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_in_the_list_exists() -> None:
    text = (HERE / "README.md").read_text()
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 40
    missing = [(file, test) for file, test in named if test and f"def {test}(" not in (HERE / file).read_text()]
    assert missing == []
