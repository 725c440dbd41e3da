# SPDX-License-Identifier: Apache-2.0
"""Reads a month's bill once, as `zonemeter bill` or as the yardstick does; prints what it took.

python -m bench.commands.readers.bill ours|yardstick FILE
"""

import gc
from pathlib import Path

import duckdb

from bench.measure.reading import Took, run
from common.gc_settings import THRESHOLDS
from history.bill.books.compare import compare
from history.bill.books.resources import Nodes
from history.bill.books.sums import HOUR_MS, Metered, NodeCell, Trust
from history.bill.read import BillFiles
from schemas.topology import TopologyState

BEGIN, BEGIN_MS = "2026-11-01 00:00:00", 1_793_491_200_000
NODES, HOURS = 200, 720


def ours(path: str) -> Took:
    """Read and compare the bill; return how many bytes were billed."""
    gc.set_threshold(*THRESHOLDS)
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
    with BillFiles([Path(path)]) as bill:
        billed = bill.billed(bill.span, nodes.resources)
        found = compare(billed, metered, Trust(), nodes, BEGIN_MS)
    assert len(billed.cells) == 2 * NODES * HOURS
    return {"bytes": found.billed}


def yardstick(path: str) -> Took:
    """Add up the amounts and the costs of each type of usage."""
    with duckdb.connect() as database:
        view = database.read_parquet(path) if path.endswith(".parquet") else database.read_csv(path)
        view.create_view("bill")
        sums = "sum(line_item_usage_amount), sum(line_item_unblended_cost)"
        return {"types": len(database.execute(f"SELECT line_item_usage_type, {sums} FROM bill GROUP BY 1").fetchall())}


if __name__ == "__main__":
    run(ours=ours, yardstick=yardstick)
