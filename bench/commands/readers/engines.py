# SPDX-License-Identifier: Apache-2.0
"""One reading of an archive's flows by a process of its own: `zonemeter report`'s work, or the same sums by an engine.

python -m bench.commands.readers.engines ours|yardstick|polars|chdb DIRECTORY

The engines tell flows apart by what a report tells them apart by, and add up their bytes; who counted, and when, which
a report says too, they do not look for.
"""

import gc
from typing import Any

import duckdb

from bench.measure.reading import Took, run
from common.gc_settings import THRESHOLDS
from history.model.filters import Selection
from history.model.party import FIELDS, Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery

BEGIN_MS, DAY_MS = 1_795_392_000_000, 86_400_000
SPAN = TimeRange(BEGIN_MS, BEGIN_MS + 2 * DAY_MS)
_ENDS = [f"{side}_{name}" for side in ("src", "dst") for name in FIELDS if name not in ("pod", "service", "node")]
_FINER = [
    f"CASE WHEN {side}_{test} THEN {side}_{name} END AS {side}_{name}"
    for side in ("src", "dst")
    for name, test in (("pod", "workload IS NULL"), ("service", "kind = 'service'"), ("node", "kind = 'node'"))
]
_SUMS = f"SELECT scope, direction, {', '.join([*_ENDS, *_FINER])}, sum(bytes), count(*)"


def ours(directory: str) -> Took:
    """Sum up all of it."""
    gc.set_threshold(*THRESHOLDS)
    summary = Summary()
    with ArchiveQuery(FlowArchive(directory), SPAN) as query:
        query.summarise(Parties(), summary, Selection())
    return {"flows": summary.flows, "bytes": summary.bytes}


def yardstick(directory: str) -> Took:
    """Do it by DuckDB with its defaults."""
    query = f"{_SUMS} FROM read_parquet('{directory}/flows/*/*/*.parquet', hive_partitioning = false) GROUP BY ALL"
    return _came_to(duckdb.execute(query).fetchall())


def by_polars(directory: str) -> Took:
    """Do it by polars, streaming."""
    import polars as pl

    finer = [
        pl.when(test).then(pl.col(f"{side}_{name}")).alias(f"{side}_{name}")
        for side in ("src", "dst")
        for name, test in (
            ("pod", pl.col(f"{side}_workload").is_null()),
            ("service", pl.col(f"{side}_kind") == "service"),
            ("node", pl.col(f"{side}_kind") == "node"),
        )
    ]
    flows = pl.scan_parquet(f"{directory}/flows/*/*/*.parquet", hive_partitioning=False)
    sums = flows.group_by("scope", "direction", *_ENDS, *finer).agg(pl.col("bytes").sum(), pl.len().alias("flows"))
    return _came_to(sums.collect(engine="streaming").rows())


def by_chdb(directory: str) -> Took:
    """Do it by chDB, which is ClickHouse."""
    import chdb

    query: Any = chdb.query
    found = query(f"{_SUMS} FROM file('{directory}/flows/*/*/*.parquet', Parquet) GROUP BY ALL", "ArrowTable")
    return _came_to([*zip(*found.to_pydict().values(), strict=True)])


def _came_to(rows: list[tuple[int, ...]]) -> Took:
    return {"flows": sum(row[-1] for row in rows), "bytes": sum(row[-2] for row in rows)}


if __name__ == "__main__":
    run(ours=ours, yardstick=yardstick, polars=by_polars, chdb=by_chdb)
