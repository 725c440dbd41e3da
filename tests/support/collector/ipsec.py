# SPDX-License-Identifier: Apache-2.0
"""IPsec by policies, without a device of its own: what is inside counts once, ESP and ESP in UDP are marked.

Needs a kernel with ESP, which the one that `make test` runs on need not have: `scripts/other-kernels` runs this.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from schemas.raw import ENCAPSULATIONS
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import node_address, pod_address, send_tcp, send_udp, wait_until

ESP = ENCAPSULATIONS.index("esp")
A, B = pod_address(1, 1), pod_address(2, 1)
ONE, TWO = node_address(1), node_address(2)
_UDP_ENCAP, _UDP_ENCAP_ESPINUDP, _NAT_TRAVERSAL = 100, 2, 4500
KEYS = f"enc cbc(aes) 0x{'11' * 16} auth hmac(sha256) 0x{'22' * 32}"
Meters = dict[int, Metered]


@pytest.fixture(scope="module")
def meters(nodes: None) -> Iterator[Meters]:
    made: Meters = {}
    try:
        for node in (1, 2):
            made[node] = Metered(f"node{node}", metered.request(metered.pin_dir(f"sec{node}"), node=f"node{node}"))
        yield made
    finally:
        for meter in made.values():
            meter.detach()


@pytest.fixture(params=["tunnel", "tunnel-in-udp", "transport"])
def policies(meters: Meters, request: pytest.FixtureRequest) -> Iterator[str]:
    mode, _, encapsulated = request.param.partition("-in-")
    encap = f"encap espinudp {_NAT_TRAVERSAL} {_NAT_TRAVERSAL} 0.0.0.0" if encapsulated else ""
    inside = {1: "10.42.1.0/24", 2: "10.42.2.0/24"} if mode == "tunnel" else {1: f"{ONE}/32", 2: f"{TWO}/32"}
    ends = {1: ONE, 2: TWO}
    with ExitStack() as sockets:
        for node in (1, 2):
            for src, dst in ((1, 2), (2, 1)):
                way = "out" if src == node else "in"
                state = f"src {ends[src]} dst {ends[dst]} proto esp spi 0x{src}00 reqid 1 mode {mode} {encap} {KEYS}"
                netlab.run(f"node{node}", "ip", "xfrm", "state", "add", *state.split())
                template = f"tmpl src {ends[src]} dst {ends[dst]} proto esp reqid 1 mode {mode}"
                for each in (way, "fwd") if way == "in" and mode == "tunnel" else (way,):
                    policy = f"src {inside[src]} dst {inside[dst]} dir {each} {template}"
                    netlab.run(f"node{node}", "ip", "xfrm", "policy", "add", *policy.split())
            if encapsulated:
                taken = sockets.enter_context(netlab.udp_server(f"node{node}", ends[node], _NAT_TRAVERSAL))
                taken.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
        for meter in meters.values():
            meter.forget()
        yield request.param
    for node in (1, 2):
        netlab.run(f"node{node}", "ip", "xfrm", "policy", "flush")
        netlab.run(f"node{node}", "ip", "xfrm", "state", "flush")


def test_inside_once_and_outside_marked(meters: Meters, policies: str) -> None:
    in_udp = policies.endswith("udp")
    sender, receiver, a, b = ("node1", "node2", ONE, TWO) if policies == "transport" else ("pod11", "pod21", A, B)
    netlab.count_on_fabric([(ONE, TWO), (TWO, ONE)], "meta l4proto udp" if in_udp else "meta l4proto esp")
    if in_udp:  # what comes in is known by what goes out: the first of each node
        send_udp(sender, receiver, b, count=1, size=100)
        send_udp(receiver, sender, a, count=1, size=100)
        for meter in meters.values():
            meter.forget()
        netlab.count_on_fabric([(ONE, TWO), (TWO, ONE)], "meta l4proto udp")
    send_udp(sender, receiver, b, count=7, size=1000)
    send_tcp(sender, receiver, b, at=b, port=8080, at_port=8080, size=200_000)

    def marked() -> list[tuple[int, int]]:
        ways = ((1, ONE, TWO, "egress"), (2, ONE, TWO, "ingress"), (2, TWO, ONE, "egress"), (1, TWO, ONE, "ingress"))
        return [meters[n].sum(src=x, dst=y, direction=d, encapsulation=ESP) for n, x, y, d in ways]

    def truth() -> list[tuple[int, int]]:
        there, back = netlab.fabric_counts([(ONE, TWO), (TWO, ONE)]).values()
        return [there, there, back, back]

    assert wait_until(lambda: marked() == truth()), (marked(), truth(), meters[1].flows, meters[2].flows)
    assert truth()[0][1] > 100
    for node, direction in ((1, "egress"), (2, "ingress")):
        once = {"src": a, "dst": b, "direction": direction, "encapsulation": 0}
        assert meters[node].sum(**once, protocol=17) == (7 * 1028, 7)
        assert meters[node].sum(**once)[1] == truth()[0][1], "a packet outside for each inside"
    for node in (1, 2):
        for protocol in (50, 17) if policies != "transport" else (50,):
            assert meters[node].sum(src=ONE, dst=TWO, protocol=protocol, encapsulation=0) == (0, 0)
