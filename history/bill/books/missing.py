# SPDX-License-Identifier: Apache-2.0
"""What was not metered, in bytes, as far as it can be estimated: each node's rate times the time that was missed. Pure.

What a node sends is counted where it is sent. So a node that nobody metered lacks what it sent, and not what it got:
that was counted by those who sent it. Only where no node at all was metered are both gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from history.bill.books.sums import Billed, Metered, NodeCell, Trust
from history.model.intervals import Span, between, joined, length_of

# Uplinks count link-layer headers, which no bill has: 14 bytes of a packet of 700. Below that something was not seen.
LEAST_COVERAGE = 0.98

Missed = Literal["unmeasured_time", "lost", "coverage"]


@dataclass(slots=True)
class Missing:
    """`estimates`: by why and cell. `whole`: periods in which a node was not metered at all, so that it has no rate.

    `nobody`: periods in which none was.
    """

    estimates: dict[Missed, dict[NodeCell, int]] = field(
        default_factory=lambda: {"unmeasured_time": {}, "lost": {}, "coverage": {}}
    )
    whole: set[tuple[int, str]] = field(default_factory=set)
    nobody: set[int] = field(default_factory=set)

    @property
    def cells(self) -> set[NodeCell]:
        """The cells of which anything is missing."""
        return {cell for each in self.estimates.values() for cell, size in each.items() if size}


def missing(billed: Billed, metered: Metered, trust: Trust) -> Missing:
    """Return what was not metered in the periods that are compared."""
    found = Missing()
    length = billed.period_ms
    periods = sorted({cell.period_ms for cell in billed.cells} | {cell.period_ms for cell in metered.cells})
    covered = joined(metered.windows)
    nobody = {period: between(covered, (period, period + length)) for period in periods}
    found.nobody = {period for period, gaps in nobody.items() if length_of(gaps) >= length}
    gaps_of = {node: _by_period(gaps, length, nobody) for node, gaps in trust.unmeasured.items()}
    for node, by_period in gaps_of.items():
        found.whole |= {(period, node) for period, gaps in by_period.items() if length_of(gaps) >= length}
    for cell, size in metered.cells.items():
        gaps = nobody[cell.period_ms]
        if cell.way != "in":
            gaps = gaps_of.get(cell.node, {}).get(cell.period_ms, gaps)
        if 0 < (gone := length_of(gaps)) < length:
            found.estimates["unmeasured_time"][cell] = size * gone // (length - gone)
        if cell.way != "in":
            _estimate_rates(found, cell, size, trust)
    return found


def _estimate_rates(found: Missing, cell: NodeCell, size: int, trust: Trust) -> None:
    lost = trust.lost.get(cell.node, 0.0)
    if 0 < lost < 1:
        found.estimates["lost"][cell] = round(size * lost / (1 - lost))
    seen = trust.coverage.get(cell.node, 1.0)
    if 0 < seen < LEAST_COVERAGE:
        found.estimates["coverage"][cell] = round(size * (1 / seen - 1))


def _by_period(gaps: Sequence[Span], length: int, nobody: Mapping[int, list[Span]]) -> dict[int, list[Span]]:
    """Return a node's gaps in each period that has any, with those that all nodes have."""
    found: dict[int, list[Span]] = {}
    for start, end in gaps:
        for period in range(start // length * length, end, length):
            if period in nobody:
                part = (max(start, period), min(end, period + length))
                found.setdefault(period, list(nobody[period])).append(part)
    return found
