# SPDX-License-Identifier: Apache-2.0
"""Packets that leave in fragments, or came in them: the hook comes before the one and behind the other.

The truth is what a counter at the far end of the link sees, before anything there puts fragments together.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.collector import netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, node_address6, pod_address, pod_address6, send_udp, wait_until

Meters = dict[int, Metered]

UDP = socket.IPPROTO_UDP
A4, B4, A6, B6 = pod_address(1, 1), pod_address(2, 1), pod_address6(1, 1), pod_address6(2, 1)
HOST4, HOST6 = node_address(1), node_address6(1)
IP_OPTIONS, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT = 4, 10, 2, 0
IPV6_HOPOPTS = 54


def _same(meter: Metered, a: str, b: str, *, at: str = "fabric", direction: str = "egress") -> tuple[int, int]:
    """Assert that the meter has counted what was counted at `at`; return bytes and packets."""

    def same() -> bool:
        return meter.sum(src=a, dst=b, direction=direction) == netlab.counts_at(at, [(a, b)])[a, b]

    assert wait_until(same), f"wire {netlab.counts_at(at, [(a, b)])}, counted {meter.of(a, b)}"
    return meter.sum(src=a, dst=b)


@pytest.mark.parametrize(
    ("sender", "a", "b"),
    [
        pytest.param("pod11", A4, B4, id="pod-ipv4"),
        pytest.param("pod11", A6, B6, id="pod-ipv6"),
        pytest.param("node1", HOST4, B4, id="host-ipv4"),
        pytest.param("node1", HOST6, B6, id="host-ipv6"),
    ],
)
def test_made_here(meters: Meters, sender: str, a: str, b: str) -> None:
    """Of the host's own packets, and of a pod's, which conntrack puts together before they are routed."""
    netlab.count_on_fabric([(a, b)])
    send_udp(sender, "pod21", b, count=5, size=8000)
    assert _same(meters[1], a, b)[1] == 30


@pytest.mark.parametrize(
    ("a", "b", "header"), [(HOST4, node_address(2), 28), (HOST6, node_address6(2), 56)], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("mtu", [1450, 1500, 1501, 9000])
def test_lengths_around_what_fits(meters: Meters, a: str, b: str, header: int, mtu: int) -> None:
    """The last fragment needs no multiple of eight, so it may be longer than those before it."""
    netlab.count_on_fabric([(a, b)])
    with ExitStack() as stack:
        for name, device in (("node2", "eth0"), ("fabric", "n2"), ("fabric", "n1"), ("node1", "eth0")):
            stack.enter_context(netlab.link_mtu(name, device, mtu))
        room = mtu - header
        for size in (room, room + 1, 2 * room - 8, 2 * room, 2 * room + 1, 3 * room + 7):
            send_udp("node1", "node2", b, count=1, size=size)
        assert _same(meters[1], a, b)[1] > 6


@pytest.mark.parametrize(("a", "b"), [(HOST4, B4), (HOST6, B6)], ids=["ipv4", "ipv6"])
def test_a_route_takes_less_than_its_device(meters: Meters, a: str, b: str) -> None:
    netlab.count_on_fabric([(a, b)])
    prefix, via = ("128", node_address6(2)) if ":" in b else ("32", node_address(2))
    netlab.ip("node1", f"route add {b}/{prefix} via {via} mtu 1300")
    try:
        send_udp("node1", "pod21", b, count=3, size=1400)
        assert _same(meters[1], a, b)[1] == 6
    finally:
        netlab.ip("node1", f"route del {b}/{prefix} via {via}")


_ROUTING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.send_redirects=0")


@pytest.mark.parametrize(("a", "b"), [(HOST4, B4), (HOST6, B6)], ids=["ipv4", "ipv6"])
def test_the_path_takes_less_than_its_first_device(meters: Meters, a: str, b: str) -> None:
    """The fabric routes, and says in ICMP that the rest of the way takes 1300 bytes only."""
    netlab.count_on_fabric([(a, b)])
    narrow_ip = ("128", netlab.CLIENT6, node_address6(2)) if ":" in b else ("32", netlab.CLIENT, node_address(2))
    prefix, fabric, node2 = narrow_ip
    netlab.ip("node1", f"route add {b}/{prefix} via {fabric}")
    netlab.ip("fabric", f"route add {b}/{prefix} via {node2} mtu 1300")
    netlab.run("fabric", "sysctl", "-qw", *_ROUTING)
    try:
        with netlab.new_socket("node1", b, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            probe.connect((b, 9))

            def learned() -> bool:
                try:
                    probe.send(bytes(1400))
                except OSError:
                    return True
                return False

            assert wait_until(learned)
        send_udp("node1", "pod21", b, count=3, size=1400)
        assert _same(meters[1], a, b)[1] >= 7
    finally:
        netlab.ip("node1", f"route del {b}/{prefix} via {fabric}\nroute flush cache")
        netlab.ip("fabric", f"route del {b}/{prefix} via {node2}")


@pytest.mark.parametrize(("a", "b"), [(B4, A4), (B6, A6)], ids=["ipv4", "ipv6"])
def test_forwarded_without_conntrack(meters: Meters, a: str, b: str) -> None:
    """The second node tracks no connections, so fragments pass as they are."""
    netlab.count_on_fabric([(a, b)])
    send_udp("pod21", "pod11", b, count=5, size=8000)
    assert _same(meters[2], a, b)[1] == 30


@pytest.mark.parametrize(("a", "b", "mtu"), [(A4, B4, 600), (A4, B4, 1001), (A6, B6, 1280), (A6, B6, 1301)], ids=str)
@pytest.mark.parametrize("size", [1400, 3000])
def test_forwarded_through_conntrack_as_small_as_they_came(meters: Meters, a: str, b: str, mtu: int, size: int) -> None:
    """What was put together is taken apart again, also where the whole would fit into the way out."""
    netlab.count_on_fabric([(a, b)])
    default = "::/0 via fe80::1 dev eth0" if ":" in a else "0.0.0.0/0 via 169.254.1.1 dev eth0"
    netlab.ip("pod11", f"route change {default} mtu {mtu}")
    try:
        send_udp("pod11", "pod21", b, count=3, size=size)
    finally:
        netlab.ip("pod11", f"route change {default}")
    assert _same(meters[1], a, b)[1] >= 6


@pytest.mark.parametrize("pieces", [(8, 64, 640, 72, 5), (800, 8, 800, 8, 3), (16,) * 20])
def test_forwarded_through_conntrack_as_uneven_as_they_came(meters: Meters, pieces: tuple[int, ...]) -> None:
    """As a router on the way makes them of others' fragments."""
    netlab.count_on_fabric([(A4, B4)])
    with netlab.new_socket("pod11", A4, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for packet in _ipv4_fragments(A4, B4, pieces):
            out.sendto(packet, (B4, 0))
    assert _same(meters[1], A4, B4) == (sum(pieces) + 20 * len(pieces), len(pieces))


def _ipv4_fragments(src: str, dst: str, pieces: tuple[int, ...]) -> Iterator[bytes]:
    total, offset = sum(pieces), 0
    datagram = struct.pack("!HHHH", 40000, 9, total, 0) + bytes(total - 8)
    for piece in pieces:
        more = 0x2000 if offset + piece < total else 0
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + piece, 77, more | offset // 8, 64, UDP, 0)
        yield header + socket.inet_aton(src) + socket.inet_aton(dst) + datagram[offset : offset + piece]
        offset += piece


@pytest.mark.parametrize(
    ("node", "b"),
    [(1, HOST4), (1, HOST6), (2, node_address(2)), (2, node_address6(2))],
    ids=["conntrack-ipv4", "conntrack-ipv6", "plain-ipv4", "plain-ipv6"],
)
@pytest.mark.parametrize("mtu", [1300, 1500])
def test_received_by_the_host(meters: Meters, node: int, b: str, mtu: int) -> None:
    """From a sender that nobody meters: LOCAL_IN is behind the kernel's putting together."""
    a = netlab.CLIENT6 if ":" in b else netlab.CLIENT
    netlab.count_at(f"node{node}", ("eth0",), [(a, b)])
    with netlab.link_mtu("fabric", "br0", mtu):
        send_udp("fabric", f"node{node}", b, count=3, size=8000)
    assert _same(meters[node], a, b, at=f"node{node}", direction="ingress")[1] >= 18


@pytest.mark.parametrize(("a", "b"), [(netlab.CLIENT, A4), (netlab.CLIENT6, A6)], ids=["ipv4", "ipv6"])
def test_received_by_a_pod(meters: Meters, a: str, b: str) -> None:
    netlab.count_at("node1", ("eth0",), [(a, b)])
    with netlab.link_mtu("fabric", "br0", 1300):
        send_udp("fabric", "pod11", b, count=3, size=8000)
    assert _same(meters[1], a, b, at="node1", direction="ingress")[1] == 3 * 7


@pytest.mark.parametrize(
    ("a", "b", "level", "option", "value"),
    [
        pytest.param(HOST4, B4, socket.IPPROTO_IP, IP_OPTIONS, b"\x07\x27\x04" + bytes(36) + b"\x00", id="ipv4"),
        pytest.param(
            HOST6, B6, socket.IPPROTO_IPV6, IPV6_HOPOPTS, bytes([0, 1, 0x1E, 12]) + bytes(12), id="ipv6-hop-by-hop"
        ),
    ],
)
def test_every_fragment_has_the_headers_that_all_need(
    meters: Meters, a: str, b: str, level: int, option: int, value: bytes
) -> None:
    netlab.count_on_fabric([(a, b)])
    with netlab.udp_server("pod21", b, 5353) as server, netlab.new_socket("node1", b, socket.SOCK_DGRAM) as client:
        client.setsockopt(level, option, value)
        client.sendto(bytes(8000), (b, 5353))
        assert len(server.recv(65536)) == 8000
    assert _same(meters[1], a, b)[1] == 6


def test_segments_that_do_not_fit_the_way_out(meters: Meters) -> None:
    """TCP without path MTU discovery: a super-packet is cut into segments, and each of them into fragments."""
    netlab.count_on_fabric([(A4, B4)])
    with ExitStack() as stack:
        stack.callback(netlab.run, "pod11", "sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=0")
        netlab.run("pod11", "sysctl", "-qw", "net.ipv4.ip_no_pmtu_disc=1")
        stack.enter_context(netlab.link_mtu("node1", "eth0", 1301))
        netlab.send_tcp("pod11", "pod21", B4, at=B4, port=8080, at_port=8080, size=1_000_000)
        octets, packets = _same(meters[1], A4, B4)
    assert octets > 1_000_000
    assert packets > 1300


@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sender=st.sampled_from(["pod11", "node1"]),
    six=st.booleans(),
    size=st.one_of(st.integers(1, 3000), st.integers(1, 65_000)),
    mtu=st.integers(1280, 1500),
    route=st.integers(0, 1000),
    words=st.integers(0, 10),
)
def test_any_size_over_any_way(
    meters: Meters, sender: str, six: bool, size: int, mtu: int, route: int, words: int
) -> None:
    """What fits the sender's route, a pod's or the host's, the device's MTU, and options in every fragment."""
    b = B6 if six else B4
    a = {("pod11", False): A4, ("pod11", True): A6, ("node1", False): HOST4, ("node1", True): HOST6}[sender, six]
    takes = max(1280 if six else 576, mtu - route)  # a router that does not fragment drops what is too long
    if sender == "pod11":
        way = "::/0 via fe80::1 dev eth0" if six else "0.0.0.0/0 via 169.254.1.1 dev eth0"
    else:
        way = f"fd42:2::/64 via {node_address6(2)}" if six else f"10.42.2.0/24 via {node_address(2)}"
    netlab.count_on_fabric([(a, b)])
    meters[1].forget()
    with netlab.link_mtu("node1", "eth0", mtu), netlab.udp_server("pod21", b, 5353) as server:
        netlab.ip(sender, f"route change {way} mtu {takes}")
        try:
            with netlab.new_socket(sender, b, socket.SOCK_DGRAM) as client:
                if six and words:
                    client.setsockopt(socket.IPPROTO_IPV6, IPV6_HOPOPTS, bytes([0, 1, 0x1E, 12]) + bytes(12))
                elif words:
                    client.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, b"\x01" * 4 * words)
                client.sendto(bytes(size), (b, 5353))
                assert len(server.recv(70_000)) == size
        finally:
            netlab.ip(sender, f"route change {way}")
        _same(meters[1], a, b)
