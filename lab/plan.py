# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of: a frozen description of zones, nodes, pods, services, what lies outside, and traffic.

Pure: nothing is made here. `network` turns it into namespaces, `kube_objects` into Kubernetes objects,
`traffic` into connections. Another story is another plan, never another lab.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

POD_CIDR_V4 = "10.42.0.0/16"
POD_CIDR_V6 = "fd42::/16"

_FIRST_POD = 10
_HASH_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes: apimachinery/pkg/util/rand

Protocol = Literal["tcp", "udp"]
Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Node:
    """A worker node. `number` is 1-9, so that it reads the same in decimal and in an IPv6 address.

    `metered`: it has a collector.
    """

    name: str
    number: int
    zone: str
    region: str
    address_v4: str
    address_v6: str
    metered: bool = True

    @property
    def pod_cidr_v4(self) -> str:
        """The /24 its pods live in."""
        return f"10.42.{self.number}.0/24"

    @property
    def pod_cidr_v6(self) -> str:
        """The /64 its pods live in."""
        return f"fd42:{self.number}::/64"


@dataclass(frozen=True, slots=True)
class Workload:
    """A controller and where its replicas run, in order; `ports` are what every replica serves."""

    namespace: str
    kind: Literal["Deployment", "StatefulSet", "DaemonSet"]
    name: str
    nodes: tuple[str, ...]
    ports: tuple[int, ...]
    host_network: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`, how streams name it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica. A pod of the host network has its node's addresses and no namespace of its own."""

    namespace: str
    name: str
    workload: Workload
    node: str
    address_v4: str
    address_v6: str

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """A ClusterIP service of both families in front of a workload."""

    namespace: str
    name: str
    workload: str
    cluster_ip_v4: str
    cluster_ip_v6: str
    port: int
    target_port: int
    protocol: Protocol = "tcp"
    prefer_close: bool = False  # trafficDistribution: PreferClose


@dataclass(frozen=True, slots=True)
class Outside:
    """A host on the fabric with no collector: in the VPC (its `zone` is known to the cloud only) or beyond it."""

    name: str
    address_v4: str
    address_v6: str
    cidr_v4: str
    cidr_v6: str
    ports: tuple[int, ...]
    zone: str | None  # None: the internet, reached through the router and with masquerade only


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests that each replica of `source` sends at a fixed rate.

    `source` and `target` are `namespace/workload`; a target may also be `service:namespace/name`,
    `outside:name` or `node:name` (each replica serves in turn). Bytes are payload.
    """

    source: str
    target: str
    port: int
    request_bytes: int
    response_bytes: int
    per_second: float
    protocol: Protocol = "tcp"
    family: Family = 4


@dataclass(frozen=True)
class Plan:
    """A whole lab. `prefix` names every kernel object of it; `fabric` is the third octet of 192.168.N.0/24."""

    story: str
    prefix: str
    fabric: int
    cluster: str
    nodes: tuple[Node, ...]
    workloads: tuple[Workload, ...]
    services: tuple[Service, ...]
    outsides: tuple[Outside, ...]
    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        if not 0 <= self.fabric <= 255 or any(o.cidr_v4 == self.fabric_v4 for o in self.outsides):
            raise ValueError(f"fabric: {self.fabric} must be 0-255 and not the subnet of an outside host")
        if any(not 1 <= node.number <= 9 for node in self.nodes):
            raise ValueError("nodes: at most nine, numbered 1-9")

    @property
    def fabric_v4(self) -> str:
        """The subnet of the nodes."""
        return f"192.168.{self.fabric}.0/24"

    @property
    def control_v4(self) -> str:
        """The root namespace's address on the fabric: there nodes reach Kafka."""
        return f"192.168.{self.fabric}.250"

    @property
    def router_v4(self) -> str:
        """The next hop of every node's default route; it leads to the internet namespace, no further."""
        return f"192.168.{self.fabric}.254"

    @property
    def router_v6(self) -> str:
        """The same for IPv6."""
        return "fd50::254"

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """Every replica of every workload; names and addresses depend on the plan alone."""
        free = {node.name: _FIRST_POD for node in self.nodes}
        pods: list[Pod] = []
        for workload in self.workloads:
            for replica, node_name in enumerate(workload.nodes):
                node = self.node(node_name)
                if workload.host_network:
                    addresses = (node.address_v4, node.address_v6)
                else:
                    host = free[node_name]
                    free[node_name] += 1
                    addresses = (f"10.42.{node.number}.{host}", f"fd42:{node.number}::{host}")
                pods.append(Pod(workload.namespace, pod_name(workload, replica), workload, node_name, *addresses))
        return tuple(pods)

    @cached_property
    def _nodes_by_name(self) -> Mapping[str, Node]:
        return MappingProxyType({node.name: node for node in self.nodes})

    def node(self, name: str) -> Node:
        """Return the node of that name; raises `KeyError`."""
        return self._nodes_by_name[name]

    def pods_of(self, workload_key: str) -> tuple[Pod, ...]:
        """Return the replicas of `namespace/name`, in order; raises `KeyError` if there are none."""
        pods = tuple(pod for pod in self.pods if pod.workload.key == workload_key)
        if not pods:
            raise KeyError(workload_key)
        return pods

    def pods_on(self, node: str) -> tuple[Pod, ...]:
        """Return the pods with a namespace of their own on a node."""
        return tuple(pod for pod in self.pods if pod.node == node and not pod.workload.host_network)

    def without(self, workloads: Collection[str]) -> "Plan":
        """Return the plan as it is once these workloads are stopped: their pods go, and what they send."""
        return replace(
            self,
            workloads=tuple(workload for workload in self.workloads if workload.key not in workloads),
            streams=tuple(stream for stream in self.streams if stream.source not in workloads),
        )

    def outside(self, name: str) -> Outside:
        """Return the outside host of that name; raises `KeyError`."""
        return {outside.name: outside for outside in self.outsides}[name]

    def service(self, key: str) -> Service:
        """Return the service `namespace/name`; raises `KeyError`."""
        return {f"{service.namespace}/{service.name}": service for service in self.services}[key]


def check_prefix(prefix: str) -> None:
    """Raise `ValueError` unless the prefix is safe: no dash, so that none is the beginning of another's names."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", prefix):
        raise ValueError(f"prefix: {prefix!r} must be 1-8 of a-z and 0-9, beginning with a letter")


def pod_name(workload: Workload, replica: int) -> str:
    """Name a replica the way its controller would."""
    if workload.kind == "StatefulSet":
        return f"{workload.name}-{replica}"
    suffix = _letters(f"{workload.key}/{replica}", 5)
    if workload.kind == "DaemonSet":
        return f"{workload.name}-{suffix}"
    return f"{workload.name}-{template_hash(workload)}-{suffix}"


def template_hash(workload: Workload) -> str:
    """Return the `pod-template-hash` label: what a Deployment adds to its name to name its ReplicaSet."""
    return _letters(workload.key, 10)


def _letters(seed: str, count: int) -> str:
    digest = hashlib.sha256(seed.encode()).digest()
    return "".join(_HASH_ALPHABET[byte % len(_HASH_ALPHABET)] for byte in digest[:count])
