# SPDX-License-Identifier: Apache-2.0
"""Ledger entries on their way to Kafka. A partition of the ledger that takes none holds up its own, and no other.

What is durable here must be in the ledger before more of the same partition is taken: a checkpoint and a manifest
hold one such set of entries of each, to be published again after a crash. So the partition waits, and is read on once
its entries are in Kafka.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.errors import PublishError, Stopped
from common.kafka.partitions import Partitions
from common.kafka.publish import PublishCounters, Publisher
from common.service.lifecycle import Service
from common.settings import KafkaSettings
from schemas.ledger import LedgerRecord
from sinks import kafka_io

log = logging.getLogger(__name__)

# How long all wait for one that may fail; then each waits for itself. Kafka acknowledges within hundredths of that.
TOGETHER_SECONDS = 2.0


@dataclass(slots=True)
class _Held:
    """What is to be published of one partition, and the position to commit after that."""

    entries: list[LedgerRecord]
    position: int | None
    task: asyncio.Task[None]


class Deliveries:
    """Those of one sink."""

    def __init__(
        self, service: Service, settings: KafkaSettings, counters: PublishCounters, partitions: Partitions
    ) -> None:
        self._service = service
        self._settings = settings
        self._counters = counters
        self._partitions = partitions
        # Of a failure the partitions tell that it concerns.
        self._publisher = Publisher(service, settings, counters, lambda _: None, TOGETHER_SECONDS)
        self._held: dict[TopicPartition, _Held] = {}

    async def start(self) -> None:
        """Connect: a producer cannot be had any more once the service is told to stop."""
        await self._publisher.start()

    async def close(self) -> None:
        """Give up what waits, and disconnect."""
        await self.forget()
        await self._publisher.close()

    @property
    def entries(self) -> list[LedgerRecord]:
        """What is not in Kafka yet."""
        return [entry for held in self._held.values() for entry in held.entries]

    async def deliver(
        self,
        entries: Sequence[LedgerRecord],
        consumer: AIOKafkaConsumer | None = None,
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Publish, then commit the positions.

        If Kafka does not take all, each partition's are tried again by themselves; `consumer` reads on of a partition
        once `release` finds that it is through. Raises `Stopped` if that is when the service is told to stop.
        """
        positions = dict(positions or {})
        try:
            if entries:
                await self._publish(entries)
        except PublishError as error:
            if self._service.stopping.is_set():
                raise Stopped("told to stop before everything was published") from error
            log.warning("ledger: %s; each partition's entries are published by themselves", error)
            by_partition: defaultdict[TopicPartition, list[LedgerRecord]] = defaultdict(list)
            for entry in entries:
                by_partition[TopicPartition(self._settings.topics.enriched, entry.partition)].append(entry)
            for where, its in by_partition.items():
                task = asyncio.create_task(self._insist(where, its), name=f"ledger-{where.partition}")
                self._held[where] = _Held(its, positions.pop(where, None), task)
        if consumer is not None:
            self.pause(consumer)
            await kafka_io.commit(consumer, self._settings, positions)

    async def _publish(self, entries: Sequence[LedgerRecord]) -> None:
        await self._publisher.publish(kafka_io.ledger_records(self._settings, entries))

    def pause(self, consumer: AIOKafkaConsumer) -> None:
        """Let a consumer read nothing of the partitions that wait, and all others.

        Others may be paused: the group reassigns them while entries wait, the pause falls on the new assignment,
        and then what waited is forgotten.
        """
        waiting = self._held.keys() & consumer.assignment()
        consumer.pause(*waiting)
        consumer.resume(*(consumer.paused() - waiting))

    async def release(self, consumer: AIOKafkaConsumer) -> None:
        """Read on of the partitions whose entries are in Kafka by now, and commit their positions."""
        through = {where: held for where, held in self._held.items() if held.task.done()}
        for where, held in through.items():
            held.task.result()
            del self._held[where]
        self.pause(consumer)
        positions = {where: held.position for where, held in through.items() if held.position is not None}
        await kafka_io.commit(consumer, self._settings, positions)

    async def forget(self) -> None:
        """Give up what waits: the next owner of a partition finds it where it is durable."""
        tasks = [held.task for held in self._held.values()]
        self._held.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _insist(self, where: TopicPartition, entries: Sequence[LedgerRecord]) -> None:
        def tell(reason: str | None) -> None:
            if reason is not None:
                self._partitions.fails(where, f"its ledger entries are not taken: {reason}")

        publisher = Publisher(self._service, self._settings, self._counters, tell)
        records = kafka_io.ledger_records(self._settings, entries)
        try:
            while True:
                try:
                    await publisher.publish(records)
                    break
                except PublishError as error:
                    log.debug("ledger of partition %s: %s", where.partition, error)
                await self._service.pause(kafka_io.RETRY_SECONDS)
            self._partitions.works(where)
        finally:
            await publisher.close()
