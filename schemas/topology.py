# SPDX-License-Identifier: Apache-2.0
"""Topic `topology.v1`: who owned which address, when. The history that restarts and replays need.

Key: `kind/uid/resourceVersion` of the object at which a state was first seen; a change closes one state
(`to_ms`) and opens another. A `--topology` file is a JSON array of the same records. Pods, nodes and services are
Kubernetes'; `addresses` are those by which a node is reached beside what Kubernetes knows, as its collector says. A
`namespace` has no address, but some of its labels; it is there if the enricher is told to keep those. So are an
`endpointslice`'s zones and hints; that of the API servers (`default/kubernetes`) is always there, with its addresses.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from schemas.codec import Milliseconds, Name, Port, reader, unsupported, versioned_reader
from schemas.errors import DecodeError
from schemas.flow import Workload

SCHEMA_VERSION = 1
MAX_READ_BYTES = 1024 * 1024
# Of a --topology file: more states than the enricher keeps.
MAX_TOPOLOGY_FILE_BYTES = 256 * 1024 * 1024
# Of one object: no node or pod has as many addresses, and of a pod's services no more are kept, the first by name.
MAX_LISTED = 256
# An IPv6 address in its longest form, with a prefix' length.
MAX_ADDRESS = 49
# Azure's name subscription, group, scale set and machine.
MAX_PROVIDER_ID = 1024
# Kubernetes documentation, Labels and Selectors: a prefix of 253 characters, a slash, a name of 63; a value of 63.
MAX_LABEL_NAME, MAX_LABEL_VALUE = 317, 63
MAX_LABELS = 16
# Of an EndpointSlice: Kubernetes takes 1,000 end points (discovery/v1), and no region has as many zones.
MAX_END_POINTS, MAX_ZONES = 1000, 64

Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS)]
Addresses = Annotated[list[Address], msgspec.Meta(max_length=MAX_LISTED)]
# Most states leave these out, and share one empty tuple then. A list or dict each would be 70 bytes for each of them.
Prefixes = Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_LISTED)]
LabelName = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_NAME)]
LabelValue = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_VALUE)]
Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=MAX_LABELS)]
KeptLabels = Annotated[dict[LabelName, LabelValue | None], msgspec.Meta(max_length=MAX_LABELS)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_LISTED)]


class Served(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A port of a pod that a Service in its namespace sends to. `headless`: the Service has no address of its own."""

    service: Name
    protocol: Literal["tcp", "udp", "sctp"]
    port: Port
    headless: bool = False


class Routing(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How a Service chooses end points, as its spec says; absent: the API server's default.

    Fields of core/v1 ServiceSpec, but for `headless` (it has no address of its own, clients choose) and `topology_mode`
    (the annotation service.kubernetes.io/topology-mode, or topology-aware-hints before Kubernetes 1.27, which wins over
    `traffic_distribution`).
    """

    type: Name = "ClusterIP"
    headless: bool = False
    traffic_distribution: Name | None = None
    internal_traffic_policy: Name = "Cluster"
    external_traffic_policy: Name | None = None
    session_affinity: Name = "None"
    topology_mode: Name | None = None


class ZoneEndPoints(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Of an EndpointSlice the end points in one zone: how many are ready, and how many of those hints give to a zone.

    `zone`: "" where the slice says none. `hinted`: their hints name a zone or a node (discovery/v1 EndpointHints).
    """

    zone: Name = ""
    ready: Annotated[int, msgspec.Meta(ge=0, le=MAX_END_POINTS)] = 0
    hinted: Annotated[int, msgspec.Meta(ge=0, le=MAX_END_POINTS)] = 0


class TopologyState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One state of one object: true from `from_ms` up to, not including, `to_ms` (absent: still true)."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["pod", "node", "service", "addresses", "namespace", "endpointslice"]
    uid: Name
    resource_version: Name
    name: Name
    namespace: Name | None = None
    addresses: Addresses = []
    from_ms: Milliseconds
    to_ms: Milliseconds | None = None
    # When its addresses changed hands is only known within bounds: acquired from .. by (absent: at `from_ms`), and
    # released from .. `to_ms` (absent: not known). A state carries on what the one before it said, if it kept them.
    acquired_from_ms: Milliseconds | None = None
    acquired_by_ms: Milliseconds | None = None
    released_from_ms: Milliseconds | None = None
    node: Name | None = None  # of a pod
    host_network: bool = False  # of a pod: its address is its node's
    workload: Workload | None = None  # of a pod
    ready: bool | None = None  # of a pod
    services: Names = ()  # of a pod: names, in its namespace, of the services that select it; of a slice its own
    served: Annotated[
        tuple[Served, ...], msgspec.Meta(max_length=MAX_LISTED)
    ] = ()  # of a pod: by which ports they reach it
    zone: Name | None = None  # of a node: topology.kubernetes.io/zone
    region: Name | None = None  # of a node: topology.kubernetes.io/region
    zone_id: Name | None = None  # of a node: topology.k8s.aws/zone-id
    pod_cidrs: Prefixes = ()  # of a node
    provider_id: Annotated[str, msgspec.Meta(max_length=MAX_PROVIDER_ID)] | None = None  # of a node: the cloud's name
    instance_type: Name | None = None  # of a node: node.kubernetes.io/instance-type
    routing: Routing | None = None  # of a service; absent before there was this field
    selector: Labels | None = None  # of a service: spec.selector, which its pods' labels hold; None: none, or not known
    # Of a namespace: each label that the enricher was told to keep; None: it did not have it. Others are not known.
    labels: KeptLabels | None = None
    # Of an endpointslice, by zone.
    end_points: Annotated[tuple[ZoneEndPoints, ...], msgspec.Meta(max_length=MAX_ZONES)] = ()

    @property
    def key(self) -> bytes:
        """The record's Kafka key."""
        return f"{self.kind}/{self.uid}/{self.resource_version}".encode()


encode_topology: Callable[[TopologyState], bytes] = msgspec.json.Encoder().encode
decode_topology = versioned_reader(TopologyState, MAX_READ_BYTES, SCHEMA_VERSION)
_decode_topology_file = reader(list[TopologyState], MAX_TOPOLOGY_FILE_BYTES)


def decode_topology_file(value: bytes | None) -> list[TopologyState]:
    """Decode a `--topology` file, a JSON array of states; raises `DecodeError`."""
    states = _decode_topology_file(value)
    for state in states:
        if state.schema_version != SCHEMA_VERSION:
            raise unsupported(state.schema_version, SCHEMA_VERSION)
    return states


def read_state(value: bytes | None, key: bytes | None) -> TopologyState:
    """Decode a state that stands under that key; raises `DecodeError`.

    A state under another key would outlive its own: the topic is compacted, and taken off by key.
    """
    state = decode_topology(value)
    if state.key != key:
        raise DecodeError("inconsistent", f"the key is {(key or b'')[:100]!r}, not {state.key[:100]!r}")
    return state


def encode_topology_file(states: list[TopologyState]) -> bytes:
    """Encode a `--topology` file, indented for people."""
    return msgspec.json.format(msgspec.json.encode(states), indent=1) + b"\n"
