# SPDX-License-Identifier: Apache-2.0
"""Kafka's clients: closing them, whatever their own `stop` does; what a producer knows of its topics."""

import asyncio
import uuid

import pytest
from aiokafka.errors import KafkaError

from common.errors import Stopped
from common.kafka import clients, topic_admin
from common.service.running import Service
from common.settings import KafkaSettings
from lab.kafka.broker import Broker
from schemas.topics import TopicSpec
from tests.support.services import DEADLINE_SECONDS


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
    asyncio.run(clients.close(client, seconds=0.05))
    assert client._client.closed == (how != "cleanly")


def test_who_waits_for_topics_does_not_wait_for_a_kafka_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> None:
        service, settings = Service("any"), KafkaSettings(kafka_bootstrap="127.0.0.1:1", kafka_deadline_seconds=300)

        async def started(*_: object) -> Client:
            return Client("cleanly")

        async def silent(*_: object) -> None:
            service.stopping.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(clients, "start", started)
        monkeypatch.setattr(clients, "_topic_problem", silent)
        with pytest.raises(Stopped):
            await asyncio.wait_for(clients.wait_for_topics(service, settings, {"any": 1}), 120)

    asyncio.run(wait())


def test_a_producer_knows_the_leaders_of_all_its_topics_though_one_is_new(broker: Broker) -> None:
    settings = KafkaSettings(kafka_bootstrap=broker.bootstrap, kafka_deadline_seconds=DEADLINE_SECONDS)
    names = [f"{uuid.uuid4()}-{age}" for age in ("old", "new")]

    async def make(name: str) -> None:
        async with topic_admin.admin_client(settings) as admin:
            await topic_admin.apply(admin, await topic_admin.describe(admin, [TopicSpec(name, 1, 1, {})]))

    async def inside() -> list[int]:
        await make(names[0])
        producer = clients.new_producer(settings, linger_ms=500)
        await producer.start()
        try:
            # What aiokafka does when the broker has no producer id for it yet: it asks for all topics.
            await producer.client.force_metadata_update()
            await make(names[1])
            sent = [await producer.send(name, b"value", partition=0) for name in names]
            return [record.offset for record in await asyncio.gather(*sent)]
        finally:
            await clients.abandon(producer)

    assert asyncio.run(inside()) == [0, 0]
