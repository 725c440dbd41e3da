# SPDX-License-Identifier: Apache-2.0
"""Publishing while Kafka misbehaves: nothing late, nothing forever, no task left, and on it goes."""

import asyncio
import gc
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from msgspec.structs import replace

from common.errors import PublishError
from common.kafka import clients, publish, topic_admin
from common.kafka.publish import Publisher, Record, Run
from common.service.running import Service
from common.settings import KafkaSettings
from history.read.topic import read_topic
from lab.kafka.broker import Broker, free_port
from schemas.topics import TopicSpec
from tests.support.lab.proxy import Proxy
from tests.support.services import DEADLINE_SECONDS

HOUR_MS = 3_600_000
_SILENCE_SECONDS = 2.0  # after it what gets no answer is given up, while the proxy passes nothing on


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[tuple[Broker, Proxy]]:
    """A broker of the test's own, whose first extra listener is reached through a proxy only."""
    listener, front = ("127.0.0.1", free_port()), free_port()
    broker = Broker(tmp_path / "kafka", free_port(), (listener,), advertised={listener[1]: front})
    with Proxy(listener, front) as proxy:
        try:
            asyncio.run(broker.start())
            yield broker, proxy
        finally:
            broker.kill()


def settings(port: int, deadline_seconds: float = DEADLINE_SECONDS) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap=f"127.0.0.1:{port}", kafka_deadline_seconds=deadline_seconds)


def record(value: bytes, topic: str = "letters") -> Record:
    return Record(topic, 0, b"key", value, 1_795_384_000_000)


async def given_up(publisher: Publisher, given: Record) -> None:
    """Publish what gets no answer. All else may take as long as a busy machine does."""
    usual, publisher._deadline_seconds = publisher._deadline_seconds, _SILENCE_SECONDS
    with pytest.raises(PublishError, match="no answer within the deadline"):
        await publisher.publish([given])
    publisher._deadline_seconds = usual


async def make_topic(port: int, topic: str = "letters", **config: str) -> None:
    spec = TopicSpec(topic, 1, 1, {key.replace("_", "."): value for key, value in config.items()})
    async with topic_admin.admin_client(settings(port)) as admin:
        await topic_admin.apply(admin, await topic_admin.describe(admin, [spec]))


async def stored(port: int, topic: str = "letters") -> list[tuple[bytes | None, int]]:
    return [(r.value, r.timestamp) async for batch in read_topic(settings(port), topic) for r in batch]


def test_what_was_given_up_does_not_arrive_behind_what_took_its_place(behind: tuple[Broker, Proxy]) -> None:
    broker, proxy = behind

    async def inside() -> None:
        await make_topic(broker.port)
        service = Service("test")
        publisher = Publisher(service, settings(proxy.port))
        await publisher.publish([record(b"a")])
        before = len(asyncio.all_tasks())
        proxy.cut()
        await given_up(publisher, record(b"b"))
        assert "letters: no answer within the deadline: 127.0.0.1:" in service.health.reasons["publish"]
        proxy.heal()
        await publisher.publish([record(b"b"), record(b"c")])
        assert "publish" not in service.health.reasons
        assert len(asyncio.all_tasks()) <= before
        connections = proxy.connections_seen
        # A producer left behind would reconnect within its back-off, 0.1 s, and send.
        await asyncio.sleep(1.0)
        assert proxy.connections_seen == connections
        assert [value for value, _ in await stored(broker.port)] == [b"a", b"b", b"c"]
        await publisher.close()

    asyncio.run(inside())


def test_a_silence_after_a_refusal_is_a_failure_like_any_other(behind: tuple[Broker, Proxy]) -> None:
    broker, proxy = behind

    async def inside() -> None:
        await make_topic(broker.port, max_message_bytes="1000")
        publisher = Publisher(Service("test"), settings(proxy.port))
        noise = random.Random(7).randbytes(5_000)  # zstd finds nothing in it
        with pytest.raises(PublishError, match="MessageSizeTooLarge"):
            await publisher.publish([record(noise)])
        await publisher.publish([record(b"a")])
        proxy.cut()
        await given_up(publisher, record(b"b"))
        proxy.heal()
        await publisher.publish([record(b"b")])
        assert [value for value, _ in await stored(broker.port)] == [b"a", b"b"]
        await publisher.close()

    asyncio.run(inside())


def test_a_topic_that_takes_less_gets_smaller_batches(broker: Broker) -> None:
    async def inside() -> None:
        await make_topic(broker.port, "small", max_message_bytes="20000")
        service = Service("test")
        publisher = Publisher(service, KafkaSettings(kafka_bootstrap=broker.bootstrap))
        values = [random.Random(number).randbytes(1500) for number in range(400)]  # not to be compressed
        # Whatever was refused is published whole again, as every caller does.
        for _ in range(12):
            try:
                await publisher.publish([record(value, "small") for value in values])
            except PublishError as error:
                assert "MessageSizeTooLargeError" in str(error)
            else:
                break
        assert service.health.reasons == {"start": "starting"}
        await publisher.close()
        assert [value for value, _ in await stored(broker.port, "small")][-400:] == values

    asyncio.run(inside())


async def refused_by_time(publisher: Publisher, records: list[Record], times: int) -> None:
    """Publish until it is taken, as every caller does; it must be refused so often before."""
    for _ in range(times):
        with pytest.raises(PublishError, match="InvalidTimestampError"):
            await publisher.publish(records)
    await publisher.publish(records)


def test_producers_that_failed_are_not_kept(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(publish, "LONGEST_SECONDS", 0.01)

    async def inside() -> None:
        await make_topic(broker.port, "narrow", max_message_bytes="1000")
        publisher = Publisher(Service("test"), settings(broker.port))
        gc.collect()
        before = producers()
        for number in range(6):
            with pytest.raises(PublishError, match="MessageSizeTooLarge"):
                await publisher.publish([record(random.Random(number).randbytes(5_000), "narrow")])
        # The one that failed last is held by its error.
        assert producers() <= before + 2
        await publisher.close()

    gc.disable()  # as it is in effect where collections are seldom
    try:
        asyncio.run(inside())
    finally:
        gc.enable()


def producers() -> int:
    return sum(isinstance(each, clients.Producer) for each in gc.get_objects())


def counted(service: Service, name: str) -> float | None:
    return service.registry.get_sample_value(f"zonemeter_publish_{name}_records_total")


def test_a_clock_far_ahead_of_the_brokers_costs_the_timestamp_and_nothing_else(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = time.time_ns() // 1_000_000
    monkeypatch.setattr("common.kafka.publish.now_ms", lambda: now_ms + 3 * HOUR_MS)

    async def inside() -> None:
        await make_topic(broker.port, "ahead")
        service = Service("test")
        publisher = Publisher(service, KafkaSettings(kafka_bootstrap=broker.bootstrap))
        ahead = [replace(record(b"%d" % n, "ahead"), timestamp_ms=now_ms + n * HOUR_MS) for n in range(5)]
        await refused_by_time(publisher, ahead[2:4], 2)
        await publisher.publish([ahead[0], ahead[4]])
        await publisher.close()
        assert await stored(broker.port, "ahead") == [(b"2", -1), (b"3", -1), (b"0", now_ms), (b"4", -1)]
        assert (counted(service, "untimed"), counted(service, "redated")) == (3, 2)

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("limit", "hours"),
    [
        pytest.param("message_timestamp_before_max_ms", -48, id="a broker that takes nothing old"),
        pytest.param("message_timestamp_after_max_ms", 2, id="a record of a clock far ahead"),
    ],
)
def test_what_the_broker_refuses_for_its_time_is_sent_as_of_now_and_found_by_time(
    broker: Broker, limit: str, hours: int
) -> None:
    topic = limit.replace("_", "-")

    async def inside() -> None:
        await make_topic(broker.port, topic, **{limit: str(HOUR_MS)})
        service = Service("test")
        publisher = Publisher(service, KafkaSettings(kafka_bootstrap=broker.bootstrap))
        began_ms = time.time_ns() // 1_000_000
        other = replace(record(b"x", topic), timestamp_ms=began_ms + hours * HOUR_MS)
        await refused_by_time(publisher, [other], 1)
        await refused_by_time(publisher, [replace(other, value=b"y", timestamp_ms=other.timestamp_ms + 1)], 0)
        await publisher.close()
        assert (counted(service, "untimed"), counted(service, "redated")) == (0, 2)
        from_ms = min(other.timestamp_ms, began_ms)
        found = [r async for batch in read_topic(settings(broker.port), topic, from_ms) for r in batch]
        assert [r.value for r in found] == [b"x", b"y"]
        assert all(r.timestamp >= began_ms for r in found)

    asyncio.run(inside())


def test_a_run_of_a_batch_a_value_is_sent_in_order_and_each_value_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the least batch size makes it. Were all that is left gone through for each batch, this would take minutes."""
    sizes: list[int] = []

    async def sent(producer: Any, batch: BatchBuilder, topic: str, partition: int) -> None:
        sizes.append(batch.record_count())
        batch.close()

    monkeypatch.setattr(publish, "_send_batch", sent)
    values = [number.to_bytes(50, "big") for number in range(60_000)]
    run = Run("letters", 0, b"key", values, 1_795_384_000_000)
    asyncio.run(publish._send(cast("Any", None), "letters", 0, [run], size=1))
    assert sizes == [1] * len(values)
