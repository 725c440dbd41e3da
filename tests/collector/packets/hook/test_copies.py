# SPDX-License-Identifier: Apache-2.0
"""Copies of pods' packets that a rule sends to somebody else are put aside where the kernel tells them, not counted.

nft's dup, which iptables' TEE is too: one function of the kernel makes both (nf_dup_ipv4(), nf_dup_ipv6()).
"""

import socket
from collections.abc import Iterator

import pytest

from tests.support.collector import netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import CLIENT, CLIENT6, node_address, pod_address, pod_address6, wait_until

Meters = dict[int, Metered]


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def ends(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A pod and one of the other node, of which somebody on the fabric, who is no router, gets a copy of everything."""
    six = request.param == 6
    return (pod_address6(1, 1), pod_address6(2, 1)) if six else (pod_address(1, 1), pod_address(2, 1))


@pytest.fixture(params=["prerouting", "output"])
def chain(request: pytest.FixtureRequest, ends: tuple[str, str]) -> Iterator[str]:
    """Where the copies are made: of what is forwarded, or of what the node sends itself."""
    six = ":" in ends[1]
    family, to = ("ip6", CLIENT6) if six else ("ip", CLIENT)
    rule = f'{family} daddr {ends[1]} meta l4proto udp dup to {to} device "eth0"'
    table = f"table {family} copies {{\nchain c {{ type filter hook {request.param} priority -300; {rule}; }}\n}}\n"
    netlab.run("node1", "nft", "-f", "-", stdin=table)
    yield request.param
    netlab.run("node1", "nft", "delete", "table", family, "copies")


def test_a_copy_is_put_aside_and_the_original_counts(meters: Meters, ends: tuple[str, str], chain: str) -> None:
    a, b = ends
    sender = "pod11"
    if chain == "output":
        sender, a = "node1", node_address(1) if "." in a else netlab.node_address6(1)
    netlab.count_on_fabric([(a, b)], "meta l4proto udp")
    size = 1028 if "." in b else 1048
    with netlab.udp_server("pod21", b, 5353) as server, netlab.new_socket(sender, b, socket.SOCK_DGRAM) as client:
        for _ in range(5):
            client.sendto(bytes(1000), (b, 5353))
            assert len(server.recv(4096)) == 1000
        assert wait_until(lambda: netlab.fabric_counts([(a, b)])[a, b] == (10 * size, 10)), "the wire has both"
    assert meters[1].aside("copied") == (5 * size, 5)
    assert meters[1].sum(src=a, dst=b, protocol=17, direction="egress") == (5 * size, 5)
