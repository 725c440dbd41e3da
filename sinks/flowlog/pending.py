# SPDX-License-Identifier: Apache-2.0
"""What a partition brought since its last manifest, until it is cut into the next. Pure but for the clock given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sinks.flowlog.archive import Cut, Rows
from sinks.flowlog.columns import FlatEnd
from sinks.flowlog.manifest import Manifest, Marked
from sinks.intake import Batch, Lane, Refusals, Row
from sinks.tallies import Tallies

HOUR_MS = 3_600_000


class Buffer(Rows, Protocol):
    """Rows of one hour, as they become one file."""

    def add(self, rows: Sequence[Row[FlatEnd]]) -> None:
        """Take flows."""


@dataclass(slots=True)
class Pending:
    """One partition. `since`: when the first record came that no manifest holds (monotonic seconds)."""

    lane: Lane
    sequence: int
    new_buffer: Callable[[], Buffer]
    first_offset: int | None = None
    since: float | None = None
    buffers: dict[int, Buffer] = field(default_factory=dict)
    refused: Refusals = field(default_factory=Refusals)

    @classmethod
    def resume(
        cls, partition: int, newest: Manifest | None, new_buffer: Callable[[], Buffer], now_ms: int
    ) -> "Pending":
        """Go on behind a partition's newest manifest."""
        if newest is None:
            return cls(Lane(partition), 0, new_buffer)
        lane = Lane(partition, newest.next_offset, newest.known_marks())
        lane.believe(now_ms)
        return cls(lane, newest.sequence, new_buffer, first_offset=newest.next_offset)

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(buffer.rows for buffer in self.buffers.values())

    @property
    def size_bytes(self) -> int:
        """About what they take in memory."""
        return sum(buffer.size_bytes for buffer in self.buffers.values())

    def add(self, batch: Batch[FlatEnd], first_offset: int, now: float) -> None:
        """Take what came of a batch of records that begins at `first_offset`."""
        if self.since is None:
            self.since = now
            self.first_offset = first_offset
        self.refused.add(batch.refused)
        by_hour: dict[int, list[Row[FlatEnd]]] = {}
        for row in batch.rows:
            by_hour.setdefault(row[0].start_ms // HOUR_MS, []).append(row)
        for hour, rows in by_hour.items():
            buffer = self.buffers.get(hour * HOUR_MS)
            if buffer is None:
                buffer = self.buffers[hour * HOUR_MS] = self.new_buffer()
            buffer.add(rows)

    def cut(self, topic: str, group: str, now_ms: int) -> Cut:
        """Take everything out as the content of the next manifest."""
        lane = self.lane
        self.sequence += 1
        lane.forget_old_marks(now_ms)
        entry = f"{group}/{self.first_offset}-{self.sequence}"
        manifest = Manifest(
            topic=topic,
            partition=lane.partition,
            sequence=self.sequence,
            writer="",
            first_offset=self.first_offset,
            next_offset=lane.position,
            marks=[Marked(*origin, msgspec.structs.replace(mark)) for origin, mark in lane.marks.items()],
            ledger=lane.books.records("flowlog", entry, lane.partition, now_ms),
        )
        cut = Cut(manifest, self.buffers)
        lane.books, lane.touched = Tallies(), set()
        self.buffers, self.refused, self.since = {}, Refusals(), None
        self.first_offset = lane.position
        return cut
