# SPDX-License-Identifier: Apache-2.0
"""One reading of a day's archive by a process of its own: `zonemeter advise`'s work, or the yardstick's.

python -m bench.commands.readers.advise ours|yardstick DIRECTORY
"""

import gc
from functools import partial

import duckdb

from bench.measure.reading import Took, run
from common.gc_settings import THRESHOLDS
from history.advise.advice import advise
from history.advise.finding import Case
from history.model.evidence import Evidence
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from prices.file import shipped
from schemas.flow import Workload
from schemas.topology import Routing, TopologyState

BEGIN_MS = 1_795_392_000_000  # on the hour
NODES, WORKLOADS, PODS_OF_EACH = 200, 200, 10
PODS = WORKLOADS * PODS_OF_EACH
HOURS, HOUR_MS = 24, 3_600_000


def states() -> list[TopologyState]:
    """Return the cluster that the archive is of: pod k of workload k // 10, on node k % 200, in zone k % 200 % 3."""
    long_ago = BEGIN_MS - HOUR_MS
    state = partial(TopologyState, resource_version="1", from_ms=long_ago)
    nodes = [state(kind="node", uid=f"n{k}", name=f"node-{k}", zone=f"eu-west-1{'abc'[k % 3]}") for k in range(NODES)]
    services = [
        state(kind="service", uid=f"s{k}", name=f"s{k}", namespace="shop", routing=Routing()) for k in range(WORKLOADS)
    ]
    pods = [
        state(
            kind="pod",
            uid=f"p{k}",
            name=f"w{k // PODS_OF_EACH}-{k}",
            namespace="shop",
            node=f"node-{k % NODES}",
            workload=Workload("Deployment", f"w{k // PODS_OF_EACH}"),
            ready=True,
            services=(f"s{k // PODS_OF_EACH}",),
        )
        for k in range(PODS)
    ]
    return [*nodes, *services, *pods]


def ours(directory: str) -> Took:
    """Advise on the archive; return how many cells of evidence and findings that makes."""
    gc.set_threshold(*THRESHOLDS)
    parties, summary = Parties(), Summary()
    evidence = Evidence(TimeRange(BEGIN_MS, BEGIN_MS + HOURS * HOUR_MS))
    with ArchiveQuery(FlowArchive(directory), evidence.span) as query:
        query.gather(parties, evidence, summary, Selection())
    advice = advise(Case(evidence, states(), parties), summary, shipped("aws"))
    return {"cells": len(evidence.cells), "findings": len(advice.told) + len(advice.small)}


def yardstick(directory: str) -> Took:
    """Add up the bytes of all pairs of workloads and zones, as one would by hand."""
    query = f"""
        SELECT src_workload, dst_workload, src_zone, dst_zone, sum(bytes)
        FROM read_parquet('{directory}/**/*.parquet', hive_partitioning = false) GROUP BY ALL
    """
    return {"cells": len(duckdb.execute(query).fetchall())}


if __name__ == "__main__":
    run(ours=ours, yardstick=yardstick)
