# SPDX-License-Identifier: Apache-2.0
"""No packet is ever dropped or altered: random packets, valid and broken, through a node that counts them.

What leaves the node is captured at the other end of its uplink and compared byte by byte with what was sent; and
netfilter's own counters right before and right after the hook are the same.
"""

import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP

from collector.kernel import pins
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.packet_model import Built, broken_packets, crafted_packets, read, valid_packets
from tests.support.services import DEADLINE_SECONDS

POD, HOST, TO = ("10.42.2.1", "fd42:2::1"), ("192.168.50.2", "fd50::2"), ("10.42.1.1", "fd42:1::1")
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING = 3, 0x0800, 0x86DD, 4
# Not shrunk: each try waits for what does not come.
try_it = settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# One priority before the hook and one behind it: POST_ROUTING at 99, LOCAL_IN at 101.
COUNTERS = """
table inet verdict {
  counter before { }
  counter after { }
  chain a { type filter hook postrouting priority 98; counter name before; }
  chain b { type filter hook postrouting priority 100; counter name after; }
  chain c { type filter hook input priority 100; counter name before; }
  chain d { type filter hook input priority 102; counter name after; }
}
"""


@dataclass(frozen=True, slots=True)
class Wire:
    """The second node's meter, raw sockets of its pod and itself, and what its uplink brings to the fabric."""

    meter: Metered
    raw: dict[tuple[str, int], socket.socket]
    capture: socket.socket

    def send(self, sender: str, version: int, octets: bytes) -> bool:
        """False if the socket itself does not take them."""
        try:
            self.raw[sender, version].sendto(octets, (TO[version == 6], 0))
        except OSError:
            return False
        return True

    def missing(self, expected: list[bytes]) -> Counter[bytes]:
        """Return what of this has not arrived, after a long while."""
        waiting, deadline = Counter(expected), time.monotonic() + DEADLINE_SECONDS
        while waiting and time.monotonic() < deadline:
            try:
                octets, (_, protocol, kind, *_) = self.capture.recvfrom(65536)
            except TimeoutError:
                continue
            if protocol in (ETH_P_IP, ETH_P_IPV6) and kind != PACKET_OUTGOING:
                waiting -= Counter([octets])
        return waiting


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """Without connection tracking, which drops what it cannot make sense of."""
    root = metered.pin_dir("transparent")
    try:
        netlab.build()
        netlab.run("node2", "nft", "-f", "-", stdin=COUNTERS)
        meter = Metered("node2", metered.request(root, node="node2"))
        raw = {
            (name, version): netlab.new_socket(name, ends[version == 6], socket.SOCK_RAW, socket.IPPROTO_RAW)
            for name, ends in (("pod21", POD), ("node2", HOST))
            for version in (4, 6)
        }
        capture = netlab.inside("fabric", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        netlab.inside("fabric", lambda: capture.bind(("n2", ETH_P_ALL)))
        capture.settimeout(0.05)
        yield Wire(meter, raw, capture)
        for each in (*raw.values(), capture):
            each.close()
        meter.meter.close()
    finally:
        pins.detach(root)
        netlab.tear_down()


def _forwarded(version: int, octets: bytes) -> bytes:
    """Return what one router makes of it: one hop less, and in IPv4 the sum that goes with that."""
    changed = bytearray(octets)
    if version == 6:
        changed[7] -= 1
        return bytes(changed)
    changed[8] -= 1
    return _summed(bytes(changed))


def _summed(octets: bytes) -> bytes:
    header = IP(octets)
    length = header.ihl * 4
    header.remove_payload()
    header.chksum = None
    return bytes(header)[:length] + octets[length:]


def _assert_verdicts() -> None:
    def counters() -> tuple[list[str], list[str]]:
        told = netlab.run("node2", "nft", "list", "counters", "table", "inet", "verdict")
        found = re.findall(r"counter (before|after) \{\s*packets (\d+) bytes (\d+)", told)
        return [f[1:] for f in found if f[0] == "before"], [f[1:] for f in found if f[0] == "after"]

    # What the kernel says by itself may be between the two.
    assert netlab.wait_until(lambda: counters()[0] == counters()[1]), counters()


@try_it
@given(st.lists(valid_packets((POD[0], TO[0]), (POD[1], TO[1])), min_size=1, max_size=25))
def test_what_a_pod_sends_leaves_the_node_as_it_was(wire: Wire, packets: list[Built]) -> None:
    wire.meter.collect()
    wire.meter.flows.clear()
    for packet in packets:
        assert wire.send("pod21", packet.version, packet.octets)
    assert not wire.missing([_forwarded(packet.version, packet.octets) for packet in packets])
    _assert_verdicts()
    for version in (4, 6):
        ends = {"src": POD[version == 6], "dst": TO[version == 6], "direction": "egress"}
        sent = [len(packet.octets) for packet in packets if packet.version == version]
        assert wire.meter.sum(**ends) == (sum(sent), len(sent))


ENDS = (HOST[0], TO[0]), (HOST[1], TO[1])
SENSELESS = st.one_of(st.lists(broken_packets(*ENDS), min_size=1, max_size=20), crafted_packets(50, *ENDS))


def _is_sent_as_it_is(packet: tuple[int, bytes]) -> bool:
    """Leave out what the raw socket fills in by itself, and what the kernel takes for multicast."""
    version, octets = packet
    if version == 6:
        return len(octets) >= 40 and octets[24] != 0xFF
    return octets[0] & 15 < 5 or (octets[4:6] != bytes(2) and octets[12:16] != bytes(4))


def _from_raw_socket(version: int, octets: bytes) -> bytes:
    """IPv4's raw socket sets length and sum, if the header is as long as one has to be (raw_send_hdrinc())."""
    if version == 6 or octets[0] & 15 < 5:
        return octets
    filled = octets[:2] + len(octets).to_bytes(2, "big") + octets[4:]
    return _summed(filled)


@try_it
@given(SENSELESS)
def test_what_makes_no_sense_leaves_the_node_as_it_was(wire: Wire, packets: list[tuple[int, bytes]]) -> None:
    wire.meter.collect()
    wire.meter.books.clear()
    sent = [packet for packet in packets if _is_sent_as_it_is(packet) and wire.send("node2", *packet)]
    assert not wire.missing([_from_raw_socket(*packet) for packet in sent])
    _assert_verdicts()
    malformed = [len(octets) for version, octets in sent if read(version, octets) is None]
    assert wire.meter.aside("malformed") == (sum(malformed), len(malformed))
