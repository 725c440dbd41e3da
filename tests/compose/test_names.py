# SPDX-License-Identifier: Apache-2.0
"""The names of a host without Kubernetes, and that the enricher understands them."""

import pytest

from compose.names import DEMO_PODS, Address, demo_states, host_states, read_addresses
from enricher.index.addresses import pack
from enricher.index.cidrs import CidrMap
from enricher.index.endpoints import Resolved, scope_of
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from schemas.topology import decode_topology_file, encode_topology_file

NODE_NET, POD_NET = "10.213.2", "10.244.213"
HOST = [
    Address("127.0.0.1/8", on_bridge=False),
    Address("192.0.2.2/24", on_bridge=False),
    Address("fe80::1/64", on_bridge=False),
    Address("2001:db8::2/64", on_bridge=False),
    Address("172.17.0.1/16", on_bridge=True),
    Address(f"{NODE_NET}.1/24", on_bridge=True),
]


def resolved(address: str) -> Resolved:
    states = host_states("this-host", "zone-a", "region-1", HOST, NODE_NET) + demo_states("region-1", POD_NET)
    index = Index()
    for state in decode_topology_file(encode_topology_file(states)):
        index.apply(state)
    return Resolver(index, CidrMap([])).window(1_795_384_000_000, 1_795_384_010_000).resolve(address)


@pytest.mark.parametrize(
    ("address", "kind", "node", "zone"),
    [
        pytest.param("192.0.2.2", "node", "this-host", "zone-a", id="the host's address"),
        pytest.param("2001:db8::2", "node", "this-host", "zone-a", id="its IPv6 address"),
        pytest.param("172.17.0.1", "node", "this-host", "zone-a", id="its address on a bridge"),
        pytest.param("172.17.3.4", "unknown", "this-host", "zone-a", id="a container: whose it is, not what it is"),
        pytest.param(f"{NODE_NET}.1", "node", "this-host", "zone-a", id="the gateway of the demo's nodes"),
        pytest.param(f"{NODE_NET}.11", "unknown", "this-host", "zone-a", id="a node of the demo: a container here"),
        pytest.param(f"{POD_NET}.11", "pod", "demo-a1", "zone-a", id="a pod of the demo"),
        pytest.param(f"{POD_NET}.14", "pod", "demo-c1", "zone-c", id="another, elsewhere"),
        pytest.param("192.0.2.3", "unknown", None, None, id="a neighbour, of whom nothing is known"),
        pytest.param(f"{POD_NET}.99", "unknown", None, None, id="nobody in the demo's network"),
    ],
)
def test_an_address_is_whose_it_is(address: str, kind: str, node: str | None, zone: str | None) -> None:
    end = resolved(address)
    assert (end.kind, end.node, end.place.zone) == (kind, node, zone)


def test_the_demos_nodes_are_containers_of_this_host_before_their_network_is_made() -> None:
    [host] = host_states("this-host", "zone-a", "region-1", [], NODE_NET)
    assert host.pod_cidrs == (f"{NODE_NET}.0/24",)


def test_the_demo_has_traffic_within_and_between_zones() -> None:
    ends = [resolved(f"{POD_NET}.{pod.number}") for pod in DEMO_PODS]
    scopes = {scope_of(one.place, other.place) for one in ends for other in ends if one is not other}
    assert scopes == {"same_zone", "cross_zone"}
    assert all(pack(f"{POD_NET}.{pod.number}") for pod in DEMO_PODS)


def test_this_hosts_addresses_are_read() -> None:
    assert Address("127.0.0.1/8", on_bridge=False) in read_addresses()
