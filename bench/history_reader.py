# SPDX-License-Identifier: Apache-2.0
"""One reading of thirteen months by a process of its own: `zonemeter report`'s work, or the yardstick's.

python -m bench.history_reader ours|yardstick DIRECTORY
"""

import gc
import json
import resource
import sys
import time
from typing import TypedDict

import duckdb

from history.model.filters import Selection
from history.model.party import Parties
from history.model.rollups import Hours, days_tell
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from sinks.gc_settings import THRESHOLDS

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DAYS, NODES = 395, 1_000
BEGIN_MS = 1_795_392_000_000 // DAY_MS * DAY_MS
SPAN = TimeRange(BEGIN_MS, BEGIN_MS + DAYS * DAY_MS)


class Took(TypedDict):
    """What a reading took. `finding_seconds`: of these, until it was known what to read."""

    seconds: float
    finding_seconds: float
    cpu_seconds: float
    peak_mb: float
    kinds: int


def ours(directory: str) -> tuple[float, int]:
    """Sum up all of it; return when it was known what to read, and how many kinds of traffic there are."""
    gc.set_threshold(*THRESHOLDS)
    summary, hours = Summary(), Hours(SPAN, days=days_tell(SPAN, None, None))
    with ArchiveQuery(FlowArchive(directory), SPAN, hours) as query:
        found = time.monotonic()
        query.summarise(Parties(), summary, Selection())
    assert len(summary.observers) == NODES
    return found, len(summary.traffic)


def yardstick(directory: str) -> tuple[float, int]:
    """Add up the bytes of all pairs of workloads and zones, as one would by hand."""
    query = f"""
        SELECT src_workload, dst_workload, src_zone, dst_zone, sum(bytes)
        FROM read_parquet('{directory}/rollups/*/day-*.parquet', hive_partitioning = false) GROUP BY ALL
    """
    with duckdb.connect() as database:
        return time.monotonic(), len(database.execute(query).fetchall())


if __name__ == "__main__":
    began = time.monotonic()
    found_at, kinds = {"ours": ours, "yardstick": yardstick}[sys.argv[1]](sys.argv[2])
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = Took(
        seconds=time.monotonic() - began,
        finding_seconds=found_at - began,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss / 1000,
        kinds=kinds,
    )
    print(json.dumps(took))
