# SPDX-License-Identifier: Apache-2.0
"""Pods, nodes, services, namespaces and EndpointSlices as the Kubernetes API gives them.

Only the fields named here are decoded; the rest of an object, nine tenths of it, is skipped. Field names and
meanings: Kubernetes API reference v1.34, core/v1 and discovery/v1.
"""

import msgspec


class _Part(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """The base of the parts of an object: camel case on the wire, and null as good as absent."""


class Owner(_Part, frozen=True):
    """metadata.ownerReferences[]."""

    kind: str
    name: str
    controller: bool | None = None


class ManagedFields(_Part, frozen=True):
    """metadata.managedFields[]: when some manager last changed the object."""

    time: str | None = None


class Metadata(_Part, frozen=True):
    """metadata."""

    name: str
    uid: str
    resource_version: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[Owner] | None = None
    managed_fields: list[ManagedFields] | None = None


class Ip(_Part, frozen=True):
    """status.podIPs[]."""

    ip: str | None = None


class Running(_Part, frozen=True):
    """status.containerStatuses[].state.running."""

    started_at: str | None = None


class Terminated(_Part, frozen=True):
    """status.containerStatuses[].state.terminated."""

    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(_Part, frozen=True):
    """status.containerStatuses[].state."""

    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part, frozen=True):
    """status.containerStatuses[]."""

    state: ContainerState | None = None
    last_state: ContainerState | None = None


class Condition(_Part, frozen=True):
    """status.conditions[]."""

    type: str
    status: str | None = None
    last_transition_time: str | None = None


class ContainerPort(_Part, frozen=True):
    """spec.containers[].ports[]."""

    container_port: int | None = None
    name: str | None = None
    protocol: str | None = None


class Container(_Part, frozen=True):
    """spec.containers[], spec.initContainers[]."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(_Part, frozen=True):
    """A pod's spec."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodStatus(_Part, frozen=True):
    """A pod's status."""

    phase: str | None = None
    start_time: str | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: list[Ip] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(_Part, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeSpec(_Part, frozen=True):
    """A node's spec."""

    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    provider_id: str | None = msgspec.field(name="providerID", default=None)


class NodeAddress(_Part, frozen=True):
    """status.addresses[]."""

    type: str
    address: str


class NodeStatus(_Part, frozen=True):
    """A node's status."""

    addresses: list[NodeAddress] | None = None


class Node(_Part, frozen=True):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ServicePort(_Part, frozen=True):
    """A service's spec.ports[]."""

    port: int | None = None
    protocol: str | None = None
    target_port: int | str | None = None


class ServiceSpec(_Part, frozen=True):
    """A service's spec."""

    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None
    type: str | None = None
    traffic_distribution: str | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None


class Service(_Part, frozen=True):
    """A service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class Namespace(_Part, frozen=True):
    """A namespace."""

    metadata: Metadata


class Conditions(_Part, frozen=True):
    """endpoints[].conditions; an absent `ready` is to be taken for true."""

    ready: bool | None = None


class Hint(_Part, frozen=True):
    """endpoints[].hints.forZones[] and forNodes[]."""

    name: str


class Hints(_Part, frozen=True):
    """endpoints[].hints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class EndPoint(_Part, frozen=True):
    """endpoints[]."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    zone: str | None = None
    hints: Hints | None = None


class EndpointSlice(_Part, frozen=True):
    """An EndpointSlice."""

    metadata: Metadata
    endpoints: list[EndPoint] | None = None


Object = Pod | Node | Service | Namespace | EndpointSlice
