# SPDX-License-Identifier: Apache-2.0
"""What a sink has to do; all else the runner does. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.ledger import Hop, LedgerRecord
from sinks.intake import Batch, Lane


class Overtaken(Exception):  # noqa: N818 - it is what happened, and no fault
    """Another process has made more of that partition durable: go on from there."""


E = TypeVar("E")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Cut(Generic[C]):
    """What is made durable in one step: by partition the offset to go on from, their ledger entries, and the rest."""

    positions: dict[int, int]
    ledger: list[LedgerRecord]
    content: C

    @classmethod
    def of(cls, lanes: Sequence[Lane], hop: Hop, group: str, now_ms: int, content: C) -> "Cut[C]":
        """Close the lanes' books; their entries are named by the offsets that they are about."""
        ledger = [entry for lane in lanes for entry in lane.close(hop, f"{group}/{lane.since_close}", now_ms)]
        return cls({lane.partition: lane.durable_position or 0 for lane in lanes}, ledger, content)


class Sink(ABC, Generic[E, C]):
    """What a kind of sink does with flows; the runner calls it, one method at a time.

    `recover` and `write` may block. What they raise as an `OSError` is said in /readyz, and they are called again
    until it is over; nothing is taken meanwhile. `hop`: as what it stands in the ledger. `part` and `place`: how
    /readyz names what it writes to. `step`: how its metrics name a cut.
    """

    hop: Hop
    part = "output"
    step = "cut"

    def __init__(self, place: str, hold_seconds: float) -> None:
        """`hold_seconds`: how long flows may wait for being cut."""
        self.place = place
        self._hold_seconds = hold_seconds
        self._since: float | None = None

    @abstractmethod
    def recover(self, partitions: Sequence[int]) -> tuple[list[Lane], list[LedgerRecord]]:
        """Return where to go on in each, and the entries that may not be in the ledger.

        Called when the partitions become this replica's. A lane that was returned before keeps what was added to it.
        """

    @abstractmethod
    def add(self, lane: Lane, batch: Batch[E]) -> None:
        """Take a batch. In `batch.rows` is nothing that came before."""

    def due(self, lanes: Sequence[Lane], now: float) -> Sequence[Lane]:
        """Return which lanes to cut now (monotonic seconds), of those that have something: all, once one has waited."""
        self._since = now if self._since is None else self._since
        if now - self._since < self._hold_seconds:
            return ()
        self._since = None
        return lanes

    @abstractmethod
    def cut(self, lanes: Sequence[Lane], now_ms: int) -> Sequence[Cut[C]]:
        """Take out what was added of these lanes, with their books."""

    @abstractmethod
    def write(self, content: C) -> None:
        """Make it durable, all or nothing; called again with the same after an `OSError`. May raise `Overtaken`."""
