# SPDX-License-Identifier: Apache-2.0
"""The flow log on stdout, for a log collector or a pipe. At least once: what a pipe has taken is not known.

After a crash the rows since the last position committed to the group come again; so may those of a pipe that broke.
"""

import os
from collections.abc import Sequence

from common.errors import Stopped
from schemas.ledger import Hop, LedgerRecord
from sinks.flowlog.rows.columns import FlatEnd
from sinks.flowlog.rows.jsonl import JsonLines
from sinks.flowlog.settings import FlowlogSettings
from sinks.intake import Batch, Lane
from sinks.sink import Cut, Sink

DESCRIPTOR = 1


class StdoutSink(Sink[FlatEnd, list[bytes]]):
    """Rows of all partitions as lines."""

    hop: Hop = "flowlog"

    def __init__(self, settings: FlowlogSettings) -> None:
        super().__init__("output = '-'", settings.cut_seconds)
        self._settings = settings
        self._lines = JsonLines()

    def recover(self, partitions: Sequence[int]) -> tuple[list[Lane], list[LedgerRecord]]:
        """Return empty lanes: the group's committed position is all there is."""
        self._lines = JsonLines()
        return [Lane(partition) for partition in partitions], []

    def add(self, lane: Lane, batch: Batch[FlatEnd]) -> None:
        """Hold lines back."""
        self._lines.add(batch.rows)

    def due(self, lanes: Sequence[Lane], now: float) -> Sequence[Lane]:
        """Return all, also if there are too many lines."""
        is_full = self._settings.is_full(self._lines.rows, self._lines.size_bytes)
        return lanes if is_full else super().due(lanes, now)

    def cut(self, lanes: Sequence[Lane], now_ms: int) -> list[Cut[list[bytes]]]:
        """Take all lines."""
        lines, self._lines = self._lines, JsonLines()
        return [Cut.of(lanes, self.hop, self._settings.group_id, now_ms, lines.encode())]

    def write(self, content: list[bytes]) -> None:
        """Write them; that nobody reads any more ends the sink."""
        try:
            for part in content:
                rest = memoryview(part)
                while rest:
                    # Not through sys.stdout: what it buffers would be lost, or written at exit, behind our back.
                    rest = rest[os.write(DESCRIPTOR, rest) :]
        except BrokenPipeError as error:
            raise Stopped("nobody reads stdout any more") from error
