# SPDX-License-Identifier: Apache-2.0
"""A report over flows, of few large files and of many small ones, beside engines that add up the same files.

Part of `make bench-history`. *Ours* is what `zonemeter report` does from opening the archive to the sums, without
Kafka, in a process of its own. DuckDB, polars and chDB (ClickHouse), with their defaults, add up bytes and flows by
what a report tells ends apart by. Who counted, and when, the report finds out too. CPU is with the start of Python.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.commands import advise
from bench.commands.archive_rows import make
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.reading import Readings
from bench.measure.report import Table

_TEXT = (__doc__ or "").partition("\n\n")[2]
_ENGINES = ("polars", "chdb")
# Two days but for an hour, of eight namespaces.
_CUTS, _NAMESPACES = 565, 8


def large(rounds: int) -> Table:
    """Return the table of a day of 100 million flows."""
    text = f"{_TEXT}\nThe archive is that of `make bench-advise`, a file an hour."
    return _table("A report over 100 million flows", text, rounds, advise.make, most_seconds=10)


def small(rounds: int) -> Table:
    """Return the table of two days of a small cluster that were not compacted."""
    text = "The small cluster of `make bench-archive`: 1,247,604 flows in 6,780 files, as the flow log wrote them."
    return _table(
        "A report over 6,780 small files",
        text,
        rounds,
        lambda directory: make(directory, _CUTS, _NAMESPACES),
        most_seconds=3,
    )


def _table(title: str, text: str, rounds: int, write: Callable[[Path], object], *, most_seconds: float) -> Table:
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory))
        return Table(title, text, figures(directory, rounds, most_seconds))


def figures(directory: str, rounds: int, most_seconds: float) -> list[Figure]:
    """Return what reading an archive takes, in turn by each."""
    readings = Readings("bench.commands.readers.engines", directory)
    engines = [partial(readings.also, which) for which in _ENGINES]
    ours, duckdb, polars, chdb = in_turn(rounds, readings.ours, readings.yardstick, *engines)
    every = [*readings.taken, *readings.beside, *(took for each in readings.others.values() for took in each)]
    assert len({(took["flows"], took["bytes"]) for took in every}) == 1
    return [
        Figure("beside DuckDB", "CPU s", ours, duckdb, target=Target(1.3)),
        Figure("beside polars", "CPU s", ours, polars),
        Figure("beside chDB", "CPU s", ours, chdb),
        Figure("from start to end", "s", [took["seconds"] for took in readings.taken], target=Target(most_seconds)),
        Figure("from start to end, DuckDB", "s", [took["seconds"] for took in readings.beside]),
        Figure("resident at most", "MB", [took["peak_mb"] for took in readings.taken], target=Target(1_000)),
    ]
