# SPDX-License-Identifier: Apache-2.0
"""The flow log at work: takes flows, and cuts them into manifests.

The order within a cut is the promise: dead letters are in Kafka; then the data files and the manifest that lists
them are written; then the manifest's ledger records are published, and its position committed to the group. A
process that dies between any two of these goes on from the newest manifest.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError

from common.errors import Stopped
from common.kafka import clients
from common.kafka.publish import Publisher
from common.service.lifecycle import Service
from sinks import kafka_io
from sinks.deliveries import Deliveries
from sinks.flowlog.archive import Cut, Overtaken
from sinks.flowlog.columns import FlatEnd, flatten
from sinks.flowlog.manifest import Manifest
from sinks.flowlog.pending import Buffer, Pending
from sinks.flowlog.settings import FlowlogSettings
from sinks.intake import Intake
from sinks.self_metrics import SelfMetrics

T = TypeVar("T")

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# An object store that falls silent raises nothing for minutes: pyarrow tries again by itself.
SILENT_SECONDS = 10.0
# Of rows held back, over all partitions; beyond it the fullest is written before its time.
MAX_HELD_BYTES = 256 * 1024 * 1024


class Output(Protocol):
    """Where cuts go: an archive, or stdout."""

    def recover(self, partition: int) -> Manifest | None:
        """Clear up after a partition's last owner and return its newest manifest."""

    def write(self, cut: Cut) -> Manifest:
        """Write a cut; what is returned is durable."""


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Notes that the group has reassigned the partitions; aiokafka swallows what a listener raises."""

    def __init__(self) -> None:
        self.seen = True

    def on_partitions_revoked(self, revoked: object) -> None:
        """Note it."""
        self.seen = True

    def on_partitions_assigned(self, assigned: object) -> None:
        """Note it."""
        self.seen = True


class FlowlogSink:
    """One replica of the flow log."""

    def __init__(
        self,
        service: Service,
        settings: FlowlogSettings,
        output: Output,
        new_buffer: Callable[[], Buffer],
        publisher: Publisher,
    ) -> None:
        self._service = service
        self._settings = settings
        self._output = output
        self._new_buffer = new_buffer
        self._publisher = publisher
        self._metrics = SelfMetrics(service.registry, "cut")
        self.watch = kafka_io.LagWatch(service, settings, self._metrics)
        self._intake: Intake[FlatEnd] = Intake(flatten)
        self._deliveries = Deliveries(service, settings, publisher.counters, self.watch.partitions)
        self._pending: dict[int, Pending] = {}
        self._changes = _Changes()

    async def run(self) -> None:
        """Take flows until told to stop; then write what is held back."""
        await kafka_io.wait_for_topics(self._service, self._settings)
        # Now, because a producer cannot be had any more once we are told to stop.
        await self._publisher.start()
        await self._deliveries.start()
        try:
            await kafka_io.keep_reading(self._service, self._settings, self.watch, self._new_consumer, self._consume)
        finally:
            await self._deliveries.close()

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        self._changes.seen = True
        consumer.subscribe([self._settings.topics.enriched], listener=self._changes)
        self.watch.consumer = consumer
        await self._take(consumer)

    def _new_consumer(self) -> AIOKafkaConsumer:
        return clients.new_consumer(
            self._settings,
            group_id=self._settings.group_id,
            group_instance_id=self._settings.group_instance_id,
            session_timeout_ms=int(self._settings.session_timeout_seconds * 1000),
        )

    async def _take(self, consumer: AIOKafkaConsumer) -> None:
        while not self._service.stopping.is_set():
            fetched = await clients.fetch(consumer, seconds=POLL_SECONDS, max_records=kafka_io.MAX_RECORDS)
            if self._changes.seen:
                self._changes.seen = False
                await self._adopt(consumer)
                continue
            await self._deliveries.release(consumer)
            for partition, records in fetched.items():
                pending = self._pending[partition.partition]
                batch = self._intake.take(pending.lane, records, kafka_io.now_ms())
                self._metrics.count(partition.partition, batch)
                pending.add(batch, records[0].offset, time.monotonic())
            await self._cut(consumer, self._due(time.monotonic()))
        if not self._changes.seen:
            await self._cut(consumer, [pending for pending in self._pending.values() if pending.since is not None])

    async def _adopt(self, consumer: AIOKafkaConsumer) -> None:
        """Go on from the newest manifests of the partitions that are now ours; what was held back is read again."""
        self._pending = {}
        await self._deliveries.forget()
        for partition in sorted(consumer.assignment()):
            newest = await self._insist(partial(self._output.recover, partition.partition))
            pending = Pending.resume(partition.partition, newest, self._new_buffer, kafka_io.now_ms())
            self._pending[partition.partition] = pending
            await self._deliveries.deliver(newest.ledger if newest else [])
            try:
                await kafka_io.seek(consumer, self._settings, partition, pending.lane)
            except IllegalStateError:
                # Taken away again meanwhile.
                self._changes.seen = True
                return
        self._deliveries.pause(consumer)

    def _due(self, now: float) -> list[Pending]:
        waiting = [pending for pending in self._pending.values() if pending.since is not None]
        due = [
            pending
            for pending in waiting
            if pending.since is not None and now - pending.since >= self._settings.cut_seconds
        ]
        if due or not waiting:
            return due
        rows = sum(pending.rows for pending in waiting)
        held_bytes = sum(pending.size_bytes for pending in waiting)
        if rows >= self._settings.cut_rows or held_bytes >= MAX_HELD_BYTES:
            return [max(waiting, key=lambda pending: pending.size_bytes)]
        return waiting if kafka_io.too_many([pending.refused for pending in waiting]) else []

    async def _cut(self, consumer: AIOKafkaConsumer, due: Sequence[Pending]) -> None:
        if not due:
            return
        letters = [
            letter
            for pending in due
            for letter in kafka_io.letter_records(self._settings, pending.lane.partition, pending.refused, "flowlog")
        ]
        await kafka_io.deliver(self._service, self._publisher, "dead letters", letters)
        topic = self._settings.topics.enriched
        cuts = [pending.cut(topic, self._settings.group_id, kafka_io.now_ms()) for pending in due]
        written = [manifest for cut in cuts if (manifest := await self._write(cut))]
        positions = {TopicPartition(topic, each.partition): each.next_offset for each in written if each.next_offset}
        await self._deliveries.deliver([entry for each in written for entry in each.ledger], consumer, positions)

    async def _write(self, cut: Cut) -> Manifest | None:
        try:
            with self._metrics.durable_seconds.time():
                return await self._insist(partial(self._output.write, cut))
        except Overtaken as error:
            log.warning("%s; going on from there", error)
            self._changes.seen = True
            return None

    async def _answer(self, step: Callable[[], T]) -> T:
        """Do something on the output in a thread; say so if it takes long."""
        work = asyncio.ensure_future(asyncio.to_thread(step))
        await asyncio.wait([work], timeout=SILENT_SECONDS)
        if not work.done():
            reason = f"output = {self._settings.output!r}: no answer for {SILENT_SECONDS:g} s; waiting for it"
            self._service.health.waiting("output", reason)
        return await work

    async def _insist(self, step: Callable[[], T]) -> T:
        """Do something on the output in a thread; while it fails, wait and try again, and take nothing meanwhile."""
        while True:
            try:
                result = await self._answer(step)
            except BrokenPipeError as error:
                raise Stopped("nobody reads stdout any more") from error
            except OSError as error:
                self._metrics.failures.inc()
                reason = error.strerror or clients.reason(error)
                self._service.health.waiting("output", f"output = {self._settings.output!r}: {reason}; retrying")
                if self._service.stopping.is_set():
                    raise Stopped("told to stop before everything was written") from error
                await self._service.pause(kafka_io.RETRY_SECONDS)
            else:
                self._service.health.ready("output")
                return result
