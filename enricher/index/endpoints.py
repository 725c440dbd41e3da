# SPDX-License-Identifier: Apache-2.0
"""An end point of a flow once resolved, its JSON, and the scope of the traffic between two of them. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from enricher.index.cidrs import Cidr
from schemas.flow import Cloud, Endpoint, Kind, Kubernetes, Named, Observer, Scope
from schemas.topology import TopologyState


class Place(NamedTuple):
    """Where an end point is in the cloud; None is not known."""

    zone: str | None = None
    region: str | None = None
    zone_id: str | None = None
    external: bool = False


NOWHERE = Place()
INTERNET = Place(external=True)


@dataclass(slots=True, eq=False, frozen=True)
class Resolved:
    """One end point. Its JSON is `head`, then `,"port":N` where there is one, then `tail`.

    `node`: the node it is on. `in_cluster`: it is a pod or a node of the cluster, so what it sends is metered at its
    own node. `made_of` keeps alive what this answer is cached by.
    """

    kind: Kind
    reason: str | None
    place: Place
    node: str | None
    in_cluster: bool
    head: str
    tail: str
    made_of: tuple[TopologyState | Cidr | None, tuple[TopologyState, ...]]

    def json(self, port: int) -> str:
        """Return the end point's JSON; port 0 is a folded one, and absent."""
        return f'{self.head},"port":{port}{self.tail}' if port else self.head + self.tail


@dataclass(slots=True, eq=False, frozen=True)
class Watcher:
    """The observing node: its JSON, and where it is."""

    json: str
    place: Place
    node: str


def scope_of(source: Place, destination: Place) -> Scope:
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


def workload_end(end: Resolved) -> Resolved | None:
    """Return what all pods of the end's workload have in common there; None if it is not a pod of a workload."""
    owner = end.made_of[0]
    if end.kind != "pod" or not isinstance(owner, TopologyState) or owner.workload is None:
        return None
    namespace = Named(owner.namespace) if owner.namespace else msgspec.UNSET
    whole = Endpoint(
        kind="pod",
        reason=end.reason or msgspec.UNSET,
        k8s=Kubernetes(namespace=namespace, workload=owner.workload),
        cloud=_cloud(end.place),
    )
    head = msgspec.json.encode(Endpoint(kind="pod")).decode()[:-1]
    tail = msgspec.json.encode(whole).decode()[len(head) :]
    return Resolved("pod", end.reason, end.place, None, end.in_cluster, head, tail, (owner, ()))


def endpoint_json(
    kind: Kind, address: str, reason: str | None, place: Place, owner: TopologyState | Cidr | None, node: str | None
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


def observer_json(name: str, place: Place) -> str:
    """Return the observing node's JSON."""
    return msgspec.json.encode(Observer(node=name, cloud=_cloud(place))).decode()


def _kubernetes(kind: Kind, owner: TopologyState | Cidr | None, node: str | None) -> Kubernetes | msgspec.UnsetType:
    on = Named(node) if node else msgspec.UNSET
    if not isinstance(owner, TopologyState):
        return Kubernetes(node=on) if node else msgspec.UNSET
    namespace = Named(owner.namespace) if owner.namespace else msgspec.UNSET
    if kind == "service":
        return Kubernetes(namespace=namespace, service=Named(owner.name), node=on)
    return Kubernetes(namespace=namespace, pod=Named(owner.name), workload=owner.workload or msgspec.UNSET, node=on)


def _cloud(place: Place) -> Cloud | msgspec.UnsetType:
    if not (place.zone or place.region or place.zone_id):
        return msgspec.UNSET
    return Cloud(
        availability_zone=place.zone or msgspec.UNSET,
        region=place.region or msgspec.UNSET,
        zone_id=place.zone_id or msgspec.UNSET,
    )
