# SPDX-License-Identifier: Apache-2.0
"""Takes one raw partition through the join, in order: a chunk is read, waits if it must, becomes flows, and goes out.

What goes out is output.py's; only what is out is committed. A worker lives as long as its assignment.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from common.kafka import clients
from common.kafka.publish import Publisher
from enricher.delivery.deps import Deps
from enricher.delivery.incoming.admission import MAX_STRANGERS
from enricher.delivery.incoming.raw_records import decode_record, letter_of
from enricher.delivery.incoming.repeats import Repeats
from enricher.delivery.outgoing import recovery
from enricher.delivery.outgoing.output import Output
from enricher.delivery.outgoing.unit import Unit, UnitWriter, kafka_time, taken_of
from enricher.join.join import Out, join
from enricher.metrics import GivenOut
from schemas.codec import offsets_of
from schemas.errors import DecodeError
from schemas.raw import RawChunk

log = logging.getLogger(__name__)

RawRecord: TypeAlias = ConsumerRecord[bytes, bytes]

_FETCH_RECORDS = 512
_FETCH_SECONDS = 1.0
# Raw bytes that are joined at a stretch: some 10 ms of usual chunks. A turn of the event loop costs as much as a dozen
# rows.
_STRETCH_BYTES = 64 * 1024


class Worker:
    """One raw partition."""

    def __init__(self, deps: Deps, consumer: AIOKafkaConsumer, partition: int) -> None:
        self._deps = deps
        self._settings = deps.settings
        self._metrics = deps.metrics
        self._consumer = consumer
        self._partition = partition
        self._where = TopicPartition(deps.settings.topics.raw, partition)
        self._writer = UnitWriter(deps.settings.topics, partition)
        self._next: int | None = None
        self._done: int | None = None
        self._repeats: Repeats | None = None
        self._contradictions: set[str] = set()
        publisher = Publisher(deps.service, deps.settings, deps.publish_counters, self._tell)
        self._output = Output(deps, publisher, partition)
        self.stopping = False
        self.idle = True

    async def run(self) -> None:
        """Work until `stopping`. Raises what Kafka's client raises; then it may be called again, and starts again."""
        try:
            await self._recover()
            while not self.stopping:
                self.idle = True
                records = await self._fetch()
                self.idle = False
                if records:
                    await self._work(records)
                elif self._has_caught_up():
                    self._deps.partitions.works(self._where)
        finally:
            self.idle = True
            await self._output.close()

    @property
    def position(self) -> int | None:
        """The raw offset that is committed, or the first there is; None before that is known."""
        return self._done

    async def _fetch(self) -> Sequence[RawRecord]:
        batches = await clients.fetch(self._consumer, self._where, seconds=_FETCH_SECONDS, max_records=_FETCH_RECORDS)
        return batches.get(self._where, ())

    def _has_caught_up(self) -> bool:
        end = self._consumer.highwater(self._where)
        return end is not None and self._done is not None and end <= self._done

    async def _recover(self) -> None:
        found = await recovery.committed(self._deps.service, self._settings, self._partition)
        self._next = self._done = found.raw_offset
        self._repeats = None
        if self._done is not None:
            self._consumer.seek(self._where, self._done)
        else:
            self._done = await self._from_the_beginning()
        out = await self._output.recover(found, self._done)
        log.info(
            "took over a partition",
            extra={"partition": self._partition, "offset": found.raw_offset, "chunks_already_out": out},
        )

    async def _from_the_beginning(self) -> int:
        """Read from the first record on, also where some were read before and not committed; return its offset."""
        async with asyncio.timeout(self._settings.kafka_deadline_seconds):
            if not await self._consumer.seek_to_beginning(self._where):
                raise TimeoutError("Kafka does not say where it begins")
            first: int = await self._consumer.position(self._where)
            return first

    async def _work(self, records: Sequence[RawRecord]) -> None:
        unit, stretch = Unit(), 0
        for record in records:
            unit = await self._take(record, unit)
            if unit.is_full(self._settings.batch_rows) or self.stopping:
                await self._finish(unit)
                unit = Unit()
            if self.stopping:
                return
            stretch += len(record.value or b"")
            if stretch >= _STRETCH_BYTES:
                # The group's heartbeats run in this loop too.
                await asyncio.sleep(0)
                stretch = 0
        await self._finish(unit)

    async def _take(self, record: RawRecord, unit: Unit) -> Unit:
        """Add what one raw record becomes to the unit, or to a new one if the unit had to go out first."""
        repeats = self._note_position(record)
        try:
            chunk = decode_record(record, self._settings.cluster)
            self._deps.nodes.admit(chunk.node, self._deps.cluster.clock())
            out = await self._output.resumed(chunk, record.offset)
            is_repeat = out is None and await repeats.has(chunk)
        except DecodeError as error:
            self._refuse(record, error, unit)
        else:
            if is_repeat:
                unit.books.append(self._writer.repeat(chunk, record.offset, self._deps.cluster.clock()))
                self._repeated(chunk, record.offset)
            else:
                unit = await self._enrich(chunk, record.offset, out, unit)
                if repeats.note(chunk):
                    self._metrics.renumbered.inc()
                    log.warning(
                        "%s has a lower number and a later time than the one before: taken; a number is made up",
                        chunk.id,
                    )
            unit.seen_ms = chunk.end_ms
        unit.end = self._next = record.offset + 1
        return unit

    async def _enrich(self, chunk: RawChunk, offset: int, out: Out | None, unit: Unit) -> Unit:
        self._deps.cluster.hear(chunk)
        patience = self._deps.patience
        ends = await patience.resolve(chunk)
        if late := patience.worth_waiting_for(chunk, ends):
            await self._finish(unit)
            unit = Unit()
            ends = await patience.wait(chunk, late)
        joined = join(chunk, ends, self._partition, offset, out, self._deps.policy)
        now = self._deps.cluster.clock()
        if joined.values:
            unit.runs.append(self._writer.flows(chunk, joined, now))
        if kafka_time(chunk.end_ms, now) != chunk.end_ms:
            self._metrics.clamped.inc()
        unit.books.append(self._writer.enriched(chunk, joined, out, now))
        unit.hold(GivenOut(chunk, joined, bool(late)))
        if chunk.node in self._deps.policy.unmetered:
            self._contradicted(chunk)
        return unit

    def _repeated(self, chunk: RawChunk, offset: int) -> None:
        self._metrics.repeated(taken_of(chunk), announced=chunk.maybe_repeat)
        if not chunk.maybe_repeat:
            line = "%s at raw offset %s is a repeat and does not say that it may be one: two wrote it, or a mirror did"
            log.warning(line, chunk.id, offset)

    def _contradicted(self, chunk: RawChunk) -> None:
        """Say that a node counts what it sends although the settings say that it does not: that is counted twice."""
        if chunk.node not in self._contradictions:
            if len(self._contradictions) >= MAX_STRANGERS:
                self._contradictions.clear()
            self._contradictions.add(chunk.node)
            log.error("%s has a collector, and unmetered_nodes says it has none: it is counted twice", chunk.node)
        self._metrics.contradicted(chunk.node)

    async def _finish(self, unit: Unit) -> None:
        """Publish a unit, however long it takes, then commit it."""
        if unit.end is None:
            return
        if unit.seen_ms is not None:
            self._metrics.behind.labels(self._partition).set((self._deps.cluster.clock() - unit.seen_ms) / 1000)
        await self._output.publish(unit)
        position = OffsetAndMetadata(unit.end, self._output.position(unit.end))
        async with asyncio.timeout(self._settings.kafka_deadline_seconds):
            await self._consumer.commit({self._where: position})
        self._done = unit.end
        self._deps.partitions.works(self._where)
        end = self._consumer.highwater(self._where)
        if end is not None:
            self._deps.partitions.behind(self._where, end - unit.end)

    def _tell(self, reason: str | None) -> None:
        """Say why Kafka does not take what we publish; that it does again is shown by the next commit."""
        if reason is not None:
            self._deps.partitions.fails(self._where, reason)

    def _note_position(self, record: RawRecord) -> Repeats:
        first = record.offset - offsets_of(record.value) + 1
        if self._next is not None and first > self._next:
            gone = first - self._next
            self._metrics.gap_records.inc(gone)
            log.error("%s-%s: %s raw records were gone before they were read", *self._where, gone)
        if self._repeats is None:
            self._repeats = Repeats(
                *(self._deps.service, self._settings, self._partition, record.offset), self._deps.cluster.clock
            )
        return self._repeats

    def _refuse(self, record: RawRecord, error: DecodeError, unit: Unit) -> None:
        unit.refuse(letter_of(record, error, self._settings.topics.dead_letter, self._deps.cluster.clock()))
        self._metrics.refused(error.reason)
        log.warning("%s-%s@%s goes to the dead letters: %s", *self._where, record.offset, error)
