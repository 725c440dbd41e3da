# SPDX-License-Identifier: Apache-2.0
"""The `zonemeter ...` command lines that a document prints: in blocks of code, and in `code` within a line."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# A block marked "text" shows what a command prints.
_BLOCK = re.compile(r"^```(?!text)\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OUTPUT = re.compile(r"^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
# What may stand before the command: a prompt, a path, a container that runs it.
_COMMAND = re.compile(
    r"^(?:\$ |# )?(?:[A-Z_]+=\S+ )*(?:kubectl [^|;]* exec [^|;]* -- |nsenter \S+ )?"
    r"(?:(?:\.venv/bin/)?zonemeter|docker[- ]compose run --rm cli) (.*)$"
)
_BEHIND = re.compile(r"\s(?:#|\|(?!\w)|>|&&|;|2>).*$")


@dataclass(frozen=True)
class Printed:
    """One command line: its words behind `zonemeter`, and where it is printed."""

    words: tuple[str, ...]
    place: str

    @property
    def has_placeholder(self) -> bool:
        """Return whether a word stands for another: FILE, NUMBER, ..."""
        return any(re.fullmatch(r"\.\.\.|[A-Z][A-Z_]+", word) for word in self.words)


def printed_commands() -> list[Printed]:
    """Return all of them."""
    return [each for document in DOCUMENTS for each in _of(document)]


def _of(document: Path) -> Iterator[Printed]:
    text = _OUTPUT.sub(lambda block: "\n" * block[0].count("\n"), document.read_text())
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        for number, found in enumerate(block[1].replace("\\\n", "  ").splitlines()):
            yield from _parse(found.strip(), f"{document.name}:{line + number}")
    for code in _CODE.finditer(_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)):
        yield from _parse(code[1], f"{document.name}, `{code[1]}`")


def _parse(text: str, place: str) -> Iterator[Printed]:
    match = _COMMAND.match(text)
    if match is None:
        return
    words = shlex.split(_BEHIND.sub("", " " + match[1].replace("\\|", "|")))
    if not words or words[0].isupper() or words[0] == "...":
        return
    # `topics list|diff|apply` prints three commands.
    for choice in product(*(word.split("|") for word in words)):
        yield Printed(choice, place)
