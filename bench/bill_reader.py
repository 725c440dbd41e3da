# SPDX-License-Identifier: Apache-2.0
"""Reads a month's bill once, as `zonemeter bill` or as the yardstick does; prints what it took."""

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import TypedDict

import duckdb

from history.bill.books.compare import compare
from history.bill.books.resources import Nodes
from history.bill.books.sums import HOUR_MS, Metered, NodeCell, Trust
from history.bill.read import BillFiles
from schemas.topology import TopologyState
from sinks.gc_settings import THRESHOLDS

BEGIN, BEGIN_MS = "2026-11-01 00:00:00", 1_793_491_200_000
NODES, HOURS = 200, 720


class Found(TypedDict):
    """What a reading took, and how many bytes were billed."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    bytes: int


def _ours(path: Path) -> int:
    states = [
        TopologyState(
            kind="node", uid=f"u{n}", resource_version="1", name=f"n{n}", from_ms=0, provider_id=f"aws:///z/i-{n:017x}"
        )
        for n in range(NODES)
    ]
    metered = Metered(windows={(BEGIN_MS, BEGIN_MS + HOURS * HOUR_MS)})
    for hour in range(HOURS):
        for node in range(NODES):
            metered.cells[NodeCell(BEGIN_MS + hour * HOUR_MS, f"n{node}", "out")] = 10**9
            metered.cells[NodeCell(BEGIN_MS + hour * HOUR_MS, f"n{node}", "in")] = 10**9
    nodes = Nodes(states)
    with BillFiles([path]) as bill:
        billed = bill.billed(bill.span, nodes.resources)
        found = compare(billed, metered, Trust(), nodes, BEGIN_MS)
    assert len(billed.cells) == 2 * NODES * HOURS
    return found.billed


def _yardstick(path: Path) -> int:
    with duckdb.connect() as database:
        view = database.read_parquet(str(path)) if path.suffix == ".parquet" else database.read_csv(str(path))
        view.create_view("bill")
        sums = "sum(line_item_usage_amount), sum(line_item_unblended_cost)"
        return len(database.execute(f"SELECT line_item_usage_type, {sums} FROM bill GROUP BY 1").fetchall())


def main(what: str, path: Path) -> Found:
    """Read it."""
    gc.set_threshold(*THRESHOLDS)
    begun = time.monotonic()
    size = (_ours if what == "ours" else _yardstick)(path)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "cpu_seconds": time.process_time(), "peak_mb": peak, "bytes": size}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
