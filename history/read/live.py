# SPDX-License-Identifier: Apache-2.0
"""Flows as they come in, grouped by window, each window given once: when it is whole, or has been waited for.

Nothing is kept: what comes later than its window was given is counted as late and shown with the next.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.kafka import by_time, clients
from common.kafka.reading import command_reader
from common.settings import KafkaSettings
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.read.database import open_database
from history.read.flows import take
from history.read.rejoin import ReadTally
from history.read.topic import partitions_of
from history.read.topic_sql import Sieve, TopicRows
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Lane, Row

# A window is not given before this long after its end, and not later than patience after it, once all is read.
SETTLE_MS = 1_000
PATIENCE_MS = 4_000
_POLL_SECONDS = 0.25


@dataclass(slots=True)
class LiveWindow:
    """One window of all nodes. `arrived_ms`: when the last of its flows was read, Unix time; 0 if long after that."""

    start_ms: int
    end_ms: int
    summary: Summary = field(default_factory=Summary)
    arrived_ms: int = 0
    late: int = 0
    refused: int = 0

    @property
    def lag_seconds(self) -> float | None:
        """From the window's end to the last of its flows being here; None if it was over before we looked."""
        return max(self.arrived_ms - self.end_ms, 0) / 1000 if self.arrived_ms else None


class Windows:
    """Groups flows by the window that they began in. Pure: the clock comes in as an argument."""

    def __init__(self, window_ms: int, first_start_ms: int, begun_ms: int, sieve: Sieve) -> None:
        self._window_ms = window_ms
        self._begun_ms = begun_ms
        self._next_ms = first_start_ms
        self._sieve = sieve
        self._ends = Parties()
        self._database = open_database()
        self._open: dict[int, LiveWindow] = {}
        self._rows: dict[int, TopicRows] = defaultdict(TopicRows)
        self._nodes: set[str] | None = None
        self._late = self._refused = 0

    def add(self, rows: list[Row[FlatEnd]], refused: int, now_ms: int) -> None:
        """Add flows of the enriched topic; `refused`: so many records were none."""
        self._refused += refused
        by_start: dict[int, list[Row[FlatEnd]]] = defaultdict(list)
        for row in self._sieve.wanted(rows):
            by_start[row.flow.start_ms - row.flow.start_ms % self._window_ms].append(row)
        for start_ms, some in by_start.items():
            if start_ms < self._next_ms:
                self._late += len(some)
                continue
            window = self._open.setdefault(start_ms, LiveWindow(start_ms, start_ms + self._window_ms))
            window.summary.observers.update(row.observer.node for row in some)
            window.arrived_ms = now_ms if window.end_ms >= self._begun_ms else 0
            self._rows[start_ms].add(some)
            if self._rows[start_ms].is_full:
                self._sum_up(window)

    def ready(self, now_ms: int) -> list[LiveWindow]:
        """Return the windows that can be given now, in order; to be asked when all that is there has been read."""
        given = []
        for start_ms in sorted(self._open):
            window = self._open[start_ms]
            if now_ms < window.end_ms + self._wait_ms(window):
                break
            self._sum_up(window)
            given.append(self._open.pop(start_ms))
            self._next_ms = start_ms + self._window_ms
            self._nodes = set(window.summary.observers)
            window.late, self._late = self._late, 0
            window.refused, self._refused = self._refused, 0
        return given

    def _sum_up(self, window: LiveWindow) -> None:
        rows = self._rows.pop(window.start_ms, TopicRows())
        rows.query(self._database).summarise(self._ends, window.summary, Selection())

    def _wait_ms(self, window: LiveWindow) -> int:
        whole = self._nodes is not None and window.summary.observers >= self._nodes
        return SETTLE_MS if whole else PATIENCE_MS


async def follow(
    settings: KafkaSettings, window_ms: int, sieve: Sieve, stopping: asyncio.Event
) -> AsyncGenerator[LiveWindow | None, None]:
    """Yield windows, from the last one that is over; None whenever nothing came in and none can be given.

    Ends when `stopping` is set. Raises `Refusal` where Kafka cannot be reached or the topic does not exist.
    """
    begun_ms = _now_ms()
    # The last window that need not be waited for.
    first_ms = (begun_ms - PATIENCE_MS) // window_ms * window_ms - window_ms
    windows = Windows(window_ms, first_ms, begun_ms, sieve)
    topic = settings.topics.enriched
    places = [TopicPartition(topic, number) for number in await partitions_of(settings, topic)]
    lanes = {place: Lane(place.partition) for place in places}
    intake: Intake[FlatEnd] = Intake(flatten)
    async with command_reader(settings, places) as consumer:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            await _seek(consumer, places, first_ms + window_ms)
        while not stopping.is_set():
            batches = await clients.fetch(consumer, seconds=_POLL_SECONDS)
            taken = ReadTally()
            rows = [row for place, records in batches.items() for row in take(intake, lanes[place], records, taken)]
            windows.add(rows, taken.refused.total(), _now_ms())
            async with asyncio.timeout(settings.kafka_deadline_seconds):
                behind = await _behind(consumer)
            # What is still to be read may belong to any window.
            ready = [] if behind else windows.ready(_now_ms())
            for window in ready:
                yield window
            if not ready and not batches:
                yield None


async def _seek(consumer: AIOKafkaConsumer, places: list[TopicPartition], end_ms: int) -> None:
    """Go to the first records of windows that ended at `end_ms` or later: the end is a record's Kafka timestamp."""
    found = await by_time.offsets_for_times(consumer, dict.fromkeys(places, end_ms))
    ends = await consumer.end_offsets(places)
    for place, at in found.items():
        consumer.seek(place, at.offset if at else ends[place])


async def _behind(consumer: AIOKafkaConsumer) -> int:
    """Return how many records are there and not read yet, as far as the last fetches told."""
    behind = 0
    for place in consumer.assignment():
        highwater = consumer.highwater(place)
        if highwater is not None:
            behind += max(highwater - await consumer.position(place), 0)
    return behind


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
