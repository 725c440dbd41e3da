# SPDX-License-Identifier: Apache-2.0
"""An end point as the metrics name it: zone, node, workload, pod; no address and no port. Pure."""

import ipaddress
import sys
from dataclasses import dataclass
from weakref import WeakValueDictionary

from msgspec import UNSET, UnsetType

from prices.book import Side
from schemas.flow import UNKNOWN_REASONS, Cloud, Endpoint, Named, told_apart

# kubezonnet's namespace for traffic of the host itself; the pod is then the node's name.
HOST_NAMESPACE = "_node_"
# What keeping one takes beside its labels: the weak reference and its place in a dictionary.
DISTINCT_BYTES = 250


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class End:
    """One side of a flow as labels. Unknown is "", which Prometheus treats as absent. Equal means the same object.

    `namespace`, `kind`, `workload`: of a pod its controller's (`Pod` and its own name where it has none); of
    others "" and `Node`, `Service`, `cidr`, `external` or `unknown`, with a name where there is one.
    `internet_name`: what the CIDR map calls an end on the internet, such as a cloud's object store.
    """

    zone: str
    region: str
    node: str
    namespace: str
    kind: str
    workload: str
    pod_namespace: str
    pod: str
    reason: str
    internet_name: str

    def __sizeof__(self) -> int:
        """Return what it takes in memory, with all that it refers to and what `Ends` has of it."""
        labels = self.labels
        held = sys.getsizeof(labels) + sum(map(sys.getsizeof, filter(None, labels)))
        return object.__sizeof__(self) + DISTINCT_BYTES + held

    @property
    def labels(self) -> tuple[str, ...]:
        """All of it, in order."""
        place = self.zone, self.region, self.node, self.namespace, self.kind, self.workload
        return *place, self.pod_namespace, self.pod, self.reason, self.internet_name

    @property
    def side(self) -> Side:
        """What the price of its traffic may depend on."""
        name = self.workload if self.kind == "cidr" else self.internet_name
        return Side(self.region, name, self.kind == "external", self.zone)


class Ends:
    """Makes end points, one object for each distinct one."""

    def __init__(self) -> None:
        # As long as somebody else has them: the intake, whose bound is theirs, or a counter.
        self._known: WeakValueDictionary[tuple[str, ...], End] = WeakValueDictionary()

    def make(self, endpoint: Endpoint) -> End:
        """Return the end point that `endpoint` is as labels."""
        endpoint = told_apart(endpoint)
        place = (_zone(endpoint), region_of(endpoint.cloud), _node(endpoint))
        labels = (*place, *_workload(endpoint), *_pod(endpoint), _reason(endpoint), _internet_name(endpoint))
        end = self._known.get(labels)
        if end is None:
            end = self._known[labels] = End(*labels)
        return end


def region_of(cloud: Cloud | UnsetType) -> str:
    """Return a cloud's region, "" if it is not known."""
    return "" if cloud is UNSET else _text(cloud.region)


def _text(value: str | UnsetType) -> str:
    return "" if value is UNSET else value


def _name(value: Named | UnsetType) -> str:
    return "" if value is UNSET else value.name


def _zone(endpoint: Endpoint) -> str:
    return "" if endpoint.cloud is UNSET else _text(endpoint.cloud.availability_zone)


def _node(endpoint: Endpoint) -> str:
    return "" if endpoint.k8s is UNSET else _name(endpoint.k8s.node)


def _reason(endpoint: Endpoint) -> str:
    reason = _text(endpoint.reason)
    # The set is closed, a label is not: whatever else a record says must not make series without end.
    return reason if not reason or reason in UNKNOWN_REASONS else "other"


def _internet_name(endpoint: Endpoint) -> str:
    name = _text(endpoint.name)
    if endpoint.kind != "external" or not name:
        return ""
    try:
        ipaddress.ip_network(name)
    except ValueError:
        return name
    return ""  # the prefix that stands for folded addresses: there are as many as there are networks


def _workload(endpoint: Endpoint) -> tuple[str, str, str]:
    k8s = endpoint.k8s
    if endpoint.kind == "pod" and k8s is not UNSET:
        namespace = _name(k8s.namespace)
        if k8s.workload is UNSET:
            return namespace, "Pod", _name(k8s.pod)
        return namespace, k8s.workload.kind, k8s.workload.name
    if endpoint.kind == "node":
        return "", "Node", _node(endpoint)
    if endpoint.kind == "service" and k8s is not UNSET:
        return _name(k8s.namespace), "Service", _name(k8s.service)
    # Of the others only a CIDR rule's name is a label: the prefixes that stand for folded addresses are without end.
    return "", endpoint.kind, _text(endpoint.name) if endpoint.kind == "cidr" else ""


def _pod(endpoint: Endpoint) -> tuple[str, str]:
    if endpoint.kind == "pod" and endpoint.k8s is not UNSET:
        return _name(endpoint.k8s.namespace), _name(endpoint.k8s.pod)
    if endpoint.kind == "node":
        return HOST_NAMESPACE, _node(endpoint)
    return "", ""
