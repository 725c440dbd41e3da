# SPDX-License-Identifier: Apache-2.0
"""A made-up cluster: nodes in three zones, workloads by Zipf's law, pods. The same for the same seed. Pure."""

import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lab.plan import Workload, pod_name
from schemas import flow
from schemas.topology import Served, TopologyState

REGION, ZONES = "eu-west-1", ("a", "b", "c")
# A node has a /24 for its pods; the kubelet's own limit is 110 where nobody raises it.
MOST_PODS_A_NODE, MOST_NODES = 250, 20_000
_FIRST_POD, _FIRST_NODE = 4, 4
_PODS, _NODES, _SERVICES = 10 << 24, (172 << 24) + (24 << 16), (172 << 24) + (20 << 16)
_PODS_A_WORKLOAD = 12
_NAMESPACES = (
    "checkout", "catalog", "search", "payments", "orders", "identity", "shipping", "media", "pricing", "reviews",
    "inventory", "recommendations", "notifications", "analytics", "monitoring", "ingress",
)  # fmt: skip
# What follows a namespace's name in that of a workload, and the port that it serves.
_ROLES = (
    ("api", 8080), ("web", 8443), ("cache", 6379), ("postgres", 5432), ("worker", 9090), ("grpc", 50051),
    ("broker", 9092), ("gateway", 443),
)  # fmt: skip
_STATEFUL = ("cache", "postgres", "broker")

Addresses = NDArray[np.uint32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class SynthCluster:
    """So many nodes and pods. Nodes, pods and workloads are numbers; addresses are IPv4 in host byte order."""

    nodes: int
    pods: int
    seed: int

    @cached_property
    def pod_workloads(self) -> Numbers:
        """The workload of each pod. The first workload is the largest, the k-th a k-th as large (Zipf)."""
        count = max(self.pods // _PODS_A_WORKLOAD, 1)
        shares = 1 / np.arange(1, count + 1)
        return self._chance(1).choice(count, self.pods, p=shares / shares.sum())

    @cached_property
    def pod_nodes(self) -> Numbers:
        """The node of each pod: each node has as many, or one more."""
        return self._chance(2).permutation(self.pods) % self.nodes

    @cached_property
    def pod_addresses(self) -> Addresses:
        """The address of each pod, out of its node's /24."""
        return (_PODS + self.pod_nodes * 256 + self._places + _FIRST_POD).astype(np.uint32)

    @cached_property
    def node_addresses(self) -> Addresses:
        """The address of each node."""
        numbers = np.arange(self.nodes)
        return (_NODES + numbers // 250 * 256 + numbers % 250 + _FIRST_NODE).astype(np.uint32)

    @cached_property
    def pod_ports(self) -> Numbers:
        """The port that each pod serves."""
        return np.array([port for _, port in _ROLES])[self.pod_workloads // len(_NAMESPACES) % len(_ROLES)]

    def pods_of(self, node: int) -> Numbers:
        """Return the pods of a node."""
        return self._by_node[self._begins[node] : self._begins[node + 1]]

    def peers(self, zones: Numbers, chances: NDArray[np.float64]) -> Numbers:
        """Return a pod in each of the zones, by numbers from 0 up to 1: pods of the k-th workload a k-th as often."""
        found = np.empty(len(zones), np.int64)
        for zone, (pods, upto) in enumerate(self._by_zone):
            there = zones == zone
            found[there] = pods[np.searchsorted(upto, chances[there] * upto[-1], side="right")]
        return found

    def node_name(self, node: int) -> str:
        """Return a node's name, as clouds make it of its address."""
        return f"ip-{text(self.node_addresses[node]).replace('.', '-')}.{REGION}.compute.internal"

    def states(self) -> Iterator[TopologyState]:
        """Yield what an enricher would write into the topology topic: nodes, a Service for each workload, pods."""
        names = [self.node_name(node) for node in range(self.nodes)]
        workloads = [_workload(number) for number in range(int(self.pod_workloads.max()) + 1)]
        yield from map(self._node, range(self.nodes), names)
        yield from map(self._service, range(len(workloads)), workloads)
        replicas: Counter[int] = Counter()
        for pod, number in enumerate(self.pod_workloads.tolist()):
            yield self._pod(pod, workloads[number], replicas[number], names[self.pod_nodes[pod]])
            replicas[number] += 1

    def _chance(self, of: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, of))

    @cached_property
    def _by_node(self) -> Numbers:
        return np.argsort(self.pod_nodes, kind="stable")

    @cached_property
    def _begins(self) -> Numbers:
        return np.searchsorted(self.pod_nodes[self._by_node], np.arange(self.nodes + 1))

    @cached_property
    def _places(self) -> Numbers:
        """Which pod of its node each is."""
        found = np.empty(self.pods, np.int64)
        found[self._by_node] = np.arange(self.pods) - self._begins[self.pod_nodes[self._by_node]]
        return found

    @cached_property
    def _by_zone(self) -> list[tuple[Numbers, NDArray[np.float64]]]:
        """The pods of each zone, and how often they are reached: the sum of it up to each."""
        weights = 1 / (self.pod_workloads + 1) / np.bincount(self.pod_workloads)[self.pod_workloads]
        found = []
        for zone in range(len(ZONES)):
            pods = np.flatnonzero(self.pod_nodes % len(ZONES) == zone)
            found.append((pods, np.cumsum(weights[pods])))
        return found

    def _node(self, number: int, name: str) -> TopologyState:
        zone = number % len(ZONES)
        return TopologyState(
            kind="node",
            uid=f"node-{number}",
            resource_version="1",
            name=name,
            addresses=[text(self.node_addresses[number])],
            from_ms=0,
            zone=f"{REGION}{ZONES[zone]}",
            region=REGION,
            zone_id=f"euw1-az{zone + 1}",
            pod_cidrs=(f"{text(_PODS + number * 256)}/24",),
            instance_type="m6i.4xlarge",
        )

    def _service(self, number: int, workload: Workload) -> TopologyState:
        return TopologyState(
            kind="service",
            uid=f"service-{number}",
            resource_version="1",
            name=workload.name,
            namespace=workload.namespace,
            addresses=[text(_SERVICES + number)],
            from_ms=0,
            selector={"app": workload.name},
        )

    def _pod(self, number: int, workload: Workload, replica: int, node: str) -> TopologyState:
        served = Served(workload.name, "tcp", int(self.pod_ports[number]))
        return TopologyState(
            kind="pod",
            uid=f"pod-{number}",
            resource_version="1",
            name=pod_name(workload, replica),
            namespace=workload.namespace,
            addresses=[text(self.pod_addresses[number])],
            from_ms=0,
            node=node,
            workload=flow.Workload(workload.kind, workload.name),
            ready=True,
            services=(workload.name,),
            served=(served,),
        )


def text(address: int | np.integer) -> str:
    """Return an address as it is written."""
    return socket.inet_ntoa(int(address).to_bytes(4, "big"))


def _workload(number: int) -> Workload:
    again, number = divmod(number, len(_NAMESPACES) * len(_ROLES))
    role, namespace = divmod(number, len(_NAMESPACES))
    name, port = _ROLES[role]
    kind: Literal["StatefulSet", "Deployment"] = "StatefulSet" if name in _STATEFUL else "Deployment"
    suffix = f"-{again + 1}" if again else ""
    return Workload(_NAMESPACES[namespace], kind, f"{_NAMESPACES[namespace]}-{name}{suffix}", (), (port,))
