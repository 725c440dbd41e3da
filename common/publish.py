# SPDX-License-Identifier: Apache-2.0
"""Publishing that never sends past a failed batch, never waits for ever, and starts afresh after any failure."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from common import kafka
from common.errors import PublishError
from common.service import Service
from common.settings import KafkaSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One record to publish; `timestamp_ms` is Unix time. `value` None is a tombstone."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


class Publisher:
    """An idempotent producer behind one call. One at a time per partition: the caller keeps the order."""

    def __init__(self, service: Service, settings: KafkaSettings) -> None:
        self._service = service
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._failures = Counter(
            "zonemeter_publish_failures",
            "Publications that failed or timed out; the producer was rebuilt and the records are sent again.",
            registry=service.registry,
        )

    async def start(self) -> None:
        """Connect, however long it takes; `InterruptedError` if told to stop before."""
        await self._ready()

    async def publish(self, records: Sequence[Record]) -> None:
        """Return when every record is acknowledged by all in-sync replicas; else raise `PublishError`.

        Records of one partition are sent in the order given. After a `PublishError` any of them may or may not
        be in Kafka: publish all again, in the same order, so that readers recognise the repeats.
        """
        if not records:
            return
        producer = await self._ready()
        by_partition: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        try:
            async with asyncio.timeout(self._settings.kafka_deadline_seconds), asyncio.TaskGroup() as tasks:
                for (topic, partition), part in by_partition.items():
                    tasks.create_task(_send(producer, topic, partition, part), name=f"publish-{topic}-{partition}")
        except (TimeoutError, ExceptionGroup) as error:
            self._failures.inc()
            await self._discard(producer)
            raise PublishError(_why(error)) from error

    async def close(self) -> None:
        """Close the producer; whatever was not acknowledged was the caller's to publish again."""
        if self._producer is not None:
            await self._discard(self._producer)

    async def _ready(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                self._producer = await kafka.start(
                    self._service, self._settings, lambda: kafka.new_producer(self._settings)
                )
            return self._producer

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        await kafka.close(producer, seconds=2.0)


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, records: list[Record]) -> None:
    batch = producer.create_batch()
    for record in records:
        if not _append(batch, record):
            await (await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            _append(batch, record)
    await (await producer.send_batch(batch, topic, partition=partition))


def _append(batch: Any, record: Record) -> bool:
    appended = batch.append(
        key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=list(record.headers)
    )
    return appended is not None


def _why(error: Exception) -> str:
    if not isinstance(error, ExceptionGroup):
        return "no answer within the deadline"
    first = error.exceptions[0]
    if not isinstance(first, KafkaError | OSError | TimeoutError):
        raise first
    return f"{type(first).__name__}: {first}"
