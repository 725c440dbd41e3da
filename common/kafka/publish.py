# SPDX-License-Identifier: Apache-2.0
"""Publishing that never sends past a failed batch, never waits forever, and starts again after any failure."""

import asyncio
import gc
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTimestampError, KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from prometheus_client import CollectorRegistry, Counter

from common.clock import now_ms
from common.errors import PublishError, leaves
from common.kafka import clients
from common.kafka.protocol import connections
from common.service.backoff import FIRST_SECONDS, LONGEST_SECONDS
from common.service.running import Service
from common.settings import KafkaSettings
from common.task_group import TaskGroup

log = logging.getLogger(__name__)

SMALLEST_BATCH_BYTES = 1024
FIRST_LARGER_SECONDS, LAST_LARGER_SECONDS = 10.0, 3600.0
# A broker takes a record without a timestamp whatever its clock says (Kafka's LogValidator; record format v2).
NO_TIMESTAMP = -1
# How long a broker that refused times is believed to go on doing so; then they are tried again.
REFUSED_SECONDS = 600.0


class Record(msgspec.Struct, frozen=True):
    """One record to publish; `timestamp_ms` is Unix time. `value` None is a tombstone."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


class Run(msgspec.Struct, frozen=True):
    """Records in a row that share everything but their values: an object a record would cost more than sending it."""

    topic: str
    partition: int
    key: bytes
    values: Sequence[bytes]
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


class PublishCounters:
    """What the publishers of a service count together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "zonemeter_publish_failures",
            "Publications that failed or timed out; the producer was rebuilt and the records are sent again.",
            registry=registry,
        )
        self.untimed = Counter(
            "zonemeter_publish_untimed_records",
            "Records sent without a timestamp, because the broker refuses the present too: this clock is far ahead.",
            registry=registry,
        )
        self.redated = Counter(
            "zonemeter_publish_redated_records",
            "Records sent with the time of sending, because the broker refuses theirs: too old for it, or far ahead.",
            registry=registry,
        )


class Publisher:
    """An idempotent producer behind one call. One at a time per partition: the caller keeps the order.

    After a failure the producer is ended and recreated, which is all that helps once a batch was refused (aiokafka
    issue 1017), and the longer the failures go on the later. While they do, the service is not ready and says why, or
    `tell` is given the reason, and None when it is over. With the producer all that it has under way ends: partitions
    that must not wait for each other have publishers of their own, with the same `counters`.
    """

    def __init__(
        self,
        service: Service,
        settings: KafkaSettings,
        counters: PublishCounters | None = None,
        tell: Callable[[str | None], None] | None = None,
        deadline_seconds: float = math.inf,
    ) -> None:
        """`deadline_seconds`: of a publication, where that is less than `kafka_deadline_seconds`."""
        self._service = service
        self._settings = settings
        self.counters = counters or PublishCounters(service.registry)
        self._tell = tell or self._tell_health
        self._deadline_seconds = min(settings.kafka_deadline_seconds, deadline_seconds)
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._batch_bytes = clients.MAX_BATCH_BYTES
        # When to try large batches again after a topic refused them (monotonic), and after how long.
        self._larger_at, self._larger_after = 0.0, FIRST_LARGER_SECONDS
        # Consecutive failures by topic: one that takes nothing must not be forgotten over others that do.
        self._failing: dict[str, int] = {}
        # Times that the broker refused: until when that is believed (monotonic), and where it refused the present too,
        # from which on. Then this clock is more than an hour ahead of the broker's.
        self._refused_until = 0.0
        self._untimed_from_ms: int | None = None

    async def start(self) -> None:
        """Connect, however long it takes; `Stopped` if told to stop before."""
        await self._ready()

    async def publish(self, records: Sequence[Record | Run]) -> dict[tuple[str, int], int]:
        """Return when every record is acknowledged by all in-sync replicas; else raise `PublishError`.

        Returned is, by topic and partition, the offset that follows the last record; a partition is absent where
        the broker did not say. Records of one partition are sent in the order given. After a `PublishError` any of
        them may or may not be in Kafka: publish all again, in the same order, so that readers recognise the repeats.
        """
        if not records:
            return {}
        producer = await self._ready()
        oldest_ms = min(record.timestamp_ms for record in records)
        if time.monotonic() < self._refused_until:
            present_ms = now_ms()
            records = [self._with_time_taken(record, present_ms) for record in records]
        by_partition: dict[tuple[str, int], list[Record | Run]] = {}
        for record in records:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        try:
            async with asyncio.timeout(self._deadline_seconds), TaskGroup() as tasks:
                sent = {
                    (topic, partition): tasks.create_task(
                        _send(producer, topic, partition, part, self._size()), name=f"publish-{topic}-{partition}"
                    )
                    for (topic, partition), part in by_partition.items()
                }
        except (TimeoutError, ExceptionGroup) as error:
            await self._failed(producer, error, {topic for topic, _ in by_partition}, oldest_ms)
            raise PublishError(_why(error)) from error
        self._succeeded({topic for topic, _ in by_partition})
        ends = {place: task.result() for place, task in sent.items()}
        return {place: end for place, end in ends.items() if end is not None}

    async def close(self) -> None:
        """Close the producer; whatever was not acknowledged was the caller's to publish again."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await clients.abandon(producer)

    async def _ready(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                await self._service.pause(self._backoff_seconds())
                self._producer = await clients.start(
                    self._service, self._settings, lambda: clients.new_producer(self._settings)
                )
            return self._producer

    def _size(self) -> int:
        """Return how large a batch may be: what a topic refused may be taken by now."""
        if time.monotonic() >= self._larger_at:
            self._batch_bytes = clients.MAX_BATCH_BYTES
        return self._batch_bytes

    def _smaller(self) -> None:
        """Halve the batches: the topic takes less than we thought. A record is sent alone if need be, never split."""
        now = time.monotonic()
        if self._batch_bytes == clients.MAX_BATCH_BYTES:
            again = now < self._larger_at + LAST_LARGER_SECONDS and self._larger_at > 0
            self._larger_after = min(2 * self._larger_after, LAST_LARGER_SECONDS) if again else FIRST_LARGER_SECONDS
        self._batch_bytes = max(self._batch_bytes // 2, SMALLEST_BATCH_BYTES)
        self._larger_at = now + self._larger_after

    def _with_time_taken(self, record: Record | Run, now_ms: int) -> Record | Run:
        """Return it with a time that the broker takes, as far as is known.

        The present serves as well as its own time: a reader that asks for some time or later finds it. Only where
        this clock cannot be right is there none.
        """
        count = len(record.values) if isinstance(record, Run) else 1
        if self._untimed_from_ms is None:
            self.counters.redated.inc(count)
            return msgspec.structs.replace(record, timestamp_ms=now_ms)
        if record.timestamp_ms < self._untimed_from_ms:
            return record
        self.counters.untimed.inc(count)
        return msgspec.structs.replace(record, timestamp_ms=NO_TIMESTAMP)

    def _time_refused(self, oldest_ms: int) -> None:
        """Try the present next; nothing at all where the present was refused."""
        now = time.monotonic()
        self._untimed_from_ms = oldest_ms if now < self._refused_until else None
        self._refused_until = now + REFUSED_SECONDS

    def _backoff_seconds(self) -> float:
        failures = max(self._failing.values(), default=0)
        longest = min(FIRST_SECONDS * 2 ** min(failures, 10) / 4, LONGEST_SECONDS)
        return longest * random.uniform(0.5, 1.0) if failures else 0.0  # noqa: S311 - jitter, no secret

    def _succeeded(self, topics: set[str]) -> None:
        for topic in topics & self._failing.keys():
            del self._failing[topic]
        if not self._failing:
            self._tell(None)

    def _tell_health(self, reason: str | None) -> None:
        if reason is None:
            self._service.health.ready("publish")
        else:
            self._service.health.waiting("publish", f"{reason}; retrying")

    async def _failed(self, producer: AIOKafkaProducer, error: Exception, topics: set[str], oldest_ms: int) -> None:
        """End a producer that failed; of several partitions that fail together, the first one's call does it."""
        self.counters.failures.inc()
        if self._producer is not producer:
            return
        self._producer = None
        self._failing |= {topic: self._failing.get(topic, 0) + 1 for topic in topics}
        if any(isinstance(leaf, MessageSizeTooLargeError) for leaf in leaves(error)):
            self._smaller()
        if any(isinstance(leaf, InvalidTimestampError) for leaf in leaves(error)):
            self._time_refused(oldest_ms)
        self._tell(f"{', '.join(sorted(topics))}: {_why(error)}")
        await clients.abandon(producer)
        # A producer, its tasks and its batches hold each other. Services look for such seldom (common/gc_settings.py):
        # a topic that takes nothing for hours would leave a megabyte or more with each try.
        gc.collect()


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, parts: list[Record | Run], size: int
) -> int | None:
    """Send in batches, one after the other; return the offset after the last, None if the broker did not say."""
    batch = BatchBuilder(size, DefaultRecordBatch.CODEC_ZSTD)
    for part in parts:
        values = iter(part.values if isinstance(part, Run) else (part.value,))
        left = _append(batch, part, next(values, _NONE_LEFT), values)
        while left is not _NONE_LEFT:
            await _send_batch(producer, batch, topic, partition)
            batch = BatchBuilder(size, DefaultRecordBatch.CODEC_ZSTD)
            left = _append(batch, part, left, values)
    return await _send_batch(producer, batch, topic, partition)


# A value may be None.
_NONE_LEFT = object()


def _append(batch: BatchBuilder, part: Record | Run, value: Any, values: Iterator[Any]) -> Any:
    """Append a value and those after it, as many as fit; return the first that does not, `_NONE_LEFT` if all do.

    Through the batch's own encoder: its `append` does the same, at almost twice the cost per record.
    """
    append, number = batch._builder.append, batch.record_count()  # noqa: SLF001
    key, timestamp_ms, headers = part.key, part.timestamp_ms, list(part.headers)
    while value is not _NONE_LEFT and append(number, timestamp_ms, key, value, headers) is not None:
        number += 1
        value = next(values, _NONE_LEFT)
    batch._relative_offset = number  # noqa: SLF001
    return value


async def _send_batch(producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int) -> int | None:
    count: int = batch.record_count()
    if not count:
        return None
    # A batch that is not closed waits for more (linger_ms), and none comes.
    batch.close()
    sent = await (await producer.send_batch(batch, topic, partition=partition))
    # A broker that recognises a batch as a repeat need not know any more where it stands.
    return int(sent.offset) + count if sent.offset >= 0 else None


def _why(error: Exception) -> str:
    """Return a failure in words; raise what is none of Kafka's."""
    if isinstance(error, TimeoutError):
        why = connections.why_not()
        return f"no answer within the deadline: {why}" if why else "no answer within the deadline"
    found = leaves(error)
    for leaf in found:
        if not isinstance(leaf, KafkaError | OSError | TimeoutError):
            raise leaf
    return " ".join(f"{type(found[0]).__name__}: {found[0]}".split())
