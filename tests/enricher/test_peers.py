# SPDX-License-Identifier: Apache-2.0
"""What other tools got wrong, by their own issues: each is a test here. README.md beside this file has the list."""

import logging
from typing import Any

import pytest

from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, join, resolve
from schemas.flow import Flow, decode_flow
from schemas.topology import TopologyState
from tests.support.enricher.build import END, START, chunk, node, pod, row, service

A1, A2, B1 = "10.42.1.17", "10.42.1.18", "10.42.2.9"
HOST_A, HOST_B, HOST_BARE = "192.168.0.11", "192.168.0.21", "192.168.0.31"
BARE = "10.42.3.5"
STATES = [
    node("node-a1", HOST_A, "eu-west-1a", zone_id="euw1-az1", pod_cidrs=("10.42.1.0/24",)),
    node("node-b1", HOST_B, "eu-west-1b", zone_id="euw1-az2", pod_cidrs=("10.42.2.0/24",)),
    node("bare", HOST_BARE, None, pod_cidrs=("10.42.3.0/24",)),
    pod("api-1", A1, "node-a1"),
    pod("api-2", A2, "node-a1"),
    pod("db-0", B1, "node-b1"),
    pod("lost-0", BARE, "bare"),
    service("db", "10.96.0.9"),
]


def joined(rows: list[dict[str, Any]], *more: TopologyState, cidrs: tuple[Cidr, ...] = (), **head: Any) -> Joined:
    index = Index()
    for state in (*STATES, *more):
        index.apply(state)
    raw = chunk(rows, **head)
    return join(raw, resolve(raw, Resolver(index, CidrMap(list(cidrs)))), 0, 0)


def flows(rows: list[dict[str, Any]], *more: TopologyState, **fields: Any) -> list[Flow]:
    return [decode_flow(value) for value in joined(rows, *more, **fields).values]


def one(source: str, destination: str, *more: TopologyState, **fields: Any) -> Flow:
    [flow] = flows([row(source, destination)], *more, **fields)
    return flow


def pod_name(end: Any) -> str | None:
    return end.k8s.pod.name if end.kind == "pod" else None


@pytest.mark.parametrize("address", ["10.200.0.7", "172.16.9.9", "192.168.77.1", "100.64.3.3", "fd12::7"])
def test_private_addresses_nobody_maps_are_neither_in_zone_nor_in_another_region(address: str) -> None:
    """kubecost/kubecost 820, 3819, 1630, 165, 1014: RFC 1918 is in-zone by default."""
    flow = one(A1, address)
    assert (flow.scope, flow.destination.reason) == ("unknown", "vpc_unmapped")


def test_a_cluster_ip_is_no_place_and_its_backend_is() -> None:
    """kubecost/kubecost 2464, 3720: the ClusterIP is classed in-zone instead of what DNAT makes of it."""
    assert one(A1, "10.96.0.9").scope == "unknown"
    [behind] = flows([row(A1, B1, dnat=1)])
    assert (behind.scope, behind.dnat, pod_name(behind.destination)) == ("cross_zone", True, "db-0")


def test_a_node_without_a_zone_spoils_only_its_own_traffic_and_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """opencost/opencost 3197: error spam, and nothing is classified."""
    with caplog.at_level(logging.INFO):
        found = joined([row(A1, BARE), row(A1, B1), row(A1, A2), row(A1, HOST_BARE)])
    assert {scope: amount.rows for scope, amount in found.by_scope.items()} == {
        "unknown": 2,
        "cross_zone": 1,
        "same_node": 1,
    }
    assert set(found.by_reason) == {"zone_missing"}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("source", "destination", "observer"),
    [
        pytest.param(A1, BARE, "node-a1", id="one side"),
        pytest.param(BARE, "10.200.0.1", "bare", id="both sides, alike"),
    ],
)
def test_unknown_is_never_cross_zone(source: str, destination: str, observer: str) -> None:
    """zilliztech/woodpecker 270, kubezonnet, OBI: an absent zone is not equal to any, so it counts as another."""
    assert one(source, destination, node=observer).scope == "unknown"


def test_same_zone_is_counted_beside_cross_zone() -> None:
    """grafana/beyla 1600: a ratio needs both."""
    neighbour = [node("node-a2", "192.168.0.12", "eu-west-1a"), pod("web-0", "10.42.4.4", "node-a2")]
    found = joined([row(A1, "10.42.4.4", bytes=70), row(A1, B1, bytes=30)], *neighbour)
    assert {scope: amount.bytes for scope, amount in found.by_scope.items()} == {"same_zone": 70, "cross_zone": 30}


def test_both_ends_and_the_observer_carry_their_zones() -> None:
    """cilium/cilium 21125, 33601; microsoft/retina 1179; pixie-io/pixie 389: zone labels on flows are wanted."""
    flow = one(A1, B1)
    zones = [end.cloud.availability_zone for end in (flow.source, flow.destination, flow.observer)]  # type: ignore[union-attr]
    assert zones == ["eu-west-1a", "eu-west-1b", "eu-west-1a"]
    assert flow.destination.cloud.zone_id == "euw1-az2"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("entry", "scope"),
    [
        pytest.param({"zone_id": "euw1-az1"}, "same_zone", id="a broker that says its zone's id"),
        pytest.param({"zone_id": "euw1-az2"}, "cross_zone", id="another id"),
        pytest.param({"zone": "eu-west-1a", "zone_id": "euw1-az2"}, "cross_zone", id="another account's"),
        pytest.param({"zone": "eu-west-1c", "zone_id": "euw1-az1"}, "same_zone", id="another name for our zone"),
    ],
)
def test_a_zone_is_its_id_where_names_differ_by_account(entry: dict[str, Any], scope: str) -> None:
    """highlight/highlight 6577, ClickHouse/ClickHouse 80445: MSK says use2-az3, the node's label us-east-2c."""
    broker = Cidr(cidr="10.9.0.0/24", name="msk", region="eu-west-1", **entry)
    assert one(A1, "10.9.0.4", cidrs=(broker,)).scope == scope


def test_whether_a_service_stays_in_its_zone_can_be_read_off_its_flows() -> None:
    """kubernetes/kubernetes 58744, 124699: does topology-aware routing work?"""
    neighbour = [node("node-a2", "192.168.0.12", "eu-west-1a"), pod("db-1", "10.42.4.4", "node-a2")]
    found = flows([row(A1, "10.42.4.4", dnat=1, bytes=75), row(A1, B1, dnat=1, bytes=25), row(A1, B1)], *neighbour)
    by_scope: dict[str, int] = {}
    for flow in found:
        if flow.dnat is True:
            by_scope[flow.scope] = by_scope.get(flow.scope, 0) + flow.bytes
    assert by_scope == {"same_zone": 75, "cross_zone": 25}


FREED = "10.42.1.50"


def reused(**ends: Any) -> list[TopologyState]:
    """Return a pod and the next one with its address, which started 5 s before it got it at START + 20 s."""
    first = pod("job-0", FREED, "node-a1", from_ms=START - 60_000, **ends)
    times = {"from_ms": START - 5000, "acquired_by_ms": START + 20_000}
    return [first, pod("web-0", FREED, "node-a1", **times)]


@pytest.mark.parametrize(
    ("start", "name", "reason"),
    [
        pytest.param(START - 20_000, "job-0", None, id="before the next one began"),
        pytest.param(START, None, "ambiguous_owner", id="it ended within the window, and the next one may have begun"),
        pytest.param(START + 10_000, "web-0", None, id="after its end"),
        pytest.param(START + 30_000, "web-0", None, id="long after"),
    ],
)
def test_a_completed_job_gives_its_address_back_though_its_object_stays(
    start: int, name: str | None, reason: str | None
) -> None:
    """antrea-io/antrea 8030, kubernetes/kubernetes 92697: bytes go to the Job pod that has long ended."""
    states = reused(to_ms=START + 4000, released_from_ms=START + 3000)
    flow = one(FREED, B1, *states, start_ms=start, end_ms=start + 10_000)
    assert (pod_name(flow.source), flow.source.reason or None) == (name, reason)
    assert flow.scope == "cross_zone"


def test_a_terminating_pod_is_not_named_for_the_next_owners_bytes() -> None:
    """elastiflow/mermin 487: its object outlives its address."""
    names = {
        offset: pod_name(one(FREED, B1, *reused(), start_ms=START + offset, end_ms=START + offset + 10_000).source)
        for offset in (-20_000, 0, 10_000, 20_000, 300_000)
    }
    assert names == {-20_000: "job-0", 0: None, 10_000: None, 20_000: "web-0", 300_000: "web-0"}


def test_what_the_host_sends_to_pods_is_the_nodes_whatever_address_its_cni_uses() -> None:
    """antrea-io/antrea 8260: it comes from the CNI's gateway inside the podCIDR, not from the node's address."""
    says = node("node-a1", HOST_A, "eu-west-1a", addresses=[HOST_A, "10.42.1.1"], resource_version="51", from_ms=START)
    told = one("10.42.1.1", A1, says)
    assert (told.source.kind, told.source.k8s.node.name, told.scope) == ("node", "node-a1", "same_node")  # type: ignore[union-attr]
    silent = one("10.42.1.1", A1)
    assert (silent.source.kind, silent.source.reason, silent.scope) == ("unknown", "late_index", "same_node")
    assert silent.source.k8s.node.name == "node-a1"  # type: ignore[union-attr]


def test_host_network_traffic_is_the_nodes_and_no_pods() -> None:
    """opencost/opencost 335, castai/egressd 11, kinvolk/lokomotive 1050: shared by or counted for each such pod."""
    agents = [pod(f"agent-{n}", HOST_A, "node-a1", host_network=True) for n in range(3)]
    [flow] = flows([row(HOST_A, B1)], *agents)
    assert (flow.source.kind, flow.source.k8s.node.name, flow.bytes) == ("node", "node-a1", 1000)  # type: ignore[union-attr]


def test_bytes_are_by_pair_of_pods() -> None:
    """cilium/cilium 12913, microsoft/retina 1841: enough to act upon."""
    found = flows([row(A1, B1, bytes=5), row(A2, B1, bytes=7), row(A2, A1, bytes=9)])
    assert {(pod_name(f.source), pod_name(f.destination)): f.bytes for f in found} == {
        ("api-1", "db-0"): 5,
        ("api-2", "db-0"): 7,
        ("api-2", "api-1"): 9,
    }


def test_a_cluster_of_ipv6_alone_gets_everything() -> None:
    """kubecost/kubecost 1743."""
    states = [
        node("six-a", "2600:1f18:1:1::a", "eu-west-1a"),
        node("six-b", "2600:1f18:1:2::b", "eu-west-1b"),
        pod("web-6", "2600:1f18:1:1::17", "six-a"),
        pod("db-6", "2600:1f18:1:2::9", "six-b"),
    ]
    rows = [
        row("2600:1f18:1:1::17", "2600:1f18:1:2::9"),
        row("2600:1f18:1:1::17", "2600:1f18:1:f::1"),
        row("2600:1f18:1:1::17", "2606:4700::1111"),
        row("2600:1f18:1:1::99", "2600:1f18:1:2::9"),
    ]
    pods, database, internet, late = flows(rows, *states, node="six-a")
    assert (pods.scope, pod_name(pods.source), pod_name(pods.destination)) == ("cross_zone", "web-6", "db-6")
    assert (database.scope, database.destination.reason) == ("unknown", "vpc_unmapped")
    assert internet.scope == "external"
    assert (late.scope, late.source.reason) == ("cross_zone", "late_index")


def test_a_window_that_ended_is_not_touched_by_what_came_later() -> None:
    """Not an issue of anybody's: what all of the above come down to."""
    before = one(A1, B1)
    later = pod("other-0", A1, "node-b1", from_ms=END + 1000)
    assert one(A1, B1, later) == before
