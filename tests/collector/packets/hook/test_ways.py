# SPDX-License-Identifier: Apache-2.0
"""The hook in a real kernel: bytes, directions, addresses and ports of real packets, against counters elsewhere."""

import socket
import struct

import pytest

from tests.support.collector import netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, pod_address, pod_address6, send_tcp, send_udp, wait_until

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
Meters = dict[int, Metered]

A4, B4 = pod_address(1, 1), pod_address(2, 1)
A6, B6 = pod_address6(1, 1), pod_address6(2, 1)


@pytest.mark.parametrize(
    ("a", "b", "headers"), [pytest.param(A4, B4, 28, id="ipv4"), pytest.param(A6, B6, 48, id="ipv6")]
)
def test_udp_is_counted_to_the_byte_at_sender_and_receiver(meters: Meters, a: str, b: str, headers: int) -> None:
    send_udp("pod11", "pod21", b, count=7, size=1000)
    expected = (7 * (1000 + headers), 7)
    assert meters[1].sum(src=a, dst=b, protocol=UDP, direction="egress", src_port=0, dst_port=5353) == expected
    assert meters[2].sum(src=a, dst=b, protocol=UDP, direction="ingress", src_port=0, dst_port=5353) == expected


@pytest.mark.parametrize(
    ("service", "a", "b"),
    [pytest.param(netlab.CLUSTER_IP, A4, B4, id="ipv4"), pytest.param(netlab.CLUSTER_IP6, A6, B6, id="ipv6")],
)
def test_service_traffic_has_the_pods_addresses_and_is_marked(meters: Meters, service: str, a: str, b: str) -> None:
    send_tcp("pod11", "pod21", service, at=b, port=80, at_port=8080, size=1000)
    assert wait_until(lambda: meters[1].sum(src=b, dst=a, direction="ingress", dnat=0)[1] >= 3)
    assert meters[1].sum(src=a, dst=b, direction="egress", dnat=1, dst_port=8080)[0] > 1000
    assert meters[1].sum(src=a, dst=b, direction="egress", dnat=0) == (0, 0)
    # Either way the same end serves, whatever was translated.
    assert {flow.server for flow in meters[1].flows if (flow.src, flow.dst) == (a, b)} == {"destination"}
    assert {flow.server for flow in meters[1].flows if (flow.src, flow.dst) == (b, a)} == {"source"}
    # No connection tracking on the other node: it does not know.
    assert meters[2].sum(src=b, dst=a, direction="egress", dnat=2, server="unknown")[1] >= 3
    assert meters[1].sum(dst=service) == meters[1].sum(src=service) == (0, 0)


def test_direct_traffic_is_not_marked_where_there_is_conntrack(meters: Meters) -> None:
    send_udp("pod11", "pod21", B4)
    assert meters[1].sum(src=A4, dst=B4, dnat=0)[1] == 7


@pytest.mark.parametrize(
    ("to", "backend", "receiver"),
    [
        pytest.param(netlab.CLUSTER_IP_LOCAL, pod_address(1, 2), "pod12", id="backend-on-this-node"),
        pytest.param(netlab.CLUSTER_IP, B4, "pod21", id="backend-elsewhere"),
    ],
)
def test_replies_to_the_host_have_the_backends_address(meters: Meters, to: str, backend: str, receiver: str) -> None:
    send_tcp("node1", receiver, to, at=backend, port=80, at_port=8080, size=1000)
    direction = "egress" if receiver == "pod12" else "ingress"
    host = node_address(1)
    assert wait_until(lambda: meters[1].sum(src=backend, dst=host, direction=direction, src_port=8080)[1] >= 3)
    assert meters[1].sum(src=host, dst=backend, direction="egress", dnat=1, dst_port=8080)[0] > 1000
    assert meters[1].sum(src=to) == meters[1].sum(dst=to) == (0, 0)


def test_a_packet_within_the_node_is_counted_once_at_its_source(meters: Meters) -> None:
    other, host = pod_address(1, 2), node_address(1)
    for sender, receiver, a, b in (
        ("pod11", "pod12", A4, other),
        ("pod11", "node1", A4, host),
        ("node1", "pod11", host, A4),
    ):
        send_udp(sender, receiver, b)
        assert meters[1].sum(src=a, dst=b, direction="egress") == (7 * 1028, 7)
        assert meters[1].sum(src=a, dst=b) == (7 * 1028, 7)


def test_traffic_between_hosts_and_from_outside(meters: Meters) -> None:
    send_udp("node1", "node2", node_address(2))
    send_udp("fabric", "node1", node_address(1))
    send_udp("fabric", "pod11", A4)
    send_udp("pod11", "fabric", netlab.CLIENT)
    assert meters[1].sum(src=node_address(1), dst=node_address(2), direction="egress")[1] == 7
    assert meters[2].sum(src=node_address(1), dst=node_address(2), direction="ingress")[1] == 7
    assert meters[1].sum(src=netlab.CLIENT, dst=node_address(1), direction="ingress")[1] == 7
    assert meters[1].sum(src=netlab.CLIENT, dst=A4, direction="ingress")[1] == 7
    # Before masquerade: the pod, not the node.
    assert meters[1].sum(src=A4, dst=netlab.CLIENT, direction="egress")[1] == 7


def test_what_only_passes_through_is_a_relay(meters: Meters) -> None:
    send_tcp("fabric", "pod21", node_address(1), at=B4, port=30080, at_port=8080, size=1000)
    assert wait_until(lambda: meters[1].sum(src=B4, direction="relay", dnat=0)[1] >= 3)
    assert meters[1].sum(src=netlab.CLIENT, dst=B4, direction="relay", dnat=1)[0] > 1000
    assert meters[1].sum(src=netlab.CLIENT, dst=B4, direction="egress") == (0, 0)


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        pytest.param("127.0.0.1", 28, id="lo"),
        pytest.param(node_address(1), 28, id="own-address"),
        pytest.param("::1", 48, id="lo-ipv6"),
    ],
)
def test_loopback_is_put_aside_at_both_hooks(meters: Meters, address: str, headers: int) -> None:
    send_udp("node1", "node1", address, count=3)
    assert meters[1].aside("loopback") == (2 * 3 * (1000 + headers), 6)
    assert meters[1].sum(dst=address) == (0, 0)


def test_the_looped_back_copy_of_a_multicast_is_put_aside(meters: Meters) -> None:
    group = "239.1.2.3"
    with netlab.udp_server("node1", group, 5000) as server, netlab.new_socket("node1", group, socket.SOCK_DGRAM) as out:
        here = socket.inet_aton(node_address(1))
        server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + here)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        out.sendto(b"x" * 100, (group, 5000))
        assert len(server.recv(1000)) == 100
    assert meters[1].sum(dst=group, protocol=UDP) == (128, 1)
    assert meters[1].sum(dst=group, protocol=UDP, direction="egress") == (128, 1)
    # The clone at POST_ROUTING and the same packet again at LOCAL_IN.
    assert meters[1].aside("looped_back") == (2 * 128, 2)


def test_the_looped_back_copy_of_an_ipv6_multicast_is_put_aside(meters: Meters) -> None:
    group = "ff05::1234"
    with netlab.udp_server("node1", group, 5000) as server, netlab.new_socket("node1", group, socket.SOCK_DGRAM) as out:
        index = netlab.inside("node1", lambda: socket.if_nametoindex("eth0"))
        server.setsockopt(
            socket.IPPROTO_IPV6,
            socket.IPV6_JOIN_GROUP,
            socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", index),
        )
        out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        out.sendto(b"x" * 100, (group, 5000))
        assert len(server.recv(1000)) == 100
    assert meters[1].sum(dst=group, protocol=UDP, direction="egress") == (148, 1)
    assert meters[1].sum(dst=group, protocol=UDP) == (148, 1)
    assert meters[1].aside("looped_back") == (2 * 148, 2)


def test_the_looped_back_copy_of_a_broadcast_is_put_aside(meters: Meters) -> None:
    anyone = "0.0.0.0"
    with (
        netlab.udp_server("node1", anyone, 5000) as server,
        netlab.new_socket("node1", anyone, socket.SOCK_DGRAM) as out,
    ):
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        out.sendto(b"x" * 100, ("192.168.50.255", 5000))
        assert len(server.recv(1000)) == 100
    assert meters[1].sum(dst="192.168.50.255", direction="egress") == (128, 1)
    assert meters[1].sum(dst="192.168.50.255") == (128, 1)
    assert meters[1].aside("looped_back") == (2 * 128, 2)


@pytest.mark.parametrize(
    ("sport", "dport", "kept"),
    [
        pytest.param(40000, 5432, (0, 5432), id="below-30000-is-the-service"),
        pytest.param(5432, 40000, (5432, 0), id="and-so-on-the-way-back"),
        pytest.param(40000, 30080, (0, 30080), id="node-port"),
        pytest.param(40000, 50051, (0, 50051), id="listed"),
        pytest.param(40000, 45000, (0, 45000), id="none-is-the-one-addressed-stays"),
        pytest.param(8080, 53000, (8080, 0), id="lower-and-service"),
        pytest.param(6379, 443, (0, 443), id="both-are-the-one-addressed-stays"),
        pytest.param(500, 500, (500, 500), id="equal-both-stay"),
    ],
)
def test_the_port_that_is_not_the_services_is_folded(
    meters: Meters, sport: int, dport: int, kept: tuple[int, int]
) -> None:
    send_udp("pod11", "pod21", B4, count=1, port=dport, sport=sport)
    meters[1].collect()
    found = [flow for flow in meters[1].flows if (flow.src, flow.dst) == (A4, B4)]
    assert [(flow.src_port, flow.dst_port) for flow in found] == [kept]


def test_the_verdict_is_accept_for_every_packet_that_comes(meters: Meters) -> None:
    """As many packets come out at the far end as the hook saw go in, of every kind."""
    netlab.count_on_fabric([(A4, B4)])
    for protocol in (1, 6, 17, 47, 50, 89, 132, 255):
        _send_plain(protocol)
    assert wait_until(lambda: netlab.fabric_counts([(A4, B4)])[A4, B4][1] == 8)
    assert meters[1].sum(src=A4, dst=B4) == netlab.fabric_counts([(A4, B4)])[A4, B4]


def _send_plain(protocol: int) -> None:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, protocol, 0, socket.inet_aton(A4), socket.inet_aton(B4)
    )
    with netlab.new_socket("pod11", A4, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.sendto(header + bytes(20), (B4, 0))
