# SPDX-License-Identifier: Apache-2.0
"""What a partition brought since its last manifest, until it is cut into the next. Pure but for the clock given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sinks.flowlog.archive.archive import ArchiveCut, Rows
from sinks.flowlog.archive.manifest import Manifest, Marked
from sinks.flowlog.rows.columns import FlatEnd
from sinks.intake import Batch, Lane, Row
from sinks.sink import Cut

HOUR_MS = 3_600_000
# What each chunk takes in the books until they are closed, and in the ledger entries of the cut.
CHUNK_BYTES = 400


class Buffer(Rows, Protocol):
    """Rows of one hour, as they become one file."""

    def add(self, rows: Sequence[Row[FlatEnd]]) -> None:
        """Take flows."""


@dataclass(slots=True)
class Pending:
    """One partition."""

    lane: Lane
    sequence: int
    new_buffer: Callable[[], Buffer]
    first_offset: int | None = None
    buffers: dict[int, Buffer] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(buffer.rows for buffer in self.buffers.values())

    @property
    def size_bytes(self) -> int:
        """About what they take in memory."""
        return sum(buffer.size_bytes for buffer in self.buffers.values()) + len(self.lane.books.parts) * CHUNK_BYTES

    def add(self, batch: Batch[FlatEnd]) -> None:
        """Take what came of a batch of records."""
        self.first_offset = batch.first_offset if self.first_offset is None else self.first_offset
        by_hour: dict[int, list[Row[FlatEnd]]] = {}
        for row in batch.rows:
            by_hour.setdefault(row[0].start_ms // HOUR_MS, []).append(row)
        for hour, rows in by_hour.items():
            buffer = self.buffers.get(hour * HOUR_MS)
            if buffer is None:
                buffer = self.buffers[hour * HOUR_MS] = self.new_buffer()
            buffer.add(rows)

    def cut(self, topic: str, group: str, now_ms: int) -> Cut[ArchiveCut]:
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
            next_offset=lane.durable_position,
            marks=[Marked(*origin, msgspec.structs.replace(mark)) for origin, mark in lane.marks.items()],
            ledger=lane.close("flowlog", entry, now_ms),
        )
        content = ArchiveCut(manifest, self.buffers)
        self.buffers, self.first_offset = {}, manifest.next_offset
        return Cut({lane.partition: manifest.next_offset or 0}, manifest.ledger, content)
