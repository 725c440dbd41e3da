# SPDX-License-Identifier: Apache-2.0
"""Handmade packets of every protocol and with every header: bytes, protocol and ports, against counters elsewhere.

From the second node's pod, because that node tracks no connections: conntrack would keep a lone fragment.
"""

import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
)
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from tests.support.collector import netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import pod_address, pod_address6, wait_until

Meters = dict[int, Metered]
Expected = tuple[int, int, int]

# From two to one, both families.
A4, B4, A6, B6 = pod_address(2, 1), pod_address(1, 1), pod_address6(2, 1), pod_address6(1, 1)
V4, V6 = IP(src=A4, dst=B4), IPv6(src=A6, dst=B6)
PORTS = UDP(sport=45000, dport=3868)
DATA = Raw(bytes(28))
FOLDED = (0, 3868)
UNKNOWN = 253  # RFC 3692: for experiments


def _pad(count: int = 4) -> list[PadN]:
    return [PadN(optdata=bytes(count))]


def _is_counted(meters: Meters, packet: Packet, expected: Expected) -> None:
    """Send it as it is; the flow has all its bytes, and the counter on the fabric says the same."""
    flow = (packet.src, packet.dst)
    netlab.count_on_fabric([flow])
    with netlab.new_socket("pod21", packet.src, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.sendto(bytes(packet), (packet.dst, 0))
    truth = (len(bytes(packet)), 1)
    assert wait_until(lambda: netlab.fabric_counts([flow])[flow] == truth), netlab.fabric_counts([flow])
    assert meters[2].sum(src=flow[0], dst=flow[1]) == truth
    (found,) = [each for each in meters[2].flows if (each.src, each.dst) == flow]
    assert (found.protocol, found.src_port, found.dst_port, found.direction) == (*expected, "egress")


@pytest.mark.parametrize(
    ("layers", "protocol", "ports"),
    [
        pytest.param(PORTS / DATA, 17, FOLDED, id="udp"),
        pytest.param(TCP(sport=45000, dport=3868, flags="R"), 6, FOLDED, id="tcp"),
        pytest.param(SCTP(sport=45000, dport=3868) / SCTPChunkData(data=bytes(28)), 132, FOLDED, id="sctp"),
        pytest.param(GRE(proto=0x0800) / IP(dst="10.99.0.1") / UDP(dport=9), 47, (0, 0), id="gre"),
        pytest.param(DATA, UNKNOWN, (0, 0), id="unknown-protocol"),
        pytest.param(DATA, 50, (0, 0), id="esp"),
    ],
)
@pytest.mark.parametrize("header", [V4, V6], ids=["ipv4", "ipv6"])
def test_protocols(meters: Meters, header: Packet, layers: Packet, protocol: int, ports: tuple[int, int]) -> None:
    numbered = header.copy()
    setattr(numbered, "nh" if isinstance(header, IPv6) else "proto", protocol)
    _is_counted(meters, numbered / layers, (protocol, *ports))


def test_icmp(meters: Meters) -> None:
    _is_counted(meters, V4 / ICMP(type=13) / DATA, (1, 0, 0))


def test_icmpv6(meters: Meters) -> None:
    _is_counted(meters, V6 / ICMPv6EchoRequest(data=bytes(28), type=200), (58, 0, 0))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([IPOption_RR(routers=["0.0.0.0"])], id="record-route"),
        pytest.param([bytes([68, 12, 5, 0]) + bytes(8)], id="timestamp"),
        pytest.param([b"\x01" * 40], id="as-many-as-there-can-be"),
    ],
)
@pytest.mark.parametrize("layers", [PORTS, SCTP(sport=45000, dport=3868)], ids=["udp", "sctp"])
def test_ipv4_options(meters: Meters, options: list[Packet], layers: Packet) -> None:
    packet = IP(src=A4, dst=B4, options=options) / layers / DATA
    _is_counted(meters, packet, (IP(bytes(packet)).proto, *FOLDED))


@pytest.mark.parametrize(
    ("headers", "protocol", "ports"),
    [
        pytest.param(IPv6ExtHdrHopByHop(options=_pad()) / PORTS, 17, FOLDED, id="hop-by-hop"),
        pytest.param(IPv6ExtHdrDestOpt(options=_pad()) / SCTP(sport=45000, dport=3868), 132, FOLDED, id="destination"),
        pytest.param(IPv6ExtHdrRouting(addresses=[B6], segleft=0) / PORTS, 17, FOLDED, id="routing"),
        pytest.param(IPv6ExtHdrSegmentRouting(addresses=[B6], segleft=0) / PORTS, 17, FOLDED, id="segment-routing"),
        pytest.param(IPv6ExtHdrFragment(offset=0, m=1) / PORTS / Raw(bytes(24)), 17, FOLDED, id="first-fragment"),
        pytest.param(IPv6ExtHdrFragment(offset=4, nh=17) / DATA, 17, (0, 0), id="later-fragment"),
        pytest.param(IPv6ExtHdrFragment(offset=4, nh=60) / DATA, 60, (0, 0), id="later-fragment-of-an-extension"),
        pytest.param(
            IPv6ExtHdrHopByHop(options=_pad())
            / IPv6ExtHdrDestOpt(options=_pad())
            / IPv6ExtHdrRouting(addresses=[B6], segleft=0)
            / IPv6ExtHdrFragment(m=1)
            / IPv6ExtHdrDestOpt(options=_pad(12))
            / PORTS,
            17,
            FOLDED,
            id="all-in-the-order-of-the-rfc",
        ),
    ],
)
def test_ipv6_extension_headers(meters: Meters, headers: Packet, protocol: int, ports: tuple[int, int]) -> None:
    _is_counted(meters, V6 / headers / DATA, (protocol, *ports))


def test_authentication_header(meters: Meters) -> None:
    """Its length counts in units of four, unlike that of the others (RFC 4302, 2.2)."""
    header = Raw(bytes([17, 4]) + bytes(22))
    _is_counted(meters, IPv6(src=A6, dst=B6, nh=51) / header / PORTS / DATA, (17, *FOLDED))


def test_no_next_header(meters: Meters) -> None:
    _is_counted(meters, IPv6(src=A6, dst=B6, nh=59) / DATA, (59, 0, 0))


@pytest.mark.parametrize(("count", "protocol", "ports"), [(8, 17, FOLDED), (9, 60, (0, 0))])
def test_the_bound_of_the_walk(meters: Meters, count: int, protocol: int, ports: tuple[int, int]) -> None:
    """Behind eight headers the walk gives up: the ninth's own number, no ports, all bytes."""
    packet = V6
    for _ in range(count):
        packet = packet / IPv6ExtHdrDestOpt(options=_pad())
    _is_counted(meters, packet / PORTS / DATA, (protocol, *ports))


@pytest.mark.parametrize("offset", [1, 185, 8180])
def test_a_later_ipv4_fragment_has_no_ports(meters: Meters, offset: int) -> None:
    _is_counted(meters, IP(src=A4, dst=B4, frag=offset, proto=17) / DATA, (17, 0, 0))


def test_a_header_cut_short_has_no_ports(meters: Meters) -> None:
    _is_counted(meters, IP(src=A4, dst=B4, proto=17) / Raw(b"\xaf\xc8\x0f"), (17, 0, 0))
