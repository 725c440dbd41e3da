# SPDX-License-Identifier: Apache-2.0
"""The raw chunks that stand before the offset from which on a partition was read: looked through when it is asked.

How far back a chunk makes us look its own time says, which may be made up. So each reading goes back at least twice as
far as the one before, and all of a partition together are bounded: however many ask forever-older times, a partition
is not held up for long.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.kafka import by_time
from common.kafka.reading import Records, held, reader, stretch
from common.plausible import Place, seen_end_ms, why_not_then, why_not_there
from common.service.running import Service
from enricher.delivery.incoming.raw_records import decode_record
from enricher.delivery.incoming.taken import ChunkMark, TakenRuns
from enricher.settings import EnricherSettings
from schemas.errors import DecodeError
from schemas.ids import Origin
from schemas.raw import RawChunk

log = logging.getLogger(__name__)

# Read at once beyond what is asked for: other nodes' windows of the same time end a little earlier.
MORE_MS = 60_000
# Of one partition, in all: some hours of a large cluster's. `_SLICE` is read at a time, the newest first.
MAX_RECORDS = 250_000
MAX_BYTES = 1024 * 1024 * 1024
_SLICE = 10_000
# Of one boot, and boots.
MAX_RUNS = 32
MAX_BOOTS = 10_000


@dataclass(slots=True)
class BootState:
    """What is known of one boot of a node: how far it came, until when it was seen, and which chunks were taken."""

    furthest: ChunkMark | None = None
    end_ms: int = 0
    latest: ChunkMark | None = None
    taken: TakenRuns = field(default_factory=lambda: TakenRuns(MAX_RUNS))

    def note(self, mark: ChunkMark, end_ms: int) -> None:
        """Remember a chunk."""
        self.taken.add(mark)
        self.latest = mark
        self.furthest = mark if self.furthest is None else max(self.furthest, mark)
        self.end_ms = max(self.end_ms, end_ms)


def mark_of(chunk: RawChunk) -> ChunkMark:
    """Return which chunk of its boot it is."""
    return ChunkMark(chunk.generation, chunk.sequence, chunk.chunk)


def why_not(chunk: RawChunk, life: BootState | None, now_ms: int) -> str | None:
    """Say why a chunk cannot be by now, given what is known of its boot; None if it can."""
    if found := why_not_then(chunk.start_ms, chunk.end_ms, now_ms):
        return found
    if life is None or life.furthest is None:
        return None
    last = Place(life.furthest.generation, life.furthest.sequence)
    return why_not_there(last, life.end_ms, Place(chunk.generation, chunk.sequence), now_ms)


@dataclass(slots=True)
class BootStates:
    """What was read back of a partition, by boots of nodes. Pure.

    Only what the enricher would take counts: a record that went to the dead letters says nothing of its node, wherever
    the numbers and times in it would set it.
    """

    cluster: str
    _lives: dict[Origin, BootState] = field(default_factory=dict)

    def get(self, origin: Origin) -> BootState | None:
        """Return what was found of a boot."""
        return self._lives.get(origin)

    def note(self, records: Records, now_ms: int) -> None:
        """Remember records that were read now."""
        for record in records:
            with suppress(DecodeError):
                chunk = decode_record(record, self.cluster)
                life = self._lives.get(chunk.origin) or BootState()
                if why_not(chunk, life, now_ms) is None:
                    life.note(mark_of(chunk), seen_end_ms(chunk.end_ms, now_ms))
                    self._lives[chunk.origin] = life
                if len(self._lives) > MAX_BOOTS:
                    del self._lives[next(iter(self._lives))]


@dataclass(slots=True)
class Reach:
    """How far back was looked, and what that may still cost. Pure.

    `read_from`: the offset down to which all was read. `to_ms`: the time that this goes back to; None before the first.
    """

    read_from: int
    to_ms: int | None = None
    records: int = MAX_RECORDS
    bytes: int = MAX_BYTES

    def wanted(self, end_ms: int, now_ms: int) -> int | None:
        """Return the time to look back to for a window that ended then; None where all of that was looked through.

        A raw record's Kafka timestamp is its window's end, or less where that is too far ahead for Kafka: the first
        copy cannot stand before that time's first.
        """
        to_ms = min(end_ms, now_ms)
        if self.to_ms is None:
            return to_ms - MORE_MS
        if to_ms >= self.to_ms:
            return None
        return min(to_ms, now_ms - 2 * (now_ms - self.to_ms)) - MORE_MS

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may be read."""
        return self.records <= 0 or self.bytes <= 0

    def next_slice(self, start: int) -> range:
        """Return the offsets to read next on the way back to `start`; none if it is reached, or all is used up."""
        if self.is_used_up:
            return range(0)
        return range(max(start, self.read_from - min(_SLICE, self.records)), self.read_from)

    def took(self, part: range, size: int) -> None:
        """Note that a slice was read."""
        self.read_from = part.start
        self.records -= len(part)
        self.bytes -= size


class Earlier:
    """What stands in one partition before `before`."""

    def __init__(self, service: Service, settings: EnricherSettings, where: TopicPartition, before: int) -> None:
        self._service = service
        self._settings = settings
        self._where = where
        self._reach = Reach(before)
        self._lives = BootStates(settings.cluster)

    def life(self, origin: Origin) -> BootState | None:
        """Return what was found of a boot."""
        return self._lives.get(origin)

    async def look(self, chunk: RawChunk, now_ms: int) -> bool:
        """Return whether a chunk stands there; raise `DecodeError` where that is unknown and it says it may be."""
        to_ms = self._reach.wanted(chunk.end_ms, now_ms)
        if self._reach.read_from and to_ms is not None and not self._reach.is_used_up:
            await self._read_back(to_ms, now_ms)
            to_ms = self._reach.wanted(chunk.end_ms, now_ms)
        life = self._lives.get(chunk.origin)
        if life is not None and life.taken.holds(mark_of(chunk)):
            return True
        if to_ms is not None and chunk.maybe_repeat and self._reach.is_used_up:
            raise DecodeError(
                "implausible",
                f"it may be a repeat, of a chunk further back than the {MAX_RECORDS} records that are looked through",
            )
        return False

    async def _read_back(self, to_ms: int, now_ms: int) -> None:
        deadline = self._settings.kafka_deadline_seconds
        async with reader(self._service, self._settings, self._where) as consumer:
            there = await held(consumer, [self._where], deadline)
            async with asyncio.timeout(deadline):
                begins = (await by_time.beginnings(consumer, max(to_ms, 0), there))[self._where]
            start = min(begins.start, self._reach.read_from)
            while part := self._reach.next_slice(start):
                self._reach.took(part, await self._read(consumer, part, now_ms))
        if self._reach.read_from <= start:
            self._reach.to_ms = to_ms
        else:
            log.warning("%s-%s: what is older than offset %s is looked at no more", *self._where, self._reach.read_from)

    async def _read(self, consumer: AIOKafkaConsumer, part: range, now_ms: int) -> int:
        size = 0
        async for records in stretch(consumer, {self._where: part}, self._settings.kafka_deadline_seconds):
            size += sum(len(record.value or b"") for record in records)
            self._lives.note(records, now_ms)
        return size
