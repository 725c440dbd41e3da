# SPDX-License-Identifier: Apache-2.0
"""Flows of made-up windows for an archive made by hand, and the records of its compactions."""

from pathlib import Path

import msgspec

from schemas.flow import Flow
from sinks.flowlog.archive.compaction import Compaction
from tests.support.history.written import BEGIN_MS, HOUR
from tests.support.sinks.flows import EXTERNAL, POSTGRES, flow, flow_id, pod

NODES = ("node-a1", "node-b1", "node-c1")


def flows(partition: int, sequence: int, count: int = 4, start_ms: int = BEGIN_MS) -> list[Flow]:
    """Return flows of one window of the partition's node."""
    start = start_ms + sequence * 10_000
    return [
        flow(
            id=flow_id(sequence, row, NODES[partition]),
            start_ms=start,
            end_ms=start + 10_000,
            bytes=1_000 * sequence + row,
            source=pod(f"web-{row}", "a"),
            destination=EXTERNAL if row == 2 else POSTGRES,
            scope="external" if row == 2 else "cross_zone",
            direction="relay" if row == 3 else "egress",
        )
        for row in range(count)
    ]


def records(root: Path) -> list[Compaction]:
    return [
        msgspec.json.decode(path.read_bytes(), type=Compaction)
        for path in sorted(root.glob(f"_compactions/{HOUR}/*.json"))
    ]
