# SPDX-License-Identifier: Apache-2.0
"""Which end of a flow serves, and that its port is the one that stays, by real packets and connection tracking."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.collector import metered
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import new_socket, pod_address, udp_server

A, B = pod_address(1, 1), pod_address(1, 2)

# Of the first to speak and of the one addressed; the port that stays, and who serves as the request shows it.
TRACKED = {
    "as-usual": (40001, 5432, 5432, "destination"),
    "no-port-is-in-the-set": (40001, 50052, 50052, "destination"),
    "neither-and-the-servers-is-lower": (60001, 50053, 50053, "destination"),
    "both-are-in-the-set": (20000, 27017, 27017, "destination"),
    "a-reserved-port-asks": (800, 2049, 2049, "destination"),
    "one-port": (7946, 7946, 7946, "destination"),
    # A push after connection tracking has forgotten who had asked.
    "the-ports-contradict": (5433, 40002, 5433, "unknown"),
}


@pytest.fixture(scope="module", params=["service", "full"])
def tracking(request: pytest.FixtureRequest, nodes: None) -> Iterator[tuple[Metered, str]]:
    meter = Metered("node1", metered.request(metered.pin_dir("tracking"), ports=request.param))
    yield meter, request.param
    meter.detach()


@pytest.mark.parametrize(("first", "second", "stays", "server"), TRACKED.values(), ids=TRACKED)
def test_who_serves_is_who_was_addressed_first_unless_the_ports_contradict(
    tracking: tuple[Metered, str], first: int, second: int, stays: int, server: str
) -> None:
    meter, ports = tracking
    meter.forget()
    with udp_server("pod12", B, second) as addressed, new_socket("pod11", B, socket.SOCK_DGRAM) as speaks:
        speaks.bind((A, first))
        speaks.sendto(b"x", (B, second))
        assert addressed.recv(10)
        addressed.sendto(b"y", (A, first))
        assert speaks.recv(10)
    meter.collect()
    [there] = [flow for flow in meter.flows if (flow.src, flow.dst) == (A, B)]
    [back] = [flow for flow in meter.flows if (flow.src, flow.dst) == (B, A)]
    assert (there.server, back.server) == (server, "source" if server == "destination" else "unknown")
    kept = [port if ports == "full" or port == stays else 0 for port in (first, second)]
    assert [there.src_port, there.dst_port] == [back.dst_port, back.src_port] == kept


def test_without_ports_nobody_serves(tracking: tuple[Metered, str]) -> None:
    meter, _ = tracking
    meter.forget()
    with new_socket("pod11", B, socket.SOCK_RAW, socket.IPPROTO_ICMP) as out:
        out.sendto(bytes.fromhex("0800f7fd00010001"), (B, 0))  # an echo request
        assert out.recv(100)
    meter.collect()
    servers = {flow.src: flow.server for flow in meter.flows if flow.protocol == socket.IPPROTO_ICMP}
    assert servers == {A: "unknown", B: "unknown"}
