# SPDX-License-Identifier: Apache-2.0
"""The words to avoid, listed in CONTRIBUTING.md, are in no page, help text, docstring, comment or message."""

import functools
import re
import subprocess

import pytest

from tests.docs.printed.commands import DOCUMENTS, ROOT

# What a pattern finds and an engineer would write all the same.
FINE = re.compile(
    r"\bthere\s+(?:is|are)\s+no\b|\b(?:is|are)\s+no\s+(?:longer|more than|less than|fewer than|later than)\b"
)


def avoided() -> dict[str, re.Pattern[str]]:
    """Return the words of the table in CONTRIBUTING.md as patterns; "..." stands for one word."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Words\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    words = [word for cell in cells for word in re.findall(r"`(.*?)`", cell)]
    return {word: pattern(word) for word in words}


def pattern(words: str) -> re.Pattern[str]:
    """Return what finds these words, also over the end of a line."""
    parts = ["[a-z]+" if part == "..." else re.escape(part) for part in words.split()]
    return re.compile(r"(?<!def )(?<![.\w])" + r"\s+".join(parts) + r"(?:s|ed|ing)?\b", re.IGNORECASE)


@functools.cache
def texts() -> dict[str, str]:
    """Return the pages, without this list, and the sources."""
    pages = {page.name: re.sub(r"\n## Words\n.*?\n## ", "", page.read_text(), flags=re.DOTALL) for page in DOCUMENTS}
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for path in listed.split() if not path.startswith("tests/") and (ROOT / path).exists()]
    # Without the marks that begin a comment's lines, so that words are found over the end of one.
    sources = {path: re.sub(r"\n *# ", "\n", (ROOT / path).read_text()) for path in paths}
    return {name: FINE.sub("", text) for name, text in (pages | sources).items()}


def test_the_list_is_read() -> None:
    found = avoided()
    assert len(found) > 10
    assert found["is no ..."].search("'5x' is\nno duration")
    assert found["reckon"].search("it reckons")
    assert not found["reckon"].search("series.reckon()")


@pytest.mark.parametrize("word", avoided())
def test_nobody_uses_a_word_to_avoid(word: str) -> None:
    bad = avoided()[word]
    uses = [
        f"{name}: {' '.join(text[max(0, found.start() - 40) : found.end() + 40].split())}"
        for name, text in texts().items()
        for found in bad.finditer(text)
    ]
    assert uses == []
