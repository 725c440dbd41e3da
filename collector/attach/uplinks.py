# SPDX-License-Identifier: Apache-2.0
"""Which devices lead out of the node, and which outer packets are its own tunnels'. Pure.

A packet that came in over an uplink was sent by somebody else; one that did not, starts here. So a pod's device taken
for an uplink would hide what the pod sends, and an uplink not recognised would count foreign packets as our own.
Devices inside a bond or team are not asked: what the kernel calls a packet's input device is the upper one. So it is
for a bridge, except for what it forwards from port to port.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from schemas.raw import ENCAPSULATIONS

IFF_UP = 1
ARPHRD_NONE = 65534
ARPHRD_ETHER = 1
ARPHRD_INFINIBAND = 32
RTN_UNICAST = 1

# IPsec goes in UDP where a translator of addresses is on its way (RFC 3948); believed while a socket is bound to it.
_ESP, _NAT_TRAVERSAL = 50, 4500
# rtnl_link_ops kinds of devices that carry packets in packets, with the encapsulation and the outer IP protocol.
_TUNNELS: dict[str, tuple[str, int]] = {
    "vxlan": ("vxlan", 17),
    "geneve": ("geneve", 17),
    "wireguard": ("wireguard", 17),
    "ipip": ("ipip", 4),
    "sit": ("ipip", 41),
    "ip6tnl": ("ipip", 41),
    "gre": ("gre", 47),
    "gretap": ("gre", 47),
    "ip6gre": ("gre", 47),
    "ip6gretap": ("gre", 47),
    "erspan": ("gre", 47),
    "xfrm": ("esp", _ESP),
    "vti": ("esp", _ESP),
    "vti6": ("esp", _ESP),
}
# Each network namespace has one once the kernel's module is loaded; nothing goes by it unless somebody brings it up.
_FALLBACKS = ("ip_vti0", "ip6_vti0")
# A device tells its own over generic netlink only, together with its private key. These are what is used: the default
# (Calico, flannel), the same for IPv6 (flannel's ListenPortV6, Calico's wireguardListeningPortV6), Cilium's.
WIREGUARD_PORTS = (51820, 51821, 51871)
# Programs that carry IP through a TUN device of such a name: the encapsulation, and the UDP ports that they take unless
# told otherwise. Each is believed only while a socket is bound to it.
_OVERLAYS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("tailscale*", "wireguard", (41641,)),
    ("wt*", "wireguard", (51820,)),  # NetBird
    ("wg*", "wireguard", WIREGUARD_PORTS),  # wireguard-go
    ("flannel*", "udp", (8285,)),
    ("nebula*", "udp", (4242,)),
)
# Kinds that stand for a physical device, or several.
_STACKED = frozenset({"bond", "team", "vlan"})
# A virtual function's or a subfunction's other end on the host (devlink): it leads to a pod, not out.
_REPRESENTOR = re.compile(r"(c\d+)?pf\d+[vs]f\d+")


@dataclass(frozen=True, slots=True)
class Link:
    """What rtnetlink says of one device. `kind` is empty for what no software driver made; `port` in host order.

    `lower`: index of the device of this network namespace that it sends through, 0 if there is none.
    """

    index: int
    name: str
    kind: str = ""
    flags: int = IFF_UP
    arphrd: int = ARPHRD_ETHER
    master_kind: str = ""
    phys_port: str = ""
    port: int = 0
    lower: int = 0


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """What rtnetlink says of one route, one for each next hop."""

    oif: int
    prefix_length: int
    gateway: bool = False
    kind: int = RTN_UNICAST


def choose(links: Iterable[Link], routes: Iterable[KernelRoute], patterns: Iterable[str] = ()) -> list[Link]:
    """Return the uplinks by index. `patterns` (as file names are matched) replace all rules if there are any.

    Else: devices of default routes of any table; physical ones and bonds, teams and VLANs; tunnels, TUN devices too;
    each if it is up and not inside another. Tunnels also before they are up, since the kernel sends through one
    (neighbour discovery) the moment it is. A device no rule names may have a gateway route: it is none (cilium_host has
    one).
    """
    wanted = list(patterns)
    if wanted:
        return _ordered(link for link in links if any(fnmatchcase(link.name, pattern) for pattern in wanted))
    default = {route.oif for route in routes if route.prefix_length == 0 and route.kind == RTN_UNICAST}
    return _ordered(link for link in links if _leads_out(link, default))


def _leads_out(link: Link, default: set[int]) -> bool:
    if link.name == "lo" or link.master_kind not in ("", "vrf"):
        return False
    if link.kind in _TUNNELS or _is_tun(link):
        return True
    return bool(link.flags & IFF_UP) and (link.index in default or link.kind in _STACKED or _is_physical(link))


def _is_tun(link: Link) -> bool:
    """Return whether a program takes IP packets from this device: an overlay's. A TAP device is a virtual machine's."""
    return link.kind == "tun" and link.arphrd == ARPHRD_NONE


def _is_physical(link: Link) -> bool:
    return (
        not link.kind
        and link.arphrd in (ARPHRD_ETHER, ARPHRD_INFINIBAND)
        and not _REPRESENTOR.fullmatch(link.phys_port)
    )


def _ordered(links: Iterable[Link]) -> list[Link]:
    return sorted(links, key=lambda link: link.index)


def outer_ports(links: Iterable[Link]) -> set[int]:
    """Return the bridges' ports that lead out of the node: physical devices, those that stand for some, tunnels.

    What a bridge forwards itself has its port as the input device, not the bridge. netfilter sees it if
    `bridge-nf-call-iptables` is set.
    """
    ports = (link for link in links if link.master_kind == "bridge")
    return {link.index for link in ports if link.kind in _TUNNELS or link.kind in _STACKED or _is_physical(link)}


def contained(chosen: Iterable[Link]) -> set[str]:
    """Return those of the chosen devices whose packets another of them counts too: a VLAN's pass its lower device.

    A tunnel's do not: its lower device counts the outer packets, which are packets of their own at the hook as well.
    """
    links = list(chosen)
    indexes = {link.index for link in links}
    return {link.name for link in links if link.lower in indexes and link.kind not in _TUNNELS}


def outer_packets(
    links: Iterable[Link], bound: Collection[int] = (), ports: Iterable[int] = ()
) -> dict[tuple[int, int, int], int]:
    """Return how the outer packets of this node's tunnels look: (protocol, port, port is ours) to encapsulation.

    `bound`: UDP ports that sockets of this node are bound to; `ports`: those of programs that carry tunnels, as the
    settings name them, which need no such proof.
    """
    found = {(17, port, 1): ENCAPSULATIONS.index("udp") for port in ports}
    for link in links:
        if _is_tun(link):
            found |= {(17, port, 1): ENCAPSULATIONS.index(name) for name, port in _carried_by(link, bound)}
        if link.kind not in _TUNNELS or (link.name in _FALLBACKS and not link.flags & IFF_UP):
            continue
        name, protocol = _TUNNELS[link.kind]
        is_wireguard = link.kind == "wireguard"
        for port in WIREGUARD_PORTS if is_wireguard else (link.port,):
            found[protocol, port if protocol == 17 else 0, int(is_wireguard)] = ENCAPSULATIONS.index(name)
        if protocol == _ESP and _NAT_TRAVERSAL in bound:
            found[17, _NAT_TRAVERSAL, 1] = ENCAPSULATIONS.index(name)
    return found


def unexplained(links: Iterable[Link], bound: Collection[int], ports: Collection[int]) -> list[str]:
    """Return the TUN devices of which it is not known what carries their packets: these count, and so does that."""
    return [] if ports else sorted(link.name for link in links if _is_tun(link) and not _carried_by(link, bound))


def _carried_by(link: Link, bound: Collection[int]) -> list[tuple[str, int]]:
    return [
        (name, port)
        for pattern, name, usual in _OVERLAYS
        if fnmatchcase(link.name, pattern)
        for port in usual
        if port in bound
    ]
