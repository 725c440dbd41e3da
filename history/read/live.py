# SPDX-License-Identifier: Apache-2.0
"""Flows as they come in, grouped by window, each window given once: when it is whole, or has been waited for.

Nothing is kept: what comes later than its window was given is counted as late and shown with the next.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import UNSET

from common.kafka import by_time, clients
from common.kafka.reading import command_reader
from common.settings import KafkaSettings
from history.model.filters import Selection
from history.model.hints import Present, why_nothing
from history.model.summary import Summariser, Summary
from history.read.topic import partitions_of
from schemas.errors import DecodeError
from schemas.flow import FlowHead, decode_endpoint, decode_head

# A window is not given before this long after its end, and not later than patience after it, once all is read.
SETTLE_MS = 1_000
PATIENCE_MS = 4_000
_POLL_SECONDS = 0.25
_MAX_CACHED_ENDS = 100_000

Wanted = Callable[[FlowHead], bool]


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

    def __init__(self, window_ms: int, first_start_ms: int, begun_ms: int, wanted: Wanted) -> None:
        self._window_ms = window_ms
        self._begun_ms = begun_ms
        self._next_ms = first_start_ms
        self._wanted = wanted
        self._summariser = Summariser()
        self._open: dict[int, LiveWindow] = {}
        self._nodes: set[str] | None = None
        self._late = self._refused = 0

    def add(self, value: bytes | None, now_ms: int) -> None:
        """Add one record of the enriched topic."""
        try:
            flow = decode_head(value)
            start_ms = flow.start_ms - flow.start_ms % self._window_ms
            if not self._wanted(flow):
                return
            if start_ms < self._next_ms:
                self._late += 1
                return
            window = self._open.setdefault(start_ms, LiveWindow(start_ms, start_ms + self._window_ms))
            self._summariser.add(window.summary, flow)
        except DecodeError:
            self._refused += 1
        else:
            window.arrived_ms = now_ms if window.end_ms >= self._begun_ms else 0

    def ready(self, now_ms: int) -> list[LiveWindow]:
        """Return the windows that can be given now, in order; to be asked when all that is there has been read."""
        given = []
        for start_ms in sorted(self._open):
            window = self._open[start_ms]
            if now_ms < window.end_ms + self._wait_ms(window):
                break
            given.append(self._open.pop(start_ms))
            self._next_ms = start_ms + self._window_ms
            self._nodes = set(window.summary.observers)
            window.late, self._late = self._late, 0
            window.refused, self._refused = self._refused, 0
        return given

    def _wait_ms(self, window: LiveWindow) -> int:
        whole = self._nodes is not None and window.summary.observers >= self._nodes
        return SETTLE_MS if whole else PATIENCE_MS


class Only:
    """Tells the flows with an end in that namespace, of that cluster; None: of any. Knows what others there were."""

    def __init__(self, namespace: str | None, cluster: str | None) -> None:
        self._selection = Selection(
            namespaces=() if namespace is None else (namespace,), clusters=() if cluster is None else (cluster,)
        )
        self._namespace = namespace
        self._cluster = cluster
        self._known: dict[bytes, str] = {}
        self._present = Present()

    def __call__(self, flow: FlowHead) -> bool:
        """Return whether a flow is wanted; raise `DecodeError` for an end point that is none."""
        self._present.clusters.add(flow.k8s.cluster.name)
        if self._cluster is not None and flow.k8s.cluster.name != self._cluster:
            return False
        if self._namespace is None:
            return True
        ends = [self._namespace_of(bytes(end)) for end in (flow.source, flow.destination)]
        self._present.namespaces.update(filter(None, ends))
        return self._namespace in ends

    def why_nothing(self) -> str:
        """Say what there was if it was never what is wanted; "" where that is not why."""
        asked = ((self._cluster, self._present.clusters), (self._namespace, self._present.namespaces))
        never = any(name is not None and there and name not in there for name, there in asked)
        return why_nothing(self._selection, self._present, "so far") if never else ""

    def _namespace_of(self, encoded: bytes) -> str:
        found = self._known.get(encoded)
        if found is None:
            if len(self._known) >= _MAX_CACHED_ENDS:
                self._known.clear()
            k8s = decode_endpoint(encoded).k8s
            found = self._known[encoded] = "" if k8s is UNSET or k8s.namespace is UNSET else k8s.namespace.name
        return found


async def follow(
    settings: KafkaSettings, window_ms: int, wanted: Wanted, stopping: asyncio.Event
) -> AsyncGenerator[LiveWindow | None, None]:
    """Yield windows, from the last one that is over; None whenever nothing came in and none can be given.

    Ends when `stopping` is set. Raises `Refusal` where Kafka cannot be reached or the topic does not exist.
    """
    begun_ms = _now_ms()
    # The last window that need not be waited for.
    first_ms = (begun_ms - PATIENCE_MS) // window_ms * window_ms - window_ms
    windows = Windows(window_ms, first_ms, begun_ms, wanted)
    topic = settings.topics.enriched
    places = [TopicPartition(topic, number) for number in await partitions_of(settings, topic)]
    async with command_reader(settings, places) as consumer:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            await _seek(consumer, places, first_ms + window_ms)
        while not stopping.is_set():
            batches = await clients.fetch(consumer, seconds=_POLL_SECONDS)
            for record in (record for records in batches.values() for record in records):
                windows.add(record.value, _now_ms())
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
