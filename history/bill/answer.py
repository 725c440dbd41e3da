# SPDX-License-Identifier: Apache-2.0
"""What `zonemeter bill` answers, before it is laid out. Pure."""

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal

from audit.result import Audit
from history.bill.books.compare import Comparison, Sum
from history.bill.books.sums import DAY_MS, Billed, Metered, Trust, total
from history.bill.rates import Rate
from history.model.time_range import TimeRange
from schemas.flow import Scope

# Of what went out in one account, what came in may differ by so much: a month that was looked at had 0.0005 %.
NEARLY_EQUAL = 0.005


@dataclass(slots=True, repr=False)
class Answer:
    """A bill, what was metered, and how they compare.

    `sources`: where flows were read, in words. `notes`: what was not to be had. `scopes`: all that was metered.
    `tolerance`: in percent.
    """

    span: TimeRange
    billed: Billed
    metered: Metered
    found: Comparison
    trust: Trust
    rates: list[Rate]
    clusters: list[str]
    observers: int
    scopes: dict[Scope, int]
    sources: list[str]
    tolerance: float
    top: int = 10
    notes: list[str] = field(default_factory=list)
    audit: Audit | None = None

    @property
    def cost(self) -> Decimal:
        """What the bill charges for what crossed zones, each line once."""
        return total(self.billed.cells.values()).cost

    @property
    def within_tolerance(self) -> bool:
        """Whether so little is unexplained."""
        return 100 * self.found.off <= self.tolerance

    @property
    def is_charged_wrongly(self) -> bool:
        """Whether something is charged that the cloud says is free: Azure's transfer between zones."""
        return self.billed.provider == "azure" and self.cost > 0

    @property
    def is_good(self) -> bool:
        """Whether the answer is good news."""
        return self.within_tolerance and not self.is_charged_wrongly

    @property
    def days(self) -> dict[int, Sum]:
        """The sums by day, whatever the bill's periods are."""
        found: dict[int, Sum] = defaultdict(Sum)
        for period, each in self.found.periods.items():
            day = found[period // DAY_MS * DAY_MS]
            day.metered += each.metered
            day.billed += each.billed
            day.unexplained += each.unexplained
        return dict(found)

    @property
    def uneven(self) -> float | None:
        """How far what came in is from what went out, as billed, as a part of the greater; None if that is fine."""
        ways = self.found.ways
        if "out" not in ways or "in" not in ways:
            return None
        out, into = ways["out"].billed, ways["in"].billed
        gap = abs(out - into) / max(out, into, 1)
        return gap if gap > NEARLY_EQUAL else None
