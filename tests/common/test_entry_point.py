# SPDX-License-Identifier: Apache-2.0
"""How every command begins and ends."""

import pytest
from pydantic import Field

from common.entry_point import entry_point
from common.errors import Refusal
from common.settings import Settings


class GreetingSettings(Settings):
    """Greet."""

    name: str = Field("nobody", description="whom")


@entry_point("greet", GreetingSettings)
def greet(settings: GreetingSettings) -> int:
    """Greet, unless it is one of these."""
    match settings.name:
        case "refused":
            raise Refusal("name = 'refused': expected another")
        case "interrupted":
            raise KeyboardInterrupt
        case "late":
            raise KeyboardInterrupt("interrupted: nothing was written")
    return len(settings.name)


def test_the_status_is_what_the_function_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert greet(["--name", "you"]) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--name", "refused"], "zonemeter greet: name = 'refused': expected another"),
        (["--nam", "x"], "zonemeter greet: unrecognized arguments: --nam x; did you mean --name? "),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        greet(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "line"), [("interrupted", "interrupted"), ("late", "interrupted: nothing was written")]
)
def test_ctrl_c_is_one_line_and_status_130(name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert greet(["--name", name]) == 130
    assert capsys.readouterr() == ("", f"zonemeter greet: {line}\n")
