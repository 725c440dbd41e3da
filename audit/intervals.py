# SPDX-License-Identifier: Apache-2.0
"""Sets of sequence numbers that come nearly in order: kept as intervals, so a node's closed windows are one. Pure."""

import bisect
from dataclasses import dataclass, field

# Of one generation. Beyond it the two lowest become one: random numbers must not fill the memory.
MAX_INTERVALS = 4096
# Beyond it the lowest is forgotten.
MAX_GENERATIONS = 64


@dataclass(slots=True)
class _Run:
    """Numbers of one generation: `starts[i]` to `ends[i]`, both included, sorted, not touching each other."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        if self.ends and number == self.ends[-1] + 1:
            self.ends[-1] = number
            return
        at = bisect.bisect_right(self.starts, number)
        if at and self.ends[at - 1] >= number:
            return
        before = at > 0 and self.ends[at - 1] == number - 1
        after = at < len(self.starts) and self.starts[at] == number + 1
        if before and after:
            self.ends[at - 1] = self.ends.pop(at)
            del self.starts[at]
        elif before:
            self.ends[at - 1] = number
        elif after:
            self.starts[at] = number
        else:
            self.starts.insert(at, number)
            self.ends.insert(at, number)
            self.shrink(MAX_INTERVALS)

    def shrink(self, most: int) -> None:
        """Make the lowest intervals one, until at most so many are left."""
        if (beyond := len(self.starts) - most) > 0:
            del self.starts[1 : beyond + 1], self.ends[:beyond]


class Intervals:
    """(generation, sequence) pairs of one life of a node."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}

    def add(self, generation: int, sequence: int) -> None:
        """Put one in."""
        run = self._runs.get(generation)
        if run is None:
            run = self._runs[generation] = _Run()
            if len(self._runs) > MAX_GENERATIONS:
                del self._runs[min(self._runs)]
        run.add(sequence)

    def shrink(self, most: int) -> None:
        """Cost no more than so many intervals in each generation."""
        for run in self._runs.values():
            run.shrink(most)

    def holds(self, generation: int, sequence: int) -> bool:
        """Return whether it is in."""
        run = self._runs.get(generation)
        if run is None:
            return False
        at = bisect.bisect_right(run.starts, sequence)
        return at > 0 and run.ends[at - 1] >= sequence

    @property
    def last(self) -> tuple[int, int]:
        """The greatest; (-1, -1) of none."""
        if not self._runs:
            return -1, -1
        generation = max(self._runs)
        return generation, self._runs[generation].ends[-1]

    def __len__(self) -> int:
        """How many intervals there are: what it costs."""
        return sum(len(run.starts) for run in self._runs.values())
