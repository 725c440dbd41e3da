# SPDX-License-Identifier: Apache-2.0
"""Super-packets of every kind, and what becomes of segments on the way: against what arrives at the far end."""

import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from tests.support.collector import netlab, super_packets
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import (
    node_address,
    node_address6,
    pod_address,
    pod_address6,
    send_tcp,
    send_udp,
    wait_until,
)

Meters = dict[int, Metered]

A4, B4, A6, B6 = pod_address(1, 1), pod_address(2, 1), pod_address6(1, 1), pod_address6(2, 1)
HOST4, HOST6 = node_address(1), node_address6(1)
BOTH = pytest.mark.parametrize(("a", "b"), [pytest.param(A4, B4, id="ipv4"), pytest.param(A6, B6, id="ipv6")])


def _offloads(name: str, device: str, *, on: bool) -> None:
    word = "on" if on else "off"
    netlab.run(name, "ethtool", "-K", device, "tso", word, "gso", word, "tx-udp-segmentation", word)


def _expect(meters: Meters, at: str, a: str, b: str) -> tuple[int, int]:
    """Assert that both nodes have counted what arrived at `at`; return bytes and packets."""

    def found() -> list[tuple[int, int]]:
        return [
            meters[1].sum(src=a, dst=b, direction="egress"),
            meters[2].sum(src=a, dst=b, direction="ingress"),
            meters[1].sum(src=b, dst=a, direction="ingress"),
            meters[2].sum(src=b, dst=a, direction="egress"),
        ]

    def truth() -> list[tuple[int, int]]:
        there, back = netlab.counts_at(at, [(a, b), (b, a)]).values()
        return [there, there, back, back]

    assert wait_until(lambda: found() == truth()), (found(), truth())
    return truth()[0]


@BOTH
@pytest.mark.parametrize("pod", [True, False], ids=["pod-on", "pod-off"])
@pytest.mark.parametrize("uplink", [True, False], ids=["uplink-on", "uplink-off"])
def test_tcp_with_offloads_on_and_off(meters: Meters, pod: bool, uplink: bool, a: str, b: str) -> None:
    """The fabric's ports segment, so that it sees the wire's packets also where the nodes' uplinks do not."""
    with ExitStack() as stack:
        for name, device, wanted, after in (
            ("pod11", "eth0", pod, True),
            ("pod21", "eth0", pod, True),
            ("node1", "eth0", uplink, False),
            ("node2", "eth0", uplink, False),
            ("fabric", "n1", False, True),
            ("fabric", "n2", False, True),
        ):
            stack.callback(_offloads, name, device, on=after)
            _offloads(name, device, on=wanted)
        netlab.count_at("node2", ("eth0",), [(a, b)])
        netlab.count_at("node1", ("eth0",), [(b, a)])
        send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=3_000_000)

        def same() -> bool:
            there = netlab.counts_at("node2", [(a, b)])[a, b]
            back = netlab.counts_at("node1", [(b, a)])[b, a]
            seen = [meters[n].sum(src=a, dst=b, direction=d) for n, d in ((1, "egress"), (2, "ingress"))]
            answered = [meters[n].sum(src=b, dst=a, direction=d) for n, d in ((1, "ingress"), (2, "egress"))]
            return seen == [there] * 2 and answered == [back] * 2 and there[1] > 2000

        assert wait_until(same), (
            f"wire {netlab.counts_at('node2', [(a, b)])}, counted {(meters[1].of(a, b), meters[2].of(a, b))}"
        )


@BOTH
def test_mtu_9000(meters: Meters, a: str, b: str) -> None:
    netlab.count_on_fabric([(a, b), (b, a)])
    path = [("pod21", "eth0"), ("node2", "veth1"), ("node2", "eth0"), ("fabric", "n2"), ("fabric", "n1")]
    with ExitStack() as stack:
        for name, device in [*path, ("node1", "eth0"), ("node1", "veth1"), ("pod11", "eth0")]:
            stack.enter_context(netlab.link_mtu(name, device, 9000))
        send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=3_000_000)
        send_udp("pod11", "pod21", b, count=5, size=8900)
        send_udp("pod11", "pod21", b, count=5, size=20_000)
        _, packets = _expect(meters, "fabric", a, b)
    assert 3_000_000 / 8952 < packets < 1000


@contextmanager
def _lossy(percent: int) -> Iterator[None]:
    """Lose packets at the fabric, behind the counters that are the truth."""
    chains = [
        f"chain {port} {{ type filter hook ingress device {port} priority 10; tcp dport {{ 8080 }} "
        f"numgen random mod 100 < {percent} counter name lost drop; }}"
        for port in ("n1", "n2")
    ]
    text = "table netdev loss {\ncounter lost { }\n" + "\n".join(chains) + "\n}\n"
    netlab.run("fabric", "nft", "-f", "-", stdin=text)
    try:
        yield
    finally:
        netlab.run("fabric", "nft", "delete", "table", "netdev", "loss")
    assert wait_until(lambda: not _open_connections("pod11")), "what closes it may have been lost, and comes again"


def _open_connections(pod: str) -> str:
    return netlab.run(pod, "ss", "-Htn", "state", "connected", "exclude", "time-wait")


@BOTH
def test_retransmissions_count_once_more(meters: Meters, a: str, b: str) -> None:
    netlab.count_on_fabric([(a, b), (b, a)])
    with _lossy(2):
        send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=1_000_000)
        lost = int(re.findall(r"packets (\d+)", netlab.run("fabric", "nft", "list", "table", "netdev", "loss"))[0])

        def same() -> bool:
            there, back = netlab.fabric_counts([(a, b), (b, a)]).values()
            sent = meters[1].sum(src=a, dst=b, direction="egress") == there
            return sent and meters[2].sum(src=b, dst=a, direction="egress") == back

        assert wait_until(same), f"wire {netlab.fabric_counts([(a, b), (b, a)])}, counted {meters[1].of(a, b)}"
    arrived = meters[2].sum(src=a, dst=b, direction="ingress")
    assert lost > 0
    assert arrived[1] == netlab.fabric_counts([(a, b), (b, a)])[a, b][1] - lost


def test_what_a_queue_drops_behind_the_hook_is_counted_as_sent(meters: Meters) -> None:
    netlab.count_on_fabric([(A4, B4)])
    tbf = ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8mbit", "burst", "3000", "limit", "6000"]
    netlab.run("node1", *tbf)
    try:
        with netlab.new_socket("pod11", B4, socket.SOCK_DGRAM) as client:
            for _ in range(200):
                client.sendto(bytes(1000), (B4, 5353))
        assert meters[1].sum(src=A4, dst=B4, direction="egress") == (200 * 1028, 200)

        def rest() -> tuple[int, int]:
            told = netlab.run("node1", "tc", "-s", "qdisc", "show", "dev", "eth0")
            dropped = re.search(r"dropped (\d+)", told)
            assert dropped
            return int(dropped[1]), netlab.fabric_counts([(A4, B4)])[A4, B4][1]

        # The rest waits in the queue; ICMP's answers to the closed port are not from A to B.
        assert wait_until(lambda: sum(rest()) == 200), rest()
        assert rest()[0] > 0
    finally:
        netlab.run("node1", "tc", "qdisc", "del", "dev", "eth0", "root")


@pytest.fixture
def big_tcp(nodes: None) -> Iterator[None]:
    with super_packets.beyond_64_kib():
        yield


@pytest.mark.parametrize(
    ("sender", "receiver", "a", "b"),
    [
        pytest.param("node1", "node2", HOST4, node_address(2), id="host-ipv4"),
        pytest.param("node1", "node2", HOST6, node_address6(2), id="host-ipv6"),
        pytest.param("pod11", "pod21", A4, B4, id="forwarded-ipv4"),
        pytest.param("pod11", "pod21", A6, B6, id="forwarded-ipv6"),
    ],
)
def test_big_tcp(meters: Meters, big_tcp: None, sender: str, receiver: str, a: str, b: str) -> None:
    netlab.count_on_fabric([(a, b), (b, a)])
    send_tcp(sender, receiver, b, at=b, port=8080, at_port=8080, size=20_000_000)
    assert super_packets.longer("node1") > 10
    assert _expect(meters, "fabric", a, b)[0] > 20_000_000


@BOTH
@pytest.mark.parametrize("sender", ["pod11", "node1"])
def test_udp_super_packets(meters: Meters, sender: str, a: str, b: str) -> None:
    if sender == "node1":
        a = HOST6 if ":" in a else HOST4
    netlab.count_on_fabric([(a, b)])
    with netlab.udp_server("pod21", b, 5353) as server, netlab.new_socket(sender, b, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_UDP, 103, 700)  # UDP_SEGMENT
        client.sendto(b"x" * 10_000, (b, 5353))
        sizes = [len(server.recv(65536)) for _ in range(15)]
    assert sizes == [700] * 14 + [200]
    truth = netlab.fabric_counts([(a, b)])[a, b]
    assert truth[1] == 15
    assert meters[1].sum(src=a, dst=b, direction="egress") == truth


@BOTH
@pytest.mark.parametrize("features", [{}, {"rx-gro-list": "on"}, {"rx-udp-gro-forwarding": "on"}], ids=str)
def test_what_the_receiver_puts_together(meters: Meters, features: dict[str, str], a: str, b: str) -> None:
    """GRO makes super-packets of what came in segments; the receiving node's hook sees those."""
    netlab.count_on_fabric([(a, b), (b, a)])
    on = [word for pair in ({"gro": "on"} | features).items() for word in pair]
    netlab.run("node2", "ethtool", "-K", "eth0", *on)
    _offloads("fabric", "n2", on=False)  # a veth pair polls, and so collects, only where its other end does not segment
    super_packets.count_longer_than("node2", 1500)
    try:
        send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=3_000_000)
        with netlab.udp_server("pod21", b, 5353) as server, netlab.new_socket("pod11", b, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.IPPROTO_UDP, 103, 700)  # UDP_SEGMENT
            for _ in range(10):
                # All ten at once are more than a receive buffer holds, if nothing is put together.
                client.sendto(bytes(20_000), (b, 5353))
                assert sum(len(server.recv(65536)) for _ in range(29)) == 20_000
        assert _expect(meters, "fabric", a, b)[1] > 2000
        assert super_packets.longer("node2") > 10
    finally:
        netlab.run("node2", "nft", "delete", "table", "inet", "big")
        _offloads("fabric", "n2", on=True)
        netlab.run("node2", "ethtool", "-K", "eth0", *(word if word != "on" else "off" for word in on))


# struct virtio_net_hdr (include/uapi/linux/virtio_net.h): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
NEEDS_CSUM, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 1, 1, 3, 4, 5
TUNSETIFF, TUN_WITH_HEADER = 0x400454CA, 0x0001 | 0x1000 | 0x4000  # IFF_TUN | IFF_NO_PI | IFF_VNET_HDR


@pytest.fixture
def machine(nodes: None) -> Iterator[int]:
    """A virtual machine's tap on the first node: its packets say how they are to be cut, not into how many."""

    def attach() -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"vm0", TUN_WITH_HEADER))
        return tun

    tun = netlab.inside("node1", attach)
    netlab.ip("node1", f"link set vm0 up\nroute add {VM4}/32 dev vm0\nroute add {VM6}/128 dev vm0")
    yield tun
    os.close(tun)


VM4, VM6 = "10.42.1.77", "fd42:1::77"


@pytest.mark.parametrize(
    ("packet", "kind", "size", "transport", "segments"),
    [
        pytest.param(IP(dst=B4, src=VM4) / TCP(dport=9, flags="A"), GSO_TCPV4, 1400, 20, 8, id="tcp-ipv4"),
        pytest.param(IPv6(dst=B6, src=VM6) / TCP(dport=9, flags="A"), GSO_TCPV6, 1400, 20, 8, id="tcp-ipv6"),
        pytest.param(
            IP(dst=B4, src=VM4, options=[b"\x01" * 8]) / TCP(dport=9, options=[("NOP", None)] * 12),
            GSO_TCPV4,
            700,
            32,
            15,
            id="tcp-and-ip-options",
        ),
        pytest.param(IP(dst=B4, src=VM4) / UDP(dport=9), GSO_UDP_L4, 1000, 8, 10, id="udp-segments"),
        pytest.param(IP(dst=B4, src=VM4) / UDP(dport=9), GSO_UDP, 1400, 8, 8, id="udp-fragments"),
    ],
)
def test_super_packets_of_a_virtual_machine(
    meters: Meters, machine: int, packet: Packet, kind: int, size: int, transport: int, segments: int
) -> None:
    a, b = packet.src, packet.dst
    netlab.count_on_fabric([(a, b)])
    # Conntrack takes no TCP segment for the middle of a connection that it does not know, and checks no sum here.
    whole = bytes(packet / Raw(bytes(10_000)))
    start = len(bytes(packet)) - transport
    offset = 16 if packet.haslayer(TCP) else 6
    header = struct.pack("=BBHHHH", NEEDS_CSUM, kind, start + transport, size, start, offset)
    assert os.write(machine, header + whole) == len(header) + len(whole)
    assert wait_until(lambda: netlab.fabric_counts([(a, b)])[a, b][1] == segments), netlab.fabric_counts([(a, b)])
    assert meters[1].sum(src=a, dst=b, direction="egress") == netlab.fabric_counts([(a, b)])[a, b]
