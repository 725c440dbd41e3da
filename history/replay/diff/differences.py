# SPDX-License-Identifier: Apache-2.0
"""What a new join changes, added up: for each old and new attribution the flows, bytes, money and reasons. Pure.

All rows together come to what was recorded on one side and to what was joined again on the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from history.model.bill import Pricer
from history.model.party import FIELDS, Parties
from history.model.summary import Traffic
from history.replay.diff.pairs import Found, Kind
from history.replay.diff.reasons import PRICES, Facts, differing, reasons
from prices.book import PriceBook
from schemas.flow import OUTER


class Attribution(NamedTuple):
    """What a report says of a flow; "" where something is not known. `scope` is `encapsulation` of outer packets."""

    scope: str
    source: str
    source_zone: str
    destination: str
    destination_zone: str


class Difference(NamedTuple):
    """One kind of change. `why`: of `reasons`. `columns`: what differs of the flow log's."""

    kind: Kind
    why: tuple[str, ...]
    columns: tuple[str, ...]
    recorded: Attribution | None
    rejoined: Attribution | None


@dataclass(slots=True)
class Amounts:
    """What some flows come to; costs in subunits, None of what has no price."""

    flows: int = 0
    bytes: int = 0
    cost_recorded: int | None = None
    cost_rejoined: int | None = None

    def add(self, flows: int, size: int, then: int | None, now: int | None) -> None:
        """Add some flows."""
        self.flows += flows
        self.bytes += size
        self.cost_recorded = _sum(self.cost_recorded, then)
        self.cost_rejoined = _sum(self.cost_rejoined, now)


SAME = Difference("same", (), (), None, None)


class Differences:
    """All differences. `before`, `after`: the price files of the two sides, if any."""

    def __init__(self, before: PriceBook | None = None, after: PriceBook | None = None) -> None:
        self.found: dict[Difference, Amounts] = {}
        self.recorded, self.rejoined = Amounts(), Amounts()
        self._before, self._after = Pricer(before), Pricer(after)
        self._parties = Parties()

    def add(self, found: Found) -> None:
        """Take some flows that are alike."""
        then, cost_then = self._side(found.then, found.bytes, self._before)
        now, cost_now = self._side(found.now, found.bytes, self._after)
        key = Difference(found.kind, (f"flow {found.why}",), (), then, now)
        if found.then is not None and found.now is not None:
            why = reasons(found.then, found.now, summed=found.is_sum)
            columns = differing(found.then, found.now)
            key = Difference(found.kind, why, columns, then, now)
            if not columns:
                key = SAME if cost_then == cost_now else key._replace(why=(f"flow {PRICES}",))
        self.found.setdefault(key, Amounts()).add(found.flows, found.bytes, cost_then, cost_now)
        if found.then is not None:
            self.recorded.add(found.flows, found.bytes, cost_then, None)
        if found.now is not None:
            self.rejoined.add(found.flows, found.bytes, None, cost_now)

    @property
    def ordered(self) -> list[tuple[Difference, Amounts]]:
        """All rows, the greatest first; what is the same comes last."""
        rows = self.found.items()
        return sorted(rows, key=lambda row: (row[0] == SAME, -row[1].bytes, str(row[0])))

    def _side(self, facts: Facts | None, size: int, pricer: Pricer) -> tuple[Attribution | None, int | None]:
        """Return what a report says of flows, and what they cost."""
        if facts is None:
            return None, None
        source, destination = (
            self._parties.of([facts[f"{side}{name}"] for name in FIELDS], broker=False) for side in ("src_", "dst_")
        )
        if facts["direction"] == "relay":
            source = self._parties.at(source, facts["observer_zone"] or "", facts["observer_region"] or "")
        is_outer = facts["encapsulation"] is not None
        said = Attribution(
            OUTER if is_outer else facts["scope"], source.label, source.zone, destination.label, destination.zone
        )
        cost = None if is_outer else pricer.cost(Traffic(facts["scope"], source, destination, received=False), size)
        return said, None if cost is None else cost.total


def codes(rows: Iterable[Difference]) -> list[str]:
    """Return the reasons that rows name, each once, without what they are of."""
    return sorted({why.rpartition(" ")[2] for row in rows for why in row.why})


def _sum(one: int | None, other: int | None) -> int | None:
    return one if other is None else (one or 0) + other
