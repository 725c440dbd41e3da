# SPDX-License-Identifier: Apache-2.0
"""Reads stretches of partitions, in no consumer group, so that nobody's position moves.

A stretch is read once the position has reached its end. Silence is not an end: a slow broker is silent, too, and on a
link of 2 MB/s the next records may take seconds. Nor is it needed as one: the position also moves past what leaves no
record, that is what compaction took, markers of transactions and what retention deletes meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from common.errors import Refusal
from common.kafka import clients
from common.service.running import Service
from common.settings import KafkaSettings
from schemas.codec import offsets_of

Records: TypeAlias = Sequence[ConsumerRecord[bytes, bytes]]
_FETCH_SECONDS = 0.5


@asynccontextmanager
async def reader(service: Service, settings: KafkaSettings, where: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a service a consumer of one partition; raise `Stopped` if told to stop before Kafka was reached."""
    consumer = await clients.start(service, settings, lambda: clients.new_consumer(settings))
    try:
        consumer.assign([where])
        yield consumer
    finally:
        await clients.close(consumer)


@asynccontextmanager
async def command_reader(settings: KafkaSettings, places: Sequence[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a command a consumer; raise `Refusal` where Kafka cannot be reached, or does not answer within the block."""
    consumer = clients.new_consumer(settings)
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            await consumer.start()
        consumer.assign(places)
        yield consumer
    except (KafkaError, OSError, TimeoutError) as error:
        raise Refusal(f"Kafka at {settings.kafka_bootstrap} cannot be read: {clients.reason(error)}") from error
    finally:
        await clients.close(consumer)


async def held(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], deadline_seconds: float | None = None
) -> dict[TopicPartition, range]:
    """Return the offsets that partitions hold now; `deadline_seconds` None: within one that the caller has."""
    async with asyncio.timeout(deadline_seconds):
        begins = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
    return {where: range(begins[where], ends[where]) for where in places}


async def stretch(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, range], deadline_seconds: float
) -> AsyncIterator[Records]:
    """Yield the records at these offsets of all partitions that are assigned, each batch of one partition.

    What compaction or retention has taken is not there. Raises `KafkaError` or `TimeoutError` if reading gets no
    further for so long.
    """
    for where, offsets in wanted.items():
        consumer.seek(where, offsets.start)
    loop = asyncio.get_running_loop()
    heard, left = loop.time(), dict[TopicPartition, int]()
    while open_ := await _open(consumer, wanted, deadline_seconds):
        if open_ != left:
            heard, left = loop.time(), open_
        elif loop.time() - heard > deadline_seconds:
            raise KafkaTimeoutError(f"no more records came for {deadline_seconds:.0f} s")
        consumer.pause(*(wanted.keys() - open_.keys()))
        for where, records in (await clients.fetch(consumer, seconds=_FETCH_SECONDS)).items():
            # Of a batch that cannot be unpacked one record stands for all, at its last offset.
            stop = wanted[where].stop
            if there := [record for record in records if record.offset - offsets_of(record.value) + 1 < stop]:
                yield there


async def _open(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, range], deadline_seconds: float
) -> dict[TopicPartition, int]:
    """Return the partitions that are not read to their ends yet, and where in them reading is."""
    # Not wait_for: in Python 3.11 it may swallow a cancellation, that is a Ctrl-C (bpo-37658).
    async with asyncio.timeout(deadline_seconds):
        positions = {where: await consumer.position(where) for where in wanted}
    return {where: at for where, at in positions.items() if at < wanted[where].stop}
