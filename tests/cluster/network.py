# SPDX-License-Identifier: Apache-2.0
"""The cluster's network: nodes, control plane and an outside host on one wire, which nft counts by pairs of addresses.

The wire is a bridge in a namespace of its own. Each node is in a zone of its own, so that what crosses zones is what
goes over the wire. Nothing of it is in the root namespace. `VARIATION` has what is to be otherwise.
"""

import os
from collections import Counter
from dataclasses import dataclass

from lab.network import truth
from lab.network.namespaces import enter, ip_batch, run, with_prefix, write_sysctls
from lab.network.script import FABRIC_SYSCTLS, NODE_SYSCTLS, QUIET
from lab.network.setup import CUT, KEEP_CUT

VARIATIONS = {
    "bridge": "pods are on a bridge of their node, in place of a link each",
    "vxlan": "nodes reach each other's pods through a VXLAN",
    "ipv6": "no IPv4",
    "one-zone": "two of the three nodes are in one zone",
    "tc": "the collectors of the chart meter by tc",
}
VARIATION = tuple(filter(None, os.environ.get("ZONEMETER_CLUSTER_VARIATION", "").split(",")))
PREFIX = "zmcluster"
WIRE, CONTROL, OUTSIDE = f"{PREFIX}-wire", f"{PREFIX}-control", f"{PREFIX}-outside"
FAMILIES = ("ip6",) if "ipv6" in VARIATION else ("ip", "ip6")


def _used(*of_both: str) -> tuple[str, ...]:
    """Return of what is IPv4's and IPv6's what the cluster has; where there can be only one, it is the first."""
    return of_both[-len(FAMILIES) :]


WIRE_CIDRS = _used("10.241.0.0/24", "fd41::/64")
POD_CIDRS = _used("10.242.0.0/16", "fd42::/48")
SERVICE_CIDRS = _used("10.243.0.0/16", "fd43::/112")
DNS_ADDRESS = _used("10.243.0.10", "fd43::a")[0]
# A public address, of which nobody in the cluster knows anything; the outside host is the nodes' gateway, too.
OUTSIDE_ADDRESSES = _used("93.184.216.34", "2606:2800:220:1::34")
REGION = "eu-west-1"


@dataclass(frozen=True)
class Node:
    """A node: its number is the last part of its addresses, and a part of its pods'."""

    name: str
    zone: str
    number: int

    @property
    def namespace(self) -> str:
        """Its network namespace, which is also the name of its cgroup."""
        return f"{PREFIX}-{self.name}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IPv4 and its IPv6 address on the wire."""
        return _at(self.number)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """What its pods have their addresses from."""
        return _used(f"10.242.{self.number}.0/24", f"fd42:0:0:{self.number}::/64")


def _at(number: int) -> tuple[str, ...]:
    return _used(f"10.241.0.{number}", f"fd41::{number}")


_ZONES = "abb" if "one-zone" in VARIATION else "abc"
NODES = tuple(
    Node(f"node-{letter}", f"{REGION}{zone}", 11 + number)
    for number, (letter, zone) in enumerate(zip("abc", _ZONES, strict=True))
)
CONTROL_ADDRESS = _at(10)[0]
# What is sent to nowhere ends silently at the outside host: as a router it would say so, on the wire, and over IPv6
# without a route, too. A new namespace may begin with the machine's value.
_NO_ROUTER = {"ipv4/ip_forward": 0, "ipv6/conf/all/forwarding": 0}
_NOWHERE = "route add blackhole ::/0"
# As Kubernetes asks for with bridges: what a node's pods send each other passes its filters, so that what a Service
# answers is translated back.
_FILTERED = {f"bridge/bridge-nf-call-{name}": int("bridge" in VARIATION) for name in ("iptables", "ip6tables")}
OVERLAY, OVERLAY_BYTES = "overlay", 50 if "ip" in FAMILIES else 70
POD_MTU = 1500 - OVERLAY_BYTES if "vxlan" in VARIATION else 1500


def make() -> None:
    """Make all of it."""
    ends = {CONTROL: _at(10), OUTSIDE: _at(1)} | {node.namespace: node.addresses for node in NODES}
    ip_batch(f"netns add {namespace}" for namespace in (WIRE, *ends))
    for namespace in ends:
        with enter(namespace):
            write_sysctls(QUIET | _NO_ROUTER if namespace in (CONTROL, OUTSIDE) else NODE_SYSCTLS | _FILTERED)
    with enter(WIRE):
        write_sysctls(FABRIC_SYSCTLS)
        ip_batch(["link add br0 type bridge mcast_snooping 0 forward_delay 0", "link set br0 up"])
        run(["nft", "-f", "-"], truth.fabric_ruleset())
    for namespace, addresses in ends.items():
        _plug_in(namespace, addresses)
    for node in NODES:
        _route_pods(node)
    ip_batch([_NOWHERE, *(f"addr add {address} dev lo" for address in OUTSIDE_ADDRESSES)], OUTSIDE)
    for network, address in zip(WIRE_CIDRS, OUTSIDE_ADDRESSES, strict=True):
        ip_batch([f"route add {network} dev eth0 src {address}"], OUTSIDE)


def remove() -> None:
    """Remove what is left of it; nothing there is fine."""
    for namespace in with_prefix(PREFIX):
        ip_batch([f"netns del {namespace}"])


def count() -> dict[tuple[str, str], int]:
    """Return the IP-layer bytes that went over the wire so far, by source and destination address.

    What came through an overlay is counted as it left it, packet by packet, and as what the wire had of it.
    """
    counted = [truth.read_fabric(WIRE)]
    if "vxlan" in VARIATION:
        counted += [truth.read_fabric(node.namespace, "netdev") for node in NODES]
    pairs: Counter[tuple[str, str]] = Counter()
    for each in counted:
        pairs.update({pair: amount.bytes for pair, amount in each.items()})
    return dict(pairs)


def _plug_in(namespace: str, addresses: tuple[str, ...]) -> None:
    port = namespace.removeprefix(f"{PREFIX}-")
    ip_batch([f"link add eth0 netns {namespace} type veth peer name {port} netns {WIRE}"])
    with enter(WIRE):
        ip_batch([f"link set {port} master br0 up"])
        run(["ethtool", "-K", port, *KEEP_CUT])
    # The outside host speaks with its public addresses.
    route = "noprefixroute" if namespace == OUTSIDE else ""
    lines = ["link set lo up", "link set eth0 up"]
    lines += [f"addr add {each}{'/64 nodad' if ':' in each else '/24'} dev eth0 {route}" for each in addresses]
    if namespace != OUTSIDE:
        lines += [f"route add default via {router}" for router in _at(1)]
    with enter(namespace):
        ip_batch(lines)
        run(["ethtool", "-K", "eth0", *CUT, *KEEP_CUT])


def _route_pods(node: Node) -> None:
    """Route a node's pods from everywhere; what they send out of the cluster has their node's address."""
    others = [other for other in NODES if other != node]
    if "vxlan" in VARIATION:
        _make_overlay(node, others)
        others = []
    for namespace in (CONTROL, *(other.namespace for other in others)):
        ways = zip(node.pod_cidrs, node.addresses, strict=True)
        ip_batch((f"route add {pods} via {address}" for pods, address in ways), namespace)
    rules = "\n".join(
        f"{family} saddr {pods} {family} daddr != {{ {pods}, {wire} }} masquerade"
        for family, pods, wire in zip(FAMILIES, POD_CIDRS, WIRE_CIDRS, strict=True)
    )
    chain = f"chain out {{ type nat hook postrouting priority 100;\n{rules}\n }}"
    with enter(node.namespace):
        run(["nft", "-f", "-"], f"table inet {PREFIX} {{ {chain}\n }}\n")


def _make_overlay(node: Node, others: list[Node]) -> None:
    """Give a node its end of a VXLAN as flannel has it: nothing is learned, each other node is told."""
    own, *_ = node.addresses
    lines = [f"link add {OVERLAY} address {_mac(node)} type vxlan id 1 dstport 8472 local {own} dev eth0 nolearning"]
    lines += [f"link set {OVERLAY} mtu {POD_MTU} up"]
    lines += [f"addr add {_first(pods)} dev {OVERLAY}" for pods in node.pod_cidrs]
    for other in others:
        for pods in other.pod_cidrs:
            lines += [f"neigh add {_first(pods)} lladdr {_mac(other)} dev {OVERLAY} nud permanent"]
            lines += [f"route add {pods} via {_first(pods)} dev {OVERLAY} onlink"]
    with enter(node.namespace):
        ip_batch(lines)
        for other in others:
            run(["bridge", "fdb", "append", _mac(other), "dev", OVERLAY, "dst", other.addresses[0]])
        run(["ethtool", "-K", OVERLAY, *KEEP_CUT])
        run(["nft", "-f", "-"], truth.fabric_ruleset("netdev", f"ingress device {OVERLAY}"))


def _mac(node: Node) -> str:
    return f"02:00:00:00:00:{node.number:02x}"


def _first(pods: str) -> str:
    """Return a node's address in the overlay: the first of its pods' network, which no pod gets."""
    return pods.partition("/")[0]
