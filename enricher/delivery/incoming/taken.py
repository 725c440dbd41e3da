# SPDX-License-Identifier: Apache-2.0
"""Which chunks of one boot of a node were taken: runs of windows, so that a long life costs as little as a short one.

Runs are forgotten, those first that have not grown for longest; they are never joined over what lies between them. So
numbers that somebody made up stand for themselves only, and the node's own run, which grows, stays.
"""

from dataclasses import dataclass
from typing import NamedTuple


class ChunkMark(NamedTuple):
    """Which chunk; marks of one boot compare in the order in which it counted."""

    generation: int
    sequence: int
    chunk: int


@dataclass(slots=True)
class _Run:
    """Windows `first` to `last` of a generation, the last one up to `chunk`."""

    generation: int
    first: int
    last: int
    chunk: int

    def holds(self, mark: ChunkMark) -> bool:
        if mark.generation != self.generation or not self.first <= mark.sequence <= self.last:
            return False
        return mark.sequence < self.last or mark.chunk <= self.chunk

    def goes_on_with(self, mark: ChunkMark) -> bool:
        if mark.generation != self.generation:
            return False
        within = mark.sequence == self.last and mark.chunk > self.chunk
        return within or mark.sequence == self.last + 1


class TakenRuns:
    """At most `limit` runs."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return len(self._runs)

    def holds(self, mark: ChunkMark) -> bool:
        """Return whether this chunk was taken, as far as is remembered."""
        return any(run.holds(mark) for run in reversed(self._runs))

    def within(self, mark: ChunkMark) -> bool:
        """Return whether it is the next part of a window of which an earlier one was taken."""
        return any(run.goes_on_with(mark) and run.last == mark.sequence for run in reversed(self._runs))

    def add(self, mark: ChunkMark) -> None:
        """Remember a chunk."""
        if self.holds(mark):
            return
        for at in reversed(range(len(self._runs))):
            run = self._runs[at]
            if run.goes_on_with(mark):
                run.last, run.chunk = mark.sequence, mark.chunk
                self._runs.append(self._runs.pop(at))
                return
        self._runs.append(_Run(mark.generation, mark.sequence, mark.sequence, mark.chunk))
        del self._runs[: -self._limit]
