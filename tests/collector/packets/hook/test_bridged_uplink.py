# SPDX-License-Identifier: Apache-2.0
"""A node whose uplink is a port of the bridge that its pods hang on, as virtual machines' and flat networks' are.

What the bridge forwards passes the hook with the bridge as its output device, and with the port as its input device.
"""

import socket
from collections.abc import Iterator

import pytest

from collector.attach import netlink
from collector.kernel import pins
from collector.window.meter import Devices
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import send_udp

HOST, POD, NEIGHBOUR, OUTSIDE = "192.168.50.3", "192.168.50.31", "192.168.50.32", netlab.CLIENT


@pytest.fixture(scope="module")
def flat() -> Iterator[Metered]:
    root = metered.pin_dir("flat")
    try:
        netlab.build()
        _build()
        meter = Metered("node3", metered.request(root, node="node3"))
        indexes = {link.name: link.index for link in netlab.inside("node3", netlink.read)[0]}
        # Its uplink is a veth pair's end here, which nobody would take for one but for its default route.
        meter.meter.set_devices(Devices({indexes["br0"]: "br0"}, {}, outer_ports=frozenset({indexes["eth0"]})))
        yield meter
        meter.meter.close()
    finally:
        pins.detach(root)
        netlab.tear_down()


def _build() -> None:
    netlab.add_namespace("node3")
    netlab.ip("node3", f"link add eth0 type veth peer name n3 netns {netlab.ns('fabric')}")
    netlab.ip("fabric", "link set n3 master br0 up")
    netlab.ip(
        "node3",
        f"""
        link add br0 type bridge mcast_snooping 0
        link set eth0 master br0 up
        addr add {HOST}/24 dev br0
        link set br0 up
        """,
    )
    for number, address in ((1, POD), (2, NEIGHBOUR)):
        netlab.add_namespace(f"pod3{number}")
        netlab.ip("node3", f"link add veth{number} type veth peer name eth0 netns {netlab.ns(f'pod3{number}')}")
        netlab.ip("node3", f"link set veth{number} master br0 up")
        netlab.ip(f"pod3{number}", f"addr add {address}/24 dev eth0\nlink set eth0 up")
    netlab.run("node3", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")


@pytest.mark.parametrize(
    ("sender", "receiver", "src", "dst", "direction"),
    [
        pytest.param("pod31", "fabric", POD, OUTSIDE, "egress", id="pod-outside"),
        pytest.param("fabric", "pod31", OUTSIDE, POD, "ingress", id="outside-pod"),
        pytest.param("pod31", "pod32", POD, NEIGHBOUR, "egress", id="pod-pod"),
        pytest.param("node3", "pod31", HOST, POD, "egress", id="host-pod"),
        # It comes in over the bridge, as what comes from outside does; docs/counting.md says so.
        pytest.param("pod31", "node3", POD, HOST, "ingress", id="pod-host"),
        pytest.param("node3", "fabric", HOST, OUTSIDE, "egress", id="host-outside"),
        pytest.param("fabric", "node3", OUTSIDE, HOST, "ingress", id="outside-host"),
    ],
)
def test_directions(flat: Metered, sender: str, receiver: str, src: str, dst: str, direction: str) -> None:
    flat.forget()
    send_udp(sender, receiver, dst, count=5)
    assert flat.sum(src=src, dst=dst, protocol=socket.IPPROTO_UDP) == (5 * 1028, 5)
    assert flat.sum(src=src, dst=dst, direction=direction) == (5 * 1028, 5)
