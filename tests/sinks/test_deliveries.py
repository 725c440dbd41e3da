# SPDX-License-Identifier: Apache-2.0
"""Which partitions a sink reads while records of some wait for Kafka."""

import asyncio

import msgspec
import pytest
from aiokafka import TopicPartition

from common.kafka import clients
from common.kafka.partitions import Partitions
from common.kafka.publish import PublishCounters
from common.service.running import Service
from lab.kafka.broker import Broker
from sinks import kafka_io
from sinks.deliveries import Deliveries
from tests.support.builders import sink_entry
from tests.support.services import DEADLINE_SECONDS
from tests.support.sinks.topics import PARTITIONS, Topics


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """The ledger's topic is missing: nothing is taken there."""
    return Topics.make(broker.bootstrap, missing=("ledger.v1",))


def test_what_is_paused_is_what_waits_though_the_group_was_shared_out_anew_meanwhile(topics: Topics) -> None:
    """The pause falls on the new assignment; then what waited in the old one is forgotten.

    And that is after moments: while a partition begins to fail, all others wait with it.
    """
    settings = topics.settings.model_copy(update={"kafka_deadline_seconds": 300.0})
    where = [TopicPartition(settings.topics.enriched, number) for number in range(PARTITIONS)]
    entry = msgspec.structs.replace(sink_entry("flowlog", 1, {1: 500}), partition=1)

    async def waiting() -> None:
        service = Service("flowlog")
        partitions = Partitions(service)
        deliveries = Deliveries(service, settings, PublishCounters(service.registry), partitions, "ledger entries")
        consumer = clients.new_consumer(settings)
        await consumer.start()
        try:
            consumer.assign(where)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await deliveries.deliver(kafka_io.ledger_records(settings, [entry]))
            kafka_io.pause(consumer, deliveries.waiting)
            assert consumer.paused() == {where[1]}
            partitions.fails(where[1], "no topic", "ledger entries")
            await deliveries.forget()
            assert not partitions.is_failing(where[1], "ledger entries")
            kafka_io.pause(consumer, deliveries.waiting)
            assert consumer.paused() == set()
        finally:
            await deliveries.close()
            await clients.close(consumer)

    asyncio.run(waiting())
