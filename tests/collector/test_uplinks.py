# SPDX-License-Identifier: Apache-2.0
"""Which devices are uplinks, as tables; and what rtnetlink really says of some."""

from collections.abc import Iterator

import pytest

from collector import netlink
from collector.uplinks import Link, Route, choose, outer_packets
from tests.collector import netlab

NIC = Link(2, "eth0")
POD = Link(7, "veth1", kind="veth")
LO = Link(1, "lo", arphrd=772)
DEFAULT = Route(2, 0, gateway=True)


@pytest.mark.parametrize(
    ("links", "routes", "expected"),
    [
        pytest.param([LO, NIC, POD], [DEFAULT, Route(7, 32)], ["eth0"], id="a-node"),
        pytest.param([LO, Link(3, "eth0", kind="veth"), POD], [Route(3, 0)], ["eth0"], id="a-node-that-is-a-namespace"),
        pytest.param([NIC, Link(3, "eth1")], [DEFAULT], ["eth0", "eth1"], id="second-nic-without-default-route"),
        pytest.param([Link(3, "eth1", flags=0)], [], [], id="nic-that-is-down"),
        pytest.param([NIC, Link(9, "br0", kind="bridge")], [Route(9, 0)], ["eth0", "br0"], id="bridge-beside-a-nic"),
        pytest.param(
            [Link(2, "eth0", master_kind="bridge"), Link(9, "br0", kind="bridge")],
            [Route(9, 0)],
            ["br0"],
            id="in-bridge",
        ),
        pytest.param(
            [Link(2, "e0", master_kind="bond"), Link(3, "e1", master_kind="bond"), Link(4, "bond0", kind="bond")],
            [Route(4, 24)],
            ["bond0"],
            id="bond-for-storage",
        ),
        pytest.param([Link(2, "eth0", master_kind="vrf")], [], ["eth0"], id="nic-in-a-vrf"),
        pytest.param([NIC, Link(5, "flannel.1", kind="vxlan")], [DEFAULT], ["eth0", "flannel.1"], id="overlay"),
        pytest.param([NIC, Link(5, "wg0", kind="wireguard", arphrd=65534)], [DEFAULT], ["eth0", "wg0"], id="wireguard"),
        pytest.param(
            [NIC, Link(5, "pf0vf3", phys_port="pf0vf3")], [DEFAULT], ["eth0"], id="representor-leads-to-a-pod"
        ),
        pytest.param([NIC, POD], [DEFAULT, Route(7, 24, gateway=True)], ["eth0"], id="gateway-route-to-a-pod-is-none"),
        pytest.param([LO, NIC], [DEFAULT, Route(1, 0, kind=2)], ["eth0"], id="local-route-in-a-table-for-proxies"),
        pytest.param(
            [NIC, Link(6, "docker0", kind="bridge"), Link(8, "dummy0", kind="dummy")], [], ["eth0"], id="others"
        ),
    ],
)
def test_choice(links: list[Link], routes: list[Route], expected: list[str]) -> None:
    assert [link.name for link in choose(links, routes)] == expected


def test_patterns_replace_the_rules() -> None:
    links = [NIC, Link(3, "ens5"), Link(4, "ens6"), POD]
    assert [link.name for link in choose(links, [DEFAULT], ["ens*", "veth1"])] == ["ens5", "ens6", "veth1"]


def test_outer_packets_of_tunnels() -> None:
    links = [
        NIC,
        Link(3, "vx", kind="vxlan", port=8472),
        Link(4, "gnv", kind="geneve", port=6081),
        Link(5, "wg", kind="wireguard"),
        Link(6, "tunl0", kind="ipip"),
        Link(7, "gre1", kind="gre"),
        Link(8, "not-up-yet", kind="vxlan", port=4789, flags=0),
    ]
    assert outer_packets(links) == {
        (17, 8472, 0): 1,
        (17, 6081, 0): 2,
        (17, 51820, 1): 5,
        (4, 0, 0): 3,
        (47, 0, 0): 4,
        (17, 4789, 0): 1,
    }
    assert [link.name for link in choose(links, [])] == [link.name for link in links]


@pytest.fixture
def tunnels(nodes: None) -> Iterator[None]:
    netlab.ip(
        "node2",
        """
        link add vx0 type vxlan id 7 dstport 4789 dev eth0
        link set vx0 up
        link add br7 type bridge
        link add inner type veth peer name outer
        link set inner master br7 up
        route add default via 192.168.50.1 metric 500 table 77
        route add 203.0.113.0/24 nexthop via 192.168.50.1 nexthop via 192.168.50.99
        """,
    )
    yield
    netlab.ip("node2", "link del vx0\nlink del br7\nlink del inner\nroute del 203.0.113.0/24\nroute flush table 77")


def test_what_rtnetlink_says(tunnels: None) -> None:
    links, routes = netlab.inside("node2", netlink.read)
    by_name = {link.name: link for link in links}
    assert (by_name["vx0"].kind, by_name["vx0"].port) == ("vxlan", 4789)
    assert (by_name["inner"].kind, by_name["inner"].master_kind) == ("veth", "bridge")
    eth0 = by_name["eth0"].index
    assert routes.count(Route(eth0, 0, gateway=True)) == 3  # IPv4, IPv6, table 77
    assert routes.count(Route(eth0, 24, gateway=True)) == 3  # the other node's pods, two next hops
    assert {link.name for link in choose(links, routes)} == {"eth0", "vx0"}


def test_device_counters_are_the_namespaces_own(nodes: None) -> None:
    found = netlab.inside("pod21", netlink.device_counters)
    assert found.keys() == {"lo", "eth0"}
    assert found["eth0"][1] > 0


def test_proc_net_dev() -> None:
    text = """Inter-|   Receive  |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
  eth0: 1000      10    0    0    0     0          0         0  2000      20    0    0    0     0       0          0
"""
    assert netlink.parse_devices(text) == {"eth0": (2000, 20, 1000, 10)}
