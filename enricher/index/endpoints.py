# SPDX-License-Identifier: Apache-2.0
"""An end point of a flow once resolved, its JSON, and the scope of the traffic between two of them. Pure."""

import functools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from enricher.index.cidrs import Cidr
from schemas.flow import Cloud, Endpoint, Kind, Kubernetes, Named, Observer, Scope
from schemas.topology import Served, TopologyState


class Location(NamedTuple):
    """Where an end point is in the cloud; None is not known."""

    zone: str | None = None
    region: str | None = None
    zone_id: str | None = None
    external: bool = False


# IANA protocol numbers of what a Service can have ports of.
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
NOWHERE = Location()
INTERNET = Location(external=True)


@dataclass(slots=True, eq=False, frozen=True)
class Resolved:
    """One end point. Its JSON is `head`, then `,"port":N` where there is one, then `tail`.

    `node`: the node it is on, of another cluster CLUSTER/NODE (no Kubernetes name holds a slash). `in_cluster`: it is a
    pod or a node of a cluster, so what it sends is metered at its own node. `made_of` keeps alive what this answer is
    cached by. `served`: by which ports Services reach it. `service`: of a pod, that it is named as the server of;
    `as_server` remembers the pod as the server of each, by protocol and port.
    """

    kind: Kind
    reason: str | None
    place: Location
    node: str | None
    in_cluster: bool
    head: str
    tail: str
    made_of: tuple[TopologyState | Cidr | None, tuple[TopologyState, ...]]
    served: tuple[Served, ...] = ()
    service: str | None = None
    as_server: "dict[int, Resolved]" = field(default_factory=dict)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is in another cluster."""
        return "/" in (self.node or "")

    @property
    def is_of_two_nodes(self) -> bool:
        """Whether two nodes had the name of its node, one after the other: it may be on neither or either."""
        return len({state.uid for state in self.made_of[1]}) > 1

    def json(self, port: int) -> str:
        """Return the end point's JSON; port 0 is a folded one, and absent."""
        return f'{self.head},"port":{port}{self.tail}' if port else self.head + self.tail


@dataclass(slots=True, eq=False, frozen=True)
class Watcher:
    """The observing node: its JSON, and where it is."""

    json: str
    place: Location
    node: str


# There are few places, and each chunk has its pairs of them.
@functools.lru_cache(maxsize=4096)
def scope_of(source: Location, destination: Location) -> Scope:
    """Return the scope of traffic between two places that are not the same node.

    A zone missing on either side is unknown, a missing region alone is not. Zones compare by their ids where both
    are known: AWS assigns names per account, so that one account's eu-west-1a is another's eu-west-1b
    (https://docs.aws.amazon.com/ram/latest/userguide/working-with-az-ids.html). Else they compare by name.
    """
    if source.external or destination.external:
        return "external"
    if source.zone_id and destination.zone_id:
        same = source.zone_id == destination.zone_id
    elif source.zone and destination.zone:
        same = source.zone == destination.zone
    else:
        return "unknown"
    if source.region and destination.region and source.region != destination.region:
        return "cross_region"
    return "same_zone" if same else "cross_zone"


def served_end(end: Resolved, protocol: int, port: int) -> Resolved | None:
    """Return a pod as the server of the Service behind that port of it; None if no one Service is.

    Services with an address go before headless ones, which often stand beside one for the same pods. Where that leaves
    more than one, none is named: nothing in a packet behind the translation tells which was asked.
    """
    known = end.as_server.get(protocol << 16 | port)
    if known is not None:
        return known
    found = [each for each in end.served if each.port == port and each.protocol == _PROTOCOLS.get(protocol)]
    names = {each.service for each in found if not each.headless} or {each.service for each in found}
    if len(names) != 1:
        return None
    (service,) = names
    whole = Endpoint(
        kind=end.kind,
        reason=end.reason or msgspec.UNSET,
        k8s=_kubernetes(end.kind, end.made_of[0], end.node, service),
        cloud=_cloud(end.place),
    )
    tail = msgspec.json.encode(whole).decode()[len(msgspec.json.encode(Endpoint(kind=end.kind))) - 1 :]
    made = end.as_server[protocol << 16 | port] = replace(end, tail=tail, service=service, as_server={})
    return made


def workload_end(end: Resolved) -> Resolved | None:
    """Return what all pods of the end's workload have in common there; None if it is not a pod of a workload."""
    owner = end.made_of[0]
    if end.kind != "pod" or not isinstance(owner, TopologyState) or owner.workload is None:
        return None
    k8s = _kubernetes("pod", owner, end.node, end.service)
    if isinstance(k8s, Kubernetes):
        k8s = msgspec.structs.replace(k8s, pod=msgspec.UNSET, node=msgspec.UNSET)
    whole = Endpoint(kind="pod", reason=end.reason or msgspec.UNSET, k8s=k8s, cloud=_cloud(end.place))
    head = msgspec.json.encode(Endpoint(kind="pod")).decode()[:-1]
    tail = msgspec.json.encode(whole).decode()[len(head) :]
    return Resolved("pod", end.reason, end.place, None, end.in_cluster, head, tail, (owner, ()))


def endpoint_json(
    kind: Kind, address: str, reason: str | None, place: Location, owner: TopologyState | Cidr | None, node: str | None
) -> tuple[str, str]:
    """Return the end point's JSON in two parts, between which its port goes.

    A prefix in place of an address is nobody's address: it becomes the name, unless a rule gives one.
    """
    folded = "/" in address
    shown = msgspec.UNSET if folded else address
    named = owner.name if isinstance(owner, Cidr) else address if folded else msgspec.UNSET
    head = msgspec.json.encode(Endpoint(kind=kind, address=shown)).decode()[:-1]
    whole = Endpoint(
        kind=kind,
        address=shown,
        name=named,
        reason=reason or msgspec.UNSET,
        k8s=_kubernetes(kind, owner, node),
        cloud=_cloud(place),
    )
    return head, msgspec.json.encode(whole).decode()[len(head) :]


@functools.lru_cache(maxsize=10_000)
def observer_json(name: str, place: Location) -> str:
    """Return the observing node's JSON."""
    return msgspec.json.encode(Observer(node=name, cloud=_cloud(place))).decode()


def _kubernetes(
    kind: Kind, owner: TopologyState | Cidr | None, node: str | None, service: str | None = None
) -> Kubernetes | msgspec.UnsetType:
    cluster, _, name = (node or "").rpartition("/")
    on, of = _named(name), _named(cluster)
    if not isinstance(owner, TopologyState):
        return Kubernetes(node=on, cluster=of) if node else msgspec.UNSET
    namespace = _named(owner.namespace)
    if kind == "service":
        return Kubernetes(namespace=namespace, service=Named(owner.name), node=on)
    return Kubernetes(
        namespace=namespace,
        pod=Named(owner.name),
        workload=owner.workload or msgspec.UNSET,
        service=_named(service),
        node=on,
        cluster=of,
    )


def _named(name: str | None) -> Named | msgspec.UnsetType:
    return Named(name) if name else msgspec.UNSET


def _cloud(place: Location) -> Cloud | msgspec.UnsetType:
    if not (place.zone or place.region or place.zone_id):
        return msgspec.UNSET
    return Cloud(
        availability_zone=place.zone or msgspec.UNSET,
        region=place.region or msgspec.UNSET,
        zone_id=place.zone_id or msgspec.UNSET,
    )
