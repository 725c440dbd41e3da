# SPDX-License-Identifier: Apache-2.0
"""Flows that nobody pays for, summed up by workload: fewer flows, the same bytes, and no row twice or missing."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from enricher.index.ownership import Index
from enricher.join import rollup
from enricher.join.join import Out
from enricher.join.policy import NodeNames, Policy
from schemas.amount import NOTHING, Amount
from schemas.flow import Flow, decode_flow
from schemas.topology import Served
from tests.support.enricher.build import node, pod, row
from tests.support.enricher.joined import index, joined, out_of

ROLLED = Policy(detail="workload")
API_1, API_2, API_3, DB, FAR = "10.42.1.17", "10.42.1.18", "10.42.3.5", "10.42.3.9", "10.42.2.9"


def states() -> Index:
    made = index()
    made.apply(node("node-a2", "192.168.0.13", "eu-west-1a", pod_cidrs=("10.42.3.0/24",)))
    made.apply(pod("api-3", API_3, "node-a2"))
    made.apply(pod("db-1", DB, "node-a2"))
    return made


def rolled(rows: list[dict[str, Any]], **more: Any) -> list[Flow]:
    return [decode_flow(value) for value in joined(rows, policy=ROLLED, **({"states": states()} | more)).values]


def test_pods_of_one_workload_become_one_flow_that_names_its_rows() -> None:
    rows = [
        row(API_1, DB, bytes=100, packets=1),
        row(API_1, FAR, bytes=7),
        row(API_2, DB, bytes=20, packets=2),
        row(API_1, DB, dst_port=80, bytes=3),
    ]
    flows = rolled(rows)
    assert [flow.id.rpartition("/")[2] for flow in flows] == ["1", "6", "7"]
    paid, both, other_port = flows
    assert (paid.scope, paid.source.address, paid.rows) == ("cross_zone", API_1, UNSET)
    assert (both.scope, both.bytes, both.packets, both.rows) == ("same_zone", 120, 3, [0, 2])
    assert (other_port.rows, other_port.destination.port) == ([3], 80)
    for end, name in ((both.source, "api"), (both.destination, "db")):
        assert (end.kind, end.address) == ("pod", UNSET)
        assert end.k8s is not UNSET
        assert (end.k8s.pod, end.k8s.node, end.k8s.workload.name) == (UNSET, UNSET, name)
        assert end.cloud is not UNSET
        assert end.cloud.availability_zone == "eu-west-1a"


@pytest.mark.parametrize(
    "differs",
    [
        {"protocol": 17},
        {"dst_port": 81},
        {"src_port": 9},
        {"dnat": 1},
        {"direction": 2},
        {"encapsulation": 1},
        {"server": 1},
    ],
)
def test_what_differs_in_more_than_the_pod_is_not_summed_up(differs: dict[str, Any]) -> None:
    assert len(rolled([row(API_1, DB), row(API_2, DB, **differs)])) == 2


def test_a_sum_keeps_the_service_that_all_its_rows_have() -> None:
    made = states()
    made.apply(pod("db-1", DB, "node-a2", resource_version="101", served=(Served("db", "tcp", 5432),)))
    rows = [row(API_1, DB, server=1), row(API_2, DB, server=1), row(API_1, DB, dst_port=80, server=1)]
    by_service, other = rolled(rows, states=made)
    assert (by_service.rows, by_service.server) == ([0, 1], "destination")
    assert by_service.destination.k8s.service.name == "db"  # type: ignore[union-attr]
    assert other.destination.k8s.service is UNSET  # type: ignore[union-attr]


def test_an_end_that_is_no_pod_keeps_its_address() -> None:
    [flow] = rolled([row(API_1, "192.168.0.11"), row(API_2, "192.168.0.11")])
    assert (flow.scope, flow.source.address, flow.destination.address) == ("same_node", UNSET, "192.168.0.11")


def test_the_ledger_says_how_many_rows_were_summed_up() -> None:
    found = joined([row(API_1, DB), row(API_2, DB), row(API_1, FAR)], policy=ROLLED, states=states())
    assert (found.rolled_up, found.given) == (Amount(2000, 20, 2), Amount(3000, 30, 2))


def test_a_flow_names_only_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "MAX_ROWS", 3)
    flows = rolled([row(API_1, DB, bytes=10**i) for i in range(8)])
    assert [flow.rows for flow in flows] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert sum(flow.bytes for flow in flows) == 11_111_111


ADDRESSES = [API_1, API_2, API_3, DB, FAR, "192.168.0.11", "8.8.8.8"]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "src": st.sampled_from(ADDRESSES),
            "dst": st.sampled_from(ADDRESSES),
            "dst_port": st.sampled_from([80, 443]),
            "direction": st.integers(0, 2),
            "bytes": st.integers(0, 2**40),
            "packets": st.integers(0, 2**40),
        }
    ).map(lambda fields: row(str(fields.pop("src")), str(fields.pop("dst")), **fields)),
    min_size=1,
    max_size=25,
)


def other_world() -> Index:
    """Zones, owners and members have changed: what was rolled up is not, what was aside is not, and back."""
    made = states()
    made.apply(pod("lone", API_2, "node-b1", uid="other", from_ms=0))
    for name, address, zone in (("node-a2", "192.168.0.13", "eu-west-1b"), ("node-b1", "192.168.0.21", "eu-west-1a")):
        made.apply(node(name, address, zone, resource_version="60"))
    return made


@given(ROWS, st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=150)
def test_killed_again_and_again_in_changing_worlds_each_row_is_out_or_aside_once(
    rows: list[dict[str, Any]], lives: list[tuple[int, bool, bool]]
) -> None:
    """After each crash some first flows of what was under way are out; the last life finishes."""
    out = Out()
    seen: list[bytes] = []
    for cut, changed, rolled_up in [*lives, (10**6, False, True)]:
        policy = Policy(NodeNames(["node-b1"]) if changed else NodeNames(), "workload" if rolled_up else "pod")
        found = joined(rows, out, policy, other_world() if changed else states())
        seen += found.values[:cut]
        out = out_of(seen)
    flows = [decode_flow(value) for value in seen]
    held = Counter(n for f in flows for n in (f.rows if f.rows is not UNSET else [_number(f) % len(rows)]))
    aside = [n for n in range(len(rows)) if n not in held]
    assert set(held.values()) <= {1}
    assert [_number(flow) for flow in flows] == sorted({_number(flow) for flow in flows})
    assert sum(found.aside.values(), NOTHING) == Amount(
        sum(rows[n]["bytes"] for n in aside), sum(rows[n]["packets"] for n in aside), len(aside)
    )
    assert sum(flow.bytes for flow in flows) == sum(rows[n]["bytes"] for n in held)


def _number(flow: Flow) -> int:
    return int(flow.id.rpartition("/")[2])
