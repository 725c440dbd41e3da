# SPDX-License-Identifier: Apache-2.0
"""Finds out how many bytes a unit of a bill is: 10^9 (GB) or 2^30 (GiB), a difference of 7.4 %. Pure.

Clouds write GB for either. Where a node was metered whole and billed for nothing else, bytes metered over units billed
is one or the other; most cells are such. So every cell has a vote of its own weight, and the answer says how many of
them agree: no sum decides, which anything that is billed beside would have moved.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from history.bill.books.sums import GB, GIB

# A cell votes for a unit if it is within this of it: a third of what lies between the two.
NEAR = 0.024
SURE, LIKELY = 0.8, 0.5
NAMES = {GB: "GB", GIB: "GiB"}

HowSure = Literal["known", "given", "sure", "likely", "unclear"]


@dataclass(frozen=True, slots=True)
class Unit:
    """How many bytes a unit is. `ratio`: metered bytes by 10^9 bytes billed, in the middle cell; None: none to compare.

    `agree`: the part of what was billed, by cell, that agrees with it.
    """

    bytes: int
    how_sure: HowSure
    ratio: float | None = None
    agree: float = 0.0
    cells: int = 0

    @property
    def name(self) -> str:
        """GB or GiB."""
        return NAMES[self.bytes]


def fit(cells: Iterable[tuple[int, Decimal]]) -> Unit:
    """Return the unit, given bytes metered and units billed in cells that were metered whole."""
    found = sorted((size / float(units) / GB, float(units)) for size, units in cells if size > 0 and units > 0)
    weight = sum(units for _, units in found)
    if not found or not weight:
        return Unit(GB, "unclear")
    votes = {unit: sum(w for ratio, w in found if abs(ratio * GB / unit - 1) < NEAR) / weight for unit in NAMES}
    best = max(votes, key=lambda unit: (votes[unit], unit == GB))
    agree = votes[best]
    how_sure: HowSure = "sure" if agree >= SURE else "likely" if agree >= LIKELY else "unclear"
    return Unit(best if how_sure != "unclear" else GB, how_sure, _middle(found, weight), agree, len(found))


def _middle(found: list[tuple[float, float]], weight: float) -> float:
    """Return the ratio at the middle of the weight."""
    seen = 0.0
    for ratio, units in found:
        seen += units
        if seen >= weight / 2:
            return ratio
    return found[-1][0]
