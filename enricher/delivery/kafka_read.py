# SPDX-License-Identifier: Apache-2.0
"""Reads a stretch of one partition, in no consumer group, so that nobody's position moves."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from common.kafka import clients
from common.service.lifecycle import Service
from common.settings import KafkaSettings

Records: TypeAlias = Sequence[ConsumerRecord[bytes, bytes]]
# A compacted partition may have nothing left just before its end: silence for so long, while the broker answers
# otherwise, is the end.
QUIET_SECONDS = 3.0
_FETCH_SECONDS = 0.5


@asynccontextmanager
async def reader(service: Service, settings: KafkaSettings, where: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a consumer of one partition; raises `Stopped` if told to stop before Kafka was reached."""
    consumer = await clients.start(service, settings, lambda: clients.new_consumer(settings))
    try:
        consumer.assign([where])
        yield consumer
    finally:
        await clients.close(consumer)


async def stretch(
    consumer: AIOKafkaConsumer, where: TopicPartition, start: int, end: int, deadline_seconds: float
) -> AsyncIterator[Records]:
    """Yield batches of the records at offsets [start, end); raise `TimeoutError` if the broker stops answering.

    What retention has taken away in between is not there.
    """
    if start >= end:
        return
    loop = asyncio.get_running_loop()
    consumer.seek(where, start)
    position, heard = start, loop.time()
    while position < end:
        batches = await clients.fetch(consumer, where, seconds=_FETCH_SECONDS)
        records = [record for record in batches.get(where, ()) if record.offset < end]
        if records:
            yield records
        async with asyncio.timeout(deadline_seconds):
            moved = await consumer.position(where)
        if moved > position:
            position, heard = moved, loop.time()
        elif loop.time() - heard > QUIET_SECONDS:
            async with asyncio.timeout(deadline_seconds):
                await consumer.end_offsets([where])
            return


async def bounds(consumer: AIOKafkaConsumer, where: TopicPartition, deadline_seconds: float) -> tuple[int, int]:
    """Return the first offset held and the one after the last."""
    async with asyncio.timeout(deadline_seconds):
        begin: int = (await consumer.beginning_offsets([where]))[where]
        end: int = (await consumer.end_offsets([where]))[where]
    return begin, end
