# SPDX-License-Identifier: Apache-2.0
"""Records put into any topic, at any time."""

import asyncio
from collections.abc import Iterable

from common.kafka import clients
from common.kafka.publish import Record
from common.settings import KafkaSettings


def publish(settings: KafkaSettings, records: Iterable[Record]) -> None:
    """Publish, and return when all are acknowledged."""
    asyncio.run(_publish(settings, list(records)))


async def _publish(settings: KafkaSettings, records: list[Record]) -> None:
    producer = clients.new_producer(settings)
    await producer.start()
    try:
        sent = []
        for record in records:
            place = {"partition": record.partition, "timestamp_ms": record.timestamp_ms}
            sent.append(await producer.send(record.topic, record.value, key=record.key, **place))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
