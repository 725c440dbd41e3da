# SPDX-License-Identifier: Apache-2.0
"""What a benchmark's figure is: ours and a yardstick, measured in turn, compared round by round. Pure.

A round's two measurements are a second apart, so what the machine does to one it does to the other; the median over
rounds and the range say how far the comparison can be trusted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median


class Compare(Enum):
    """How ours stands beside the yardstick: divided by it, or less it."""

    RATIO = "ratio"
    DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True)
class Target:
    """What the compared number should be: at most or at least `bound`."""

    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Return whether a compared number is as wanted."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table: `ours` and `yardstick` hold one number a round, in `unit`; ours stands alone without one.

    Ratios have no unit, differences have that of both.
    """

    what: str
    unit: str
    ours: Sequence[float]
    yardstick: Sequence[float] = ()
    compare: Compare = Compare.RATIO
    target: Target | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether what is compared has no unit."""
        return self.compare is Compare.RATIO and bool(self.yardstick)

    def compared(self) -> list[float]:
        """Return the comparison of each round."""
        if not self.yardstick:
            return list(self.ours)
        pairs = zip(self.ours, self.yardstick, strict=True)
        if self.is_ratio:
            return [ours / yardstick for ours, yardstick in pairs]
        return [ours - yardstick for ours, yardstick in pairs]

    def met(self) -> bool | None:
        """Return whether the median round is as wanted; None without a target."""
        return None if self.target is None else self.target.met(median(self.compared()))


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure each once a round, after one round that is thrown away; return one list of `rounds` numbers for each.

    The order turns round every time, so that none profits from coming second.
    """
    taken: list[list[float]] = [[] for _ in measures]
    for number in range(rounds + 1):
        order = range(len(measures)) if number % 2 == 0 else reversed(range(len(measures)))
        for index in order:
            value = measures[index]()
            if number > 0:
                taken[index].append(value)
    return taken
