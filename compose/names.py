# SPDX-License-Identifier: Apache-2.0
"""Writes the topology file of `docker-compose.yml`: who has which address on this host, where no Kubernetes can say.

This host is one node: its addresses are the node's, the networks of its bridges are its containers'. The demo's pods
have fixed addresses in an overlay of their own, and each its own node; because on one machine no packet crosses a zone,
these have zones that are made up. Runs once, on the host's network, before the enricher.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from common.terminal import say
from schemas.flow import Workload
from schemas.topology import TopologyState, encode_topology_file

NAMESPACE = "shop"


@dataclass(frozen=True, slots=True)
class Address:
    """One address of this host, with its network's length (`10.0.0.5/24`), and whether its device is a bridge."""

    interface: str
    on_bridge: bool


@dataclass(frozen=True, slots=True)
class DemoPod:
    """A pod of the demo. Its number in docker-compose.yml is the last part of its address, and of its node's."""

    name: str
    number: int
    workload: Workload
    node: str
    zone: str


DEMO_PODS = (
    DemoPod("web-0", 11, Workload("Deployment", "web"), "demo-a1", "zone-a"),
    DemoPod("api-0", 12, Workload("Deployment", "api"), "demo-a2", "zone-a"),
    DemoPod("api-1", 13, Workload("Deployment", "api"), "demo-b1", "zone-b"),
    DemoPod("postgres-0", 14, Workload("StatefulSet", "postgres"), "demo-c1", "zone-c"),
)


def host_states(node: str, zone: str, region: str, addresses: Iterable[Address], node_net: str) -> list[TopologyState]:
    """Return this host as a node. `node_net` (such as 10.213.2): the demo's, which may be made later."""
    own, networks = [], [f"{node_net}.0/24"]
    for address in addresses:
        interface = ip_interface(address.interface)
        if interface.is_loopback or interface.is_link_local:
            continue
        own.append(str(interface.ip))
        if address.on_bridge and str(interface.network) not in networks:
            networks.append(str(interface.network))
    return [_state("node", node, addresses=own, pod_cidrs=tuple(networks), zone=zone, region=region)]


def demo_states(region: str, pod_net: str) -> list[TopologyState]:
    """Return the demo's pods and their nodes.

    The nodes have no addresses here: to this host they are containers, and what they send through it is its own.
    """
    nodes = [_state("node", pod.node, zone=pod.zone, region=region) for pod in DEMO_PODS]
    pods = [
        _state(
            "pod",
            pod.name,
            namespace=NAMESPACE,
            addresses=[f"{pod_net}.{pod.number}"],
            node=pod.node,
            workload=pod.workload,
            ready=True,
        )
        for pod in DEMO_PODS
    ]
    return nodes + pods


def _state(kind: str, name: str, **fields: object) -> TopologyState:
    # True for all time: the file says how things are, not since when.
    state = {"kind": kind, "uid": f"compose-{kind}-{name}", "resource_version": "1", "name": name, "from_ms": 0}
    return TopologyState(**(state | fields))  # type: ignore[arg-type] # by name, from two literal dictionaries


def read_addresses() -> list[Address]:
    """Read the addresses of the network namespace that this process is in, over rtnetlink."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        kinds = {link["index"]: link.get(("linkinfo", "kind")) for link in route.get_links()}
        return [
            Address(f"{entry.get('address')}/{entry['prefixlen']}", kinds.get(entry["index"]) == "bridge")
            for entry in route.get_addr()
        ]


def main() -> int:
    """Write the file named on the command line."""
    region, node_net, pod_net = os.environ["REGION"], os.environ["NODE_NET"], os.environ["POD_NET"]
    host = host_states(os.environ["NODE"], os.environ["ZONE"], region, read_addresses(), node_net)
    path = Path(sys.argv[1])
    path.write_bytes(encode_topology_file(host + demo_states(region, pod_net)))
    containers = ", ".join(host[0].pod_cidrs) or "no network"
    say(f"{path}: {', '.join(host[0].addresses)}; containers in {containers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
