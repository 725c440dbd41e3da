# SPDX-License-Identifier: Apache-2.0
"""The table of what a flow map takes: lines of several machines become one section."""

import io
from pathlib import Path

import pytest

from bench.measure import report
from bench.node import map_memory

LINES = """Linux 6.1
map-memory 16 31000000 100000000\r
[    5.1] something of the kernel's
map-memory 2 31500000 41000000\r
"""


def test_the_formulas_are_the_kernels() -> None:
    # htab_map_mem_usage(): buckets of 16 bytes, then elements, with extra ones for each CPU.
    n = map_memory.ENTRIES
    assert map_memory.calculated(2) == (16 * 262_144 + 104 * (n + 2) + 80, 16 * 262_144 + 128 * (n + 2))


def test_lines_of_several_machines_become_one_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["map-memory", "--write", "6.1"])
    monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
    assert map_memory.main() == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| 2 ", "| 16 "))]
    assert [row.split(" | ")[0] for row in rows] == ["| 2", "| 16"]
    assert "31.50 MB" in rows[0]
    assert "41.00 MB" in rows[0]


def test_without_a_measurement_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "PAGE", tmp_path / "none.md")
    monkeypatch.setattr("sys.argv", ["map-memory", "--write", "6.1"])
    monkeypatch.setattr("sys.stdin", io.StringIO("Kernel panic\n"))
    assert map_memory.main() == 2
    assert capsys.readouterr().err == "map-memory: no line of a measurement on standard input\n"
