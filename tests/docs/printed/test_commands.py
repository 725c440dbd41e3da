# SPDX-License-Identifier: Apache-2.0
"""Every command that a document prints exists, with the flags it is printed with, and takes their values."""

import importlib
import re

import pytest

from cli.main import COMMANDS
from collector.kernel.layout import entries_for
from schemas.flow import UNKNOWN_REASONS
from tests.docs.printed.commands import ROOT, Printed, printed_commands
from tests.support.settings_reference import what_it_reads

PRINTED = printed_commands()


def split(printed: Printed) -> tuple[tuple[str, ...], list[str]]:
    for length in (2, 1):
        if printed.words[:length] in COMMANDS:
            return printed.words[:length], list(printed.words[length:])
    pytest.fail(f"{printed.place}: there is no command zonemeter {' '.join(printed.words)}")


def test_documents_print_commands() -> None:
    assert len(PRINTED) > 50
    assert {words for words, _ in map(split, PRINTED)} == set(COMMANDS), "a command that no document shows"


@pytest.mark.parametrize("printed", PRINTED, ids=lambda printed: f"{printed.place} {' '.join(printed.words)}")
def test_it_parses(printed: Printed, capsys: pytest.CaptureFixture[str]) -> None:
    words, argv = split(printed)
    if argv in (["--help"], ["-h"]):
        return
    try:
        reads = what_it_reads(words, COMMANDS[words], [] if "..." in argv else argv)
    except SystemExit:
        pytest.fail(f"{printed.place}: {capsys.readouterr().err}")
    if reads.settings is None or printed.has_placeholder:
        return
    module, _, name = COMMANDS[words].target.partition(":")
    with pytest.raises(SystemExit) as caught:
        getattr(importlib.import_module(module), name)([*argv, "--print-config"])
    assert caught.value.code == 0, f"{printed.place}: {capsys.readouterr().err}"


def test_the_capacity_table_is_the_codes() -> None:
    table = re.findall(r"^\| `(\d+)MiB`[^|]*\| ([\d,]+) \|$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert len(table) == 4
    for mebibytes, flows in table:
        assert entries_for(int(mebibytes) * 1024**2) == int(flows.replace(",", ""))


def test_every_reason_for_unknown_is_explained() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert [reason for reason in UNKNOWN_REASONS if f"| `{reason}` |" not in page] == []
