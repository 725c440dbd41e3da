# SPDX-License-Identifier: Apache-2.0
"""The metrics sink at work: takes flows, and makes checkpoints of what they came to.

The order within a checkpoint is the promise: dead letters are in Kafka; then counters, positions, marks and ledger
records become durable in one transaction; then the counters are served, the ledger records published, the positions
committed. A process that dies between any two of these goes on where the transaction left off.
"""

import asyncio
import copy
import sqlite3
import time
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Gauge

from common.errors import Stopped
from common.kafka import clients
from common.kafka.publish import Publisher
from common.service.lifecycle import Service
from prices.book import PriceBook
from schemas.ledger import LedgerRecord
from sinks import kafka_io
from sinks.deliveries import Deliveries
from sinks.intake import Intake, Lane, Refusals, SourceRecord
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.checkpoint import Checkpoint, State
from sinks.metrics.ends import End, Ends
from sinks.metrics.exposition import Exposition
from sinks.metrics.settings import MetricsSettings
from sinks.self_metrics import SelfMetrics
from sinks.tallies import Tallies

POLL_SECONDS = 0.25


class MetricsSink:
    """One replica of the metrics sink."""

    def __init__(
        self,
        service: Service,
        settings: MetricsSettings,
        state: State,
        publisher: Publisher,
        prices: PriceBook | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self._state = state
        self._publisher = publisher
        self._metrics = SelfMetrics(service.registry, "checkpoint")
        self._series = Gauge("zonemeter_series", "Series served, by family.", ["family"], registry=service.registry)
        self.watch = kafka_io.LagWatch(service, settings, self._metrics)
        self._aggregate = Aggregate(
            settings.max_series,
            settings.kubezonnet_max_series if settings.kubezonnet_metric else None,
            prices,
            int(settings.series_idle_hours * 3_600_000),
        )
        if prices is not None:
            _show_prices(service, prices)
        specs = [family.spec for family in self._aggregate.families.values()]
        self._exposition = Exposition(specs, int(settings.silent_after_seconds * 1000))
        self._intake: Intake[End] = Intake(Ends().make)
        self._owned = [p for p in range(settings.partitions) if p % settings.replicas == settings.replica_ordinal]
        self._lanes: dict[int, Lane] = {}
        self._refused: dict[int, Refusals] = {}
        self._pending_ledger: list[LedgerRecord] = []
        self._deliveries = Deliveries(service, settings, publisher.counters, self.watch.partitions)
        self._sequence = 0
        self._life = ""

    async def restore(self) -> None:
        """Take the last checkpoint back and serve it, before anything else."""
        restored = await asyncio.to_thread(self._state.load)
        for sample in restored.series:
            self._aggregate.restore(sample)
        for lane in restored.lanes.values():
            lane.believe(kafka_io.now_ms())
        marks = [item for lane in restored.lanes.values() for item in lane.marks.items()]
        self._exposition.apply(restored.series, marks)
        self._lanes = {partition: restored.lanes.get(partition, Lane(partition)) for partition in self._owned}
        self._sequence, self._life = restored.sequence, restored.life
        self._pending_ledger = restored.ledger
        self._service.render = lambda: self._exposition.render(kafka_io.now_ms())

    async def run(self) -> None:
        """Take flows until told to stop; then make a last checkpoint."""
        await kafka_io.wait_for_topics(self._service, self._settings)
        # Now, because a producer cannot be had any more once we are told to stop.
        await self._publisher.start()
        await self._deliveries.start()
        try:
            await self._deliveries.deliver(self._pending_ledger)
            await kafka_io.keep_reading(self._service, self._settings, self.watch, self._new_consumer, self._consume)
        finally:
            await self._deliveries.close()

    def _new_consumer(self) -> AIOKafkaConsumer:
        return clients.new_consumer(self._settings, group_id=self._settings.group_id)

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        partitions = [TopicPartition(self._settings.topics.enriched, partition) for partition in self._owned]
        consumer.assign(partitions)
        lanes = self._lanes
        await asyncio.gather(
            *(kafka_io.seek(consumer, self._settings, each, lanes[each.partition]) for each in partitions)
        )
        self._deliveries.pause(consumer)
        self.watch.consumer = consumer
        await self._take(consumer)

    async def _take(self, consumer: AIOKafkaConsumer) -> None:
        due = 0.0
        while not self._service.stopping.is_set():
            fetched = await clients.fetch(consumer, seconds=self._patience(due), max_records=kafka_io.MAX_RECORDS)
            await self._deliveries.release(consumer)
            for partition, records in fetched.items():
                self._take_records(self._lanes[partition.partition], records)
            full = kafka_io.too_many(list(self._refused.values()))
            if self._pending and (full or time.monotonic() >= due):
                due = time.monotonic() + self._settings.checkpoint_seconds
                await self._checkpoint(consumer)
        if self._pending:
            await self._checkpoint(consumer)

    def _patience(self, due: float) -> float:
        left = max(due - time.monotonic(), 0.0) if self._pending else POLL_SECONDS
        return min(left, POLL_SECONDS)

    @property
    def _pending(self) -> bool:
        return any(not lane.books.is_empty for lane in self._lanes.values())

    def _take_records(self, lane: Lane, records: Sequence[SourceRecord]) -> None:
        batch = self._intake.take(lane, records, kafka_io.now_ms())
        self._aggregate.add(batch.rows, lane.books)
        self._metrics.count(lane.partition, batch)
        if batch.refused:
            self._refused.setdefault(lane.partition, Refusals()).add(batch.refused)

    async def _checkpoint(self, consumer: AIOKafkaConsumer) -> None:
        letters = [
            letter
            for partition, refused in self._refused.items()
            for letter in kafka_io.letter_records(self._settings, partition, refused, "metrics")
        ]
        await kafka_io.deliver(self._service, self._publisher, "dead letters", letters)
        self._refused.clear()
        checkpoint = self._cut(kafka_io.now_ms())
        await self._make_durable(checkpoint)
        topic = self._settings.topics.enriched
        positions = {TopicPartition(topic, partition): offset for partition, offset in checkpoint.positions.items()}
        fresh = [entry for entry in checkpoint.ledger if entry.partition in checkpoint.positions]
        await self._deliveries.deliver(fresh, consumer, positions)

    def _cut(self, now_ms: int) -> Checkpoint:
        """Take together what changed since the last checkpoint; the next one begins with empty books."""
        self._sequence += 1
        name = f"{self._settings.replica_ordinal}/{self._life}/{self._sequence}"
        changes = self._aggregate.fold(now_ms)
        # What is on its way: this checkpoint takes the place of the one that holds it.
        on_their_way = self._deliveries.entries
        checkpoint = Checkpoint(self._sequence, changes.samples, removed=changes.removed, ledger=on_their_way)
        for lane in self._lanes.values():
            if lane.books.is_empty or lane.position is None:
                continue
            checkpoint.positions[lane.partition] = lane.position
            checkpoint.ledger += lane.books.records("metrics", name, lane.partition, now_ms)
            checkpoint.dropped += [(lane.partition, origin) for origin in lane.forget_old_marks(now_ms)]
            touched = [(origin, lane.marks[origin]) for origin in lane.touched if origin in lane.marks]
            checkpoint.marks += [(lane.partition, origin, copy.copy(mark)) for origin, mark in touched]
            lane.touched.clear()
            lane.books = Tallies()
        return checkpoint

    async def _make_durable(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and serve it; while the disk refuses, wait and try again, and take nothing meanwhile."""
        while True:
            try:
                with self._metrics.durable_seconds.time():
                    await asyncio.to_thread(self._write, checkpoint)
            except sqlite3.Error as error:
                self._metrics.failures.inc()
                self._service.health.waiting("state", f"state_dir = '{self._settings.state_dir}': {error}; retrying")
                if self._service.stopping.is_set():
                    raise Stopped("told to stop before the checkpoint was written") from error
                await self._service.pause(kafka_io.RETRY_SECONDS)
            else:
                self._service.health.ready("state")
                for family, number in self._exposition.series_counts().items():
                    self._series.labels(family).set(number)
                return

    def _write(self, checkpoint: Checkpoint) -> None:
        self._state.commit(checkpoint)
        marks = [(origin, mark) for _, origin, mark in checkpoint.marks]
        self._exposition.apply(checkpoint.series, marks, checkpoint.removed)


def _show_prices(service: Service, prices: PriceBook) -> None:
    info = Gauge(
        "zonemeter_prices_info",
        "1; the price file in force and the day its prices are of as labels.",
        ["file", "title", "as_of", "unit"],
        registry=service.registry,
    )
    info.labels(prices.name, prices.title, str(prices.as_of), prices.unit).set(1)
