# SPDX-License-Identifier: Apache-2.0
"""Topic `flows.enriched.v1`: one flow of one window with both its ends named. The public interface.

Unknown things are absent, never null or empty. Nested names are OpenTelemetry's where they exist
(`k8s.pod.name`, `cloud.availability_zone`, `network.transport`); `flow.v1.schema.json` marks which are ours.

A record is a tree and made by the million: `gc=False` spares the garbage collector a look at what has no cycles.
"""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from schemas.codec import Count, Milliseconds, Name, Partition, Port, reader
from schemas.errors import DecodeError

SCHEMA_HEADER = "zonemeter.flow.v1"
HEADERS = (("content-type", b"application/json"), ("schema", SCHEMA_HEADER.encode()))
MAX_READ_BYTES = 64 * 1024
# A column of 32 bits holds it.
MAX_ATTRIBUTION_VERSION = 2**31 - 1

Scope = Literal["same_node", "same_zone", "cross_zone", "cross_region", "external", "unknown"]
SCOPES: tuple[Scope, ...] = ("same_node", "same_zone", "cross_zone", "cross_region", "external", "unknown")
# In sums by scope: an overlay's outer packets, whose inner ones are counted too.
OUTER = "encapsulation"
Kind = Literal["pod", "node", "service", "cidr", "external", "unknown"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Direction = Literal["egress", "ingress", "relay"]
AttributionVersion = Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTRIBUTION_VERSION)]
Server = Literal["source", "destination"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
# Why an end point's kind or zone is not known. The set is closed: metrics label by it.
UNKNOWN_REASONS = (
    "vpc_unmapped",  # a private address that no pod, node, podCIDR or CIDR rule holds
    "link_local",  # exists on one link only, so it is nobody's: neighbour discovery, a cloud's metadata service
    "multicast",  # names a group, or everybody
    "late_index",  # sent by a node itself or inside its podCIDR, but whose address it is never became known
    "ambiguous_owner",  # several owners within the window
    "zone_missing",  # the owner is known, its node has no zone label
    "api_server",  # the API server of a managed cluster, whose zone Kubernetes does not tell
    "address_invalid",  # not an IP address
    "address_folded",  # stands for many, and not all of them are the same to us
)


def why_unknown(*sides: tuple[str | None, str | None]) -> str:
    """Return why a flow's scope is unknown, of the zone and the reason of each side: the reason of the one without.

    A side may have both: of a pod that is not known yet the node is.
    """
    return next((reason for zone, reason in sides if reason and not zone), "zone_missing")


class Named(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """An object with a name, as OpenTelemetry nests them: `k8s.pod.name`."""

    name: Name


class Workload(msgspec.Struct, gc=False, frozen=True):
    """The controller that owns the pod, at the top: Deployment rather than ReplicaSet."""

    kind: Name
    name: Name


class Kubernetes(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """Where an end point lives in the cluster. `cluster`: absent of one in the cluster that counted it."""

    namespace: Named | UnsetType = UNSET
    pod: Named | UnsetType = UNSET
    workload: Workload | UnsetType = UNSET
    service: Named | UnsetType = UNSET
    node: Named | UnsetType = UNSET
    cluster: Named | UnsetType = UNSET


class Cloud(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """Where an end point lives in the cloud. `zone_id` is the account-independent id (AWS), where known."""

    availability_zone: Name | UnsetType = UNSET
    region: Name | UnsetType = UNSET
    zone_id: Name | UnsetType = UNSET


class Endpoint(msgspec.Struct, gc=False, frozen=True, omit_defaults=True, kw_only=True):
    """One side of a flow as of its window. `name`: of `cidr` its rule's; `reason` only for what is not known.

    `address` is absent of a workload whose pods' flows were summed up, and where the node folded addresses of the
    internet: then `name` is the prefix that stands for them, such as 203.0.113.0/24, if no rule has named it.
    """

    kind: Kind
    address: str | UnsetType = UNSET
    port: Port | UnsetType = UNSET
    name: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    k8s: Kubernetes | UnsetType = UNSET
    cloud: Cloud | UnsetType = UNSET


def told_apart(end: Endpoint) -> Endpoint:
    """Return an end as tables name it: in another cluster CLUSTER/NAMESPACE and CLUSTER/NODE, which no other name is.

    What is summed up by names must not take a workload or a node for that of the same name elsewhere.
    """
    if end.k8s is UNSET or end.k8s.cluster is UNSET:
        return end
    cluster = end.k8s.cluster.name
    names = {"namespace": end.k8s.namespace, "node": end.k8s.node}
    full = {key: Named(f"{cluster}/{value.name}") for key, value in names.items() if value is not UNSET}
    return msgspec.structs.replace(end, k8s=msgspec.structs.replace(end.k8s, **full))


class Network(msgspec.Struct, gc=False, frozen=True):
    """`transport`: tcp, udp, sctp, icmp, or the IP protocol's number as text. `type`: ipv4 or ipv6."""

    transport: str
    type: Literal["ipv4", "ipv6"]


class Observer(msgspec.Struct, gc=False, frozen=True, omit_defaults=True):
    """The node that counted."""

    node: str
    cloud: Cloud | UnsetType = UNSET


class Cluster(msgspec.Struct, gc=False, frozen=True):
    """`k8s.cluster.name`."""

    cluster: Named


class RawPosition(msgspec.Struct, gc=False, frozen=True):
    """Where the raw chunk of this flow stands."""

    partition: Partition
    offset: Count


class _FlowFields(msgspec.Struct, gc=False, frozen=True, omit_defaults=True, kw_only=True):
    """What both ways of reading a flow share."""

    id: str
    start_ms: Milliseconds
    end_ms: Milliseconds
    scope: Scope
    bytes: Count
    packets: Count
    direction: Direction
    dnat: bool | UnsetType = UNSET
    encapsulation: str | UnsetType = UNSET
    server: Server | UnsetType = UNSET
    network: Network
    k8s: Cluster
    raw: RawPosition
    rows: list[Count] | UnsetType = UNSET  # of a flow that sums up rows of its chunk: their numbers
    attribution_version: AttributionVersion | UnsetType = UNSET  # absent: as recorded, which is 0


class FlowHead(_FlowFields, gc=False, frozen=True, omit_defaults=True, kw_only=True):
    """A flow whose two ends stay bytes: what repeats is known by its bytes, which is what makes reading cheap."""

    source: msgspec.Raw
    destination: msgspec.Raw
    observer: msgspec.Raw


class Flow(_FlowFields, gc=False, frozen=True, omit_defaults=True, kw_only=True):
    """A flow read whole."""

    source: Endpoint
    destination: Endpoint
    observer: Observer


decode_flow = reader(Flow, MAX_READ_BYTES)
# The same with both ends left as JSON bytes, and what decodes those.
decode_head = reader(FlowHead, MAX_READ_BYTES)
decode_endpoint = reader(Endpoint, MAX_READ_BYTES)
decode_observer = reader(Observer, MAX_READ_BYTES)


def other_attribution(found: int | UnsetType, taken: int | UnsetType = UNSET) -> DecodeError:
    """Return why a flow of that attribution version is refused by a reader of this one.

    A reader takes one only: both versions of a flow have its id, but where rows are summed up not the same rows.
    """
    return DecodeError("unsupported_version", f"attribution_version {found or 0}, this reader takes {taken or 0}")
