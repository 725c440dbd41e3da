# SPDX-License-Identifier: Apache-2.0
"""Tells a raw chunk that came before. A collector that crashed publishes a window again, and says so.

What this process has read it remembers by one mark per life of a node. The first copy may stand further back: it is
looked for there if the chunk says `maybe_repeat`, and once for each node when a partition is taken over, because a
copy that was sent first and held up on its way does not know that it is not the first to arrive.
"""

import asyncio
import logging

import msgspec
from aiokafka import TopicPartition

from common.service import Service
from enricher.cluster import now_ms
from enricher.kafka_read import Records, reader, stretch
from enricher.settings import EnricherSettings
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.ids import Origin
from schemas.raw import MAX_READ_BYTES, RawChunk

log = logging.getLogger(__name__)

# Read at once beyond what is asked for: other nodes' windows of the same time end a little earlier.
MORE_MS = 60_000

Mark = tuple[int, int, int]


class Repeats:
    """The memory of one raw partition; `first` is the offset from which on it was read."""

    def __init__(self, service: Service, settings: EnricherSettings, partition: int, first: int) -> None:
        self._marks: dict[Origin, tuple[Mark, int]] = {}
        self._earlier = _Earlier(service, settings, TopicPartition(settings.topics.raw, partition), first)

    async def has(self, chunk: RawChunk) -> bool:
        """Return whether this chunk came before. Raises what Kafka's client raises."""
        last = self._marks.get(chunk.origin)
        if last is not None and _mark(chunk) <= last[0]:
            if chunk.start_ms >= last[1]:
                log.warning("%s numbers a later window as an earlier one: it is taken for a repeat", chunk.id)
            return True
        return (chunk.maybe_repeat or last is None) and await self._earlier.holds(chunk)

    def note(self, chunk: RawChunk) -> None:
        """Remember a chunk."""
        last = self._marks.get(chunk.origin)
        if last is None or _mark(chunk) > last[0]:
            self._marks[chunk.origin] = (_mark(chunk), chunk.end_ms)


class _RawId(msgspec.Struct):
    cluster: str
    node: str
    boot_id: str
    generation: int
    sequence: int
    chunk: int


_decoder = msgspec.json.Decoder(_RawId)


def read_id(value: bytes | None) -> _RawId:
    """Decode what is needed of a chunk to know it again; raises `DecodeError`."""
    return decode(_decoder, value, MAX_READ_BYTES)


class _Earlier:
    """The chunks that stand before the offset from which on the partition was read, as far back as was asked."""

    def __init__(self, service: Service, settings: EnricherSettings, where: TopicPartition, before: int) -> None:
        self._service = service
        self._settings = settings
        self._where = where
        self._before = before
        self._read_from = before
        self._earliest_ms: int | None = None
        self._marks: dict[Origin, set[Mark]] = {}

    async def holds(self, chunk: RawChunk) -> bool:
        # A raw record's Kafka timestamp is its window's end, or less where that is too far ahead for Kafka: the first
        # copy cannot stand before that time's first. A spool brings many windows in a row, each later than the one
        # before: what is read for the first is enough.
        to_ms = min(chunk.end_ms, now_ms())
        if self._before and (self._earliest_ms is None or to_ms < self._earliest_ms):
            await self._read_back(to_ms - MORE_MS)
        return _mark(chunk) in self._marks.get(chunk.origin, ())

    async def _read_back(self, to_ms: int) -> None:
        deadline = self._settings.kafka_deadline_seconds
        async with reader(self._service, self._settings, self._where) as consumer:
            async with asyncio.timeout(deadline):
                found = (await consumer.offsets_for_times({self._where: to_ms}))[self._where]
            start = self._before if found is None else found.offset
            async for records in stretch(consumer, self._where, start, self._read_from, deadline):
                self._note(records)
        self._read_from = min(self._read_from, start)
        self._earliest_ms = to_ms

    def _note(self, records: Records) -> None:
        for record in records:
            try:
                raw = read_id(record.value)
            except DecodeError:
                continue  # a dead letter
            origin = Origin(raw.cluster, raw.node, raw.boot_id)
            self._marks.setdefault(origin, set()).add((raw.generation, raw.sequence, raw.chunk))


def _mark(chunk: RawChunk) -> Mark:
    return chunk.generation, chunk.sequence, chunk.chunk
