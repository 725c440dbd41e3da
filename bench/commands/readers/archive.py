# SPDX-License-Identifier: Apache-2.0
"""One reading of an archive by a process of its own, with what it took of CPU and read of files.

python -m bench.commands.readers.archive plain|report DIRECTORY
python -m bench.commands.readers.archive namespaces|workloads|pods|addresses DIRECTORY VALUE
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from bench.commands.archive_rows import BEGIN_MS, HOUR_MS
from bench.measure.reading import Took, run
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery

SPAN = TimeRange(BEGIN_MS, BEGIN_MS + 48 * HOUR_MS)
FILTERS = ("namespaces", "workloads", "pods", "addresses")


def plain(directory: str) -> int:
    """Add up what crosses zones, as docs/queries.md does."""
    query = f"""
        SELECT src_namespace, src_workload, dst_namespace, dst_workload, src_zone, dst_zone, sum(bytes)
        FROM read_parquet('{directory}/flows/*/*/*.parquet', hive_partitioning = true) WHERE scope = 'cross_zone'
        GROUP BY ALL
    """
    return len(duckdb.execute(query).fetchall())


def report(directory: str) -> int:
    """Sum up as `zonemeter report` does."""
    summary = Summary()
    with ArchiveQuery(FlowArchive(directory), SPAN) as query:
        query.summarise(Parties(), summary, Selection())
    return summary.flows


def replay(what: str, directory: str, value: str) -> int:
    """Read the flows that one filter wants, as `zonemeter replay` does."""
    wanted: dict[str, Any] = {what: [value]}
    with ArchiveQuery(FlowArchive(directory), SPAN) as query:
        return sum(len(table) for table in query.tables(Selection(**wanted)))


def _measured(read: Callable[..., int]) -> Callable[..., Took]:
    """Return a reading that also says what it took of CPU and read of files, without the start of Python."""

    def measured(*arguments: str) -> Took:
        before, began = _read_bytes(), time.process_time()
        rows = read(*arguments)
        return {"cpu_seconds": time.process_time() - began, "read_bytes": _read_bytes() - before, "rows": rows}

    return measured


def _read_bytes() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


if __name__ == "__main__":
    replays = {what: _measured(partial(replay, what)) for what in FILTERS}
    run(plain=_measured(plain), report=_measured(report), **replays)
