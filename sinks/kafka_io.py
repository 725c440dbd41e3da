# SPDX-License-Identifier: Apache-2.0
"""What both sinks do with Kafka: read with a deadline, publish until it is acknowledged, watch the lag."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from common.errors import PublishError, Stopped
from common.kafka import clients
from common.kafka.partitions import LOOK_SECONDS, Partitions
from common.kafka.publish import Publisher, Record
from common.service.lifecycle import Service
from common.settings import KafkaSettings
from schemas.dead_letter import dead_letter
from schemas.ledger import LedgerRecord, encode_ledger
from sinks.intake import Lane, Refusals
from sinks.self_metrics import SelfMetrics

log = logging.getLogger(__name__)

# Records taken in one go: a few tens of milliseconds, so that heartbeats and scrapes go on.
MAX_RECORDS = 5_000
# Of records that wait until they are dead letters: so many, or so large, are not held back for a checkpoint or a cut.
MAX_REFUSED_BYTES = 4 * 1024 * 1024
RETRY_SECONDS = 1.0


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def wait_for_topics(service: Service, settings: KafkaSettings) -> None:
    """Wait until the topics that a sink reads and writes exist as they should."""
    topics = settings.topics
    wanted = {topics.enriched: settings.partitions, topics.ledger: settings.partitions, topics.dead_letter: 1}
    await clients.wait_for_topics(service, settings, wanted)


def too_many(refusals: Sequence[Refusals]) -> bool:
    """Return whether so much was refused that it must become dead letters now."""
    count, size = sum(len(each.records) for each in refusals), sum(each.size_bytes for each in refusals)
    return count >= MAX_RECORDS or size >= MAX_REFUSED_BYTES


def letter_records(settings: KafkaSettings, partition: int, refusals: Refusals, refused_by: str) -> list[Record]:
    """Return the dead letters of one partition's refused records."""
    topic = settings.topics.enriched
    return [
        Record(
            topic=settings.topics.dead_letter,
            partition=0,
            key=f"{topic}/{partition}/{record.offset}".encode(),
            value=dead_letter(
                *(reason, detail, refused_by, topic, partition, record.offset, record.timestamp),
                *(record.key, record.value),
            ),
            timestamp_ms=now_ms(),
        )
        for record, reason, detail in refusals.records
    ]


def ledger_records(settings: KafkaSettings, entries: Iterable[LedgerRecord]) -> list[Record]:
    """Return ledger entries as records; each in the partition whose flows it is about."""
    return [
        Record(settings.topics.ledger, entry.partition, entry.key, encode_ledger(entry), now_ms()) for entry in entries
    ]


async def deliver(service: Service, publisher: Publisher, part: str, records: Sequence[Record]) -> None:
    """Publish until all records are acknowledged; raise `Stopped` if told to stop before that."""
    while True:
        try:
            await publisher.publish(records)
        except PublishError as error:
            service.health.waiting(part, f"cannot publish to Kafka: {error}; retrying")
            if service.stopping.is_set():
                raise Stopped("told to stop before everything was published") from error
            await service.pause(RETRY_SECONDS)
        else:
            service.health.ready(part)
            return


async def commit(consumer: AIOKafkaConsumer, settings: KafkaSettings, positions: dict[TopicPartition, int]) -> bool:
    """Commit positions to the group; a failure is logged and no more, because our own state is what counts.

    There may be none: every partition that was to be cut has turned out to be another replica's.
    """
    if not positions:
        return True
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            await consumer.commit(positions)
    except (KafkaError, TimeoutError) as error:
        log.warning("positions not committed to the group: %s", clients.reason(error))
        return False
    return True


async def keep_reading(
    service: Service,
    settings: KafkaSettings,
    watch: "LagWatch",
    new_consumer: Callable[[], AIOKafkaConsumer],
    read: Callable[[AIOKafkaConsumer], Awaitable[None]],
) -> None:
    """Read until told to stop; after any failure of Kafka wait, and start again with another consumer."""
    while not service.stopping.is_set():
        consumer = await clients.start(service, settings, new_consumer)
        try:
            await read(consumer)
        except (KafkaError, TimeoutError) as error:
            clients.away(service, settings, clients.reason(error))
            await service.pause(RETRY_SECONDS)
        finally:
            watch.consumer = None
            await clients.close(consumer)


async def seek(consumer: AIOKafkaConsumer, settings: KafkaSettings, partition: TopicPartition, lane: Lane) -> None:
    """Set a consumer, and the lane, to where reading goes on: what is further of our own position and the group's.

    The group's is further if another replica had the partition meanwhile, or our own state was lost. Where the group
    has none, Kafka has forgotten it, as it does when the topic is deleted: our own offset may then be one of a topic
    recreated, so everything is read again, and the marks skip what was taken.
    """
    async with asyncio.timeout(settings.kafka_deadline_seconds):
        committed: int | None = await consumer.committed(partition)
    lane.position = None if committed is None else max(lane.position or 0, committed)
    if lane.position is not None:
        consumer.seek(partition, lane.position)
    elif not await _is_at_beginning(consumer, settings, partition):
        # The other partitions do not wait for it; aiokafka goes on asking.
        log.warning("Kafka does not say where %s-%s begins; it is read once it does", *partition)


async def _is_at_beginning(consumer: AIOKafkaConsumer, settings: KafkaSettings, partition: TopicPartition) -> bool:
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            return bool(await consumer.seek_to_beginning(partition))
    except TimeoutError:
        return False


class LagWatch:
    """Keeps the lag up to date, and with it whether Kafka answers, for all and for each; the reader sets `consumer`."""

    def __init__(self, service: Service, settings: KafkaSettings, metrics: SelfMetrics) -> None:
        self._service = service
        self._settings = settings
        self.partitions = Partitions(service, metrics.lag)
        self.consumer: AIOKafkaConsumer | None = None

    async def run(self) -> None:
        """Look every few seconds, until told to stop."""
        while not self._service.stopping.is_set():
            await self._service.pause(LOOK_SECONDS)
            if self.consumer is not None:
                await self._look(self.consumer)

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        settings = self._settings
        silent = await self.partitions.look(consumer, settings.kafka_deadline_seconds, settings.topics.enriched)
        if silent is None:
            self._service.health.ready("kafka")
        else:
            clients.away(self._service, settings, silent)
