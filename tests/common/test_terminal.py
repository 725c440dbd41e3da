# SPDX-License-Identifier: Apache-2.0
"""What reaches a terminal, a spreadsheet and a program, of any text."""

import io
import json
import sys

import pytest

from common import terminal

OBEYED = ["\x1b[2J", "\x9b31m", "\x07", "\r", "\t", "\x7f", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff", "\u034f"]


class Stdout(io.TextIOWrapper):
    """A stdout of any encoding that is a terminal, or not."""

    def __init__(self, encoding: str, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def written(self) -> bytes:
        self.flush()
        value: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return value


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_one_question_mark_each(text: str) -> None:
    shown = terminal.plain(f"a{text}b")
    assert shown == f"a?{text[1:]}b"
    assert json.loads(terminal.escaped(json.dumps(text, ensure_ascii=False))) == text
    assert terminal.escaped(text).isascii()


def test_names_of_all_languages_stay() -> None:
    text = "café 数据库 база ~"
    assert terminal.plain(text) == terminal.escaped(text) == text


def test_beyond_sixteen_bits_json_takes_two_escapes() -> None:
    assert terminal.escaped('"\U000e0041"') == '"\\udb40\\udc41"'


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "café 数\nnext\n".encode()),
        ("latin-1", b"caf\xe9 \\u6570\nnext\n"),
        ("ascii", b"caf\\xe9 \\u6570\nnext\n"),
    ],
)
def test_a_name_that_a_terminal_cannot_show_loses_no_line(
    encoding: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stdout := Stdout(encoding))
    terminal.say("café 数", "next")
    assert stdout.written == written


def test_json_is_utf_8_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout := Stdout("latin-1"))
    terminal.say("é")
    terminal.write_json({"name": "数\x9b\x1b"}, indent=False)
    assert stdout.written == b'\xe9\n{"name":"\xe6\x95\xb0\\u009b\\u001b"}\n'


@pytest.mark.parametrize(
    ("is_terminal", "written"), [(False, b"\x1b\xff=\xc3\xa9\n"), (True, b"\\u001b\\xff=\xc3\xa9\n")]
)
def test_bytes_are_bytes_but_on_a_terminal(is_terminal: bool, written: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout := Stdout("utf-8", is_terminal))
    to = terminal.data()
    for part in (b"\x1b\xff=\xc3", b"\xa9\n"):
        assert to.write(part) == len(part)
    to.flush()
    assert stdout.written == written


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@f", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_a_formula_is_text(text: str) -> None:
    assert terminal.cell(text) == f"'{text}"
    assert terminal.cell(f"a{text}") == f"a{text}"


def test_a_complaint_is_one_line_and_needs_no_reader(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.complain("two\nlines\x1b")
    assert capsys.readouterr().err == "two lines?\n"
    with open("/dev/full", "w") as full:  # noqa: PTH123 - what cannot be written is the point
        monkeypatch.setattr(sys, "stderr", full)
        terminal.complain("x")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.close()
