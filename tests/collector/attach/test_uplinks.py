# SPDX-License-Identifier: Apache-2.0
"""Which devices are uplinks, as tables; and what rtnetlink really says of some."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.attach import dump, netlink
from collector.attach.uplinks import KernelRoute, Link, choose, contained, outer_packets, outer_ports, unexplained
from schemas.raw import ENCAPSULATIONS
from tests.support.collector import netlab

NIC = Link(2, "eth0")
POD = Link(7, "veth1", kind="veth")
LO = Link(1, "lo", arphrd=772)
DEFAULT = KernelRoute(2, 0, gateway=True)


@pytest.mark.parametrize(
    ("links", "routes", "expected"),
    [
        pytest.param([LO, NIC, POD], [DEFAULT, KernelRoute(7, 32)], ["eth0"], id="a-node"),
        pytest.param(
            [LO, Link(3, "eth0", kind="veth"), POD], [KernelRoute(3, 0)], ["eth0"], id="a-node-that-is-a-namespace"
        ),
        pytest.param([NIC, Link(3, "eth1")], [DEFAULT], ["eth0", "eth1"], id="second-nic-without-default-route"),
        pytest.param([Link(3, "eth1", flags=0)], [], [], id="nic-that-is-down"),
        pytest.param(
            [NIC, Link(9, "br0", kind="bridge")], [KernelRoute(9, 0)], ["eth0", "br0"], id="bridge-beside-a-nic"
        ),
        pytest.param(
            [Link(2, "eth0", master_kind="bridge"), Link(9, "br0", kind="bridge")],
            [KernelRoute(9, 0)],
            ["br0"],
            id="in-bridge",
        ),
        pytest.param(
            [Link(2, "e0", master_kind="bond"), Link(3, "e1", master_kind="bond"), Link(4, "bond0", kind="bond")],
            [KernelRoute(4, 24)],
            ["bond0"],
            id="bond-for-storage",
        ),
        pytest.param([Link(2, "eth0", master_kind="vrf")], [], ["eth0"], id="nic-in-a-vrf"),
        pytest.param([NIC, Link(5, "flannel.1", kind="vxlan")], [DEFAULT], ["eth0", "flannel.1"], id="overlay"),
        pytest.param([NIC, Link(5, "wg0", kind="wireguard", arphrd=65534)], [DEFAULT], ["eth0", "wg0"], id="wireguard"),
        pytest.param([NIC, Link(5, "tun0", kind="tun", arphrd=65534)], [DEFAULT], ["eth0", "tun0"], id="overlays-tun"),
        pytest.param([NIC, Link(5, "tap0", kind="tun")], [DEFAULT], ["eth0"], id="virtual-machines-tap"),
        pytest.param(
            [NIC, Link(5, "pf0vf3", phys_port="pf0vf3")], [DEFAULT], ["eth0"], id="representor-leads-to-a-pod"
        ),
        pytest.param(
            [NIC, POD], [DEFAULT, KernelRoute(7, 24, gateway=True)], ["eth0"], id="gateway-route-to-a-pod-is-none"
        ),
        pytest.param(
            [LO, NIC], [DEFAULT, KernelRoute(1, 0, kind=2)], ["eth0"], id="local-route-in-a-table-for-proxies"
        ),
        pytest.param(
            [NIC, Link(6, "docker0", kind="bridge"), Link(8, "dummy0", kind="dummy")], [], ["eth0"], id="others"
        ),
    ],
)
def test_choice(links: list[Link], routes: list[KernelRoute], expected: list[str]) -> None:
    assert [link.name for link in choose(links, routes)] == expected


def test_patterns_replace_the_rules() -> None:
    links = [NIC, Link(3, "ens5"), Link(4, "ens6"), POD]
    assert [link.name for link in choose(links, [DEFAULT], ["ens*", "veth1"])] == ["ens5", "ens6", "veth1"]


def test_outer_ports_of_bridges() -> None:
    links = [
        NIC,
        Link(3, "eth1", master_kind="bridge"),
        Link(4, "vx0", kind="vxlan", master_kind="bridge"),
        Link(5, "bond0", kind="bond", master_kind="bridge"),
        Link(6, "eth2", master_kind="bond"),
        Link(7, "veth1", kind="veth", master_kind="bridge"),
        Link(8, "tap0", kind="tun", master_kind="bridge"),
    ]
    assert outer_ports(links) == {3, 4, 5}


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
        (17, 51821, 1): 5,
        (17, 51871, 1): 5,
        (4, 0, 0): 3,
        (47, 0, 0): 4,
        (17, 4789, 0): 1,
    }
    assert [link.name for link in choose(links, [])] == [link.name for link in links]


def test_outer_packets_of_ipsecs_devices_are_also_udp_while_a_program_has_its_port() -> None:
    esp = {(50, 0, 0): ENCAPSULATIONS.index("esp")}
    for kind in ("xfrm", "vti", "vti6"):
        device = Link(3, "ipsec0", kind=kind)
        assert outer_packets([NIC, device], {500}) == esp
        assert outer_packets([NIC, device], {500, 4500}) == esp | {(17, 4500, 1): ENCAPSULATIONS.index("esp")}
    assert outer_packets([NIC, Link(3, "ip_vti0", kind="vti", flags=0)], {4500}) == {}, "there once vti is loaded"
    assert outer_packets([NIC, Link(3, "ip_vti0", kind="vti")]) == esp
    assert outer_packets([NIC], {500, 4500}) == {}, "of policies alone the program learns by itself, where it can"


TUN: dict[str, Any] = {"kind": "tun", "arphrd": 65534}


@pytest.mark.parametrize(
    ("name", "bound", "ports", "outer", "is_known"),
    [
        pytest.param("tailscale0", {41641, 53}, (), {(17, 41641, 1): 5}, True, id="tailscale"),
        pytest.param("tailscale0", {53}, (), {}, False, id="tailscale-by-another-port"),
        pytest.param("flannel0", {8285}, (), {(17, 8285, 1): 7}, True, id="flannel-udp"),
        pytest.param("wt0", {51820}, (), {(17, 51820, 1): 5}, True, id="netbird"),
        pytest.param("tun0", {1194, 41641, 8285}, (), {}, False, id="any"),
        pytest.param("tun0", set(), (1194, 1195), {(17, 1194, 1): 7, (17, 1195, 1): 7}, True, id="by-setting"),
    ],
)
def test_outer_packets_of_a_program_with_a_tun_device(
    name: str, bound: set[int], ports: tuple[int, ...], outer: dict[tuple[int, int, int], int], is_known: bool
) -> None:
    links = [NIC, Link(9, name, **TUN), Link(10, "tap0", kind="tun")]
    assert outer_packets(links, bound, ports) == outer
    assert unexplained(links, bound, ports) == ([] if is_known else [name])


def test_bound_ports_are_the_namespaces_own(nodes: None) -> None:
    with netlab.udp_server("pod21", "0.0.0.0", 4242), netlab.udp_server("pod21", "::", 8285):
        assert netlab.inside("pod21", netlink.bound_ports) == {4242, 8285}
    assert netlab.inside("pod21", netlink.bound_ports) == set()


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
    assert routes.count(KernelRoute(eth0, 0, gateway=True)) == 3  # IPv4, IPv6, table 77
    assert routes.count(KernelRoute(eth0, 24, gateway=True)) == 3  # the other node's pods, two next hops
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


@pytest.mark.parametrize("name", [b"\xff0", b"a\x1cb", b"a\xc2\x85"])
def test_a_device_whose_name_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    """Any bytes but `/`, `:` and spaces make a name (dev_valid_name() in net/core/dev.c)."""
    listed = tmp_path / "dev"
    listed.write_bytes(b"head\nhead\n  " + name + b": " + b" ".join(b"%d" % n for n in range(16)) + b"\n")
    monkeypatch.setattr(netlink, "_DEVICES", listed)
    (link,) = decoded(new_link(2, name.decode(errors="surrogateescape")))
    assert netlink.device_counters() == {link.name: (8, 9, 0, 1)}


# What a kernel with bonds and VLANs says, byte by byte; this one has neither. Numbers: include/uapi/linux/if_link.h.
_IFNAME, _LINK, _MASTER, _LINKINFO, _NETNSID = 3, 5, 10, 18, 37
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_UP, _SLAVE, _ETHER = 0x11043, 0x800, 1


def attribute(kind: int, value: bytes) -> bytes:
    """struct nlattr, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def new_link(index: int, name: str, *attributes: bytes, flags: int = _UP) -> bytes:
    """RTM_NEWLINK: struct nlmsghdr, struct ifinfomsg, attributes."""
    body = struct.pack("=BxHiII", 0, _ETHER, index, flags, 0) + attribute(
        _IFNAME, name.encode(errors="surrogateescape") + b"\0"
    )
    body += b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 16, 0, 1, 0) + body


def info(kind: str, data: bytes = b"") -> bytes:
    return attribute(_LINKINFO, attribute(_KIND, kind.encode() + b"\0") + attribute(_DATA, data))


def slave(of: str) -> bytes:
    state = attribute(1, b"\0") + attribute(2, b"\0")  # IFLA_BOND_SLAVE_STATE, _MII_STATUS
    return attribute(_LINKINFO, attribute(_SLAVE_KIND, of.encode() + b"\0") + attribute(_SLAVE_DATA, state))


def decoded(*messages: bytes) -> list[Link]:
    """Read messages as `netlink.read` does."""
    return netlink.links_of(body for _, _, body in dump.messages(b"".join(messages)))


BONDED = (
    new_link(2, "ens1", slave("bond"), number(_MASTER, 4), flags=_UP | _SLAVE),
    new_link(3, "ens2", slave("bond"), number(_MASTER, 4), flags=_UP | _SLAVE),
    new_link(4, "bond0", info("bond", attribute(1, b"\4")), flags=_UP | 0x400),  # mode 802.3ad
)
VLANS = (
    new_link(5, "bond0.100", info("vlan", attribute(1, struct.pack("=H", 100))), number(_LINK, 4)),
    new_link(6, "bond0.200", info("vlan", attribute(1, struct.pack("=H", 200))), number(_LINK, 4)),
)


def test_a_bond_and_vlans_on_it() -> None:
    links = decoded(*BONDED, *VLANS)
    assert [(link.name, link.kind, link.master_kind, link.lower) for link in links] == [
        ("ens1", "", "bond", 0),
        ("ens2", "", "bond", 0),
        ("bond0", "bond", "", 0),
        ("bond0.100", "vlan", "", 4),
        ("bond0.200", "vlan", "", 4),
    ]
    chosen = choose(links, [KernelRoute(5, 0)])
    assert [link.name for link in chosen] == ["bond0", "bond0.100", "bond0.200"]
    assert contained(chosen) == {"bond0.100", "bond0.200"}, "the bond counts their packets too"


def test_a_vlan_that_is_a_bridges_port() -> None:
    bridge = new_link(7, "br100", info("bridge"))
    vlan = new_link(5, "ens1.100", info("vlan"), number(_LINK, 2), number(_MASTER, 7))
    chosen = choose(decoded(new_link(2, "ens1"), vlan, bridge), [KernelRoute(7, 0)])
    assert [link.name for link in chosen] == ["ens1", "br100"]
    assert contained(chosen) == set()


def test_what_sends_through_another_namespaces_device_is_counted_by_none_here() -> None:
    pod = new_link(9, "veth9", info("veth"), number(_LINK, 2), number(_NETNSID, 1))
    eth0, wg = new_link(2, "eth0"), new_link(3, "vx0", info("vxlan"), number(_LINK, 2))
    links = decoded(eth0, wg, pod)
    assert [link.lower for link in links] == [0, 2, 0]
    assert contained(links) == set(), "the outer packets of vx0 are packets of their own"


@pytest.fixture
def several_uplinks(nodes: None) -> Iterator[None]:
    """As the AWS VPC CNI has it: pods' addresses on second interfaces, a table and a rule for each, down at first."""
    netlab.ip(
        "node2",
        """
        link add ens6 type veth peer name ens6-far
        link set ens6-far up
        link add eni1 type veth peer name eni1-far
        link set eni1 up
        link set eni1-far up
        route add 10.0.9.7/32 dev eni1
        """,
    )
    yield
    netlab.ip("node2", "rule del from 10.0.9.7 table 2\nlink del ens6\nlink del eni1")


def test_several_uplinks_with_a_routing_table_each(several_uplinks: None) -> None:
    def names() -> set[str]:
        links, routes = netlab.inside("node2", netlink.read)
        return {link.name for link in choose(links, routes)}

    assert names() == {"eth0"}, "it is down, and no default route leads there"
    netlab.ip(
        "node2",
        """
        addr add 10.0.9.2/24 dev ens6
        link set ens6 up
        route add 10.0.9.1 dev ens6 table 2
        route add default via 10.0.9.1 dev ens6 table 2
        rule add from 10.0.9.7 table 2
        """,
    )
    assert names() == {"eth0", "ens6"}
    netlab.ip("node2", "route flush table 2")
    assert names() == {"eth0"}, "the pod's own device never was one"
