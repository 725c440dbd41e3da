# SPDX-License-Identifier: Apache-2.0
"""Closing a Kafka client, whatever its own `stop` does."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownError
from aiokafka.structs import OffsetAndTimestamp

from common import kafka


class Connections:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Client:
    """A client whose `stop` ends in `how`."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._client = Connections()

    async def stop(self) -> None:
        if self._how == "awaits a task that it has cancelled":
            task = asyncio.ensure_future(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await task
        if self._how == "never":
            await asyncio.Event().wait()
        if self._how == "error":
            raise KafkaError("no")


@pytest.mark.parametrize("how", ["awaits a task that it has cancelled", "never", "error", "cleanly"])
def test_close_returns_and_leaves_no_connection(how: str) -> None:
    client = Client(how)
    asyncio.run(kafka.close(client, seconds=0.05))
    assert client._client.closed == (how != "cleanly")


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
        found = asyncio.run(kafka.offsets_for_times(Broker(), dict(zip((bad, good), times, strict=False))))
        return [at and at.offset for at in found.values()]

    assert asked(600_000_000, 700_000_000) == [60, 70]
    assert asked(700_000_000, 700_000_000) == [61, 70], "a day earlier, and only of the partition that needs it"
    assert asked(690_000_001) == [68]
    assert asked(10**9, 10**9) == [None, None]


def test_where_no_earlier_time_helps_either_it_begins_at_the_beginning() -> None:
    class Never(Broker):
        async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, None]:
            raise UnknownError

    [at] = asyncio.run(kafka.offsets_for_times(Never(), {TopicPartition("t", 0): 10**12})).values()
    assert at is not None
    assert at.offset == 3
