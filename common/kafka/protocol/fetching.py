# SPDX-License-Identifier: Apache-2.0
"""What aiokafka's consumer does with what it fetched, within bounds and without an end; in force by `install`.

A batch that cannot be unpacked (unpacking.py) comes as one record: its value is an `Unreadable`, its offset the batch's
last. So the code that decodes values refuses it like a bad record, and the position moves past it. aiokafka itself
would raise, for every partition of the consumer, at the same offset again and again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import ConsumerRecord, TopicPartition

from common.kafka.protocol.unpacking import BadBatch, BadChecksum, BatchHead, unpack
from schemas.codec import Unreadable

# Of one fetch, over all its partitions; the record that goes beyond it is the last.
MAX_FETCH_BYTES = 4 * 1024 * 1024
# What a record takes beside its key and its value.
RECORD_BYTES = 400


@dataclass(slots=True)
class _Budget:
    left: int


_budget: ContextVar[_Budget | None] = ContextVar("fetch_budget", default=None)
# Batches whose checksum was wrong when they last came: wrong once more, it is so on the broker's disk.
_suspects: dict[TopicPartition, tuple[int, int]] = {}


@contextmanager
def budget(most: int = MAX_FETCH_BYTES) -> Iterator[None]:
    """Let what is fetched within this context be about so many bytes; what is left over comes with the next fetch."""
    token = _budget.set(_Budget(most))
    try:
        yield
    finally:
        _budget.reset(token)


def install() -> None:
    """Let aiokafka use what is here, in every consumer of this process."""
    fetcher.MemoryRecords = Batches
    fetcher.PartitionRecords = Records
    fetcher.FetchResult = Result


class Batches(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka says it is final, and has no other
    """The batches of one answer, each as bytes."""

    def next_packed(self) -> memoryview:
        """Return the next batch as it came."""
        packed: memoryview = self._next_slice
        self._cache_next()
        return packed


class Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka ships no types
    """The records of one answer."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[ConsumerRecord[bytes, bytes]]:
        while self._records.has_next():
            packed = self._records.next_packed()
            head = BatchHead(packed)
            try:
                yield from self._of_batch(packed, head)
            except BadChecksum as error:
                if _suspects.pop(self._tp, None) != (head.first_offset, len(packed)):
                    _suspects[self._tp] = (head.first_offset, len(packed))
                    return  # fetched again: it may have been damaged on its way
                yield self._unreadable(packed, head, error)
            except BadBatch as error:
                yield self._unreadable(packed, head, error)
            self.next_fetch_offset = max(self.next_fetch_offset, head.last_offset + 1)

    def _of_batch(self, packed: memoryview, head: BatchHead) -> Iterator[ConsumerRecord[bytes, bytes]]:
        batch = unpack(packed, head)
        if batch.is_control_batch:
            return
        records = iter(batch)
        while (record := _next(records)) is not None:
            # Of a batch that is begun within, and of one that compaction has thinned out.
            if record.offset >= self.next_fetch_offset:
                self.next_fetch_offset = record.offset + 1
                headers = tuple(record.headers)
                stamp = record.timestamp, record.timestamp_type
                yield _made(self._tp, record.offset, *stamp, record.key, record.value, headers)

    def _unreadable(self, packed: memoryview, head: BatchHead, error: BadBatch) -> ConsumerRecord[bytes, bytes]:
        """Return what stands for the rest of a batch; none of it is left where what follows its records is wrong."""
        last = head.last_offset
        first = min(max(head.first_offset, self.next_fetch_offset), last)
        left = max(last + 1 - self.next_fetch_offset, 0)
        value = Unreadable(packed, error.reason, f"offsets {first} to {last}: {error.detail}", left)
        return _made(self._tp, last, head.max_timestamp_ms, 0, None, value)


class Result(fetcher.FetchResult):  # type: ignore[misc]  # aiokafka ships no types
    """One answer on its way to the caller, as much of it as the fetch's budget allows."""

    _partition_records: Records | None

    def getall(self, max_records: int | None = None) -> list[ConsumerRecord[bytes, bytes]]:
        """Return the next records."""
        budget = _budget.get() or _Budget(MAX_FETCH_BYTES)
        if budget.left <= 0 or not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        taken: list[ConsumerRecord[bytes, bytes]] = []
        for record in self._partition_records or ():
            taken.append(record)
            budget.left -= RECORD_BYTES + len(record.key or b"") + len(record.value or b"")
            budget.left -= len(record.headers) * RECORD_BYTES
            if budget.left <= 0 or len(taken) == max_records:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        return taken


def _next(records: Any) -> Any:
    """Return the next record of a batch, None at its end; raise `BadBatch` for one that cannot be read.

    The broker checks lengths, but not that a header's name is UTF-8.
    """
    try:
        return next(records, None)
    except Exception as error:
        raise BadBatch("batch_unreadable", f"a record in it: {' '.join(str(error).split())[:200]}") from error


def _made(
    where: TopicPartition,
    offset: int,
    timestamp: int,
    timestamp_type: int,
    key: bytes | None,
    value: bytes | None,
    headers: tuple[tuple[str, bytes], ...] = (),
) -> ConsumerRecord[bytes, bytes]:
    sizes = [-1 if part is None else len(part) for part in (key, value)]
    return ConsumerRecord(*where, offset, timestamp, timestamp_type, key, value, None, *sizes, headers)
