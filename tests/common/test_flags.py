# SPDX-License-Identifier: Apache-2.0
"""What --help says, of every command: without words of the language it is written in, a command's own flags first."""

import re

import pytest

from cli.main import COMMANDS, main

LOADED = sorted(" ".join(words) for words in COMMANDS)


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.argv", ["zonemeter", *command.split(), "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("command", LOADED)
def test_help_is_for_people(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = help_of(command, monkeypatch, capsys)
    assert out.startswith(f"usage: zonemeter {command} [FLAGS]")
    assert max(map(len, out.splitlines())) <= 100
    assert re.findall(r"list\[|\bstr\b|\bPath\b|ByteSize|\bNone\b|factory|\bfloat\b|\bint\b", out) == []


def test_a_commands_own_flags_come_first_and_keep_their_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = help_of("report", monkeypatch, capsys)
    assert report.index("--compare TEXT") < report.index("common flags") < report.index("--kafka-bootstrap TEXT")
    assert "how many pairs to show (default: 5)" in report
    assert "(default: 64MiB)" in help_of("run collector", monkeypatch, capsys)
    doctor = help_of("doctor", monkeypatch, capsys)
    assert doctor.index("--kafka-deadline-seconds") < doctor.index("common flags"), "doctor has one of its own"
    assert "[FLAGS] SOURCE-ZONE DESTINATION-ZONE" in help_of("prices explain", monkeypatch, capsys)
