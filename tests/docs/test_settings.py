# SPDX-License-Identifier: Apache-2.0
"""docs/settings.md is what the settings classes say."""

from pathlib import Path

import pytest

from cli.main import COMMANDS
from tests.support.settings_reference import reference, what_it_reads

PAGE = Path(__file__).resolve().parents[2] / "docs/settings.md"


def test_the_page_is_as_the_code() -> None:
    assert PAGE.read_text() == reference(), "run make docs"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_setting_says_what_it_is(words: tuple[str, ...]) -> None:
    settings = what_it_reads(words, COMMANDS[words]).settings
    for name, field in settings.model_fields.items() if settings else ():
        assert field.description, f"{settings}.{name} has no description"


def test_flags_that_do_not_exist_are_found() -> None:
    with pytest.raises(SystemExit):
        what_it_reads(("audit",), COMMANDS["audit",], ["--colour", "blue"])
