# SPDX-License-Identifier: Apache-2.0
"""A sink at work. The order is the promise, and it stands here, once for all sinks.

1. what cannot be read is in the dead letters;
2. what was taken is durable, and with it the position and the marks to go on from;
3. its ledger entries are in Kafka;
4. the position is committed to the group.

A process that dies between any two of these goes on from what is durable. Where Kafka does not take dead letters or
ledger entries of a partition, that partition is read no further, and the others are. What was taken of it becomes
durable all the same: until its dead letters are through with the position of the first record that lacks one. Read
again from there, it is refused again, and what was taken is skipped by the marks.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from common import gc_settings
from common.clock import now_ms
from common.errors import Stopped
from common.kafka import clients
from common.kafka.partitions import LOOK_SECONDS, Partitions
from common.kafka.publish import PublishCounters
from common.service.running import Service
from common.settings import KafkaSettings
from common.task_group import TaskGroup
from schemas.flow import Endpoint
from schemas.ledger import LedgerRecord
from sinks import kafka_io
from sinks.deliveries import Deliveries
from sinks.intake import Intake, Lane, SourceRecord
from sinks.self_metrics import SelfMetrics
from sinks.sink import Overtaken, Sink

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
# An object store that falls silent raises nothing for two minutes: its client tries again by itself.
SILENT_SECONDS = 10.0


E = TypeVar("E")
C = TypeVar("C")
T = TypeVar("T")


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Notes that the group has reassigned the partitions; aiokafka swallows what a listener raises."""

    def __init__(self) -> None:
        self.seen = True

    def on_partitions_revoked(self, _: object) -> None:
        """Note it."""
        self.seen = True

    on_partitions_assigned = on_partitions_revoked


class Runner(Generic[E, C]):
    """One replica of a sink."""

    def __init__(
        self,
        service: Service,
        settings: KafkaSettings,
        sink: Sink[E, C],
        make_end: Callable[[Endpoint], E],
        new_consumer: Callable[[], AIOKafkaConsumer],
        partitions: Sequence[int] | None = None,
        attribution_version: int = 0,
    ) -> None:
        """`make_end`: what the sink wants to know of an end point. `partitions`: its own; None: as its group says.

        `attribution_version`: of the flows that it takes; others become dead letters.
        """
        self._service = service
        self._settings = settings
        self._sink = sink
        self._new_consumer = new_consumer
        self._owned = partitions
        self._metrics = SelfMetrics(service.registry, sink.step)
        self._partitions = Partitions(service, self._metrics.lag)
        self._consumer: AIOKafkaConsumer | None = None
        self._intake: Intake[E] = Intake(make_end, attribution_version=attribution_version)
        shared = service, settings, PublishCounters(service.registry), self._partitions
        self._letters = Deliveries(*shared, "dead letters", one_place=True)
        self._ledger = Deliveries(*shared, "ledger entries")
        self._lanes: dict[TopicPartition, Lane] = {}
        # To be committed once the ledger entries are through.
        self._positions: dict[TopicPartition, int] = {}
        self._changes = _Changes()

    async def run(self) -> None:
        """Take flows until told to stop; then make durable what was taken."""
        gc_settings.settle()
        names, partitions = self._settings.topics, self._settings.partitions
        wanted = {names.enriched: partitions, names.ledger: partitions}
        watching = clients.watch_topics(self._service, self._settings, wanted, dead_letters=True)
        async with TaskGroup() as tasks:
            beside = [
                tasks.create_task(self._watch_lag(), name="watch-lag"),
                tasks.create_task(watching, name="watch-topics"),
            ]
            try:
                await clients.wait_for_topics(self._service, self._settings, wanted)
                await self._run()
            except Stopped as error:
                # What is not durable will be read again.
                log.info("%s", error)
            finally:
                for task in beside:
                    task.cancel()

    async def _run(self) -> None:
        try:
            # Now, because a producer cannot be had any more once we are told to stop.
            await self._letters.start()
            await self._ledger.start()
            while not self._service.stopping.is_set():
                consumer = await clients.start(self._service, self._settings, self._new_consumer)
                try:
                    await self._consume(consumer)
                except (KafkaError, TimeoutError) as error:
                    clients.away(self._service, self._settings, clients.reason(error))
                    await self._service.pause(kafka_io.RETRY_SECONDS)
                finally:
                    self._consumer = None
                    await clients.close(consumer)
        finally:
            await self._letters.close()
            await self._ledger.close()

    async def _watch_lag(self) -> None:
        """Keep the lag up to date, and with it whether Kafka answers, for all and for each, until told to stop."""
        deadline, topic = self._settings.kafka_deadline_seconds, self._settings.topics.enriched
        while not self._service.stopping.is_set():
            await self._service.pause(LOOK_SECONDS)
            if self._consumer is None:
                continue
            silent = await self._partitions.look(self._consumer, deadline, topic)
            if silent is None:
                self._service.health.ready("kafka")
            else:
                clients.away(self._service, self._settings, silent)

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        topic = self._settings.topics.enriched
        if self._owned is None:
            consumer.subscribe([topic], listener=self._changes)
        else:
            consumer.assign([TopicPartition(topic, partition) for partition in self._owned])
        self._changes.seen = True
        self._consumer = consumer
        while not self._service.stopping.is_set():
            if self._changes.seen:
                self._changes.seen = False
                await self._adopt(consumer)
            fetched = await clients.fetch(consumer, seconds=POLL_SECONDS, max_records=kafka_io.MAX_RECORDS)
            if self._changes.seen:
                continue  # it is read again
            await self._release(consumer)
            await self._take(fetched)
            if news := self._news():
                await self._cut(consumer, self._sink.due(news, time.monotonic()))
            kafka_io.pause(consumer, self._letters.waiting | self._ledger.waiting)
        if not self._changes.seen:
            await self._cut(consumer, self._news())

    async def _adopt(self, consumer: AIOKafkaConsumer) -> None:
        """Go on from what is durable of the partitions that are now ours; what was held back is read again."""
        numbers = sorted(where.partition for where in consumer.assignment())
        lanes, entries = await self._insist(partial(self._sink.recover, numbers))
        found = {TopicPartition(self._settings.topics.enriched, lane.partition): lane for lane in lanes}
        kept = {where for where, lane in found.items() if self._lanes.get(where) is lane}
        await self._letters.forget(kept)
        await self._ledger.forget(kept)
        for lane in lanes:
            lane.believe(now_ms())
        self._lanes = found
        self._positions = {where: position for where, position in self._positions.items() if where in kept}
        await self._publish(entries)
        await self._service.unless_stopped(self._seek_all(consumer, found))
        kafka_io.pause(consumer, self._letters.waiting | self._ledger.waiting)

    async def _seek_all(self, consumer: AIOKafkaConsumer, lanes: Mapping[TopicPartition, Lane]) -> None:
        await asyncio.gather(*(self._seek(consumer, where, lane) for where, lane in lanes.items()))

    async def _seek(self, consumer: AIOKafkaConsumer, where: TopicPartition, lane: Lane) -> None:
        try:
            await kafka_io.seek(consumer, self._settings, where, lane)
        except IllegalStateError:
            self._changes.seen = True  # taken away again meanwhile

    async def _release(self, consumer: AIOKafkaConsumer) -> None:
        """Read on of the partitions whose records are in Kafka by now, and commit their positions."""
        for where in self._letters.through():
            self._lanes[where].settle()
        await self._commit(consumer, self._ledger.through())

    async def _take(self, fetched: Mapping[TopicPartition, Sequence[SourceRecord]]) -> None:
        letters = {}
        for where, records in fetched.items():
            lane = self._lanes[where]
            batch = self._intake.take(lane, records, now_ms())
            self._metrics.count(where.partition, batch)
            self._sink.add(lane, batch)
            if batch.refused:
                lane.refuse(batch.refused)
                letters[where] = kafka_io.letter_records(self._settings, where, batch.refused, self._sink.hop)
        await self._letters.deliver(letters)
        for where in letters.keys() - self._letters.waiting:
            self._lanes[where].settle()

    def _news(self) -> list[Lane]:
        """Return the lanes that have something to cut, and whose last cut is through."""
        waiting = self._ledger.waiting
        return [lane for where, lane in self._lanes.items() if not lane.books.is_empty and where not in waiting]

    async def _cut(self, consumer: AIOKafkaConsumer, lanes: Sequence[Lane]) -> None:
        if not lanes:
            return
        written = [cut for cut in self._sink.cut(lanes, now_ms()) if await self._write(cut.content)]
        topic = self._settings.topics.enriched
        self._positions |= {TopicPartition(topic, p): at for cut in written for p, at in cut.positions.items()}
        await self._publish([entry for cut in written for entry in cut.ledger])
        await self._commit(consumer, self._positions.keys() - self._ledger.waiting)

    async def _publish(self, entries: Sequence[LedgerRecord]) -> None:
        await self._ledger.deliver(kafka_io.ledger_records(self._settings, entries))

    async def _commit(self, consumer: AIOKafkaConsumer, through: set[TopicPartition]) -> None:
        positions = {where: self._positions.pop(where) for where in through & self._positions.keys()}
        await kafka_io.commit(consumer, self._settings, positions)

    async def _write(self, content: C) -> bool:
        try:
            with self._metrics.durable_seconds.time():
                await self._insist(partial(self._sink.write, content))
        except Overtaken as error:
            log.warning("%s; going on from there", error)
            self._changes.seen = True
            return False
        return True

    async def _insist(self, step: Callable[[], T]) -> T:
        """Do something in a thread; while it fails, wait and try again, and take nothing meanwhile."""
        while True:
            work = asyncio.ensure_future(asyncio.to_thread(step))
            await asyncio.wait([work], timeout=SILENT_SECONDS)
            if not work.done():
                self._tell(f"no answer for {SILENT_SECONDS:g} s; waiting for it")
            try:
                result = await work
            except OSError as error:
                self._metrics.failures.inc()
                self._tell(f"{error.strerror or clients.reason(error)}; retrying")
                if self._service.stopping.is_set():
                    raise Stopped("told to stop before everything was written") from error
                await self._service.pause(kafka_io.RETRY_SECONDS)
            else:
                self._service.health.ready(self._sink.part)
                return result

    def _tell(self, reason: str) -> None:
        self._service.health.waiting(self._sink.part, f"{self._sink.place}: {reason}")
