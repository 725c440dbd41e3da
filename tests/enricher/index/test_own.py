# SPDX-License-Identifier: Apache-2.0
"""What the observing node says is its own, and what it sends: on that node, whatever the address."""

from typing import Any

import msgspec
import pytest

from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, join, resolve
from schemas.amount import Amount
from schemas.flow import Endpoint, Flow, decode_flow
from schemas.raw import RawChunk
from schemas.topology import TopologyState
from tests.support.enricher.build import chunk, node, pod, row, service

POD_A, POD_B, HOST_A, HOST_B = "10.42.1.17", "10.42.2.9", "192.168.0.11", "192.168.0.21"
DNS, KUBE_DNS = "169.254.20.10", "10.96.0.10"
# Second cards, and an address that the cloud shows the world and Node.status does not.
CARD_A, PUBLIC_A = "172.20.0.11", "198.41.0.4"
INTERNET = "8.8.8.8"
STATES = [
    node("node-a1", HOST_A, "eu-west-1a"),
    node("node-b1", HOST_B, "eu-west-1b"),
    pod("api-1", POD_A, "node-a1"),
    pod("db-0", POD_B, "node-b1"),
    service("kube-dns", KUBE_DNS, namespace="kube-system"),
]
STORAGE = Cidr(cidr="172.20.0.0/24", name="storage", zone="eu-west-1c", region="eu-west-1")


def taken(raw: RawChunk, *states: TopologyState, cidrs: tuple[Cidr, ...] = ()) -> Joined:
    index = Index()
    for state in (*STATES, *states):
        index.apply(state)
    return join(raw, resolve(raw, Resolver(index, CidrMap(list(cidrs)))), 0, 0)


def owning(rows: list[dict[str, Any]], *own: str, **head: Any) -> RawChunk:
    """Return a chunk of node-a1 that says which addresses are its own."""
    made = chunk(rows, **head)
    return msgspec.structs.replace(made, own=[made.addresses.index(address) for address in own])


def flows(raw: RawChunk, *states: TopologyState, cidrs: tuple[Cidr, ...] = ()) -> list[Flow]:
    return [decode_flow(value) for value in taken(raw, *states, cidrs=cidrs).values]


def told(end: Endpoint) -> tuple[str, Any, Any]:
    """Return kind, node and reason."""
    k8s = msgspec.to_builtins(end).get("k8s", {})
    return end.kind, k8s.get("node", {}).get("name"), end.reason or None


@pytest.mark.parametrize(
    ("address", "end"),
    [
        pytest.param(DNS, ("node", "node-a1", None), id="its own link-local address"),
        pytest.param(KUBE_DNS, ("service", "node-a1", None), id="bound to kube-dns's ClusterIP, not translated"),
    ],
)
def test_dns_on_the_node_never_leaves_it(address: str, end: tuple[str, Any, Any]) -> None:
    rows = [row(POD_A, address, protocol=17, dst_port=53), row(address, POD_A, protocol=17, src_port=53)]
    asked, answered = flows(owning(rows, address))
    assert (asked.scope, answered.scope) == ("same_node", "same_node")
    assert told(asked.destination) == told(answered.source) == end
    if end[0] == "service":
        assert msgspec.to_builtins(asked.destination.k8s)["service"] == {"name": "kube-dns"}


def test_without_being_told_dns_on_the_node_stays_unknown() -> None:
    """As in records of earlier versions: what answers is on the node, since it sends from there; what is asked, too."""
    asked, answered = flows(chunk([row(POD_A, DNS, dst_port=53), row(DNS, POD_A, src_port=53)]))
    assert (asked.scope, answered.scope) == ("same_node", "same_node")
    assert told(answered.source) == ("unknown", "node-a1", "late_index")
    [alone] = flows(chunk([row(POD_A, DNS, dst_port=53)]))
    assert (alone.scope, told(alone.destination)) == ("unknown", ("unknown", None, "link_local"))


@pytest.mark.parametrize("address", [CARD_A, PUBLIC_A])
@pytest.mark.parametrize("cidrs", [(), (STORAGE,)], ids=["no map", "a map that names it"])
def test_a_nodes_further_address_is_the_node(address: str, cidrs: tuple[Cidr, ...]) -> None:
    rows = [row(address, POD_B), row(POD_A, address), row("172.20.0.99", address, direction=1)]
    sent, reached, received = flows(owning(rows, address), cidrs=cidrs)
    assert told(sent.source) == told(reached.destination) == ("node", "node-a1", None)
    assert (sent.scope, reached.scope) == ("cross_zone", "same_node")
    assert told(received.destination) == ("node", "node-a1", None)


@pytest.mark.parametrize(
    ("address", "end"),
    [
        pytest.param("11.0.3.7", ("unknown", "node-a1", "late_index"), id="a late pod of a cluster in public space"),
        pytest.param("169.254.172.2", ("unknown", "node-a1", "late_index"), id="an IPv6 pod's IPv4"),
        pytest.param("172.20.0.77", ("cidr", "node-a1", None), id="what the map names"),
        pytest.param("203.0.113.0/24", ("unknown", "node-a1", "late_index"), id="folded"),
        pytest.param(KUBE_DNS, ("service", "node-a1", None), id="a service"),
        pytest.param("10.42.3.3", ("unknown", "node-a1", "late_index"), id="of another node's podCIDR"),
        pytest.param(POD_B, ("pod", "node-b1", None), id="a pod that is known to be elsewhere"),
        pytest.param(HOST_B, ("node", "node-b1", None), id="a node that is known to be elsewhere"),
    ],
)
def test_who_sends_from_the_node_is_on_it(address: str, end: tuple[str, Any, Any]) -> None:
    other = node("node-c1", "192.168.0.31", "eu-west-1c", pod_cidrs=("10.42.3.0/24",))
    [flow] = flows(chunk([row(address, HOST_A)]), other, cidrs=(STORAGE,))
    assert told(flow.source) == end
    assert flow.scope == ("same_node" if end[1] == "node-a1" else "cross_zone")


def test_what_came_in_as_well_has_moved_and_nothing_is_said_of_it() -> None:
    """As a virtual address that was another node's when the window began."""
    rows = [row(CARD_A, POD_A), row(CARD_A, POD_A, direction=1)]
    assert {told(flow.source) for flow in flows(chunk(rows))} == {("unknown", None, "vpc_unmapped")}


def test_a_pod_of_an_address_goes_before_what_the_node_says() -> None:
    """A proxy on the node may send, and be addressed, by a pod's address."""
    for address, name in ((POD_A, "api-1"), (POD_B, "db-0")):
        [flow] = flows(owning([row(address, INTERNET)], address))
        assert msgspec.to_builtins(flow.source.k8s)["pod"] == {"name": name}


OURS = Cidr(cidr="11.0.0.0/16", name="pods", ours=True)


def test_what_the_map_says_is_ours_counts_where_it_is_sent() -> None:
    rows = [row("11.0.3.7", POD_A, direction=1, bytes=700), row(INTERNET, POD_A, direction=1, bytes=30)]
    found = taken(chunk(rows), cidrs=(OURS,))
    assert (found.aside, found.given.bytes) == ({"sender_in_cluster": Amount(700, 10, 1)}, 30)
    assert taken(chunk(rows)).given.bytes == 730
    [flow] = flows(chunk([row(POD_A, "11.0.3.7")]), cidrs=(OURS,))
    assert (told(flow.destination), flow.destination.name, flow.scope) == (
        ("cidr", None, "zone_missing"),
        "pods",
        "unknown",
    )


def test_what_is_ours_is_not_among_what_a_node_folds() -> None:
    [flow] = flows(chunk([row(POD_A, "0.0.0.0/0")]), cidrs=(OURS,))
    assert (flow.destination.kind, flow.scope) == ("external", "external")
    theirs = msgspec.structs.replace(OURS, ours=False)
    [flow] = flows(chunk([row(POD_A, "0.0.0.0/0")]), cidrs=(theirs,))
    assert told(flow.destination) == ("unknown", None, "address_folded")
