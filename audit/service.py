# SPDX-License-Identifier: Apache-2.0
"""The audit at work: follows ledger and topology, reconciles every few seconds, serves what it comes to.

It keeps nothing on disk and is in no consumer group: after a start it reads the span once from Kafka, then only what
is new. Until it has read that, it serves no figures, because half a ledger does not close.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from audit.books import Reconciler
from audit.known import Admitted
from audit.metrics import AuditMetrics
from audit.rolling import Rolling
from audit.settings import AuditServiceSettings
from common import gc_settings
from common.clock import now_ms
from common.errors import Stopped
from common.kafka import by_time, clients
from common.kafka.partitions import Partitions
from common.kafka.reading import held
from common.service.running import Service
from common.task_group import TaskGroup
from schemas.codec import Unreadable
from schemas.errors import DecodeError
from schemas.ledger import read_ledger
from schemas.topology import TopologyState, read_state

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_MAX_RECORDS = 2_000
_RETRY_SECONDS = 1.0
_MINUTE_MS = 60_000


class Auditor:
    """One audit service."""

    def __init__(self, service: Service, settings: AuditServiceSettings) -> None:
        self._service = service
        self._settings = settings
        self._metrics = AuditMetrics(service.registry)
        self._partitions = Partitions(service)
        self._rolling = Rolling(settings.span_minutes * _MINUTE_MS)
        known = Admitted(
            settings.max_clusters, settings.max_strangers, settings.cluster, lambda name: name in self._names
        )
        group = f"{settings.topic_prefix}flowlog"
        self._books = Reconciler(self._rolling.sums_of, self._rolling.wants, group, known)
        self._names: set[str] = set()
        self._nodes: dict[bytes, TopologyState] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._catching_up: dict[TopicPartition, int] | None = None

    async def run(self) -> None:
        """Follow and reconcile until told to stop."""
        settings, topics = self._settings, self._settings.topics
        self._service.health.starting("ledger", "not read yet")
        wanted = {topics.ledger: settings.partitions, topics.topology: 1}
        async with TaskGroup() as tasks:
            watching = tasks.create_task(clients.watch_topics(self._service, settings, wanted), name="watch-topics")
            with contextlib.suppress(Stopped):
                await clients.wait_for_topics(self._service, settings, wanted)
                await self._run()
            watching.cancel()

    async def _run(self) -> None:
        settings = self._settings
        gc_settings.settle()
        self._rolling.move(now_ms())
        while not self._service.stopping.is_set():
            consumer = await clients.start(self._service, settings, lambda: clients.new_consumer(settings))
            try:
                # It keeps nothing that would have to be finished.
                await self._service.unless_stopped(self._follow(consumer))
            except (KafkaError, TimeoutError) as error:
                clients.away(self._service, settings, clients.reason(error))
                await self._service.pause(_RETRY_SECONDS)
            finally:
                await clients.close(consumer)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        await self._assign(consumer)
        due = time.monotonic() + self._settings.check_seconds
        while not self._service.stopping.is_set():
            fetched = await clients.fetch(consumer, seconds=_POLL_SECONDS, max_records=_MAX_RECORDS)
            for place, records in fetched.items():
                self._take(records)
                self._positions[place] = records[-1].offset + 1
            self._service.health.ready("kafka")
            self._bound()
            if await self._has_caught_up(consumer) and time.monotonic() >= due:
                began = time.monotonic()
                await self._check()
                # Where a sink is far behind there is much to look at: not all the time, then.  Waiting for Kafka does
                # not count, or the figures would stand still five times as long as it was away.
                due = time.monotonic() + max(self._settings.check_seconds, 5 * (time.monotonic() - began))
                await self._watch_lag(consumer)
            await asyncio.sleep(0)

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        """Go on where reading stood; at first from the start of the span, and of the topology from its beginning."""
        settings, topics = self._settings, self._settings.topics
        ledger = [TopicPartition(topics.ledger, number) for number in range(settings.partitions)]
        topology = TopicPartition(topics.topology, 0)
        consumer.assign([*ledger, topology])
        places, first = (*ledger, topology), self._catching_up is None
        ends = await asyncio.gather(*(self._end(consumer, place, first=first) for place in places))
        known = {place: end for place, end in zip(places, ends, strict=True) if end is not None}
        if not known:
            raise KafkaTimeoutError("Kafka does not say where any partition ends")
        if self._catching_up is None:
            self._catching_up = dict(known)
            self._service.health.waiting("ledger", f"reading the ledger of the last {settings.span_minutes} min")
        for place, offset in self._positions.items():
            # Beyond the end: the topic was recreated, and begins at 0 again.
            consumer.seek(place, offset if offset <= known.get(place, offset) else 0)
        # Of the others aiokafka asks where they begin, again and again.
        if topology in self._catching_up:
            # First whose names they are: nodes of the cluster find room in the books no matter who else writes there.
            consumer.pause(*ledger)

    async def _end(self, consumer: AIOKafkaConsumer, place: TopicPartition, *, first: bool) -> int | None:
        """Return the offset after a partition's last record; `first`: also find where to begin to read it.

        None if Kafka does not say, which must not hold up the other partitions.
        """
        try:
            async with asyncio.timeout(self._settings.kafka_deadline_seconds):
                if first:
                    there = (await held(consumer, [place]))[place]
                    self._positions[place] = await self._begin(consumer, place, there)
                    return there.stop
                end: int = (await consumer.end_offsets([place]))[place]
                return end
        except (KafkaError, TimeoutError) as error:
            self._partitions.fails(place, f"Kafka does not say where it stands: {clients.reason(error)}", "reading")
            return None

    async def _begin(self, consumer: AIOKafkaConsumer, place: TopicPartition, there: range) -> int:
        if place.topic == self._settings.topics.topology:
            return there.start
        return (await by_time.beginnings(consumer, self._rolling.floor_ms, {place: there}))[place].start

    async def _has_caught_up(self, consumer: AIOKafkaConsumer) -> bool:
        """Return whether what stood in the topics at the start has been read."""
        waiting = self._catching_up or {}
        for place, end in list(waiting.items()):
            async with asyncio.timeout(self._settings.kafka_deadline_seconds):
                if await consumer.position(place) >= end:
                    del waiting[place]
                    if place.topic == self._settings.topics.topology:
                        consumer.resume(*consumer.paused())
        if not waiting:
            self._service.health.ready("ledger")
        return not waiting

    def _take(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        is_ledger = records[0].topic == self._settings.topics.ledger
        for record in records:
            try:
                if not is_ledger:
                    self._take_state(record)
                elif record.value is not None:
                    self._books.take(read_ledger(record.value, record.key, record.partition))
            except DecodeError as error:
                self._metrics.refused.labels(error.reason).inc()
                log.warning("%s-%s@%s is not ours: %s", record.topic, record.partition, record.offset, error)

    def _take_state(self, record: ConsumerRecord[bytes, bytes]) -> None:
        """Keep the states of nodes; most are of pods, and a key begins with its kind."""
        key = record.key or b""
        if not key.startswith(b"node/") and not isinstance(record.value, Unreadable):
            return
        state = None if record.value is None else read_state(record.value, record.key)
        if state is None or (state.to_ms is not None and state.to_ms < self._rolling.floor_ms):
            self._nodes.pop(key, None)
        else:
            self._nodes[key] = state
            self._names.add(state.name)

    async def _check(self) -> None:
        """Reconcile, and serve what it comes to."""
        now = now_ms()
        self._rolling.move(now)
        for window, shortfalls in self._books.expire(self._rolling.floor_ms):
            if shortfalls:
                self._give_up(window.key.id)
        settled_before = now - int(self._settings.settle_seconds * 1000)
        # A second's work where a sink is far behind; probes and scrapes are answered meanwhile.
        recent = await asyncio.to_thread(self._rolling.recent, self._books, settled_before)
        floor = self._rolling.floor_ms
        self._nodes = {key: state for key, state in self._nodes.items() if state.to_ms is None or state.to_ms >= floor}
        self._names = {state.name for state in self._nodes.values()}
        self._metrics.show(recent, self._books, {self._settings.cluster: self._names} if self._names else {})

    def _bound(self) -> None:
        """Keep memory in bounds: let go of what fits, and beyond --max-open-windows of the oldest that do not."""
        for window in self._books.bound(int(self._settings.settle_seconds * 1000), self._settings.max_open_windows):
            self._give_up(window.key.id)

    def _give_up(self, window: str) -> None:
        self._metrics.given_up.inc()
        log.warning("%s is given up: it did not close", window)

    async def _watch_lag(self, consumer: AIOKafkaConsumer) -> None:
        silent = await self._partitions.look(
            consumer, self._settings.kafka_deadline_seconds, self._settings.topics.ledger
        )
        if silent is not None:
            raise KafkaTimeoutError(silent)
        self._metrics.lag.set(self._partitions.lag)
