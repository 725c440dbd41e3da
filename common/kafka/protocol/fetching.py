# SPDX-License-Identifier: Apache-2.0
"""What aiokafka's consumer does with what it fetched, within bounds and without an end; in force by `install`.

A batch that cannot be unpacked (unpacking.py) comes as one record: its value is an `Unreadable`, its offset the batch's
last. So the code that decodes values refuses it like a bad record, and the position moves past it. aiokafka itself
would raise, for every partition of the consumer, at the same offset again and again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import msgspec
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.structs import TopicPartition

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


class Fetched(msgspec.Struct, gc=False):
    """A record in place of aiokafka's `ConsumerRecord`, with its names: a fetch of flows spent half its time on those.

    What nobody reads is left out: a checksum that Kafka no longer has, and the sizes of key and value.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


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

    def __iter__(self) -> Iterator[Fetched]:
        """Return the records; aiokafka's own way there costs a call for each of them."""
        return iter(self._records_iterator or ())

    def _unpack_records(self) -> Iterator[Fetched]:
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

    def _of_batch(self, packed: memoryview, head: BatchHead) -> Iterator[Fetched]:
        batch = unpack(packed, head)
        if batch.is_control_batch:
            return
        topic, partition = self._tp
        try:
            for record in batch:
                offset = record.offset
                # Of a batch that is begun within, and of one that compaction has thinned out.
                if offset >= self.next_fetch_offset:
                    self.next_fetch_offset = offset + 1
                    stamp, its_type = record.timestamp, record.timestamp_type
                    yield Fetched(topic, partition, offset, stamp, its_type, record.key, record.value, record.headers)
        except Exception as error:
            # The broker checks lengths, but not that a header's name is UTF-8.
            raise BadBatch("batch_unreadable", f"a record in it: {' '.join(str(error).split())[:200]}") from error

    def _unreadable(self, packed: memoryview, head: BatchHead, error: BadBatch) -> Fetched:
        """Return what stands for the rest of a batch; none of it is left where what follows its records is wrong."""
        (topic, partition), last = self._tp, head.last_offset
        first = min(max(head.first_offset, self.next_fetch_offset), last)
        left = max(last + 1 - self.next_fetch_offset, 0)
        value = Unreadable(packed, error.reason, f"offsets {first} to {last}: {error.detail}", left)
        return Fetched(topic, partition, last, head.max_timestamp_ms, 0, None, value)


class Result(fetcher.FetchResult):  # type: ignore[misc]  # aiokafka ships no types
    """One answer on its way to the caller, as much of it as the fetch's budget allows."""

    _partition_records: Records | None

    def getall(self, max_records: int | None = None) -> list[Fetched]:
        """Return the next records."""
        budget = _budget.get() or _Budget(MAX_FETCH_BYTES)
        if budget.left <= 0 or not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        taken: list[Fetched] = []
        left = budget.left
        for record in self._partition_records or ():
            taken.append(record)
            left -= RECORD_BYTES * (1 + len(record.headers)) + len(record.key or b"") + len(record.value or b"")
            if left <= 0 or len(taken) == max_records:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        budget.left = left
        return taken
