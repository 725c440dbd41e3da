# SPDX-License-Identifier: Apache-2.0
"""Questions by time: of a broker that cannot answer, and about records that have no time."""

import asyncio
import time
import uuid

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import UnknownError
from aiokafka.structs import OffsetAndTimestamp
from msgspec.structs import replace

from common.kafka import topic_admin
from common.kafka.by_time import NEAR_MS, beginnings, offsets_for_times
from common.kafka.publish import NO_TIMESTAMP, Publisher, Record
from common.service.running import Service
from common.settings import KafkaSettings
from history.read.topic import read_topic
from lab.kafka.broker import Broker as RealBroker
from schemas.topics import TopicSpec

HOUR_MS = 3_600_000


class Broker:
    """Answers by time, but for partition 0 not from a bomb at offset 70, of time 700,000,000, on."""

    def __init__(self) -> None:
        self.asked: list[dict[TopicPartition, int]] = []

    async def offsets_for_times(
        self, times: dict[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        self.asked.append(times)
        if any(not where.partition and 690_000_000 < at <= 700_000_000 for where, at in times.items()):
            raise UnknownError
        return {where: OffsetAndTimestamp(at // 10_000_000, at) if at < 10**9 else None for where, at in times.items()}

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 3)


def test_a_question_by_time_that_the_broker_cannot_answer_is_asked_of_an_earlier_time() -> None:
    bad, good = TopicPartition("t", 0), TopicPartition("t", 1)

    def asked(*times: int) -> list[int | None]:
        found = asyncio.run(offsets_for_times(Broker(), dict(zip((bad, good), times, strict=False))))
        return [at and at.offset for at in found.values()]

    assert asked(600_000_000, 700_000_000) == [60, 70]
    assert asked(700_000_000, 700_000_000) == [61, 70], "a day earlier, and only of the partition that needs it"
    assert asked(690_000_001) == [68]
    assert asked(10**9, 10**9) == [None, None]


def test_where_no_earlier_time_helps_either_it_begins_at_the_beginning() -> None:
    class Never(Broker):
        async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, None]:
            raise UnknownError

    [at] = asyncio.run(offsets_for_times(Never(), {TopicPartition("t", 0): 10**12})).values()
    assert at is not None
    assert at.offset == 3


class Partitions:
    """A consumer of partitions whose records have these times; -1: none."""

    def __init__(self, *partitions: list[int]) -> None:
        self.times = {TopicPartition("t", number): times for number, times in enumerate(partitions)}
        self.questions = 0

    async def offsets_for_times(
        self, times: dict[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        self.questions += 1
        found = {}
        for where, at_ms in times.items():
            later = (n for n, time_ms in enumerate(self.times[where]) if time_ms >= max(at_ms, 0))
            offset = next(later, None)
            found[where] = None if offset is None else OffsetAndTimestamp(offset, at_ms)
        return found

    def untimed_from(self, from_ms: int) -> list[int]:
        async def inside() -> dict[TopicPartition, int]:
            there = {where: range(len(times)) for where, times in self.times.items()}
            return {where: found.start for where, found in (await beginnings(self, from_ms, there)).items()}

        return list(asyncio.run(inside()).values())


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param([], 0, id="empty"),
        pytest.param([8000, 9000], 0, id="all of that time"),
        pytest.param([1000, 2000, 8000], 1, id="the last before it"),
        pytest.param([1000, -1, -1, 8000], 0, id="some without a time between"),
        pytest.param([1000, 2000, -1, -1], 1, id="none of that time"),
        pytest.param([-1, -1, 8000], 0, id="none before it"),
        pytest.param([-1, -1], 0, id="none has a time"),
        pytest.param([1000, 6999, 2000, -1, 3000, 8000], 1, id="out of order"),
    ],
)
def test_what_has_no_time_is_read_from_the_last_record_before_it_that_has(seconds: list[int], expected: int) -> None:
    times = [second * 1000 if second >= 0 else -1 for second in seconds]
    assert Partitions(times).untimed_from(7_000_000) == [expected]


def test_a_topic_that_nobody_wrote_to_for_days_costs_few_questions() -> None:
    now_ms = 1_795_384_000_000
    times = [now_ms - 3 * 24 * HOUR_MS + number * 1000 for number in range(100)]
    many = Partitions(*(times for _ in range(12)))
    (found,) = set(many.untimed_from(now_ms))
    assert 99 - NEAR_MS // 1000 <= found <= 99
    assert many.questions < 40


def test_records_without_a_time_are_found_by_time(broker: RealBroker) -> None:
    settings = KafkaSettings(kafka_bootstrap=broker.bootstrap)
    topic, now_ms = f"t{uuid.uuid4().hex[:8]}", time.time_ns() // 1_000_000

    async def inside() -> None:
        async with topic_admin.admin_client(settings) as admin:
            await topic_admin.apply(admin, await topic_admin.describe(admin, [TopicSpec(topic, 1, 1, {})]))
        publisher = Publisher(Service("test"), settings)
        times = [now_ms - 2 * HOUR_MS, NO_TIMESTAMP, now_ms, NO_TIMESTAMP]
        record = Record(topic, 0, b"k", b"", 0)
        try:
            for number, time_ms in enumerate(times):
                await publisher.publish([replace(record, value=b"%d" % number, timestamp_ms=time_ms)])
        finally:
            await publisher.close()

        async def read(from_ms: int) -> list[bytes | None]:
            return [record.value async for batch in read_topic(settings, topic, from_ms) for record in batch]

        assert await read(now_ms - HOUR_MS) == [b"1", b"2", b"3"]
        assert await read(now_ms + 1) == [b"3"]
        assert await read(now_ms - 3 * HOUR_MS) == [b"0", b"1", b"2", b"3"]

    asyncio.run(inside())
