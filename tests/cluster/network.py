# SPDX-License-Identifier: Apache-2.0
"""The cluster's network: nodes, control plane and an outside host on one wire, which nft counts by pairs of addresses.

The wire is a bridge in a namespace of its own. Each node is in a zone of its own, so that what crosses zones is what
goes over the wire. Nothing of it is in the root namespace.
"""

from dataclasses import dataclass

from lab.network import truth
from lab.network.namespaces import enter, ip_batch, run, with_prefix, write_sysctls
from lab.network.script import FABRIC_SYSCTLS, NODE_SYSCTLS, QUIET
from lab.network.setup import CUT, KEEP_CUT

PREFIX = "zmcluster"
WIRE, CONTROL, OUTSIDE = f"{PREFIX}-wire", f"{PREFIX}-control", f"{PREFIX}-outside"
WIRE_CIDRS = ("10.241.0.0/24", "fd41::/64")
POD_CIDRS = ("10.242.0.0/16", "fd42::/48")
SERVICE_CIDRS = ("10.243.0.0/16", "fd43::/112")
DNS_ADDRESS = "10.243.0.10"
# A public address, of which nobody in the cluster knows anything; the outside host is the nodes' gateway, too.
OUTSIDE_ADDRESSES = ("93.184.216.34", "2606:2800:220:1::34")
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
    def addresses(self) -> tuple[str, str]:
        """Its IPv4 and its IPv6 address on the wire."""
        return _at(self.number)

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        """What its pods have their addresses from."""
        return f"10.242.{self.number}.0/24", f"fd42:0:0:{self.number}::/64"


NODES = tuple(Node(f"node-{letter}", f"{REGION}{letter}", 11 + number) for number, letter in enumerate("abc"))
CONTROL_ADDRESS = "10.241.0.10"
# What is sent to nowhere ends silently at the outside host: as a router it would say so, on the wire. A new namespace
# may begin with the machine's value.
_NO_ROUTER = {"ipv4/ip_forward": 0, "ipv6/conf/all/forwarding": 0}


def make() -> None:
    """Make all of it."""
    ends = {CONTROL: _at(10), OUTSIDE: _at(1)} | {node.namespace: node.addresses for node in NODES}
    ip_batch(f"netns add {namespace}" for namespace in (WIRE, *ends))
    for namespace in ends:
        with enter(namespace):
            write_sysctls(QUIET | _NO_ROUTER if namespace in (CONTROL, OUTSIDE) else NODE_SYSCTLS)
    with enter(WIRE):
        write_sysctls(FABRIC_SYSCTLS)
        ip_batch(["link add br0 type bridge mcast_snooping 0 forward_delay 0", "link set br0 up"])
        run(["nft", "-f", "-"], truth.fabric_ruleset())
    for namespace, addresses in ends.items():
        _plug_in(namespace, addresses)
    for node in NODES:
        _route_pods(node)
    ip_batch((f"addr add {address} dev lo" for address in OUTSIDE_ADDRESSES), OUTSIDE)
    for network, address in zip(WIRE_CIDRS, OUTSIDE_ADDRESSES, strict=True):
        ip_batch([f"route add {network} dev eth0 src {address}"], OUTSIDE)


def remove() -> None:
    """Remove what is left of it; nothing there is fine."""
    for namespace in with_prefix(PREFIX):
        ip_batch([f"netns del {namespace}"])


def count() -> dict[tuple[str, str], int]:
    """Return the IP-layer bytes that went over the wire so far, by source and destination address."""
    return {pair: amount.bytes for pair, amount in truth.read_fabric(WIRE).items()}


def _at(number: int) -> tuple[str, str]:
    return f"10.241.0.{number}", f"fd41::{number}"


def _plug_in(namespace: str, addresses: tuple[str, str]) -> None:
    port = namespace.removeprefix(f"{PREFIX}-")
    ip_batch([f"link add eth0 netns {namespace} type veth peer name {port} netns {WIRE}"])
    with enter(WIRE):
        ip_batch([f"link set {port} master br0 up"])
        run(["ethtool", "-K", port, *KEEP_CUT])
    # The outside host speaks with its public addresses.
    route = "noprefixroute" if namespace == OUTSIDE else ""
    lines = ["link set lo up", "link set eth0 up", f"addr add {addresses[0]}/24 dev eth0 {route}"]
    lines += [f"addr add {addresses[1]}/64 dev eth0 nodad {route}"]
    if namespace != OUTSIDE:
        lines += [f"route add default via {router}" for router in _at(1)]
    with enter(namespace):
        ip_batch(lines)
        run(["ethtool", "-K", "eth0", *CUT, *KEEP_CUT])


def _route_pods(node: Node) -> None:
    """Route a node's pods from everywhere; what they send out of the cluster has their node's address."""
    for namespace in (CONTROL, *(other.namespace for other in NODES if other != node)):
        ways = zip(node.pod_cidrs, node.addresses, strict=True)
        ip_batch((f"route add {pods} via {address}" for pods, address in ways), namespace)
    rules = "\n".join(
        f"{family} saddr {pods} {family} daddr != {{ {pods}, {wire} }} masquerade"
        for family, pods, wire in zip(("ip", "ip6"), POD_CIDRS, WIRE_CIDRS, strict=True)
    )
    chain = f"chain out {{ type nat hook postrouting priority 100;\n{rules}\n }}"
    with enter(node.namespace):
        run(["nft", "-f", "-"], f"table inet {PREFIX} {{ {chain}\n }}\n")
