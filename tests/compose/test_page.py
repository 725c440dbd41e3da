# SPDX-License-Identifier: Apache-2.0
"""The table of variables in docs/compose.md says what docker-compose.yml reads, with the same defaults."""

import re

from tests.k8s.rendered import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
ROWS = dict(re.findall(r"^\| `(ZONEMETER_\w+)` \| (\S+) \|", (ROOT / "docs/compose.md").read_text(), re.MULTILINE))


def test_defaults_are_as_the_table_says() -> None:
    assert len(ROWS) > 5
    for name, default in ROWS.items():
        assert set(re.findall(rf"\${{{name}:-([^}}]*)}}", COMPOSE)) == {default}, name
