# SPDX-License-Identifier: Apache-2.0
"""Hook tc where packets come before the IP layer has looked at them: padded, malformed, without Ethernet."""

import fcntl
import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from collector.kernel import bpf_syscall as sys_bpf
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, pod_address, wait_until

UDP = 17
HERE, THERE = node_address(1), netlab.CLIENT
ETH_IPV4, ETH_IPV6, ETH_ARP, ETH_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def _meter(nodes: None, request: pytest.FixtureRequest) -> Iterator[Metered]:
    wanted = metered.request(metered.pin_dir("tcpackets"), hook="tc", direct_loads=request.param)
    made = Metered("node1", wanted)
    try:
        yield made
    finally:
        made.detach()


@pytest.fixture
def meter(_meter: Metered) -> Metered:
    _meter.forget()
    return _meter


def mac(name: str, device: str) -> bytes:
    (link,) = json.loads(netlab.run(name, "ip", "-j", "link", "show", device))
    return bytes.fromhex(link["address"].replace(":", ""))


def ipv4_udp(
    src: str, dst: str, payload: bytes, *, sport: int = 45_000, dport: int = 5353, options: bytes = b""
) -> bytes:
    header = 20 + len(options)
    head = [0x40 | header // 4, 0, header + 8 + len(payload), 1, 0, 64, UDP, 0]
    packed = struct.pack("!BBHHHBBH4s4s", *head, socket.inet_aton(src), socket.inet_aton(dst)) + options
    total = sum(struct.unpack(f"!{header // 2}H", packed))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    return packed[:10] + checksum + packed[12:] + struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


@pytest.fixture
def frame(meter: Metered) -> Iterator[Callable[..., None]]:
    """Send whole frames: from the fabric to the first node's uplink, or out of that uplink."""
    here, there = mac("node1", "eth0"), mac("fabric", "br0")
    made = {}
    for way, name, device in (("in", "fabric", "n1"), ("out", "node1", "eth0")):
        made[way] = netlab.inside(name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        made[way].bind((device, 0))

    def send(way: str, packet: bytes, kind: int = ETH_IPV4) -> None:
        to, source = (here, there) if way == "in" else (there, here)
        made[way].send(to + source + struct.pack("!H", kind) + packet)

    yield send
    for each in made.values():
        each.close()


@pytest.mark.parametrize("size", [1, 4, 17, 18, 19])
def test_the_padding_of_short_frames_is_not_counted(meter: Metered, frame: Callable[..., None], size: int) -> None:
    """14 bytes of Ethernet, 28 of IPv4 and UDP: what is below 18 bytes of payload is padded to 60."""
    packet = ipv4_udp(THERE, HERE, b"x" * size)
    with netlab.udp_server("node1", HERE, 5353) as server:
        frame("in", packet.ljust(46, b"\0"))
        assert len(server.recv(100)) == size
    assert meter.sum(src=THERE, dst=HERE, direction="ingress", dst_port=5353) == (28 + size, 1)


@pytest.mark.parametrize("payload", [0, 1, 7, 8, 9, 40])
def test_ports_are_found_behind_options_however_short_the_packet_is(
    meter: Metered, frame: Callable[..., None], payload: int
) -> None:
    packet = ipv4_udp(HERE, THERE, b"x" * payload, options=b"\x01" * 8)
    frame("out", packet)
    assert meter.sum(src=HERE, dst=THERE, direction="egress", dst_port=5353, protocol=UDP) == (len(packet), 1)


@pytest.mark.parametrize(
    ("kind", "packet"),
    [
        pytest.param(ETH_IPV4, b"\x45", id="one-byte"),
        pytest.param(ETH_IPV4, b"\x45" + bytes(18), id="header-cut-off"),
        pytest.param(ETH_IPV4, b"\x65" + bytes(30), id="version"),
        pytest.param(ETH_IPV4, b"\x44" + bytes(30), id="header-length"),
        pytest.param(ETH_IPV6, b"\x60" + bytes(38), id="ipv6-header-cut-off"),
        pytest.param(ETH_IPV6, b"\x45" + bytes(60), id="ipv6-version"),
    ],
)
@pytest.mark.parametrize("way", ["in", "out"])
def test_what_is_no_ip_header_is_put_aside(
    meter: Metered, frame: Callable[..., None], way: str, kind: int, packet: bytes
) -> None:
    before = meter.aside("malformed")[1]
    frame(way, packet, kind)
    assert wait_until(lambda: meter.aside("malformed")[1] == before + 1)


def test_what_is_not_ip_is_not_seen(meter: Metered, frame: Callable[..., None]) -> None:
    for kind in (ETH_ARP, ETH_VLAN, 0x88CC):
        frame("out", ipv4_udp(HERE, THERE, b"x" * 50), kind)
    assert meter.sum(src=HERE, dst=THERE) == (0, 0)


@pytest.fixture
def tagging(meter: Metered) -> Iterator[None]:
    """Put VLAN 5's tag on what leaves, before the hook: what a VLAN device does, which this kernel has none of."""

    def instruction(code: int, registers: int, immediate: int) -> bytes:
        return struct.pack("<BBhi", code, registers, 0, immediate)

    # r2 = htons(ETH_P_8021Q); r3 = 5; call bpf_skb_vlan_push; r0 = TCX_NEXT; exit
    lines = [(0xB7, 2, socket.htons(ETH_VLAN)), (0xB7, 3, 5), (0x85, 0, 18), (0xB7, 0, -1), (0x95, 0, 0)]
    code = b"".join(instruction(*line) for line in lines)
    program = sys_bpf.prog_load(sys_bpf.PROG_TYPE_SCHED_CLS, 0, code, "zmt_tag")

    def attach() -> int:
        return sys_bpf.tcx_link_create(program, socket.if_nametoindex("eth0"), sys_bpf.TCX_EGRESS)

    link = netlab.inside("node1", attach)
    try:
        yield
    finally:
        os.close(link)
        os.close(program)


def test_what_has_a_tag_is_the_vlan_devices_to_count(
    meter: Metered, frame: Callable[..., None], tagging: None, vlan_seen: Callable[[], int]
) -> None:
    for _ in range(3):
        frame("out", ipv4_udp(HERE, THERE, b"x" * 50))
    assert wait_until(lambda: vlan_seen() >= 3)
    assert meter.sum(src=HERE, dst=THERE) == (0, 0)


@pytest.fixture
def vlan_seen() -> Iterator[Callable[[], int]]:
    """Give how many tagged packets the fabric saw come out of the first node's uplink."""
    rules = """
        table netdev tagged {
          counter seen { }
          chain in { type filter hook ingress device n1 priority 0; vlan id 5 counter name seen; }
        }
    """
    netlab.run("fabric", "nft", "-f", "-", stdin=rules)

    def read() -> int:
        listed = netlab.run("fabric", "nft", "-j", "list", "counters", "table", "netdev", "tagged")
        (found,) = (entry["counter"] for entry in json.loads(listed)["nftables"] if "counter" in entry)
        return int(found["packets"])

    yield read
    netlab.run("fabric", "nft", "delete", "table", "netdev", "tagged")


@pytest.fixture
def everything(meter: Metered) -> Iterator[Callable[[], tuple[int, int]]]:
    """Give what the fabric saw come out of the first node's uplink: bytes and packets of IP, as good as it may be."""
    rules = """
        table netdev whole {
          counter seen { }
          chain in { type filter hook ingress device n1 priority 0; meta protocol { ip, ip6 } counter name seen; }
        }
    """
    netlab.run("fabric", "nft", "-f", "-", stdin=rules)
    meter.forget()

    def read() -> tuple[int, int]:
        listed = netlab.run("fabric", "nft", "-j", "list", "counters", "table", "netdev", "whole")
        (found,) = (entry["counter"] for entry in json.loads(listed)["nftables"] if "counter" in entry)
        return found["bytes"], found["packets"]

    yield read
    netlab.run("fabric", "nft", "delete", "table", "netdev", "whole")


def test_no_rubbish_is_lost(
    meter: Metered, frame: Callable[..., None], everything: Callable[[], tuple[int, int]]
) -> None:
    """Random packets, many of them with headers that lead beyond their end: the books have every byte of each."""
    chance = random.Random(7)
    for number in range(400):
        packet = bytearray(chance.randbytes(chance.randrange(1, 200)))
        packet[0] = chance.choice((0x45, 0x46, 0x4F, 0x60, 0x00, packet[0]))
        if number % 2 and len(packet) > 9:
            packet[6] = packet[9] = chance.choice((0, 6, 17, 43, 44, 51, 60, 132, 135))
        frame("out", bytes(packet), chance.choice((ETH_IPV4, ETH_IPV6)))

    def out() -> tuple[int, int]:
        came_in = meter.sum(direction="ingress")
        octets = sum(books.hook.bytes for books in meter.books) - came_in[0]
        return octets, sum(books.hook.packets for books in meter.books) - came_in[1]

    assert wait_until(lambda: out() == everything()), (out(), everything())
    assert out()[1] >= 400
    assert meter.aside("malformed")[1] > 100


@pytest.fixture
def tunnel(meter: Metered) -> Iterator[int]:
    """A TUN device on the node, an uplink by its default route: no Ethernet header. What it sends is read here."""

    def opened() -> int:
        made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(made, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        return made

    fd = netlab.inside("node1", opened)
    netlab.run("node1", "sysctl", "-qw", "net.ipv6.conf.tun0.disable_ipv6=1", "net.ipv4.conf.tun0.rp_filter=0")
    netlab.ip("node1", "addr add 10.77.0.1/24 dev tun0\nlink set tun0 up\nroute add default dev tun0 table 77")
    meter.follow()
    yield fd
    os.close(fd)
    meter.follow()


def test_a_device_without_link_layer_headers(meter: Metered, tunnel: int) -> None:
    for size in (1, 50, 1000):
        with netlab.new_socket("node1", "10.77.0.1", socket.SOCK_DGRAM) as client:
            client.sendto(b"x" * size, ("10.77.0.2", 5353))
    assert wait_until(lambda: meter.sum(dst="10.77.0.2", direction="egress", dst_port=5353)[1] == 3)
    assert meter.sum(dst="10.77.0.2")[0] == sum(len(os.read(tunnel, 4096)) for _ in range(3))
    with netlab.udp_server("node1", "10.77.0.1", 5353) as server:
        packets = [ipv4_udp("10.77.0.2", "10.77.0.1", b"x" * size) for size in (1, 50, 1000)]
        for packet in packets:
            os.write(tunnel, packet)
            assert len(server.recv(4096)) == len(packet) - 28
    assert meter.sum(src="10.77.0.2", direction="ingress", dst_port=5353) == (sum(map(len, packets)), 3)
    assert meter.sum(src=pod_address(1, 1)) == (0, 0)
