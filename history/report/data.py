# SPDX-License-Identifier: Apache-2.0
"""What a report says, before it is laid out. Pure: everything is derived from one summary and its bill."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from audit.result import Audit
from history.model.bill import NOTHING, Bill, Cost, sum_costs
from history.model.grouping import By, Per
from history.model.party import MeterTraffic, Party
from history.model.states.events import Event
from history.model.summary import EXTERNAL, IN_REGION, Summary, Traffic, by, zones_of
from history.model.time_range import TimeRange
from prices.book import exact_money, per_month
from schemas.flow import Scope


class Cash(NamedTuple):
    """Money: exact, as programs read it, and as people do."""

    exact: str
    shown: str


# asyncio.run makes the repr of what a coroutine returns: of these sums it would take longer than making them.
@dataclass(frozen=True, slots=True, repr=False)
class Range:
    """A time range summed up and priced. `whole`: nothing of it is known to be gone from where it was read."""

    span: TimeRange
    summary: Summary
    bill: Bill
    whole: bool = True

    def cost(self, scope: Scope) -> Cost | None:
        """Return what traffic of a scope costs; None where it has no price."""
        return self.bill.by_scope.get(scope)

    def cash(self, cost: Cost | None) -> Cash | None:
        """Return what a cost is in money, both sides together; None: no price."""
        book = self.bill.book
        return None if cost is None or book is None else Cash(exact_money(cost.total), book.shown(cost.total))

    def monthly(self, cost: Cost | None) -> Cash | None:
        """Return what it would be in a month, at the rate of the range; None: no price."""
        return self.cash(None if cost is None else Cost(per_month(cost.total, self.summary.metered_ms)))

    @property
    def zone_costs(self) -> dict[tuple[str, str], Cost]:
        """What `Summary.zones` cost; where nothing has a price they are not there."""
        return by(zones_of, self.bill.costs, NOTHING)


@dataclass(slots=True)
class PairLine:
    """One pair of workloads across zones. `zones`: sending and receiving. `received`: some counted on receipt."""

    source: str
    destination: str
    zones: set[tuple[str, str]] = field(default_factory=set)
    bytes: int = 0
    before: int = 0
    cost: Cost | None = None
    received: bool = False
    nodes: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))


def together(pairs: Sequence[PairLine]) -> PairLine:
    """Return what pairs come to, without their names, zones and nodes."""
    return PairLine(
        "",
        "",
        bytes=sum(pair.bytes for pair in pairs),
        before=sum(pair.before for pair in pairs),
        cost=sum_costs(pair.cost for pair in pairs),
    )


class Difference(NamedTuple):
    """How a pair differs between two ranges: bytes an hour across zones.

    `by_volume` and `by_zones` are what more is sent and what more of it crosses; together they are the change. None
    where only some scopes were asked for. `changed`: what changed in the topology at one of its ends, the most fitting
    first.
    """

    source: str
    destination: str
    bytes_per_hour: int
    bytes_per_hour_before: int
    by_volume: int | None
    by_zones: int | None
    changed: list[Event]

    @property
    def change(self) -> int:
        """Bytes an hour more, or less."""
        return self.bytes_per_hour - self.bytes_per_hour_before


class Differences(NamedTuple):
    """The pairs that differ most, and how many more do. `note`: why, or how well, changes of the topology are known."""

    pairs: list[Difference]
    more: int
    note: str


@dataclass(slots=True, repr=False)
class Report:
    """A report. `sources`: what was read, in words. `prices_why`: why these prices, or why none.

    `audit` is None where the ledger could not be read; `trust_note` says why. `compare`: how long before, as given.
    `by`: what it is summed up by, beside what every report shows; `per`: a showback, for each of these periods.
    `label`: its name, if that is what it is summed up by. `filters`: what narrows it, by the setting's name.
    `events`: what changed in the topology, None where it is not known; `events_note`: why, or how well.
    `differences`: from the range before, None where there is none that was measured.
    `simulated`: which change this is the range with, in words; `before` is then the range as it was measured.
    """

    now: Range
    sources: list[str]
    prices_why: str
    own: MeterTraffic
    top: int
    before: Range | None = None
    compare: str | None = None
    audit: Audit | None = None
    trust_note: str = ""
    by: By | None = None
    per: Per | None = None
    label: str = ""
    filters: dict[str, list[str]] = field(default_factory=dict)
    range_flags: str = ""
    flags: str = ""
    kafka_flags: str = ""
    priced_flags: str = ""
    events: list[Event] | None = None
    events_note: str = ""
    differences: Differences | None = None
    simulated: str = ""
    refused: int = 0

    @property
    def ranges(self) -> list[Range]:
        """The range, and the one that it is compared with."""
        return [self.now] if self.before is None else [self.now, self.before]

    @property
    def by_what(self) -> str:
        """What it is summed up by, as `--by` has it."""
        return f"{self.by}:{self.label}" if self.label else str(self.by)

    @property
    def summary(self) -> Summary:
        """The sums of the range itself."""
        return self.now.summary

    @property
    def in_region(self) -> int:
        """Bytes that stayed in their region, whether or not they crossed zones."""
        scopes = self.summary.scopes
        return sum(scopes.get(scope, 0) for scope in IN_REGION)

    @property
    def metered_before_ms(self) -> int:
        """How much of the range before was metered; 0 without one."""
        return 0 if self.before is None else self.before.summary.metered_ms

    def own_traffic(self) -> tuple[int, int, Cost]:
        """Return the meter's own bytes, those of them across zones, and what they cost."""
        size = crossing = 0
        cost = NOTHING
        for traffic, amount in self.summary.traffic.items():
            if self.own.tells(traffic.source, traffic.destination):
                size += amount
                crossing += amount if traffic.scope == "cross_zone" else 0
                cost += self.now.bill.costs.get(traffic, NOTHING)
        return size, crossing, cost

    def pairs(self) -> list[PairLine]:
        """Return the pairs of workloads across zones, the greatest first; nodes count as one."""
        lines: dict[tuple[str, str], PairLine] = {}
        for traffic, size in self.summary.traffic.items():
            if traffic.scope == "cross_zone":
                _add(_line(lines, traffic), traffic, size, self.now.bill.costs.get(traffic))
        if self.before is not None:
            for traffic, size in self.before.summary.traffic.items():
                if traffic.scope == "cross_zone":
                    _line(lines, traffic).before += size
        return sorted(lines.values(), key=lambda line: (-line.bytes, -line.before, line.source, line.destination))

    def zone_matrix(self) -> dict[tuple[str, str], int]:
        """Return bytes by sending and receiving zone, of traffic that has both and is not external."""
        inside = {traffic: size for traffic, size in self.summary.traffic.items() if traffic.scope != EXTERNAL}
        return by(zones_of, inside, 0)


def _line(lines: dict[tuple[str, str], PairLine], traffic: Traffic) -> PairLine:
    key = pair_of(traffic)
    return lines.setdefault(key, PairLine(*key))


def pair_of(traffic: Traffic) -> tuple[str, str]:
    """Return the pair that traffic is of, as pairs are named."""
    return _group(traffic.source), _group(traffic.destination)


def _group(end: Party) -> str:
    # A node exporter on each of 200 nodes is one line, not 200.
    return "nodes" if end.kind == "node" else end.label


def _add(line: PairLine, traffic: Traffic, size: int, cost: Cost | None) -> None:
    line.bytes += size
    line.zones.add((traffic.source.zone, traffic.destination.zone))
    line.received |= traffic.received
    line.cost = sum_costs((line.cost, cost))
    for names, end in zip(line.nodes, (traffic.source, traffic.destination), strict=True):
        if end.kind == "node":
            names.add(end.label)
