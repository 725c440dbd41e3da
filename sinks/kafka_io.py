# SPDX-License-Identifier: Apache-2.0
"""What a sink does with Kafka: read with a deadline, commit, make records of what it says."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from common.clock import now_ms
from common.kafka import clients
from common.kafka.publish import Record
from common.settings import KafkaSettings
from schemas.dead_letter import dead_letter
from schemas.ledger import LedgerRecord, encode_ledger
from sinks.intake import Lane, Refused

log = logging.getLogger(__name__)

# Records taken in one go: a few tens of milliseconds, so that heartbeats and scrapes go on.
MAX_RECORDS = 5_000
RETRY_SECONDS = 1.0
# A sink that is told to stop, and its group, do not wait longer for what is not needed.
_COMMIT_SECONDS = 5.0


def letter_records(
    settings: KafkaSettings, where: TopicPartition, refused: Iterable[Refused], refused_by: str
) -> list[Record]:
    """Return the dead letters of one partition's refused records."""
    return [
        Record(
            topic=settings.topics.dead_letter,
            partition=0,
            key=f"{where.topic}/{where.partition}/{record.offset}".encode(),
            value=dead_letter(
                *(reason, detail, refused_by, where.topic, where.partition, record.offset, record.timestamp),
                *(record.key, record.value),
            ),
            timestamp_ms=now_ms(),
        )
        for record, reason, detail in refused
    ]


def ledger_records(settings: KafkaSettings, entries: Iterable[LedgerRecord]) -> dict[TopicPartition, list[Record]]:
    """Return ledger entries as records, each in the partition of the ledger that has its flows' number."""
    records: dict[TopicPartition, list[Record]] = {}
    for entry in entries:
        record = Record(settings.topics.ledger, entry.partition, entry.key, encode_ledger(entry), now_ms())
        records.setdefault(TopicPartition(settings.topics.enriched, entry.partition), []).append(record)
    return records


async def commit(consumer: AIOKafkaConsumer, settings: KafkaSettings, positions: dict[TopicPartition, int]) -> None:
    """Commit positions to the group; a failure is logged and no more, because our own state is what counts.

    There may be none: every partition that was to be cut has turned out to be another replica's.
    """
    if not positions:
        return
    try:
        async with asyncio.timeout(min(_COMMIT_SECONDS, settings.kafka_deadline_seconds)):
            await consumer.commit(positions)
    except (KafkaError, TimeoutError) as error:
        log.warning("positions not committed to the group: %s", clients.reason(error))


def pause(consumer: AIOKafkaConsumer, waiting: Collection[TopicPartition]) -> None:
    """Let a consumer read nothing of the partitions that wait, and all others.

    Those of another assignment may be among them: it changes under way.
    """
    paused = consumer.assignment().intersection(waiting)
    consumer.pause(*paused)
    consumer.resume(*(consumer.paused() - paused))


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
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            if await consumer.seek_to_beginning(partition):
                return
    # The other partitions do not wait for it; aiokafka goes on asking.
    log.warning("Kafka does not say where %s-%s begins; it is read once it does", *partition)
