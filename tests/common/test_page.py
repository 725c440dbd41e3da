# SPDX-License-Identifier: Apache-2.0
"""Text for people fits the terminal that it is written to; what goes elsewhere has its names whole."""

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common import page
from common.amounts import command_lines, fitted, labelled, shorten
from common.terminal import folded

ROOT = Path(__file__).resolve().parents[2]
NAME = "a-namespace/StatefulSet/" + "a-name-that-does-not-end-" * 3


@pytest.mark.parametrize("columns", [60, 80, 100, 160, 400])
def test_names_give_way_and_numbers_do_not(columns: int) -> None:
    rows = [("from", "", "to", "bytes"), (NAME, "->", NAME, "1,234,567,890,123"), ("a", "->", "b", "7")]
    with page.laid_out(columns):
        table = fitted(rows, "<<<>")
    assert max(map(len, table)) <= columns
    assert table[1].endswith("1,234,567,890,123")
    assert (".." in table[1]) == (columns < 250), "what fits is not shortened"


def test_what_is_no_terminal_gets_names_whole() -> None:
    with page.laid_out(None):
        assert NAME in fitted([(NAME, "->", "b", "7")], "<<<>")[0]
        assert shorten(NAME, 12) == NAME
    assert shorten(NAME, 12) != NAME


@pytest.mark.parametrize("columns", [40, 80])
def test_facts_break_between_words_alone(columns: int) -> None:
    facts = ["1.29 TB", "48.0 % of in-region", "$25.86", "= $75,511 a month at this rate", "x" * 200]
    with page.laid_out(columns):
        lines = labelled("CROSS-ZONE", facts, 13)
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert words[:-1] == " ".join(["CROSS-ZONE", *facts]).split()[:-1]
    assert ".." in words[-1]


@pytest.mark.parametrize("width", [40, 80])
def test_a_line_that_nobody_laid_out_is_broken_between_words(width: int) -> None:
    line = "  ok  spool    1,234,567 bytes in /var/lib/zonemeter/spool of 1,073,741,824, oldest of 2026-11-22 22:16:40"
    parts = folded(line, width)
    assert max(map(len, parts)) <= width
    assert " ".join(parts).split() == line.split()
    assert folded("short", width) == ["short"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_command_line_is_continued_in_no_quoted_word(columns: int) -> None:
    argv = [
        "zonemeter",
        "report",
        "--from",
        "5 hours ago",
        "--archive",
        "/a flow log/it's mine/" + "x y " * 10,
        "-n",
        "a",
    ]
    with page.laid_out(columns):
        lines = command_lines(shlex.join(argv), 7)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == argv
    assert len(lines) > 1


@pytest.mark.parametrize("width", [80, 100])
def test_a_command_on_a_terminal(width: int) -> None:
    argv = [sys.executable, "-m", "cli", "prices", "explain", "eu-west-1a", "eu-west-1b"]
    piped = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout
    shown = on_a_terminal(argv, width)
    assert not [line for line in shown.splitlines() if len(line) > width and len(line.split()) > 1], "but an address"
    assert shown.split() == piped.split(), "nothing breaks within a word"


def on_a_terminal(argv: list[str], width: int) -> str:
    """Return what a command writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        argv, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment | {"COLUMNS": str(width)}
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # Linux: EIO once nobody has the other end open
        pass
    finally:
        os.close(master)
        process.wait(120)
    return shown.decode()
