# SPDX-License-Identifier: Apache-2.0
"""Sums flows up: bytes by scope, zones by zones, pairs of workloads across zones. Pure.

The outer packets of an overlay are left out: their inner packets are counted already.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import UNSET

from schemas.flow import Endpoint, FlowHead, Scope, decode_endpoint, decode_observer

# Distinct ends seen by their bytes; beyond this many the cache starts anew rather than grow without bound.
MAX_CACHED_ENDS = 200_000


class End(NamedTuple):
    """One side of a flow as a summary names it. `zone` and `reason` are "" where they do not apply."""

    label: str
    zone: str
    reason: str


class Pair(NamedTuple):
    """Who sends to whom, and between which zones."""

    source: str
    destination: str
    source_zone: str
    destination_zone: str


@dataclass
class Summary:
    """What a set of flows comes to, in IP-layer bytes."""

    scopes: dict[Scope, int] = field(default_factory=lambda: defaultdict(int))
    zones: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    cross_zone_pairs: dict[Pair, int] = field(default_factory=lambda: defaultdict(int))
    unknown: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    observers: set[str] = field(default_factory=set)
    flows: int = 0

    @property
    def bytes(self) -> int:
        """All bytes, whatever their scope."""
        return sum(self.scopes.values())


class Summariser:
    """Adds flows to a summary; knows each distinct end point by its bytes, so that it decodes it once."""

    def __init__(self) -> None:
        self._ends: dict[bytes, End] = {}
        self._observers: dict[bytes, str] = {}

    def add(self, summary: Summary, flow: FlowHead) -> None:
        """Add one flow; raise `DecodeError` for an end point that is none."""
        summary.observers.add(self._observer(bytes(flow.observer)))
        if flow.encapsulation is not UNSET:
            return
        source, destination = self._end(bytes(flow.source)), self._end(bytes(flow.destination))
        summary.flows += 1
        summary.scopes[flow.scope] += flow.bytes
        if flow.scope == "unknown":
            summary.unknown[source.reason or destination.reason or "unspecified"] += flow.bytes
        elif flow.scope == "external":
            summary.zones[source.zone or "external", destination.zone or "external"] += flow.bytes
        else:
            summary.zones[source.zone, destination.zone] += flow.bytes
        if flow.scope == "cross_zone":
            pair = Pair(source.label, destination.label, source.zone, destination.zone)
            summary.cross_zone_pairs[pair] += flow.bytes

    def _end(self, encoded: bytes) -> End:
        end = self._ends.get(encoded)
        if end is None:
            if len(self._ends) >= MAX_CACHED_ENDS:
                self._ends.clear()
            end = self._ends[encoded] = describe(decode_endpoint(encoded))
        return end

    def _observer(self, encoded: bytes) -> str:
        name = self._observers.get(encoded)
        if name is None:
            name = self._observers[encoded] = decode_observer(encoded).node
        return name


def describe(endpoint: Endpoint) -> End:
    """Return how a summary names an end point: its workload where it has one, else what it is."""
    zone = (
        "" if endpoint.cloud is UNSET or endpoint.cloud.availability_zone is UNSET else endpoint.cloud.availability_zone
    )
    reason = "" if endpoint.reason is UNSET else endpoint.reason
    return End(_label(endpoint), zone, reason)


def _label(endpoint: Endpoint) -> str:
    k8s = endpoint.k8s
    if endpoint.kind == "pod" and k8s is not UNSET and k8s.namespace is not UNSET:
        if k8s.workload is not UNSET:
            return f"{k8s.namespace.name}/{k8s.workload.kind}/{k8s.workload.name}"
        if k8s.pod is not UNSET:
            return f"{k8s.namespace.name}/Pod/{k8s.pod.name}"
    if endpoint.kind == "node" and k8s is not UNSET and k8s.node is not UNSET:
        return f"node/{k8s.node.name}"
    if endpoint.name is not UNSET:
        return f"{endpoint.kind}/{endpoint.name}"
    return endpoint.kind
