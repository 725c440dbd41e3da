# SPDX-License-Identifier: Apache-2.0
"""Reads a topic from a point in time to its present end, in no consumer group, so that nobody's position moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from common.errors import Refusal
from common.kafka import by_time, clients
from common.kafka.topic_admin import admin_client
from common.settings import KafkaSettings
from common.terminal import command

POLL_SECONDS = 1.0
# Records held at a time.
MAX_RECORDS = 10_000


@dataclass(slots=True)
class Reading:
    """How far a reading is, for whoever watches it.

    `records`, `done`: offsets to read and read. `cut_off`: partitions from whose beginning records have been deleted
    that may have been wanted. `timed_from`: where in each partition the wanted times begin; of what is read before
    that only records without a time are given.
    """

    records: int = 0
    done: int = 0
    cut_off: list[int] = field(default_factory=list)
    timed_from: dict[TopicPartition, int] = field(default_factory=dict)


async def read_topic(
    settings: KafkaSettings,
    topic: str,
    from_ms: int | None = None,
    *,
    starts: Mapping[int, int] | None = None,
    only: int | None = None,
    reading: Reading | None = None,
) -> AsyncIterator[Sequence[ConsumerRecord[bytes, bytes]]]:
    """Yield batches of the records whose Kafka timestamp is `from_ms` or later (None: all), up to the end seen first.

    Also those without one that came about then: where the first of that time stands is known, and what stands between
    it and the last of an earlier time may be of any.
    `starts`: of these partitions, begin at that offset if it is later. `only`: no other partition than this. A batch is
    of one partition. Raises `Refusal`
    where Kafka cannot be reached or stops answering, or the topic does not exist.
    """
    reading = Reading() if reading is None else reading
    numbers = await partitions_of(settings, topic) if only is None else [only]
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer = clients.new_consumer(settings)
    deadline = settings.kafka_deadline_seconds
    try:
        try:
            async with asyncio.timeout(deadline):
                await consumer.start()
                ends = await _assign(consumer, partitions, from_ms, starts or {}, reading)
        except (KafkaError, OSError, TimeoutError) as error:
            raise Refusal(f"Kafka at {settings.kafka_bootstrap} cannot be read: {clients.reason(error)}") from error
        heard, left = time.monotonic(), None
        while open_ := await _open(settings, consumer, ends):
            if open_ != left:
                heard, left = time.monotonic(), open_
            elif time.monotonic() - heard > deadline:
                raise Refusal(f"Kafka at {settings.kafka_bootstrap} stopped answering for {deadline:.0f} s")
            consumer.pause(*(partition for partition in ends if partition not in open_))
            try:
                batches = await clients.fetch(consumer, seconds=POLL_SECONDS, max_records=MAX_RECORDS)
            except KafkaError as error:
                raise _silent(settings, error) from error
            for partition, records in batches.items():
                there = [record for record in records if record.offset < ends[partition]]
                reading.done += len(there)
                timed = reading.timed_from[partition]
                wanted = [record for record in there if record.offset >= timed or record.timestamp < 0]
                if wanted:
                    yield wanted
    finally:
        await clients.close(consumer)


async def _assign(
    consumer: AIOKafkaConsumer,
    partitions: list[TopicPartition],
    from_ms: int | None,
    not_before: Mapping[int, int],
    reading: Reading,
) -> dict[TopicPartition, int]:
    consumer.assign(partitions)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    begins: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
    starts = untimed = dict(begins)
    if from_ms is not None:
        found = await by_time.offsets_for_times(consumer, dict.fromkeys(partitions, from_ms))
        starts = {partition: at.offset if at else ends[partition] for partition, at in found.items()}
        untimed = await by_time.untimed_from(consumer, from_ms, starts, begins, ends)
    for partition in partitions:
        wanted = not_before.get(partition.partition, 0)
        start = min(max(starts[partition], wanted), ends[partition])
        if start == begins[partition] > wanted:
            reading.cut_off.append(partition.partition)
        reading.timed_from[partition] = start
        start = min(max(untimed[partition], wanted), start)
        consumer.seek(partition, start)
        reading.records += ends[partition] - start
    return ends


async def _open(
    settings: KafkaSettings, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the partitions that are not read to their ends yet, and where in them reading is."""
    try:
        # Not wait_for: in Python 3.11 it may swallow a cancellation, that is a Ctrl-C (bpo-37658).
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            positions = {partition: await consumer.position(partition) for partition in ends}
    except (KafkaError, TimeoutError) as error:
        raise _silent(settings, error) from error
    return {partition: at for partition, at in positions.items() if at < ends[partition]}


def _silent(settings: KafkaSettings, error: Exception) -> Refusal:
    return Refusal(f"Kafka at {settings.kafka_bootstrap} stopped answering: {clients.reason(error)}")


async def partitions_of(settings: KafkaSettings, topic: str) -> list[int]:
    """Return a topic's partitions; raise `Refusal` if it does not exist, or Kafka cannot be reached."""
    async with admin_client(settings) as admin:
        (described,) = await admin.describe_topics([topic])
    if described["error_code"]:
        raise Refusal(f"topic {topic} does not exist; {command('topics list')} shows those that do")
    return sorted(partition["partition"] for partition in described["partitions"])
