# SPDX-License-Identifier: Apache-2.0
"""The one place through which commands write: text for people, JSON and bytes for programs, a cell of CSV.

Names come from records, and anyone who may write a record chooses them. A terminal obeys escape sequences (ECMA-48; C1
also as UTF-8), shows text in another order than it stands (bidirectional controls) and hides what has no width; a
spreadsheet takes a cell that begins with "=" for a formula. None of that gets past here.
"""

import codecs
import contextlib
import csv
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, cast

import orjson

from common import page

# Not seen, and yet printable to Python (Unicode: Default_Ignorable_Code_Point): joiners, fillers, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_UNUSUAL = re.compile(r"[^\x20-\x7e]")
# Of a complaint: it may quote what was given, and must stay one that a person reads.
_LONGEST = 1_000
# What OWASP (CSV Injection) lists, with the full-width forms that spreadsheets take for the same.
FORMULA = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(f"[{FORMULA}]")


def plain(text: str) -> str:
    """Return a line with a "?" for every character that a terminal would obey, hide or put elsewhere."""
    return _UNUSUAL.sub(lambda found: found[0] if _is_shown(found[0]) else "?", text)


def escaped(text: str) -> str:
    r"""Return text with such characters as JSON escapes (`\u009b`), but for newlines: JSON still means the same."""
    return _UNUSUAL.sub(lambda found: found[0] if _is_shown(found[0]) or found[0] == "\n" else _escape(found[0]), text)


def cell(text: str) -> str:
    """Return text as a cell of CSV: after an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV (RFC 4180), a line each; names out of records are to be a `cell` by then."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def command(words: str) -> str:
    """Return a command of zonemeter's as it is run here, for what is printed to be run next.

    In a container that is another line than on a host; what starts it knows, and says so in ZONEMETER_PROGRAM.
    """
    return f"{os.environ.get('ZONEMETER_PROGRAM', 'zonemeter')} {words}"


def folded(line: str, width: int) -> list[str]:
    """Return a line in parts that fit a terminal, broken between words alone, so that numbers and names stay whole.

    What is laid out for the page fits already: this is for the rest.
    """
    if len(line) <= width:
        return [line]
    indent = " " * min(len(line) - len(line.lstrip()) + 2, width // 4)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def say(*lines: str, flush: bool = False) -> None:
    """Write lines for people to stdout; what its encoding does not have is spelt out, and loses no line."""
    encoding = sys.stdout.encoding or "utf-8"
    width = page.terminal_width()
    shown = (part for line in lines for part in ([plain(line)] if width is None else folded(plain(line), width)))
    text = "".join(f"{part}\n" for part in shown)
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    if flush:
        sys.stdout.flush()


def complain(line: str) -> None:
    """Write one line for people to stderr, if that takes anything; what is too long loses its middle."""
    text = plain(" ".join(line.splitlines()))
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} .. {text[-_LONGEST // 2 :]}"
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def write_json(document: Any, *, indent: bool = True, flush: bool = False) -> None:
    """Write a document to stdout as JSON, in UTF-8 whatever the terminal's encoding is."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None).decode()
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{escaped(text)}\n".encode())
    if flush:
        sys.stdout.flush()


def data() -> BinaryIO:
    """Return stdout for bytes as they are; on a terminal, with escapes in the place of what it would obey."""
    sys.stdout.flush()
    return cast(BinaryIO, _OnTerminal()) if sys.stdout.isatty() else sys.stdout.buffer


def write_lines(lines: Iterable[str]) -> None:
    """Write lines that a program reads, such as YAML, each whole however narrow the terminal is; names as `plain`."""
    data().write("".join(f"{plain(line)}\n" for line in lines).encode())


def answer(output: str, **ways: Callable[[], Any]) -> None:
    """Write an answer in the way that was asked for, which alone is made.

    `json`: a document; `table`: lines for people; `csv`, `html`: text as it is; any other: lines that a program reads.
    """
    made = ways[output]()
    if output == "json":
        write_json(made)
    elif output == "table":
        say(*made)
    elif output in ("csv", "html"):
        data().write(made.encode())
    else:
        write_lines(made)


class _OnTerminal(io.RawIOBase):
    """A binary stream that shows bytes on a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, part: Any, /) -> int:
        sys.stdout.buffer.write(escaped(self._decoder.decode(bytes(part))).encode())
        return memoryview(part).nbytes

    def flush(self) -> None:
        sys.stdout.flush()


def _is_shown(character: str) -> bool:
    return character.isprintable() and not _UNSEEN.match(character)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
