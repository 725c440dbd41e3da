# SPDX-License-Identifier: Apache-2.0
"""Overlays that a program carries through a TUN device: what is inside counts once, what is outside is marked."""

from collections.abc import Iterator

import pytest

from schemas.raw import ENCAPSULATIONS
from tests.support.collector import metered, netlab, tun
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

A = {4: pod_address(1, 1), 6: pod_address6(1, 1)}
B = {4: pod_address(2, 1), 6: pod_address6(2, 1)}
OUTER = {4: (node_address(1), node_address(2)), 6: (node_address6(1), node_address6(2))}
Meters = dict[int, Metered]


@pytest.fixture(scope="module", params=["netfilter", "tc"])
def _meters(nodes: None, request: pytest.FixtureRequest) -> Iterator[Meters]:
    with metered.both_nodes("tun", hook=request.param) as made:
        yield made


@pytest.fixture
def meters(_meters: Meters) -> Meters:
    for meter in _meters.values():
        meter.forget()
    return _meters


def follow(meters: Meters, *ports: int) -> None:
    for meter in meters.values():
        meter.follow(*ports)


@pytest.mark.parametrize(
    ("device", "port", "outer", "ports", "name"),
    [
        pytest.param("tailscale0", 41641, 4, (), "wireguard", id="tailscale"),
        pytest.param("flannel0", 8285, 4, (), "udp", id="flannel"),
        pytest.param("nebula1", 4242, 6, (), "udp", id="nebula-over-ipv6"),
        pytest.param("tun7", 1194, 4, (1194,), "udp", id="named-by-a-setting"),
    ],
)
def test_inside_once_and_outside_marked(
    meters: Meters, device: str, port: int, outer: int, ports: tuple[int, ...], name: str
) -> None:
    kind, ends = ENCAPSULATIONS.index(name), OUTER[outer]
    netlab.count_on_fabric([ends, ends[::-1]], f"udp sport {port} udp dport {port}")
    with tun.overlay(device, port, outer6=outer == 6):
        follow(meters, *ports)
        send_udp("pod11", "pod21", B[4], count=7, size=1000)
        send_udp("pod11", "pod21", B[6], count=5, size=900)
        send_tcp("pod11", "pod21", B[4], at=B[4], port=8080, at_port=8080, size=1_000_000)

        def marked() -> list[tuple[int, int]]:
            ways = (
                (1, *ends, "egress"),
                (2, *ends, "ingress"),
                (2, *ends[::-1], "egress"),
                (1, *ends[::-1], "ingress"),
            )
            return [meters[n].sum(src=x, dst=y, direction=d, encapsulation=kind, dst_port=port) for n, x, y, d in ways]

        def truth() -> list[tuple[int, int]]:
            there, back = netlab.fabric_counts([ends, ends[::-1]]).values()
            return [there, there, back, back]

        assert wait_until(lambda: marked() == truth()), (marked(), truth())
    for src, dst, wire, (one, other) in ((A, B, truth()[0], (1, 2)), (B, A, truth()[2], (2, 1))):
        inner = [
            sum(column) for column in zip(*(within(meters[one], src[v], dst[v], "egress") for v in (4, 6)), strict=True)
        ]
        assert [wire[0] - tun.OVERHEAD[outer] * wire[1], wire[1]] == inner
        for version in (4, 6):
            there = within(meters[other], src[version], dst[version], "ingress")
            assert there == within(meters[one], src[version], dst[version], "egress")
            assert within(meters[other], src[version], dst[version], "egress") == (0, 0)
            assert within(meters[one], src[version], dst[version], "relay") == (0, 0)
    for node in (1, 2):
        assert meters[node].sum(src=ends[0], dst=ends[1], encapsulation=0, protocol=17) == (0, 0)
    follow(meters)


def within(meter: Metered, src: str, dst: str, direction: str) -> tuple[int, int]:
    return meter.sum(src=src, dst=dst, direction=direction, encapsulation=0)


def test_an_overlay_that_nobody_knows_counts_inside_once_and_outside_as_the_hosts(meters: Meters) -> None:
    """What carries it is not guessed: it is said, and --tunnel-ports marks it."""
    ends = OUTER[4]
    netlab.count_on_fabric([ends])
    with tun.overlay("tun7", 1194):
        follow(meters)
        assert metered.devices("node1").unexplained == ("tun7",)
        send_udp("pod11", "pod21", B[4], count=7, size=1000)
        assert wait_until(lambda: meters[1].sum(src=ends[0], dst=ends[1], encapsulation=0) == (7 * 1056, 7))
        assert netlab.fabric_counts([ends])[ends] == (7 * 1056, 7)
        assert within(meters[1], A[4], B[4], "egress") == (7 * 1028, 7)
        assert within(meters[2], A[4], B[4], "ingress") == (7 * 1028, 7)
        assert within(meters[2], A[4], B[4], "egress") == (0, 0)
    follow(meters)


def test_a_port_that_no_socket_is_bound_to_is_nobodys_overlay(meters: Meters) -> None:
    """Tailscale's daemon on a port of its own; a client of the host that happens to send from the usual one."""
    ends = OUTER[4]
    with tun.overlay("tailscale0", 40000):
        follow(meters)
        assert metered.devices("node1").unexplained == ("tailscale0",)
        send_udp("node1", "node2", ends[1], count=3, size=100, sport=41641)
        assert meters[1].sum(src=ends[0], dst=ends[1], dst_port=5353, encapsulation=0) == (3 * 128, 3)
    follow(meters)
