# SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/replay.md is what the command prints of such flows."""

import re
from pathlib import Path
from typing import Any

from history.model.time_range import TimeRange
from history.replay.diff.differences import Differences
from history.replay.diff.pairs import Pairs
from history.replay.diff.text import as_lines
from prices.file import shipped
from schemas.flow import Endpoint, Flow
from tests.support.history.rows import rows_of
from tests.support.sinks.flows import flow, flow_id, node, other, pod

DOCS = Path(__file__).parents[3] / "docs/replay.md"
A, B, C = "eu-west-1a", "eu-west-1b", "eu-west-1c"
GB = 10**9
WEB, API, POSTGRES = pod("web", A), pod("api", A), pod("postgres", B, port=5432)
NOBODY = other("unknown", address="10.60.0.7", port=5432, reason="vpc_unmapped")
ORDERS = other("cidr", B, address="10.60.0.7", port=5432, name="orders-db")
LATE = node("node-c", C, kind="unknown", reason="late_index")
MAP = "cidrs.toml"


def made(row: int, size: int, source: Endpoint, destination: Endpoint, scope: str) -> Flow:
    fields: dict[str, Any] = {"source": source, "destination": destination, "scope": scope}
    return flow(id=flow_id(row=row), bytes=size, **fields)


def test_the_example_is_what_the_command_prints(tmp_path: Path) -> None:
    same = [made(0, 1_420 * GB, WEB, API, "same_zone"), made(1, 950 * GB, API, POSTGRES, "cross_zone")]
    recorded = [
        made(2, 310 * GB, API, NOBODY, "unknown"),
        made(3, 64 * GB, LATE, POSTGRES, "cross_zone"),
        made(4, 12 * GB, API, POSTGRES, "cross_zone"),
        made(6, 3 * GB, other("external"), WEB, "external"),
    ]
    rejoined = [
        made(2, 310 * GB, API, ORDERS, "cross_zone"),
        made(3, 64 * GB, pod("batch", C), POSTGRES, "cross_zone"),
        made(4, 12 * GB, pod("api", B), POSTGRES, "same_zone"),
    ]
    pairs = Pairs(tmp_path)
    ids = {flow_id(row=row) for row in range(7)}
    pairs.add("recorded", rows_of([*same, *recorded]), ids)
    pairs.add("rejoined", rows_of([*same, *rejoined]), ids)
    pairs.add_chunks([(flow_id().rpartition("/")[0], 7, True)])
    found = Differences(shipped("aws"), shipped("aws"))
    for each in pairs.found():
        found.add(each)
    pairs.close()
    day = TimeRange(1_795_305_600_000, 1_795_392_000_000)
    sides = ("topic zonemeter.flows.enriched.v1", f"topic zonemeter.flows.raw.v1, {MAP}")
    printed = "\n".join(as_lines(found, [str(day)], sides, "USD", 30))
    (example,) = re.findall(r"```text\n(zonemeter replay --diff.*?)```", DOCS.read_text(), re.DOTALL)
    assert example == f"{printed}\n"
