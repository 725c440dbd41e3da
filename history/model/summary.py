# SPDX-License-Identifier: Apache-2.0
"""Flows summed up by what they are: scope, both ends, and whether they were counted on receipt. Pure.

Everything that a report shows is derived from those sums, so all of it adds up to the same bytes. The outer packets
of an overlay are left out: their inner packets are counted already.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from history.model.intervals import length_of
from history.model.party import Party
from schemas.flow import Scope, why_unknown

EXTERNAL = "external"
# What did not leave its region, whether or not it crossed zones.
IN_REGION: tuple[Scope, ...] = ("same_node", "same_zone", "cross_zone")


class Traffic(NamedTuple):
    """One kind of traffic. `received`: counted where it arrived, because its sender has no collector.

    `groups`: of its source and its destination, what it is to be told apart by beyond that (history/model/grouping.py).
    `period_ms`: when the period begins that it belongs to, where traffic is told apart by period; else 0.
    """

    scope: Scope
    source: Party
    destination: Party
    received: bool
    groups: tuple[str, str] = ("", "")
    period_ms: int = 0

    @property
    def comes_in(self) -> bool:
        """Whether it comes from outside."""
        return self.source.kind == EXTERNAL


class Pair(NamedTuple):
    """Who sends to whom, and between which zones."""

    source: str
    destination: str
    source_zone: str
    destination_zone: str


class Addable(Protocol):
    """What can be added up: bytes, or what they cost."""

    def __add__(self, other: Any, /) -> Any: ...


K = TypeVar("K")
A = TypeVar("A", bound=Addable)


def by(key: Callable[[Traffic], K | None], amounts: Mapping[Traffic, A], nothing: A) -> dict[K, A]:
    """Return amounts added up by what `key` says of their traffic; where that is None they are in no sum."""
    sums: dict[K, A] = defaultdict(lambda: nothing)
    for traffic, amount in amounts.items():
        if (place := key(traffic)) is not None:
            sums[place] += amount
    return sums


def scope_of(traffic: Traffic) -> Scope:
    """Return the scope."""
    return traffic.scope


def internet_of(traffic: Traffic) -> bool | None:
    """Return whether external traffic came in; None for any other."""
    return traffic.comes_in if traffic.scope == EXTERNAL else None


def pair_of(traffic: Traffic) -> Pair | None:
    """Return the pair that traffic across zones belongs to; None for any other."""
    source, destination = traffic.source, traffic.destination
    crosses = traffic.scope == "cross_zone"
    return Pair(source.label, destination.label, source.zone, destination.zone) if crosses else None


def zones_of(traffic: Traffic) -> tuple[str, str] | None:
    """Return the sending and the receiving zone; "external" for the side that is. Unknown traffic is in no zone."""
    missing = EXTERNAL if traffic.scope == EXTERNAL else ""
    zones = traffic.source.zone or missing, traffic.destination.zone or missing
    return None if traffic.scope == "unknown" else zones


def _why_unknown(traffic: Traffic) -> str | None:
    ends = (traffic.source, traffic.destination)
    return why_unknown(*((end.zone, end.reason) for end in ends)) if traffic.scope == "unknown" else None


@dataclass
class Summary:
    """What a set of flows comes to, in IP-layer bytes. `windows`: [start, end) in Unix milliseconds, each once.

    `slots`: bytes by when the slot of time begins, in Unix milliseconds, and scope; a slot holds the windows that begin
    in it, and is as long as `TimeRange.slot_ms` says.
    """

    traffic: dict[Traffic, int] = field(default_factory=lambda: defaultdict(int))
    slots: dict[tuple[int, Scope], int] = field(default_factory=lambda: defaultdict(int))
    observers: set[str] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    windows: set[tuple[int, int]] = field(default_factory=set)
    flows: int = 0
    outer_bytes: int = 0

    def merge(self, other: "Summary") -> None:
        """Add what flows of other clusters come to. Nodes of one name are two, and theirs CLUSTER/NODE."""
        _add(self.traffic, other.traffic)
        _add(self.slots, other.slots)
        self.observers |= {f"{','.join(sorted(other.clusters))}/{node}" for node in other.observers}
        self.clusters |= other.clusters
        self.windows |= other.windows
        self.flows += other.flows
        self.outer_bytes += other.outer_bytes

    @property
    def bytes(self) -> int:
        """All bytes, whatever their scope."""
        return sum(self.traffic.values())

    @property
    def scopes(self) -> dict[Scope, int]:
        """Bytes by scope."""
        return by(scope_of, self.traffic, 0)

    @property
    def internet(self) -> dict[bool, int]:
        """Bytes of scope external by whether they came in; the two add up to `scopes["external"]`."""
        return by(internet_of, self.traffic, 0)

    @property
    def zones(self) -> dict[tuple[str, str], int]:
        """Bytes by sending and receiving zone, as `zones_of` has them."""
        return by(zones_of, self.traffic, 0)

    @property
    def unknown(self) -> dict[str, int]:
        """Bytes of scope unknown by why."""
        return by(_why_unknown, self.traffic, 0)

    @property
    def cross_zone_pairs(self) -> dict[Pair, int]:
        """Bytes across zones by pair of workloads."""
        return by(pair_of, self.traffic, 0)

    @property
    def metered_ms(self) -> int:
        """How much time the windows cover together."""
        return length_of(self.windows)


def _add(own: dict[K, int], other: Mapping[K, int]) -> None:
    for key, size in other.items():
        own[key] += size
