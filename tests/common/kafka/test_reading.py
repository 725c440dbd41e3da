# SPDX-License-Identifier: Apache-2.0
"""Where a stretch of a partition ends, before a real broker: by the position, never by silence."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.errors import KafkaTimeoutError

from common.kafka import clients
from common.kafka.reading import held, stretch
from common.kafka.topic_admin import admin_client
from common.settings import KafkaSettings
from lab.kafka.broker import Broker, free_port
from tests.support.lab.proxy import Proxy

DEADLINE_SECONDS = 20.0
# A segment a record, compacted at once; and tombstones go at once.
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1",
    "min.cleanable.dirty.ratio": "0",
    "min.compaction.lag.ms": "0",
    "delete.retention.ms": "0",
}


@pytest.fixture(scope="module")
def compacting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that compacts all the time, and is also reached by way of a proxy's port."""
    behind, told = free_port(), free_port()
    settings = {"log.cleaner.backoff.ms": "50", "log.initial.task.delay.ms": "50"}
    made = Broker(tmp_path_factory.mktemp("kafka"), 0, (("127.0.0.1", behind),), settings, advertised={behind: told})
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


def _settings(broker: Broker, port: int | None = None) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap=f"127.0.0.1:{port or broker.port}", kafka_deadline_seconds=DEADLINE_SECONDS)


async def _topic(broker: Broker, config: dict[str, str]) -> TopicPartition:
    where = TopicPartition(f"t{uuid.uuid4().hex[:8]}", 0)
    async with admin_client(_settings(broker)) as admin:
        await admin.create_topics([NewTopic(where.topic, 1, 1, topic_configs=config)])
    return where


@asynccontextmanager
async def _producer(broker: Broker, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _consumer(
    broker: Broker, where: TopicPartition, port: int | None = None, **options: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = clients.new_consumer(_settings(broker, port), **options)
    await consumer.start()
    try:
        consumer.assign([where])
        yield consumer
    finally:
        await clients.close(consumer)


async def _read(
    broker: Broker, where: TopicPartition, after_a_batch: Callable[[], Awaitable[None]] | None = None, **options: Any
) -> tuple[range, list[int]]:
    """Return the offsets that a partition held, and those of the records that came of it."""
    found = []
    async with _consumer(broker, where, **options) as consumer:
        wanted = await held(consumer, [where], DEADLINE_SECONDS)
        async for records in stretch(consumer, wanted, DEADLINE_SECONDS):
            found += [record.offset for record in records]
            if after_a_batch is not None:
                await after_a_batch()
    return wanted[where], found


def test_what_compaction_leaves_empty_before_the_end_is_passed(compacting: Broker) -> None:
    async def inside() -> None:
        where = await _topic(compacting, COMPACTED)
        async with _producer(compacting) as producer:
            for value in (b"there", None):
                for number in range(10):
                    await producer.send_and_wait(where.topic, value, key=b"%d" % number, partition=0)
            async with asyncio.timeout(120):
                # The newest segment is never compacted, and tombstones go when what comes later is.
                while (read := await _read(compacting, where))[1][0] < 20:
                    await producer.send_and_wait(where.topic, None, key=b"later", partition=0)
        assert read[0].start == 0
        assert read[1][-1] == read[0].stop - 1
        async with _consumer(compacting, where) as consumer:
            assert [part async for part in stretch(consumer, {where: range(20)}, DEADLINE_SECONDS)] == []

    asyncio.run(inside())


def test_markers_of_transactions_at_the_end_are_passed(compacting: Broker) -> None:
    async def inside() -> None:
        where = await _topic(compacting, {})
        async with _producer(compacting, transactional_id=where.topic) as producer:
            for is_kept in (True, False):
                await producer.begin_transaction()
                await producer.send_and_wait(where.topic, b"v", partition=0)
                await (producer.commit_transaction() if is_kept else producer.abort_transaction())
        # Offset 1 marks the one as committed, offset 3 the other as aborted.
        assert await _read(compacting, where) == (range(4), [0, 2])
        assert await _read(compacting, where, isolation_level="read_committed") == (range(4), [0, 2])

    asyncio.run(inside())


@pytest.mark.parametrize("before", [35, 40], ids=["some are left", "none is left"])
def test_what_retention_takes_meanwhile_is_passed(compacting: Broker, before: int) -> None:
    async def inside() -> None:
        where = await _topic(compacting, {})
        async with _producer(compacting) as producer:
            for number in range(40):
                await producer.send_and_wait(where.topic, os.urandom(1000), partition=0, key=b"%d" % number)

        async def delete() -> None:
            async with admin_client(_settings(compacting)) as admin:
                await admin.delete_records({where: RecordsToDelete(before_offset=before)})

        wanted, found = await _read(compacting, where, delete, max_partition_fetch_bytes=5000)
        assert wanted == range(40)
        # What was fetched ahead of the deletion came as well.
        passed = [offset for offset in found if offset < before]
        assert passed == list(range(len(passed)))
        assert len(passed) < 35
        assert found[len(passed) :] == list(range(before, 40))

    asyncio.run(inside())


def test_records_that_take_seconds_to_come_are_no_end(compacting: Broker) -> None:
    """A broker that answers all else at once, and a link on which what was fetched takes 5 s."""
    (behind, told) = next(iter(compacting.advertised.items()))

    async def inside() -> None:
        where = await _topic(compacting, {})
        async with _producer(compacting) as producer:
            for _ in range(5):
                await producer.send_and_wait(where.topic, os.urandom(100_000), partition=0)
        with Proxy(("127.0.0.1", behind), told) as link:
            async with _consumer(compacting, where, told) as consumer:
                wanted = await held(consumer, [where], DEADLINE_SECONDS)
                link.bytes_per_second = 100_000.0
                found = [each.offset async for part in stretch(consumer, wanted, DEADLINE_SECONDS) for each in part]
        assert found == [0, 1, 2, 3, 4]

    asyncio.run(inside())


def test_a_record_that_never_comes_is_a_failure(compacting: Broker) -> None:
    async def inside() -> None:
        where = await _topic(compacting, {})
        async with _producer(compacting) as producer:
            await producer.send_and_wait(where.topic, b"v", partition=0)
        async with _consumer(compacting, where) as consumer:
            with pytest.raises(KafkaTimeoutError, match="no more records came for 1 s"):
                _ = [part async for part in stretch(consumer, {where: range(2)}, 1.0)]

    asyncio.run(inside())
