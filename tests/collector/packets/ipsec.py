# SPDX-License-Identifier: Apache-2.0
"""IPsec, by policies and through devices of its own: what is inside counts once, ESP and ESP in UDP are marked.

Needs a kernel with ESP, which the one that `make test` runs on need not have: `scripts/other-kernels` runs this.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from schemas.raw import ENCAPSULATIONS, Hook
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import (
    node_address,
    pod_address,
    pod_address6,
    send_tcp,
    send_udp,
    wait_until,
)

ESP = ENCAPSULATIONS.index("esp")
A, B = pod_address(1, 1), pod_address(2, 1)
A6, B6 = pod_address6(1, 1), pod_address6(2, 1)
ONE, TWO = node_address(1), node_address(2)
_UDP_ENCAP, _UDP_ENCAP_ESPINUDP, _NAT_TRAVERSAL = 100, 2, 4500
_MARK = 7  # the device's if_id (xfrm) or key (vti), and that of its states and policies
KEYS = f"enc cbc(aes) 0x{'11' * 16} auth hmac(sha256) 0x{'22' * 32}"
Meters = dict[int, Metered]
Amount = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ipsec:
    """`device`: kind of the device that leads to it, empty for policies alone."""

    mode: str = "tunnel"
    in_udp: bool = False
    device: str = ""

    @property
    def ends(self) -> tuple[str, str, str, str]:
        """Who talks to whom inside: two namespaces, their addresses."""
        return ("node1", "node2", ONE, TWO) if self.mode == "transport" else ("pod11", "pod21", A, B)


@pytest.fixture(scope="module", params=["netfilter", "tc"])
def meters(nodes: None, request: pytest.FixtureRequest) -> Iterator[Meters]:
    hook: Hook = request.param
    made: Meters = {}
    try:
        for node in (1, 2):
            wanted = metered.request(metered.pin_dir(f"sec{node}"), node=f"node{node}", hook=hook)
            made[node] = Metered(f"node{node}", wanted)
        yield made
    finally:
        for meter in made.values():
            meter.detach()


def _hook(meters: Meters) -> Hook:
    assert meters[1].meter.current is not None
    return meters[1].meter.current.meta.hook


@contextmanager
def _set_up(ipsec: Ipsec, meters: Meters) -> Iterator[None]:
    ends = {1: ONE, 2: TWO}
    try:
        with ExitStack() as sockets:
            for node in (1, 2):
                _add_states(node, ipsec)
                if ipsec.in_udp:
                    taken = sockets.enter_context(netlab.udp_server(f"node{node}", ends[node], _NAT_TRAVERSAL))
                    taken.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
                if ipsec.device:
                    _add_device(node, ipsec.device)
            for meter in meters.values():
                meter.follow()
                meter.forget()
            yield
    finally:
        for node in (1, 2):
            netlab.run(f"node{node}", "ip", "xfrm", "policy", "flush")
            netlab.run(f"node{node}", "ip", "xfrm", "state", "flush")
            if ipsec.device:
                netlab.ip(f"node{node}", "link del ipsec0")
        for meter in meters.values():
            meter.follow()


def _add_states(node: int, ipsec: Ipsec) -> None:
    ends = {1: ONE, 2: TWO}
    inside = {1: "10.42.1.0/24", 2: "10.42.2.0/24"} if ipsec.mode == "tunnel" else {1: f"{ONE}/32", 2: f"{TWO}/32"}
    encap = f"encap espinudp {_NAT_TRAVERSAL} {_NAT_TRAVERSAL} 0.0.0.0" if ipsec.in_udp else ""
    by = {"": "", "xfrm": f"if_id {_MARK}", "vti": f"mark {_MARK} mask 0xffffffff"}[ipsec.device]
    both = "flag af-unspec" if ipsec.device == "xfrm" else ""  # IPv6 inside, too
    for src, dst in ((1, 2), (2, 1)):
        way = "out" if src == node else "in"
        state = f"src {ends[src]} dst {ends[dst]} proto esp spi 0x{src}00 reqid 1 mode {ipsec.mode}"
        # The mark of an incoming state is the packet's, which has none before the device of kind vti gives it one.
        state += f" {both} {by if ipsec.device != 'vti' or way == 'out' else ''} {encap} {KEYS}"
        netlab.run(f"node{node}", "ip", "xfrm", "state", "add", *state.split())
        template = f"{by} tmpl src {ends[src]} dst {ends[dst]} proto esp reqid 1 mode {ipsec.mode}"
        any_ = [("0.0.0.0/0", "0.0.0.0/0")] + [("::/0", "::/0")] * (ipsec.device == "xfrm")
        for each in (way, "fwd") if way == "in" and ipsec.mode == "tunnel" else (way,):
            for one, other in any_ if ipsec.device else [(inside[src], inside[dst])]:
                policy = f"src {one} dst {other} dir {each} {template}"
                netlab.run(f"node{node}", "ip", "xfrm", "policy", "add", *policy.split())


def _add_device(node: int, kind: str) -> None:
    other, ends = 3 - node, {1: ONE, 2: TWO}
    how = f"dev eth0 if_id {_MARK}" if kind == "xfrm" else f"local {ends[node]} remote {ends[other]} key {_MARK}"
    # An MTU that leaves room for ESP: what does not fit would pass the hook and be refused behind it. No address of
    # its own: it says nothing of itself.
    netlab.ip(
        f"node{node}",
        f"""
        link add ipsec0 type {kind} {how}
        link set ipsec0 mtu 1300 addrgenmode none
        link set ipsec0 up
        route add 10.42.{other}.1/32 dev ipsec0
        """,
    )
    if kind == "xfrm":
        netlab.ip(f"node{node}", f"route add fd42:{other}::1/128 dev ipsec0")
    netlab.run(f"node{node}", "sysctl", "-qw", "net.ipv4.conf.ipsec0.rp_filter=0")


def _marked(meters: Meters) -> list[Amount]:
    ways = ((1, ONE, TWO, "egress"), (2, ONE, TWO, "ingress"), (2, TWO, ONE, "egress"), (1, TWO, ONE, "ingress"))
    return [meters[n].sum(src=x, dst=y, direction=d, encapsulation=ESP) for n, x, y, d in ways]


def _truth() -> list[Amount]:
    there, back = netlab.fabric_counts([(ONE, TWO), (TWO, ONE)]).values()
    return [there, there, back, back]


def _talk(meters: Meters, ipsec: Ipsec) -> None:
    """Exchange datagrams and a stream inside, while the fabric counts what is outside."""
    sender, receiver, a, b = ipsec.ends
    outside = "meta l4proto udp" if ipsec.in_udp else "meta l4proto esp"
    if ipsec.in_udp:  # what comes in is known by what goes out: the first of each node
        send_udp(sender, receiver, b, count=1, size=100)
        send_udp(receiver, sender, a, count=1, size=100)
    netlab.count_on_fabric([(ONE, TWO), (TWO, ONE)], outside)
    for meter in meters.values():
        meter.forget()
    send_udp(sender, receiver, b, count=7, size=1000)
    send_tcp(sender, receiver, b, at=b, port=8080, at_port=8080, size=200_000)
    if ipsec.device == "xfrm":
        send_udp(sender, receiver, B6, count=5, size=900)


WAYS = [
    pytest.param(Ipsec(), id="tunnel"),
    pytest.param(Ipsec(in_udp=True), id="tunnel-in-udp"),
    pytest.param(Ipsec("transport"), id="transport"),
    pytest.param(Ipsec(device="xfrm"), id="interface"),
    pytest.param(Ipsec(in_udp=True, device="xfrm"), id="interface-in-udp"),
    pytest.param(Ipsec(device="vti"), id="vti"),
]


@pytest.mark.parametrize("ipsec", WAYS)
def test_inside_once_and_outside_marked(meters: Meters, ipsec: Ipsec) -> None:
    if _hook(meters) == "tc" and not ipsec.device:
        return _policies_at_tc(meters, ipsec)
    with _set_up(ipsec, meters):
        _talk(meters, ipsec)
        assert wait_until(lambda: _marked(meters) == _truth(), 30), (
            _marked(meters),
            _truth(),
            meters[1].flows,
            meters[2].flows,
        )
        truth = _truth()
    assert truth[0][1] > 100
    _, _, a, b = ipsec.ends
    for node, direction in ((1, "egress"), (2, "ingress")):
        once = {"src": a, "dst": b, "encapsulation": 0}
        assert meters[node].sum(**once, protocol=17) == (7 * 1028, 7)
        six = (5 * 948, 5) if ipsec.device == "xfrm" else (0, 0)
        assert meters[node].sum(src=A6, dst=B6) == six
        assert meters[node].sum(**once)[1] + six[1] == truth[0][1], "a packet outside for each inside"
        assert meters[node].sum(**once, direction=direction) == meters[node].sum(**once)
        for protocol in (50, 17) if ipsec.mode != "transport" else (50,):
            assert meters[node].sum(src=ONE, dst=TWO, protocol=protocol, encapsulation=0) == (0, 0)
    return None


def _policies_at_tc(meters: Meters, ipsec: Ipsec) -> None:
    """What is inside passes no device on its way out: ESP counts in its place, as the nodes'."""
    sender, _, a, b = ipsec.ends
    with _set_up(ipsec, meters):
        _talk(meters, ipsec)
        outside = {"src": ONE, "dst": TWO, "encapsulation": 0, "protocol": 17 if ipsec.in_udp else 50}
        assert wait_until(lambda: meters[1].sum(**outside, direction="egress") == _truth()[0], 30)
        assert meters[2].sum(**outside, direction="ingress") == _truth()[0]
        assert _marked(meters) == [(0, 0)] * 4
    assert sender == "node1" or meters[1].sum(src=a, dst=b) == (0, 0)
