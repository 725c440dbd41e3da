# SPDX-License-Identifier: Apache-2.0
"""What the hook must make of the bytes of one packet, said as plainly as can be; and packets to say it of.

The model reads bytes by the RFCs (791, 8200, 4302) and knows nothing of the kernel. A packet of `valid_packets` comes
with what it was built of, so that the model is itself held by scapy.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import NamedTuple

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

WITH_PORTS = {6, 17, 132}  # TCP, UDP, SCTP
EXTENSIONS = {0, 43, 44, 51, 60, 135}  # hop-by-hop, routing, fragment, authentication, destination, mobility
FRAGMENT, AUTHENTICATION = 44, 51
MOST_EXTENSIONS = 8


Ends = tuple[str, str]  # source and destination


class Told(NamedTuple):
    """What a packet says of itself; both ports 0 if it says none."""

    src: str
    dst: str
    protocol: int
    src_port: int = 0
    dst_port: int = 0


def read(version: int, packet: bytes) -> Told | None:
    """Return what the packet says to the family of `version`; None if it is no such packet."""
    if len(packet) < (20 if version == 4 else 40) or packet[0] >> 4 != version:
        return None
    return _read_ipv4(packet) if version == 4 else _read_ipv6(packet)


def _read_ipv4(packet: bytes) -> Told | None:
    length = (packet[0] & 15) * 4
    if length < 20:
        return None
    src, dst = str(ip_address(packet[12:16])), str(ip_address(packet[16:20]))
    first = int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
    return Told(src, dst, packet[9], *_ports(packet[9], packet[length:] if first else b""))


def _read_ipv6(packet: bytes) -> Told:
    src, dst = str(ip_address(packet[8:24])), str(ip_address(packet[24:40]))
    protocol, rest = packet[6], packet[40:]
    for _ in range(MOST_EXTENSIONS):
        if protocol not in EXTENSIONS or len(rest) < 8:
            break
        kind, protocol = protocol, rest[0]
        if kind == FRAGMENT and int.from_bytes(rest[2:4], "big") >> 3:
            return Told(src, dst, protocol)
        length = {FRAGMENT: 8, AUTHENTICATION: (rest[1] + 2) * 4}.get(kind, (rest[1] + 1) * 8)
        rest = rest[length:]
    return Told(src, dst, protocol, *_ports(protocol, rest))


def _ports(protocol: int, transport: bytes) -> tuple[int, int]:
    if protocol not in WITH_PORTS or len(transport) < 4:
        return 0, 0
    return int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")


def folded(src_port: int, dst_port: int, listed: frozenset[int]) -> tuple[int, int]:
    """Return the ports with the one that is not the service's as 0."""
    services = [0 < port < 32768 or port in listed for port in (src_port, dst_port)]
    if src_port == dst_port:
        return src_port, dst_port
    keeps_src = services[0] if services[0] != services[1] else src_port < dst_port
    return (src_port, 0) if keeps_src else (0, dst_port)


@dataclass(frozen=True, slots=True)
class Built:
    """A packet's bytes, and what it was built to say."""

    version: int
    octets: bytes
    told: Told


PORT = st.one_of(st.integers(0, 65535), st.sampled_from([0, 53, 8472, 6081, 50051, 32767, 32768, 65535]))
PAYLOAD = st.binary(max_size=200)
# Linux takes no more than 7 bytes of it from a sender elsewhere (ip6_parse_tlv()).
LITTLE_PADDING = st.integers(0, 4).map(lambda count: [PadN(optdata=bytes(count))])
PADDING = st.integers(0, 12).map(lambda count: [PadN(optdata=bytes(count))])


def _transports(version: int) -> st.SearchStrategy[tuple[Packet, int, tuple[int, int]]]:
    ports = st.tuples(PORT, PORT)
    numbered = st.sampled_from([47, 50, 59, 89, 253, 255])
    return st.one_of(
        ports.map(lambda p: (UDP(sport=p[0], dport=p[1]), 17, p)),
        ports.map(lambda p: (TCP(sport=p[0], dport=p[1], flags="R"), 6, p)),
        ports.map(lambda p: (SCTP(sport=p[0], dport=p[1]), 132, p)),
        st.just((ICMP(type=13), 1, (0, 0)) if version == 4 else (ICMPv6EchoRequest(type=200), 58, (0, 0))),
        st.just((GRE(proto=0x88BE), 47, (0, 0))),
        numbered.map(lambda number: (Raw(bytes(8)), number, (0, 0))),
    )


@st.composite
def _ipv4(draw: st.DrawFn, src: str, dst: str) -> Built:
    layers, protocol, ports = draw(_transports(4))
    options = draw(st.sampled_from([[], [b"\x01" * 4], [b"\x01" * 40], [b"\x82\x0b" + bytes(9) + b"\x01"]]))
    later = draw(st.sampled_from([0, 0, 0, 1, 185, 8000]))
    packet = IP(src=src, dst=dst, proto=protocol, options=options, frag=later, id=draw(st.integers(1, 65535)))
    packet.flags = draw(st.sampled_from(["", "MF"])) if later else draw(st.sampled_from(["", "DF"]))
    octets = bytes(packet / layers / Raw(draw(PAYLOAD)))
    return Built(4, octets, Told(src, dst, protocol, *((0, 0) if later else ports)))


def _extension() -> st.SearchStrategy[Packet]:
    return st.one_of(
        PADDING.map(lambda options: IPv6ExtHdrDestOpt(options=options)),
        st.integers(0, 2).map(lambda count: IPv6ExtHdrRouting(addresses=["fd00::7"] * count, segleft=0)),
        st.integers(0, 65535).map(lambda number: IPv6ExtHdrFragment(offset=0, id=number)),
    )


@st.composite
def _ipv6(draw: st.DrawFn, src: str, dst: str) -> Built:
    layers, protocol, ports = draw(_transports(6))
    packet: Packet = IPv6(src=src, dst=dst)
    if draw(st.booleans()):
        packet = packet / IPv6ExtHdrHopByHop(options=draw(LITTLE_PADDING))
    for extension in draw(st.lists(_extension(), max_size=6)):
        packet = packet / extension
    later = draw(st.sampled_from([0, 0, 0, 1, 185, 8000]))
    if later:
        packet = packet / IPv6ExtHdrFragment(offset=later)
    packet.lastlayer().nh = protocol
    octets = bytes(packet / layers / Raw(draw(PAYLOAD)))
    return Built(6, octets, Told(src, dst, protocol, *((0, 0) if later else ports)))


def valid_packets(ends4: Ends, ends6: Ends) -> st.SearchStrategy[Built]:
    """Packets that any router would pass on, of both families, with every header that the hook looks at."""
    return st.one_of(_ipv4(*ends4), _ipv6(*ends6))


@st.composite
def broken_packets(draw: st.DrawFn, ends4: Ends, ends6: Ends) -> tuple[int, bytes]:
    """Bytes that began as a valid packet, cut short, changed or with the wrong head; or no packet at all."""
    built = draw(valid_packets(ends4, ends6))
    octets = bytearray(built.octets)
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(octets) - 1), st.integers(0, 255)), max_size=8)):
        octets[place] = value
    octets = octets[: draw(st.integers(20, max(20, len(octets))))]
    if draw(st.integers(0, 9)) == 0:
        octets = bytearray(draw(st.binary(min_size=20, max_size=300)))
    return built.version, bytes(octets)


HEADER_NUMBERS = [*EXTENSIONS, *EXTENSIONS, *WITH_PORTS, *WITH_PORTS, 1, 47, 58, 59, 255]
FRAGMENT_FIELDS = [*[0] * 12, 1, 7, 8, 0x0FFF, 0x1000, 0x1FFF, 0x2000, 0x4000, 0x8000, 0xFFF8, 0xFFFF]
HEADER_WORDS = [*[5] * 8, 6, 7, 15, *range(5)]


def crafted_packet(random: Random, ends4: Ends, ends6: Ends) -> tuple[int, bytes]:
    """Return headers whose every field may lie: lengths, versions, fragments, chains of any order that end anywhere."""
    version = random.choice([4, 6])
    nibble = random.choice([*[version] * 12, 10 - version, 0, 15])
    if version == 4:
        octets = bytearray(random.randbytes(20))
        octets[0] = nibble << 4 | random.choice(HEADER_WORDS)
        octets[6:8] = random.choice(FRAGMENT_FIELDS).to_bytes(2, "big")
        octets[9] = random.choice(HEADER_NUMBERS)
        octets[12:20] = ip_address(ends4[0]).packed + ip_address(ends4[1]).packed
    else:
        octets = bytearray(random.randbytes(40))
        octets[0], octets[6] = nibble << 4, random.choice(HEADER_NUMBERS)
        octets[8:40] = ip_address(ends6[0]).packed + ip_address(ends6[1]).packed
        for _ in range(random.choice([0, 1, 2, 3, 8, 9, 10])):
            length = random.choice([0, 0, 0, 1, 2, 3, 255])
            octets += bytes([random.choice(HEADER_NUMBERS), length])
            octets += random.choice(FRAGMENT_FIELDS).to_bytes(2, "big") + random.randbytes(4 + 8 * min(length, 3))
    octets += random.randbytes(random.choice([0, 1, 2, 3, 4, 5, 8, 70]))
    shortest = 20 if version == 4 else 40
    return version, bytes(octets[: random.choice([400, random.randint(shortest, 400)])])


def crafted_packets(count: int, ends4: Ends, ends6: Ends) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """So many at once from one number: a thousand times as fast as to draw each field."""

    def make(seed: int) -> list[tuple[int, bytes]]:
        random = Random(seed)
        return [crafted_packet(random, ends4, ends6) for _ in range(count)]

    return st.integers(0, 2**64 - 1).map(make)
