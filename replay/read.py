# SPDX-License-Identifier: Apache-2.0
"""Reads a topic from a point in time to its present end, in no consumer group, so that nobody's position moves."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from common import kafka
from common.errors import Refusal
from common.settings import KafkaSettings
from common.topic_admin import admin_client


async def read_topic(
    settings: KafkaSettings, topic: str, from_ms: int | None = None
) -> AsyncIterator[Sequence[ConsumerRecord[bytes, bytes]]]:
    """Yield batches of the records whose Kafka timestamp is `from_ms` or later (None: all), up to the end seen first.

    Raises `Refusal` where Kafka cannot be reached or stops answering, or the topic does not exist.
    """
    partitions = [TopicPartition(topic, number) for number in await _partitions(settings, topic)]
    consumer = kafka.new_consumer(settings)
    deadline = settings.kafka_deadline_seconds
    try:
        try:
            async with asyncio.timeout(deadline):
                await consumer.start()
                ends = await _assign(consumer, partitions, from_ms)
        except (KafkaError, OSError, TimeoutError) as error:
            raise Refusal(
                f"Kafka at {settings.kafka_bootstrap} cannot be read: {error or type(error).__name__}"
            ) from error
        while open_ := [partition for partition, end in ends.items() if await consumer.position(partition) < end]:
            consumer.pause(*(partition for partition in ends if partition not in open_))
            try:
                batches = await asyncio.wait_for(consumer.getmany(timeout_ms=1000), deadline)
            except (KafkaError, TimeoutError) as error:
                raise Refusal(f"Kafka at {settings.kafka_bootstrap} stopped answering: {error}") from error
            for partition, records in batches.items():
                wanted = [record for record in records if record.offset < ends[partition]]
                if wanted:
                    yield wanted
    finally:
        await kafka.close(consumer)


async def _assign(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], from_ms: int | None
) -> dict[TopicPartition, int]:
    consumer.assign(partitions)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    if from_ms is None:
        starts = await consumer.beginning_offsets(partitions)
    else:
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, from_ms))
        starts = {partition: at.offset if at else ends[partition] for partition, at in found.items()}
    for partition in partitions:
        consumer.seek(partition, starts[partition])
    return ends


async def _partitions(settings: KafkaSettings, topic: str) -> list[int]:
    async with admin_client(settings) as admin:
        (described,) = await admin.describe_topics([topic])
    if described["error_code"]:
        raise Refusal(f"topic {topic} does not exist; zonemeter topics list shows those that do")
    return sorted(partition["partition"] for partition in described["partitions"])
