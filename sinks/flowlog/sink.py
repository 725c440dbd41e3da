# SPDX-License-Identifier: Apache-2.0
"""Flows as files: a cut of a partition is its data files and the manifest that lists them."""

from collections.abc import Callable, Sequence

from schemas.ledger import Hop, LedgerRecord
from sinks.flowlog.archive.archive import Archive, ArchiveCut
from sinks.flowlog.archive.pending import Buffer, Pending
from sinks.flowlog.rows.columns import FlatEnd
from sinks.flowlog.settings import FlowlogSettings
from sinks.intake import Batch, Lane
from sinks.sink import Cut, Sink

# Hours, each a file, at which a partition is written: a file takes 7 ms to write however few rows it has, and a node
# whose clock jumps, or that makes up times, brings one with each window. One fetch may bring 5,000 more.
MAX_HOURS = 100


class ArchiveSink(Sink[FlatEnd, ArchiveCut]):
    """One replica of the flow log."""

    hop: Hop = "flowlog"

    def __init__(self, settings: FlowlogSettings, archive: Archive, new_buffer: Callable[[], Buffer]) -> None:
        super().__init__(f"output = {settings.output!r}", settings.cut_seconds)
        self._settings = settings
        self._archive = archive
        self._new_buffer = new_buffer
        self._pending: dict[int, Pending] = {}
        # Partitions with rows whose ends the intake has forgotten.
        self._forgotten: set[int] = set()

    def recover(self, partitions: Sequence[int]) -> tuple[list[Lane], list[LedgerRecord]]:
        """Go on from the newest manifests."""
        self._pending, self._forgotten, entries = {}, set(), []
        for partition in partitions:
            lane, sequence = Lane(partition), 0
            if newest := self._archive.recover(partition):
                lane, sequence = Lane(partition, newest.next_offset, newest.known_marks()), newest.sequence
                entries += newest.ledger
            self._pending[partition] = Pending(lane, sequence, self._new_buffer, lane.position)
        return [pending.lane for pending in self._pending.values()], entries

    def add(self, lane: Lane, batch: Batch[FlatEnd]) -> None:
        """Hold rows back."""
        self._pending[lane.partition].add(batch)
        if batch.forgot:
            self._forgotten = {partition for partition, pending in self._pending.items() if pending.rows}

    def due(self, lanes: Sequence[Lane], now: float) -> Sequence[Lane]:
        """Return all that have waited, else those with too many hours, and the fullest other if rows are too many.

        Also those whose ends the intake has forgotten: until then the rows' ends are in its memory already, and from
        then on they would be in memory beside those that it knows now.
        """
        if due := super().due(lanes, now):
            return due
        every = [self._pending[lane.partition] for lane in lanes]
        due = [each.lane for each in every if self._is_urgent(each)]
        held = [each for each in every if not self._is_urgent(each)]
        if held and self._settings.is_full(sum(each.rows for each in held), sum(each.size_bytes for each in held)):
            due.append(max(held, key=lambda pending: pending.size_bytes).lane)
        return due

    def _is_urgent(self, pending: Pending) -> bool:
        return len(pending.buffers) >= MAX_HOURS or pending.lane.partition in self._forgotten

    def cut(self, lanes: Sequence[Lane], now_ms: int) -> list[Cut[ArchiveCut]]:
        """Make a manifest of each."""
        topic, group = self._settings.topics.enriched, self._settings.group_id
        self._forgotten -= {lane.partition for lane in lanes}
        return [self._pending[lane.partition].cut(topic, group, now_ms) for lane in lanes]

    def write(self, content: ArchiveCut) -> None:
        """Write files and manifest."""
        self._archive.write(content)
