# SPDX-License-Identifier: Apache-2.0
"""Which port of a flow stays: the same answer for every node and both directions, by a model and by real packets."""

import socket
import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.attach import netlink
from collector.attach.uplinks import Link
from collector.kernel import layout
from collector.window import devices
from collector.window.meter import Devices
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import pod_address, wait_until

A, B = pod_address(1, 1), pod_address(2, 1)
LISTED = {50051, 40000, 65535}
# Where the answer changes, and anything.
PORTS = st.sampled_from([0, 1, 443, 29999, 30000, 32767, 32768, 39999, 40000, 50051, 65534, 65535]) | st.integers(
    0, 65535
)
PROTOCOLS = st.sampled_from([socket.IPPROTO_TCP, socket.IPPROTO_UDP, 132])
Pair = tuple[int, int, int]


def kept(a: int, b: int) -> tuple[int, int]:
    """The rule, as the documentation has it."""
    if a == b:
        return a, b
    service_a, service_b = (0 < port < 32768 or port in LISTED for port in (a, b))
    if service_a == service_b:
        service_a = a < b
    return (a, 0) if service_a else (0, b)


@given(a=PORTS, b=PORTS)
def test_the_model_gives_both_directions_the_same_answer(a: int, b: int) -> None:
    assert kept(a, b) == kept(b, a)[::-1]
    assert max(kept(a, b)) in (a, b)


@given(st.sets(st.integers(1, 65535)))
def test_the_bitmap_holds_what_is_listed(ports: set[int]) -> None:
    bits = layout.port_bits(ports)
    assert len(bits) == 4096
    held = {32768 + at for at in range(32768) if bits[at // 8] >> at % 8 & 1}
    assert held == {port for port in ports if port >= 32768}


@pytest.fixture(scope="module")
def deaf_pods(nodes: None) -> Iterator[None]:
    """Pods that answer nothing: an answer would be a flow of its own."""
    for pod in ("pod11", "pod21"):
        rules = "table ip deaf { chain c { type filter hook prerouting priority -500; drop; }; }"
        netlab.run(pod, "nft", "-f", "-", stdin=rules)
    yield
    for pod in ("pod11", "pod21"):
        netlab.run(pod, "nft", "delete", "table", "ip", "deaf")


@pytest.fixture(scope="module", params=metered.BOTH_PROGRAMS, ids=metered.PROGRAM_NAMES)
def metered_both(request: pytest.FixtureRequest, deaf_pods: None) -> Iterator[dict[int, Metered]]:
    with metered.both_nodes("ports", service_ports=sorted(LISTED), direct_loads=request.param) as made:
        yield made


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(PORTS, PORTS, PROTOCOLS), min_size=1, max_size=100))
def test_every_node_and_both_directions_agree_with_the_model(
    metered_both: dict[int, Metered], pairs: list[Pair]
) -> None:
    for meter in metered_both.values():
        meter.collect()
        meter.flows.clear()
    _send("pod11", A, B, pairs)
    _send("pod21", B, A, [(b, a, protocol) for a, b, protocol in pairs])
    there = Counter((*kept(a, b), protocol) for a, b, protocol in pairs)
    back = Counter((*kept(a, b)[::-1], protocol) for a, b, protocol in pairs)

    def agrees() -> bool:
        for meter in metered_both.values():
            meter.collect()
        return all(_counted(meter, A, B) == there and _counted(meter, B, A) == back for meter in metered_both.values())

    assert wait_until(agrees), ({n: dict(m.flows) for n, m in metered_both.items()}, there)


def _send(pod: str, source: str, destination: str, pairs: list[Pair]) -> None:
    with netlab.new_socket(pod, source, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for a, b, protocol in pairs:
            header = struct.pack(
                "!BBHHHBBH4s4s",
                *(0x45, 0, 40, 1, 0, 64, protocol, 0),
                *(socket.inet_aton(source), socket.inet_aton(destination)),
            )
            rest = struct.pack("!IIBBHHH", 1, 1, 0x50, 0x10, 1024, 0, 0)
            out.sendto(header + struct.pack("!HH", a, b) + rest, (destination, 0))


def _counted(meter: Metered, source: str, destination: str) -> Counter[tuple[int, int, int]]:
    return Counter(
        {
            (flow.src_port, flow.dst_port, flow.protocol): packets
            for flow, (_, packets) in meter.flows.items()
            if (flow.src, flow.dst) == (source, destination) and flow.protocol in (6, 17, 132)
        }
    )


def test_ports_full_keeps_both(nodes: None) -> None:
    meter = Metered("node1", metered.request(metered.pin_dir("full"), ports="full"))
    try:
        netlab.send_udp("node1", "pod12", pod_address(1, 2), count=2, port=5432, sport=40001)
        meter.collect()
        assert [(f.src_port, f.dst_port) for f in meter.flows if f.dst == pod_address(1, 2)] == [(40001, 5432)]
    finally:
        meter.detach()


def test_as_many_uplinks_as_a_node_with_a_tunnel_to_each_other_has(nodes: None) -> None:
    """And then as many others, which the maps hold beside the first ones for a moment."""
    root = metered.pin_dir("many")
    meter = Metered("node1", metered.request(root))
    try:
        for first in (1000, 100_000):
            indexes = range(first, first + layout.MOST_UPLINKS)
            tunnels = {(17, first % 50_000 + number, 0): 1 for number in range(layout.MOST_TUNNELS)}
            meter.meter.set_devices(Devices({index: f"tun{index}" for index in indexes}, tunnels))
            assert meter.meter.current is not None
            assert meter.meter.current.uplinks() == set(indexes)
    finally:
        meter.detach()


def test_what_is_too_much_for_the_maps_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [Link(1 + number, f"gre{number}", "gre") for number in range(layout.MOST_UPLINKS)]
    links += [Link(100_000 + number, f"v{number}", "vxlan", port=5000 + number) for number in range(2000)]
    links += [Link(200_000, "eth0", master_kind="bridge")]
    monkeypatch.setattr(netlink, "read", lambda: (links, []))
    found = devices.read([], ())
    assert set(found.uplinks) == {link.index for link in links[: layout.MOST_UPLINKS]}
    assert len(found.tunnels) == layout.MOST_TUNNELS
    assert not found.outer_ports
    assert found.left_out == 2000 + 1 + (1 + 2000 - layout.MOST_TUNNELS)


def test_uplinks_that_share_a_slot_and_devices_that_only_look_like_one(nodes: None) -> None:
    root = metered.pin_dir("slots")
    meter = Metered("node1", metered.request(root))
    generation = meter.meter.current
    assert generation is not None
    eth0 = netlab.inside("node1", lambda: socket.if_nametoindex("eth0"))
    try:
        for uplinks, direction in (
            ({eth0}, "ingress"),
            ({eth0 + layout.UPLINK_SLOTS}, "egress"),
            ({eth0, eth0 + layout.UPLINK_SLOTS}, "ingress"),
            ({eth0 + layout.UPLINK_SLOTS, eth0 + 2 * layout.UPLINK_SLOTS}, "egress"),
            (set(), "egress"),
            ({eth0}, "ingress"),
        ):
            generation.set_uplinks(uplinks)
            netlab.send_udp("fabric", "pod12", pod_address(1, 2), count=3)
            meter.collect()
            assert {f.direction for f in meter.flows if (f.src, f.dst) == (netlab.CLIENT, pod_address(1, 2))} == {
                direction
            }
            meter.flows.clear()
    finally:
        meter.detach()
