# SPDX-License-Identifier: Apache-2.0
"""Prices a summary by a price file. Pure. Amounts are whole subunits (prices/book.py), so they add up exactly."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from history.model.summary import Summary, Traffic, by, internet_of, scope_of
from prices.book import Price, PriceBook, Side, subunits_per_byte
from schemas.flow import Scope


@dataclass(frozen=True, slots=True)
class Cost:
    """What both sides are billed for some traffic, in subunits."""

    source: int = 0
    destination: int = 0

    @property
    def total(self) -> int:
        """What it costs, both sides together."""
        return self.source + self.destination

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.source + other.source, self.destination + other.destination)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.source - other.source, self.destination - other.destination)

    def of(self, side: str) -> "Cost":
        """Return what one side is billed, `source` or `destination`; all for any other word."""
        source, destination = side != "destination", side != "source"
        return Cost(self.source if source else 0, self.destination if destination else 0)


NOTHING = Cost()


def sum_costs(costs: Iterable[Cost | None]) -> Cost | None:
    """Add costs up; what has no price (None) is in no sum, and where nothing has one there is none."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, NOTHING) if known else None


@dataclass(frozen=True, slots=True)
class Tiered:
    """Bytes that are priced by tier: what they cost if all of them are in the lowest, and if all are in the highest."""

    bytes: int = 0
    lowest: int = 0
    highest: int = 0

    def __add__(self, other: "Tiered") -> "Tiered":
        return Tiered(self.bytes + other.bytes, self.lowest + other.lowest, self.highest + other.highest)


@dataclass
class Bill:
    """What the traffic of a summary costs. Traffic without a price has no cost, which is not a cost of zero.

    `by_tier`: what is priced by tier costs between the two; it is in no other cost. `assumed`: of all cost, what is
    billed to the far side, an end in the CIDR map that no price names: like any other end, which nobody has verified.
    """

    book: PriceBook | None
    costs: dict[Traffic, Cost] = field(default_factory=dict)
    unpriced: dict[Scope, int] = field(default_factory=lambda: defaultdict(int))
    by_tier: dict[Scope, "Tiered"] = field(default_factory=dict)
    assumed: int = 0

    @cached_property
    def by_scope(self) -> dict[Scope, Cost]:
        """Cost by scope; a scope nothing of which has a price is not there."""
        return by(scope_of, self.costs, NOTHING)

    @cached_property
    def internet(self) -> dict[bool, Cost]:
        """Cost of what is external by whether it came in."""
        return by(internet_of, self.costs, NOTHING)

    @property
    def total(self) -> Cost:
        """What everything that has a price costs."""
        return sum(self.by_scope.values(), NOTHING)


class Pricer:
    """Finds what traffic costs, each kind once. Without a file nothing has a price."""

    def __init__(self, book: PriceBook | None) -> None:
        self._book = book
        self._found: dict[tuple[Scope, Side, Side], Price | None] = {}

    def cost(self, traffic: Traffic, size: int) -> Cost | None:
        """Return what so many bytes cost each side; None: no price."""
        price = self.price(traffic)
        return None if price is None else cost_of(price, size)

    def price(self, traffic: Traffic) -> Price | None:
        """Return the price of such traffic, if it is one number; None: it has none."""
        found = self.match(traffic)
        return None if found is None or found.is_range else found

    def match(self, traffic: Traffic) -> Price | None:
        """Return the price of such traffic, perhaps by tier; None: it has none."""
        if self._book is None:
            return None
        key = (traffic.scope, traffic.source.side, traffic.destination.side)
        if key not in self._found:
            self._found[key] = self._book.match(*key)
        return self._found[key]


def price_summary(summary: Summary, book: PriceBook | None) -> Bill:
    """Price every kind of traffic in a summary; without a file nothing has a price."""
    bill = Bill(book)
    if book is None:
        return bill
    pricer = Pricer(book)
    for traffic, size in summary.traffic.items():
        price = pricer.match(traffic)
        if price is None:
            bill.unpriced[traffic.scope] += size
        elif price.is_range:
            tiered = Tiered(size, cost_of(price, size).total, cost_of(price.highest, size).total)
            bill.by_tier[traffic.scope] = bill.by_tier.get(traffic.scope, Tiered()) + tiered
        else:
            cost = bill.costs[traffic] = cost_of(price, size)
            bill.assumed += _assumed(traffic, price, cost)
    return bill


def _assumed(traffic: Traffic, price: Price, cost: Cost) -> int:
    """Return what is billed to ends in the CIDR map though the price does not name them."""
    source = cost.source if traffic.source.kind == "cidr" and price.source_name is None else 0
    return source + (cost.destination if traffic.destination.kind == "cidr" and price.destination_name is None else 0)


def cost_of(price: Price, size: int) -> Cost:
    """Return what so many bytes cost each side."""
    return Cost(
        size * subunits_per_byte(price.source, price.unit), size * subunits_per_byte(price.destination, price.unit)
    )
