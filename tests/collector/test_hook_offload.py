# SPDX-License-Identifier: Apache-2.0
"""The hook where packets are not what the wire carries: tunnels, a full map, both ports, load."""

import socket
import threading
from collections.abc import Iterator

import pytest

from collector import pins
from schemas.raw import ENCAPSULATIONS
from tests.collector import metered, netlab
from tests.collector.metered import Metered
from tests.collector.netlab import node_address, pod_address, send_tcp, send_udp, wait_until

Meters = dict[int, Metered]

A4 = pod_address(1, 1)
OUTER = (node_address(1), node_address(2))
VXLAN = ENCAPSULATIONS.index("vxlan")


@pytest.fixture
def overlay(meters: Meters) -> Iterator[None]:
    """A VXLAN between the nodes, for addresses of its own; the fabric counts its outer packets from the first on."""
    netlab.count_on_fabric([OUTER])
    for node, other in ((1, 2), (2, 1)):
        netlab.ip(
            f"node{node}",
            f"""
            link add vx0 type vxlan id 7 dstport 8472 local {node_address(node)} remote {node_address(other)} dev eth0
            addr add 10.99.0.{node}/24 dev vx0
            """,
        )
        # Before it is up: neighbour discovery goes through it at once, and must be known as the tunnel's.
        meters[node].meter.set_devices(metered.devices(f"node{node}"))
    for node in (1, 2):
        netlab.ip(f"node{node}", "link set vx0 up")
    yield
    for node in (1, 2):
        netlab.ip(f"node{node}", "link del vx0")
        meters[node].meter.set_devices(metered.devices(f"node{node}"))


def test_an_overlay_has_inner_flows_and_marked_outer_ones(meters: Meters, overlay: None) -> None:
    send_udp("node1", "node2", "10.99.0.2", count=5)
    assert meters[1].sum(src="10.99.0.1", dst="10.99.0.2", protocol=17, direction="egress", encapsulation=0)[1] == 5

    def found() -> tuple[int, int]:
        return meters[1].sum(src=OUTER[0], dst=OUTER[1], encapsulation=VXLAN, direction="egress", dst_port=8472)

    # With ARP and neighbour discovery of the inner network.
    assert wait_until(lambda: found() == netlab.fabric_counts([OUTER])[OUTER])
    assert found()[0] > 5 * (1028 + 50)
    assert meters[1].sum(src=OUTER[0], dst=OUTER[1], encapsulation=0) == (0, 0)
    assert meters[2].sum(src=OUTER[0], dst=OUTER[1], encapsulation=VXLAN, direction="ingress")[1] >= 5
    assert meters[2].sum(src="10.99.0.1", dst="10.99.0.2", protocol=17, direction="ingress", encapsulation=0)[1] == 5


def test_tcp_in_an_overlay_counts_what_the_fabric_saw(meters: Meters, overlay: None) -> None:
    send_tcp("node1", "node2", "10.99.0.2", at="10.99.0.2", port=8080, at_port=8080, size=3_000_000)

    def same() -> bool:
        truth = netlab.fabric_counts([OUTER])[OUTER]
        return meters[1].sum(src=OUTER[0], dst=OUTER[1], encapsulation=VXLAN) == truth

    assert wait_until(same), (netlab.fabric_counts([OUTER]), meters[1].flows)
    inner = meters[1].sum(src="10.99.0.1", dst="10.99.0.2", protocol=6, encapsulation=0)
    marked = meters[1].sum(src=OUTER[0], dst=OUTER[1], encapsulation=VXLAN)
    # 50 bytes a packet: IPv4 20, UDP 8, VXLAN 8, Ethernet 14. The rest is ARP.
    assert inner[0] + 50 * inner[1] <= marked[0] < inner[0] + 50 * inner[1] + 1000


@pytest.fixture
def small(nodes: None) -> Iterator[Metered]:
    """A meter of its own on the second node, with room for 14 flows and both ports kept."""
    root = metered.pin_dir("small")
    try:
        meter = Metered("node2", metered.request(root, map_memory=4096, ports="full"))
        yield meter
        meter.meter.close()
    finally:
        pins.detach(root)


def test_a_full_map_is_counted_to_the_byte(small: Metered) -> None:
    server_at = node_address(1)
    with netlab.udp_server("node1", server_at, 5000) as server:
        for port in range(40):
            with netlab.new_socket("node2", server_at, socket.SOCK_DGRAM) as client:
                client.bind(("0.0.0.0", 41_000 + port))
                client.sendto(b"x" * 100, (server_at, 5000))
                assert len(server.recv(1000)) == 100
    books = small.collect()
    assert books.map.rows == 14
    assert books.lost["map_full"].packets >= 26
    assert books.lost["map_full"].bytes == books.hook.bytes - books.map.bytes
    # Cleared, it has room again.
    send_udp("node2", "node1", server_at, count=1)
    assert "map_full" not in small.collect().lost


def test_both_ports_are_kept_if_asked(small: Metered) -> None:
    send_udp("node2", "node1", node_address(1), count=1, port=5353, sport=40001)
    assert small.sum(src_port=40001, dst_port=5353, direction="egress") == (1028, 1)


def test_flips_under_load_lose_and_double_nothing(meters: Meters) -> None:
    """Two senders at full speed through one flow and through many, while windows come and go at once."""
    sent = [0, 0]
    stop = threading.Event()

    def flood(sender: int) -> None:
        address = pod_address(1, 2)
        with netlab.new_socket("pod11", address, socket.SOCK_DGRAM) as client:
            while not stop.is_set():
                for port in range(6000, 6100):
                    client.sendto(b"x" * 72, (address, port + 100 * sender))
                sent[sender] += 100

    threads = [threading.Thread(target=flood, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    flips = 0
    while flips < 60 or sum(sent) < 10_000:
        meters[1].collect()
        flips += 1
    stop.set()
    for thread in threads:
        thread.join()
    expected = (100 * sum(sent), sum(sent))
    assert wait_until(lambda: meters[1].sum(src=A4, dst=pod_address(1, 2), protocol=17) == expected), sent
