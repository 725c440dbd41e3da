# SPDX-License-Identifier: Apache-2.0
"""Reads pods, nodes and services as the Kubernetes API gives them into states of the topology. Pure.

Only the fields named here are decoded; the rest of an object, nine tenths of it, is skipped. Field names and
meanings: Kubernetes API reference v1.34, core/v1. Times come out as Unix milliseconds.
"""

import itertools
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from schemas.flow import Workload
from schemas.topology import MAX_ADDRESS, MAX_LISTED, MAX_PROVIDER_ID, Routing, TopologyState

ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"
ZONE_ID_LABEL = "topology.k8s.aws/zone-id"
INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
# The second is the name before Kubernetes 1.27.
TOPOLOGY_MODE_ANNOTATIONS = ("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints")
# The label that carries a ReplicaSet's template hash, by whose it is. Argo Rollouts has ReplicaSets too, and a label
# of its own (https://argo-rollouts.readthedocs.io/en/stable/features/specification/).
TEMPLATE_HASH_LABELS = {"Deployment": "pod-template-hash", "Rollout": "rollouts-pod-template-hash"}
# OpenShift writes the DeploymentConfig into the pods of its ReplicationController, named config-version, and into the
# pods that roll it out, which carry the label (github.com/openshift/api, apps/v1/consts.go).
DEPLOYMENT_CONFIG_ANNOTATION = "openshift.io/deployment-config.name"
DEPLOYER_LABEL = "openshift.io/deployer-pod-for.name"
# A CronJob's Job is named after its scheduled minute. A pod of it comes no sooner (but for whole seconds), and may come
# this much later: Jobs wait for a quota or a start deadline, run on for days, and try again.
CRON_JOB_DAYS = 31
# The kubelet puts it on the API's copy of a static pod, which it runs from a file.
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
# Addresses that a CNI says are the node's own, inside the range it gives to pods: what the host sends to pods comes
# from them (Calico: libcalico-go backend/k8s/conversion/constants.go; Cilium: pkg/annotation/k8s.go).
OWN_ADDRESS_ANNOTATIONS = (
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
)
FINISHED = ("Succeeded", "Failed")
# Conditions that hold only once the pod's sandbox, and with it its address, is there (core/v1, PodConditionType).
ADDRESSED = ("PodReadyToStartContainers", "ContainersReady", "Ready")


# What names (RFC 1123 subdomains) and kinds can be: at most 253 characters, none that JSON would have to escape.
_NAME = re.compile(r"[!#-\[\]-~]{1,253}")


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


def pod_state(pod: Pod, seen_ms: int, *, deleted: bool = False) -> TopologyState | None:
    """Return a pod's state, `from_ms` as of its start; None while it has no address.

    It got its address after its start and before anything ran in its sandbox, or we saw it. In a finished phase it
    gave the address back when its last container ended, or when we saw it so; `deleted`: also in any other phase,
    if all its containers have ended. The kubelet's times are whole seconds, cut off: what one tells may have
    happened up to a second later. They are by the clock of the node, which measures the flows, and so stand as they
    are, whatever ours says.
    """
    status, meta = pod.status, pod.metadata
    addresses = [ip.ip for ip in status.pod_ips or () if ip.ip] or ([status.pod_ip] if status.pod_ip else [])
    if not addresses:
        return None
    from_ms = milliseconds(status.start_time) or milliseconds(meta.creation_timestamp) or seen_ms
    by_ms = max(_addressed_by(status, seen_ms), from_ms)
    ended = _ended(status) if status.phase in FINISHED or deleted else None
    to_ms = None if ended is None else _latest(ended)
    if to_ms is None and status.phase in FINISHED:
        to_ms = seen_ms
    return TopologyState(
        kind="pod",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=meta.name,
        namespace=_intern(meta.namespace),
        addresses=addresses,
        from_ms=from_ms,
        to_ms=None if to_ms is None else max(to_ms, from_ms),
        acquired_by_ms=None if by_ms == from_ms else by_ms,
        released_from_ms=milliseconds(ended),
        node=_intern(pod.spec.node_name),
        host_network=bool(pod.spec.host_network),
        workload=workload_of(pod),
        ready=any(c.type == "Ready" and c.status == "True" for c in status.conditions or ()),
    )


def node_state(node: Node, seen_ms: int) -> TopologyState:
    """Return a node's state, `from_ms` as of its creation. Its addresses are the numeric ones, and its CNI's."""
    meta, labels = node.metadata, node.metadata.labels or {}
    return TopologyState(
        kind="node",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=sys.intern(meta.name),
        addresses=_bounded(_node_addresses(node)),
        from_ms=milliseconds(meta.creation_timestamp) or seen_ms,
        zone=_intern(_zone(node)),
        region=_intern(labels.get(REGION_LABEL)),
        zone_id=_intern(labels.get(ZONE_ID_LABEL)),
        pod_cidrs=_bounded(_pod_cidrs(node)),
        provider_id=_at_most(node.spec.provider_id, MAX_PROVIDER_ID),
        instance_type=_intern(labels.get(INSTANCE_TYPE_LABEL)),
    )


def service_state(service: Service, seen_ms: int) -> TopologyState:
    """Return a service's state; a headless one has no address."""
    meta, spec = service.metadata, service.spec
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    return TopologyState(
        kind="service",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=meta.name,
        namespace=_intern(meta.namespace),
        addresses=[address for address in addresses if address and address != "None"],
        from_ms=milliseconds(meta.creation_timestamp) or seen_ms,
        routing=_routing(service, headless="None" in addresses),
    )


def workload_of(pod: Pod) -> Workload:
    """Return the controller at the top, as far as the pod itself tells: no further objects are read.

    A ReplicaSet whose name ends in the pod's template hash belongs to the Deployment or Rollout named before it
    (controller `deployment`: name-hash). A Job of a CronJob ends in its scheduled minute (controller `cronjob`,
    `getTimeHashInMinutes`: name-minutes since the epoch); one that ends in another number, a date for instance, does
    not, and is its own. A pod without a controller is its own; so is a static pod, named as in its file: the kubelet
    appends the node's name. Of an owner the API server asks only that its name is not empty: one that no object could
    have (a name stands in every flow, and may be 200 kB) is none.
    """
    meta = pod.metadata
    if MIRROR_ANNOTATION in (meta.annotations or {}):
        return _workload("Pod", meta.name.removesuffix(f"-{pod.spec.node_name}"))
    owner = _controller(meta)
    if owner is not None and not _can_be(owner):
        return _workload("Pod", meta.name)
    if (config := _deployment_config(meta, owner)) is not None:
        return _workload("DeploymentConfig", config)
    if owner is None:
        return _workload("Pod", meta.name)
    if owner.kind == "ReplicaSet":
        for kind, label in TEMPLATE_HASH_LABELS.items():
            hash_ = (meta.labels or {}).get(label)
            if hash_ and owner.name.endswith(f"-{hash_}"):
                return _workload(kind, owner.name.removesuffix(f"-{hash_}"))
    if owner.kind == "Job" and (cron_job := _cron_job(pod, owner.name)) is not None:
        return _workload("CronJob", cron_job)
    return _workload(owner.kind, owner.name)


Object = Pod | Node | Service


def list_version(version: str) -> str:
    """Return the name of what only a list showed; no object's own resourceVersion is like it."""
    return f"list-{version}"


def versions_like(version: str) -> Iterator[str]:
    """Yield a version and names that are like it, for states that it would not tell apart."""
    yield version
    yield from (f"{version}+{number}" for number in itertools.count(1))


def is_older(version: str, other: str) -> bool:
    """Return whether a version is before another; versions that are not numbers have no known order.

    They grow: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.
    """
    one, two = (each.removeprefix("list-").partition("+")[0] for each in (version, other))
    return one.isdecimal() and two.isdecimal() and int(one) < int(two)


def changed_ms(found: Object, seen_ms: int) -> int:
    """Return when an object last changed, as its newest condition or managed field tells, else when we saw it.

    Never later than we saw it: clocks differ.
    """
    stamps = [managed.time for managed in found.metadata.managed_fields or ()]
    if isinstance(found, Pod):
        stamps += [condition.last_transition_time for condition in found.status.conditions or ()]
    times = [time for stamp in stamps if (time := milliseconds(stamp)) is not None]
    return min(max(times, default=seen_ms), seen_ms)


def milliseconds(stamp: str | None) -> int | None:
    """Parse an RFC 3339 time, with whole seconds or a fraction; None if it is none."""
    if not stamp:
        return None
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _addressed_by(status: PodStatus, seen_ms: int) -> int:
    """Return when a pod surely had its address: the first sign of life within its sandbox, else when we saw it.

    Earlier lives of a container do not count: they may have been in an earlier sandbox, which had another address.
    """
    signs = [c.last_transition_time for c in status.conditions or () if c.type in ADDRESSED and c.status == "True"]
    for container in _containers(status):
        if container.state and container.state.running:
            signs.append(container.state.running.started_at)
        elif container.state and container.state.terminated:
            signs.append(container.state.terminated.started_at)
    return min((time for sign in signs if (time := _latest(sign)) is not None), default=seen_ms)


def _ended(status: PodStatus) -> str | None:
    """Return the end of the last container; None if one still runs, or none says when it ended."""
    stamps: list[str | None] = []
    for container in _containers(status):
        now, before = container.state or ContainerState(), container.last_state or ContainerState()
        if now.running:
            return None
        if now.terminated or before.terminated:
            stamps.append((now.terminated or before.terminated).finished_at)  # type: ignore[union-attr]
    times = [(time, stamp) for stamp in stamps if (time := milliseconds(stamp)) is not None]
    return max(times)[1] if times else None


def _containers(status: PodStatus) -> list[ContainerStatus]:
    return [*(status.container_statuses or ()), *(status.init_container_statuses or ())]


def _latest(stamp: str | None) -> int | None:
    """Return the latest time that a stamp may mean, in ms: metav1.Time cuts off what is less than a second."""
    time = milliseconds(stamp)
    return None if time is None else time if time % 1000 else time + 1000


def left_out(found: Object) -> list[str]:
    """Return what is left out of an object's state because no object can have it: `owner`, `address`."""
    if isinstance(found, Pod):
        owner = _controller(found.metadata)
        return ["owner"] if owner is not None and not _can_be(owner) else []
    if isinstance(found, Node):
        addresses, cidrs = _node_addresses(found), _pod_cidrs(found)
        return ["address"] if [addresses, cidrs] != [_bounded(addresses), _bounded(cidrs)] else []
    return []


def _controller(meta: Metadata) -> Owner | None:
    return next((owner for owner in meta.owner_references or () if owner.controller), None)


def _can_be(owner: Owner) -> bool:
    return bool(_NAME.fullmatch(owner.name) and _NAME.fullmatch(owner.kind))


def _node_addresses(node: Node) -> list[str]:
    notes = node.metadata.annotations or {}
    addresses = [each.address for each in node.status.addresses or () if each.type in ("InternalIP", "ExternalIP")]
    addresses += [notes[name] for name in OWN_ADDRESS_ANNOTATIONS if notes.get(name)]
    return list(dict.fromkeys(addresses))


def _pod_cidrs(node: Node) -> list[str]:
    return node.spec.pod_cidrs or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])


def _bounded(addresses: list[str]) -> list[str]:
    return [each for each in addresses if len(each) <= MAX_ADDRESS][:MAX_LISTED]


def _deployment_config(meta: Metadata, owner: Owner | None) -> str | None:
    config = (meta.annotations or {}).get(DEPLOYMENT_CONFIG_ANNOTATION)
    if not config:
        return None
    if owner is None:
        deployment = (meta.labels or {}).get(DEPLOYER_LABEL, "")
    else:
        deployment = owner.name if owner.kind == "ReplicationController" else ""
    name, _, version = deployment.rpartition("-")
    return config if name == config and version.isdecimal() else None


def _cron_job(pod: Pod, job: str) -> str | None:
    named = re.fullmatch(r"(.+)-([0-9]{8})", job)
    created_ms = milliseconds(pod.metadata.creation_timestamp) or milliseconds(pod.status.start_time)
    if named is None or created_ms is None:
        return None
    late = created_ms // 60_000 - int(named[2])
    return named[1] if -1 <= late <= CRON_JOB_DAYS * 24 * 60 else None


def _zone(node: Node) -> str | None:
    """Return a node's zone; None for what Azure writes there of a machine outside all zones: its fault domain.

    Zones are region-number, fault domains 0, 1, 2 (https://kubernetes-sigs.github.io/cloud-provider-azure/topics/
    availability-zones/). Such a machine may be in any zone of its region. Others call their zones 1 and 2 in earnest.
    """
    zone = (node.metadata.labels or {}).get(ZONE_LABEL)
    fault_domain = zone is not None and zone.isdecimal() and (node.spec.provider_id or "").startswith("azure:")
    return None if fault_domain else zone


def _routing(service: Service, *, headless: bool) -> Routing:
    """Return what a Service says of how it chooses end points; what the API server would refuse is left out."""
    spec, notes = service.spec, service.metadata.annotations or {}
    said = {
        "type": spec.type,
        "traffic_distribution": spec.traffic_distribution,
        "internal_traffic_policy": spec.internal_traffic_policy,
        "external_traffic_policy": spec.external_traffic_policy,
        "session_affinity": spec.session_affinity,
        "topology_mode": next((notes[name] for name in TOPOLOGY_MODE_ANNOTATIONS if notes.get(name)), None),
    }
    known = {name: sys.intern(value) for name, value in said.items() if value and _NAME.fullmatch(value)}
    return Routing(headless=headless, **known)


def _at_most(text: str | None, length: int) -> str | None:
    return text if text and len(text) <= length else None


def _workload(kind: str, name: str) -> Workload:
    return Workload(sys.intern(kind), sys.intern(name))


def _intern(text: str | None) -> str | None:
    # The same few names stand in many thousands of states.
    return sys.intern(text) if text else None
