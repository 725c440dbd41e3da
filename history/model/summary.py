# SPDX-License-Identifier: Apache-2.0
"""Flows summed up by what they are: scope, both ends, and whether they were counted on receipt. Pure.

Everything that a report shows is derived from those sums, so all of it adds up to the same bytes. The outer packets
of an overlay are left out: their inner packets are counted already.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from history.model.party import Party
from schemas.flow import Scope

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


def pair_of(traffic: Traffic) -> Pair:
    """Return the pair that traffic belongs to."""
    source, destination = traffic.source, traffic.destination
    return Pair(source.label, destination.label, source.zone, destination.zone)


def zones_of(traffic: Traffic) -> tuple[str, str]:
    """Return the sending and the receiving zone; "external" for the side that is."""
    missing = EXTERNAL if traffic.scope == EXTERNAL else ""
    return traffic.source.zone or missing, traffic.destination.zone or missing


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

    @property
    def bytes(self) -> int:
        """All bytes, whatever their scope."""
        return sum(self.traffic.values())

    @property
    def scopes(self) -> dict[Scope, int]:
        """Bytes by scope."""
        sums: dict[Scope, int] = defaultdict(int)
        for key, size in self.traffic.items():
            sums[key.scope] += size
        return sums

    @property
    def internet(self) -> dict[bool, int]:
        """Bytes of scope external by whether they came in; the two add up to `scopes["external"]`."""
        sums: dict[bool, int] = defaultdict(int)
        for key, size in self.traffic.items():
            if key.scope == EXTERNAL:
                sums[key.comes_in] += size
        return sums

    @property
    def zones(self) -> dict[tuple[str, str], int]:
        """Bytes by sending and receiving zone; "external" for the side that is. Unknown traffic is in no zone."""
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for key, size in self.traffic.items():
            if key.scope != "unknown":
                sums[zones_of(key)] += size
        return sums

    @property
    def unknown(self) -> dict[str, int]:
        """Bytes of scope unknown by why."""
        sums: dict[str, int] = defaultdict(int)
        for key, size in self.traffic.items():
            if key.scope == "unknown":
                sums[key.source.reason or key.destination.reason or "zone_missing"] += size
        return sums

    @property
    def cross_zone_pairs(self) -> dict[Pair, int]:
        """Bytes across zones by pair of workloads."""
        sums: dict[Pair, int] = defaultdict(int)
        for key, size in self.traffic.items():
            if key.scope == "cross_zone":
                sums[pair_of(key)] += size
        return sums

    @property
    def metered_ms(self) -> int:
        """How much time the windows cover together."""
        covered = until = 0
        for start, end in sorted(self.windows):
            covered += max(end - max(start, until), 0)
            until = max(until, end)
        return covered
