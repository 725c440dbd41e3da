# SPDX-License-Identifier: Apache-2.0
"""Reads a topic from a point in time to its present end, in no consumer group, so that nobody's position moves."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.errors import Refusal
from common.kafka import by_time
from common.kafka.reading import Records, command_reader, held, stretch
from common.kafka.topic_admin import admin_client
from common.settings import KafkaSettings
from common.terminal import command


class NoTopic(Refusal):
    """The topic does not exist."""


@dataclass(slots=True)
class Reading:
    """How far a reading is, for the code that watches it.

    `records`, `done`: offsets to read and read. `cut_off`: partitions from whose beginning records have been deleted
    that may have been wanted. `whole`: partitions read from the first record that they hold. `timed_from`: where in
    each partition the wanted times begin; of what is read before that only records without a time are given.
    """

    records: int = 0
    done: int = 0
    cut_off: list[int] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)
    timed_from: dict[TopicPartition, int] = field(default_factory=dict)


async def read_topic(
    settings: KafkaSettings,
    topic: str,
    from_ms: int | None = None,
    *,
    starts: Mapping[int, int] | None = None,
    only: int | None = None,
    reading: Reading | None = None,
) -> AsyncIterator[Records]:
    """Yield batches of the records whose Kafka timestamp is `from_ms` or later (None: all), up to the end seen first.

    Also those without one that came about then: where the first of that time stands is known, and what stands between
    it and the last of an earlier time may be of any.
    `starts`: of these partitions, begin at that offset if it is later. `only`: no other partition than this. A batch is
    of one partition. Raises `Refusal` where Kafka cannot be reached or stops answering, and `NoTopic`.
    """
    reading = Reading() if reading is None else reading
    numbers = await partitions_of(settings, topic) if only is None else [only]
    partitions = [TopicPartition(topic, number) for number in numbers]
    deadline = settings.kafka_deadline_seconds
    async with command_reader(settings, partitions) as consumer:
        async with asyncio.timeout(deadline):
            wanted = await _wanted(consumer, partitions, from_ms, starts or {}, reading)
        async for records in stretch(consumer, wanted, deadline):
            reading.done += len(records)
            timed = reading.timed_from[TopicPartition(topic, records[0].partition)]
            if given := [record for record in records if record.offset >= timed or record.timestamp < 0]:
                yield given


async def _wanted(
    consumer: AIOKafkaConsumer,
    partitions: list[TopicPartition],
    from_ms: int | None,
    not_before: Mapping[int, int],
    reading: Reading,
) -> dict[TopicPartition, range]:
    there = await held(consumer, partitions)
    begins = {partition: range(offsets.start, offsets.start) for partition, offsets in there.items()}
    if from_ms is not None:
        begins = await by_time.beginnings(consumer, from_ms, there)
    wanted = {}
    for partition, offsets in there.items():
        asked = not_before.get(partition.partition, 0)
        start = min(max(begins[partition].stop, asked), offsets.stop)
        if start == offsets.start > asked:
            reading.cut_off.append(partition.partition)
        if start == offsets.start:
            reading.whole.add(partition.partition)
        reading.timed_from[partition] = start
        wanted[partition] = range(min(max(begins[partition].start, asked), start), offsets.stop)
        reading.records += len(wanted[partition])
    return wanted


async def partitions_of(settings: KafkaSettings, topic: str) -> list[int]:
    """Return a topic's partitions; raise `NoTopic` if it does not exist, `Refusal` if Kafka cannot be reached."""
    async with admin_client(settings) as admin:
        (described,) = await admin.describe_topics([topic])
    if described["error_code"]:
        raise NoTopic(f"topic {topic} does not exist; {command('topics list')} shows those that do")
    return sorted(partition["partition"] for partition in described["partitions"])
