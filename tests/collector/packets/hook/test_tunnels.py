# SPDX-License-Identifier: Apache-2.0
"""Tunnels: the packet inside says who, the one outside is marked, and the difference is the overhead, to the byte.

VXLAN is the kernel's own. For the other kinds this kernel has no devices: what the collector would learn of them is
said to it, and the outer packets are handmade.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from collector.attach import netlink, uplinks
from collector.attach.uplinks import Link
from collector.window.meter import Devices
from schemas.raw import ENCAPSULATIONS
from tests.support.collector import counting_lab, metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, node_address6, pod_address, send_tcp, send_udp, wait_until

Meters = dict[int, Metered]
Ends = tuple[str, str]

VXLAN = ENCAPSULATIONS.index("vxlan")
INNER = {4: ("10.99.0.1", "10.99.0.2"), 6: ("fd99::1", "fd99::2")}
OUTER = {4: (node_address(1), node_address(2)), 6: (node_address6(1), node_address6(2))}
# The outer IP header, UDP, VXLAN, Ethernet.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


@pytest.fixture(params=[4, 6], ids=["over-ipv4", "over-ipv6"])
def outer(meters: Meters, request: pytest.FixtureRequest) -> Iterator[int]:
    """A VXLAN between the nodes; the fabric counts its outer packets from the first on."""
    version: int = request.param
    netlab.count_on_fabric([OUTER[version], OUTER[version][::-1]], "meta l4proto udp")
    try:
        for node, other in ((1, 2), (2, 1)):
            netlab.add_vxlan(node, other, outer6=version == 6)
            # Before it is up: what the kernel sends through it at once must be known as the tunnel's.
            meters[node].meter.set_devices(metered.devices(f"node{node}"))
            netlab.ip(f"node{node}", "link set vx0 up")
        yield version
    finally:
        for node in (1, 2):
            netlab.del_vxlan(node)
            meters[node].meter.set_devices(metered.devices(f"node{node}"))


def _inner_and_outer(meters: Meters, version: int, outer: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Assert that what is marked is what the fabric saw, at both ends and both ways; return what went from 1 to 2."""
    (a, b), (src, dst) = INNER[version], OUTER[outer]

    def marked() -> list[tuple[int, int]]:
        ways = ((1, src, dst, "egress"), (2, src, dst, "ingress"), (2, dst, src, "egress"), (1, dst, src, "ingress"))
        return [meters[n].sum(src=x, dst=y, direction=d, encapsulation=VXLAN, dst_port=8472) for n, x, y, d in ways]

    def truth() -> list[tuple[int, int]]:
        there, back = netlab.fabric_counts([(src, dst), (dst, src)]).values()
        return [there, there, back, back]

    assert wait_until(lambda: marked() == truth()), (marked(), truth())
    for node in (1, 2):
        assert meters[node].sum(src=src, dst=dst, encapsulation=0, protocol=17) == (0, 0)
    inner = meters[1].sum(src=a, dst=b, direction="egress", encapsulation=0)
    assert meters[2].sum(src=a, dst=b, direction="ingress", encapsulation=0) == inner
    back = meters[2].sum(src=b, dst=a, direction="egress", encapsulation=0)
    assert marked()[2] == (back[0] + OVERHEAD[outer] * back[1], back[1])
    return inner, marked()[0]


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", ["datagrams", "tcp", "fragments", "segments"])
def test_overhead_on_vxlan_is_outer_minus_inner(meters: Meters, outer: int, version: int, kind: str) -> None:
    _, b = INNER[version]
    if kind == "tcp":
        send_tcp("node1", "node2", b, at=b, port=8080, at_port=8080, size=3_000_000)
    elif kind == "segments":
        with netlab.udp_server("node2", b, 5353) as server, netlab.new_socket("node1", b, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.IPPROTO_UDP, 103, 700)  # UDP_SEGMENT
            client.sendto(bytes(10_000), (b, 5353))
            assert sum(len(server.recv(65536)) for _ in range(15)) == 10_000
    else:
        send_udp("node1", "node2", b, count=5, size=8000 if kind == "fragments" else 1000)
    inner, marked = _inner_and_outer(meters, version, outer)
    assert marked == (inner[0] + OVERHEAD[outer] * inner[1], inner[1])
    assert inner[1] >= {"datagrams": 5, "tcp": 2000, "fragments": 30, "segments": 15}[kind]


@pytest.mark.parametrize("outer", [4], ids=["over-ipv4"], indirect=True)
@pytest.mark.parametrize("kind", ["datagrams", "tcp"])
def test_outer_packets_that_do_not_fit_the_fabric(meters: Meters, outer: int, kind: str) -> None:
    """The tunnel takes more than its way: a pod's packets pass, and the outer packet of each segment is fragmented."""
    a, b = pod_address(1, 1), pod_address(2, 1)
    src, dst = OUTER[4]

    def seen() -> tuple[int, int]:
        return meters[1].sum(src=src, dst=dst, encapsulation=VXLAN)

    with counting_lab.through_overlay(), ExitStack() as stack:
        for name, device in (("pod11", "eth0"), ("pod21", "eth0"), ("node1", "eth0")):
            stack.enter_context(netlab.link_mtu(name, device, 1450))
        if kind == "tcp":
            send_tcp("pod11", "pod21", b, at=b, port=8080, at_port=8080, size=1_000_000)
        else:
            send_udp("pod11", "pod21", b, count=5, size=1410)
        assert wait_until(lambda: seen() == netlab.fabric_counts([(src, dst), (dst, src)])[src, dst]), seen()
    inner = meters[1].sum(src=a, dst=b, encapsulation=0)
    twice = seen()[1] - inner[1]
    assert twice >= (5 if kind == "datagrams" else 700)
    assert seen()[0] == inner[0] + OVERHEAD[4] * inner[1] + 20 * twice


TUNNELS = [
    Link(101, "genev_sys_6081", kind="geneve", port=6081),
    Link(102, "tunl0", kind="ipip"),
    Link(103, "sit0", kind="sit"),
    Link(104, "gre1", kind="gre"),
    Link(105, "wg0", kind="wireguard", arphrd=65534),
    Link(106, "ipsec0", kind="xfrm"),
]
INSIDE = UDP(sport=40000, dport=53) / Raw(bytes(40))


@pytest.fixture
def pretended(meters: Meters) -> Iterator[None]:
    """Both nodes' programs are told of tunnels of every kind."""
    for node in (1, 2):
        links, routes = netlab.inside(f"node{node}", netlink.read)
        found = {link.index: link.name for link in uplinks.choose(links, routes)}
        meters[node].meter.set_devices(Devices(found, uplinks.outer_packets([*links, *TUNNELS])))
    yield
    for node in (1, 2):
        meters[node].meter.set_devices(metered.devices(f"node{node}"))


def _send_raw(sender: str, ends: Ends, layers: Packet, protocol: int) -> tuple[int, int]:
    six = ":" in ends[0]
    head = IPv6(src=ends[0], dst=ends[1], nh=protocol) if six else IP(src=ends[0], dst=ends[1], proto=protocol)
    packet = bytes(head / layers)
    netlab.count_on_fabric([ends])
    with netlab.new_socket(sender, ends[0], socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.sendto(packet, (ends[1], 0))
    assert wait_until(lambda: netlab.fabric_counts([ends])[ends] == (len(packet), 1))
    return len(packet), 1


KINDS = [
    pytest.param("geneve", UDP(sport=40000, dport=6081) / Raw(bytes(8)) / INSIDE, 17, id="geneve"),
    pytest.param("ipip", IP(src="10.99.0.1", dst="10.99.0.2") / INSIDE, 4, id="ipip"),
    pytest.param("ipip", IPv6(src="fd99::1", dst="fd99::2") / INSIDE, 41, id="sit"),
    pytest.param("gre", GRE() / IP(src="10.99.0.1", dst="10.99.0.2") / INSIDE, 47, id="gre"),
    pytest.param("wireguard", UDP(sport=51820, dport=51820) / Raw(b"\x04" + bytes(95)), 17, id="wireguard"),
    pytest.param("wireguard", UDP(sport=51871, dport=51871) / Raw(b"\x04" + bytes(95)), 17, id="ciliums-wireguard"),
    pytest.param("esp", Raw(bytes(96)), 50, id="esp"),
]


@pytest.mark.parametrize("ends", [OUTER[4], OUTER[6]], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("name", "layers", "protocol"), KINDS)
def test_outer_packets_of_this_nodes_tunnels_are_marked(
    meters: Meters, pretended: None, ends: Ends, name: str, layers: Packet, protocol: int
) -> None:
    amount = _send_raw("node1", ends, layers, protocol)
    kind = ENCAPSULATIONS.index(name)
    for node, direction in ((1, "egress"), (2, "ingress")):
        wanted = {"src": ends[0], "dst": ends[1], "protocol": protocol}
        assert wait_until(lambda n=node, w=wanted: meters[n].sum(**w) == amount)  # type: ignore[misc]
        assert meters[node].sum(**wanted, direction=direction, encapsulation=kind) == amount


@pytest.mark.parametrize(("name", "layers", "protocol"), KINDS)
def test_a_pods_own_tunnel_is_the_pods_traffic(
    meters: Meters, pretended: None, name: str, layers: Packet, protocol: int
) -> None:
    ends = (pod_address(1, 1), pod_address(2, 1))
    amount = _send_raw("pod11", ends, layers, protocol)
    for node, direction in ((1, "egress"), (2, "ingress")):
        wanted = {"src": ends[0], "dst": ends[1], "protocol": protocol}
        assert wait_until(lambda n=node, w=wanted: meters[n].sum(**w) == amount)  # type: ignore[misc]
        assert meters[node].sum(**wanted, direction=direction, encapsulation=0) == amount


def test_without_the_device_it_is_no_tunnel(meters: Meters) -> None:
    amount = _send_raw("node1", OUTER[4], UDP(sport=40000, dport=6081) / INSIDE, 17)
    assert meters[1].sum(src=OUTER[4][0], dst=OUTER[4][1], dst_port=6081, encapsulation=0) == amount


def test_esp_that_ends_on_a_node_is_outside_of_something_with_or_without_a_device(meters: Meters) -> None:
    """What a program of the host sends as ESP is its own affair: the kernel did not make it of anything."""
    amount = _send_raw("node1", OUTER[4], Raw(bytes(96)), 50)
    wanted = {"src": OUTER[4][0], "dst": OUTER[4][1], "protocol": 50}
    assert wait_until(lambda: meters[2].sum(**wanted) == amount)
    assert meters[2].sum(**wanted, direction="ingress", encapsulation=ENCAPSULATIONS.index("esp")) == amount
    assert meters[1].sum(**wanted, direction="egress", encapsulation=0) == amount
