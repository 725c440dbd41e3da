# SPDX-License-Identifier: Apache-2.0
"""One reading of thirteen months by a process of its own: `zonemeter report`'s work, or the yardstick's.

python -m bench.commands.readers.history ours|yardstick DIRECTORY
"""

import gc
import time

import duckdb

from bench.measure.reading import Took, run
from common.gc_settings import THRESHOLDS
from history.model.filters import Selection
from history.model.party import Parties
from history.model.rollups import Hours, lengths_that_tell
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DAYS, NODES = 395, 1_000
BEGIN_MS = 1_795_392_000_000 // DAY_MS * DAY_MS
SPAN = TimeRange(BEGIN_MS, BEGIN_MS + DAYS * DAY_MS)


def ours(directory: str) -> Took:
    """Sum up all of it; return after how long it was known what to read, how many kinds of traffic, how many flows."""
    gc.set_threshold(*THRESHOLDS)
    began = time.monotonic()
    summary, hours = Summary(), Hours(SPAN, lengths=lengths_that_tell(SPAN, None, None))
    with ArchiveQuery(FlowArchive(directory), SPAN, hours) as query:
        found = time.monotonic()
        query.summarise(Parties(), summary, Selection())
    assert len(summary.observers) == NODES
    return {"finding_seconds": found - began, "kinds": len(summary.traffic), "flows": summary.flows}


def yardstick(directory: str) -> Took:
    """Add up the bytes of all pairs of workloads and zones, as one would by hand."""
    query = f"""
        SELECT src_workload, dst_workload, src_zone, dst_zone, sum(bytes)
        FROM read_parquet('{directory}/rollups/*/day-*.parquet', hive_partitioning = false) GROUP BY ALL
    """
    return {"kinds": len(duckdb.execute(query).fetchall())}


if __name__ == "__main__":
    run(ours=ours, yardstick=yardstick)
