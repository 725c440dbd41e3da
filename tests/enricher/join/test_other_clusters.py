# SPDX-License-Identifier: Apache-2.0
"""Traffic between clusters: an end in another cluster is named if that cluster's topology is known, never guessed."""

from typing import Any

import msgspec
import pytest

from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, join, resolve
from enricher.join.policy import policy_of
from schemas.flow import Flow, decode_flow
from schemas.topology import Served, TopologyState
from tests.support.enricher.build import END, START, chunk, node, pod, row, service

# The cluster that counts, with pods in addresses of the VPC; node-a1 is a name that the other one has, too.
API, HOST_A = "10.0.1.17", "10.0.1.10"
OURS = [
    node("node-a1", HOST_A, "eu-west-1a", zone_id="euw1-az1"),
    pod("api-1", API, "node-a1"),
    service("api", "172.20.0.9"),
]
DB, CACHE, HOST_B = "10.0.2.9", "10.0.1.88", "10.0.2.10"
THEIRS = [
    node("node-a1", HOST_B, "eu-west-1b", zone_id="euw1-az2"),
    node("node-b2", "10.0.1.20", "eu-west-1a", zone_id="euw1-az1"),
    pod("db-0", DB, "node-a1", namespace="data", served=(Served("db", "tcp", 5432),)),
    pod("cache-0", CACHE, "node-b2", namespace="data"),
    service("db", "172.20.0.9", namespace="data"),
]
EGRESS, INGRESS = 0, 1


def index_of(*states: TopologyState) -> Index:
    index = Index()
    for state in states:
        index.apply(state)
    return index


def joined(
    rows: list[dict[str, Any]],
    ours: list[TopologyState] = OURS,
    theirs: list[TopologyState] = THEIRS,
    *,
    unmetered: str = "",
    detail: Any = "pod",
    third: tuple[TopologyState, ...] = (),
) -> Joined:
    others = {"data": index_of(*theirs), "third": index_of(*third)}
    raw = chunk(rows)
    ends = resolve(raw, Resolver(index_of(*ours), CidrMap([]), others))
    return join(raw, ends, 0, 0, policy=policy_of(unmetered, detail))


def flow_of(source: str, destination: str, *args: Any, **named: Any) -> Flow:
    [value] = joined([row(source, destination)], *args, **named).values
    return decode_flow(value)


def told(flow: Flow) -> tuple[str, str, str | None, str | None, str | None]:
    """Return the scope, and of the destination kind, cluster, node and why it is not known."""
    end = msgspec.to_builtins(flow.destination)
    k8s = end.get("k8s", {})
    return (
        flow.scope,
        end["kind"],
        k8s.get("cluster", {}).get("name"),
        k8s.get("node", {}).get("name"),
        end.get("reason"),
    )


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        pytest.param(DB, ("cross_zone", "pod", "data", "node-a1", None), id="a pod in another zone"),
        pytest.param(CACHE, ("same_zone", "pod", "data", "node-b2", None), id="a pod in the same zone"),
        pytest.param(HOST_B, ("cross_zone", "node", "data", "node-a1", None), id="a node of the same name as ours"),
        pytest.param("172.20.0.9", ("unknown", "service", None, None, "zone_missing"), id="a ClusterIP is our own"),
        pytest.param("10.0.9.9", ("unknown", "unknown", None, None, "vpc_unmapped"), id="nobody's"),
        pytest.param(API, ("same_node", "pod", None, "node-a1", None), id="our own pod"),
    ],
)
def test_an_end_in_another_cluster_is_named_with_its_cluster(destination: str, expected: tuple[Any, ...]) -> None:
    assert told(flow_of(API, destination)) == expected


def test_a_pod_elsewhere_has_its_workload_and_the_service_that_its_port_is_behind() -> None:
    [value] = joined([row(API, DB, server=1)]).values
    k8s = msgspec.to_builtins(decode_flow(value).destination.k8s)
    assert k8s["workload"] == {"kind": "Deployment", "name": "db"}
    assert (k8s["service"], k8s["namespace"]) == ({"name": "db"}, {"name": "data"})
    assert k8s["cluster"] == {"name": "data"}


def test_what_another_cluster_sends_here_counts_there() -> None:
    found = joined([row(API, DB, bytes=70), row(DB, API, direction=INGRESS, bytes=30)])
    assert {reason: amount.bytes for reason, amount in found.aside.items()} == {"sender_in_other_cluster": 30}
    assert (found.given.bytes, found.taken.bytes, found.senders) == (70, 100, {})


@pytest.mark.parametrize("unmetered", ["node-a*", "data/*", "data/node-a1"])
def test_of_a_node_elsewhere_that_has_no_collector_it_counts_here(unmetered: str) -> None:
    found = joined([row(DB, API, direction=INGRESS, bytes=30)], unmetered=unmetered)
    assert (found.given.bytes, found.aside) == (30, {})
    assert {node: amount.bytes for node, amount in found.unmetered.items()} == {"data/node-a1": 30}


def test_pods_of_one_name_in_two_clusters_are_summed_up_apart() -> None:
    theirs = [*THEIRS, pod("api-1", "10.0.1.99", "node-b2")]
    ours = [*OURS, pod("api-2", "10.0.1.18", "node-a1")]
    found = joined([row(API, "10.0.1.18"), row(API, "10.0.1.99")], ours, theirs, detail="workload")
    assert sorted(told(decode_flow(value))[2] or "" for value in found.values) == ["", "data"]


def test_an_address_that_both_hold_is_neither_s_but_the_sender_on_this_node_is_known() -> None:
    """Addresses of a VPC go from one cluster to another, and the one that lost it may not have seen it go."""
    theirs = [*THEIRS, pod("new-0", API, "node-a1")]
    ours = [*OURS, pod("web-0", "10.0.1.19", "node-a1")]
    assert told(flow_of("10.0.1.19", API, ours, theirs)) == ("unknown", "unknown", None, None, "ambiguous_owner")
    flow = flow_of(API, "10.0.1.19", ours, theirs)
    assert (flow.scope, flow.source.kind) == ("same_node", "pod")
    found = joined([row("10.0.1.200", DB)], ours, [*theirs, pod("old-0", "10.0.1.200", "node-b2")])
    assert (found.foreign_source, found.late.rows) == ({}, 1), "the pod that sends is not known yet: it is on this node"


def test_two_others_that_hold_it_agree_on_no_more_than_their_zone() -> None:
    third = (node("node-c", "10.0.3.1", "eu-west-1b", zone_id="euw1-az2"), pod("x-0", DB, "node-c"))
    assert told(flow_of(API, DB, third=third)) == ("cross_zone", "unknown", None, None, "ambiguous_owner")
    elsewhere = (node("node-c", "10.0.3.1", "eu-west-1c", zone_id="euw1-az3"), pod("x-0", DB, "node-c"))
    assert told(flow_of(API, DB, third=elsewhere))[::4] == ("unknown", "ambiguous_owner")


# Two clusters with an overlay each, numbered alike, on nodes of one VPC.
OVERLAY_A = [
    node("node-a1", HOST_A, "eu-west-1a", pod_cidrs=("10.42.0.0/24",)),
    node("node-a2", "10.0.3.11", "eu-west-1c", pod_cidrs=("10.42.1.0/24",)),
    pod("api-1", "10.42.0.7", "node-a1"),
    pod("api-2", "10.42.1.8", "node-a2"),
]
OVERLAY_B = [
    node("node-b1", HOST_B, "eu-west-1b", pod_cidrs=("10.42.0.0/24",)),
    node("node-b2", "10.0.2.11", "eu-west-1b", pod_cidrs=("10.42.9.0/24",)),
    pod("other-1", "10.42.1.8", "node-b1"),
    pod("other-2", "10.42.0.99", "node-b1"),
    pod("other-3", "10.42.9.1", "node-b2"),
]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        pytest.param("10.42.1.8", ("cross_zone", "pod", None, "node-a2", None), id="our pod, in our own podCIDR"),
        pytest.param("10.42.0.99", ("same_node", "unknown", None, "node-a1", "late_index"), id="our podCIDR alone"),
        pytest.param("10.42.9.1", ("unknown", "unknown", None, None, "ambiguous_owner"), id="theirs alone"),
        pytest.param("10.42.9.2", ("unknown", "unknown", None, None, "ambiguous_owner"), id="their podCIDR alone"),
        pytest.param(HOST_B, ("cross_zone", "node", "data", "node-b1", None), id="their node, in the VPC"),
    ],
)
def test_pod_networks_that_overlap_name_no_pod_elsewhere(destination: str, expected: tuple[Any, ...]) -> None:
    assert told(flow_of("10.42.0.7", destination, OVERLAY_A, OVERLAY_B)) == expected


def test_pod_networks_that_do_not_overlap_name_a_pod_that_is_not_known_yet_by_its_node() -> None:
    theirs = [node("node-b1", HOST_B, "eu-west-1b", zone_id="euw1-az2", pod_cidrs=("10.44.0.0/24",))]
    assert told(flow_of(API, "10.44.0.3", OURS, theirs)) == ("cross_zone", "unknown", "data", "node-b1", "late_index")


def test_as_of_the_window() -> None:
    before, after = pod("db-0", DB, "node-a1", to_ms=START), pod("web-0", DB, "node-b2", from_ms=END)
    assert told(flow_of(API, DB, OURS, [*THEIRS[:2], before, after]))[::4] == ("unknown", "vpc_unmapped")


def test_an_answer_is_forgotten_when_the_other_cluster_changes() -> None:
    other = index_of(*THEIRS[:2])
    resolver = Resolver(index_of(*OURS), CidrMap([]), {"data": other})
    raw = chunk([row(API, DB)])

    def kind() -> str:
        [value] = join(raw, resolve(raw, resolver), 0, 0).values
        return decode_flow(value).destination.kind

    assert kind() == "unknown"
    other.apply(THEIRS[2])
    assert kind() == "pod"
    other.apply(node("overlay", "10.0.2.12", "eu-west-1b", pod_cidrs=("10.0.2.0/24",)))
    assert kind() == "pod"
    resolver.index.apply(node("ours", "10.0.1.12", "eu-west-1b", pod_cidrs=("10.0.2.0/25",)))
    assert kind() == "unknown"


def test_public_addresses_of_another_cluster_s_site_are_not_the_internet() -> None:
    theirs = [*THEIRS, pod("six-0", "2a05:d018:1:2::9", "node-a1")]
    assert told(flow_of("2a05:d018:9:9::1", "2a05:d018:1:2::9", OURS, theirs))[2] == "data"
    assert told(flow_of("2a05:d018:9:9::1", "2a05:d018:1:2::7", OURS, theirs))[4] == "vpc_unmapped"


def test_the_addresses_that_a_node_elsewhere_is_reached_by_are_its() -> None:
    card = TopologyState(
        kind="addresses", uid="node-a1", resource_version="1", name="node-a1", addresses=["10.0.2.200"], from_ms=1
    )
    assert told(flow_of(API, "10.0.2.200", OURS, [*THEIRS, card])) == ("cross_zone", "node", "data", "node-a1", None)
