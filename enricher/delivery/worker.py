# SPDX-License-Identifier: Apache-2.0
"""Takes one raw partition through the join, in order: enriched flows, then the ledger, then the commit.

Each flow goes out once in effect: what is already out is read back before the first record (recovery.py), and
what a failed publication left behind before it is tried again. A worker lives as long as its assignment.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from common.errors import PublishError
from common.kafka import clients
from common.kafka.partitions import Partitions
from common.kafka.publish import PublishCounters, Publisher, Record
from common.service.lifecycle import Service
from enricher.delivery import recovery
from enricher.delivery.admission import MAX_STRANGERS, Nodes
from enricher.delivery.raw_records import decode_record
from enricher.delivery.repeats import Repeats
from enricher.delivery.unit import Unit, UnitWriter, kafka_time, not_out, taken_of
from enricher.delivery.waiting import LateSenders
from enricher.join.join import Out, join
from enricher.join.policy import Policy
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from schemas.codec import offsets_of
from schemas.dead_letter import dead_letter
from schemas.errors import DecodeError
from schemas.raw import RawChunk

log = logging.getLogger(__name__)

RawRecord: TypeAlias = ConsumerRecord[bytes, bytes]

_FETCH_RECORDS = 64
_FETCH_SECONDS = 1.0
# Of the dead letters held in a unit; beyond it they go out.
_MAX_REFUSED_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Deps:
    """What the workers of a process share."""

    service: Service
    settings: EnricherSettings
    policy: Policy
    cluster: ClusterView
    patience: LateSenders
    publish_counters: PublishCounters
    partitions: Partitions
    metrics: EnricherMetrics
    nodes: Nodes


class Worker:
    """One raw partition, with a producer of its own: one that Kafka refuses must not end what others have under way."""

    def __init__(self, deps: Deps, consumer: AIOKafkaConsumer, partition: int) -> None:
        self._deps = deps
        self._settings = deps.settings
        self._metrics = deps.metrics
        self._consumer = consumer
        self._partition = partition
        self._where = TopicPartition(deps.settings.topics.raw, partition)
        self._writer = UnitWriter(deps.settings.topics, partition)
        self._resumed: dict[str, Out] = {}
        self._enriched_end = 0
        self._next: int | None = None
        self._done: int | None = None
        self._repeats: Repeats | None = None
        self._contradictions: set[str] = set()
        self._publisher = Publisher(deps.service, deps.settings, deps.publish_counters, self._tell)
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
            await self._publisher.close()

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
        if found.raw_offset is not None:
            self._consumer.seek(self._where, found.raw_offset)
        else:
            self._done = await self._from_the_beginning()
        tail = await recovery.read_tail(self._deps.service, self._settings, self._partition, found.enriched_offset)
        self._resumed, self._enriched_end = tail.chunks, tail.end
        log.info(
            "took over a partition",
            extra={"partition": self._partition, "offset": found.raw_offset, "chunks_already_out": len(tail.chunks)},
        )

    async def _from_the_beginning(self) -> int:
        """Read from the first record on, also where some were read before and not committed; return its offset."""
        async with asyncio.timeout(self._settings.kafka_deadline_seconds):
            if not await self._consumer.seek_to_beginning(self._where):
                raise TimeoutError("Kafka does not say where it begins")
            first: int = await self._consumer.position(self._where)
            return first

    async def _work(self, records: Sequence[RawRecord]) -> None:
        unit = Unit()
        for record in records:
            unit = await self._take(record, unit)
            full = unit.rows >= self._settings.batch_rows or unit.refused_bytes >= _MAX_REFUSED_BYTES
            if full or self.stopping:
                await self._finish(unit)
                unit = Unit()
            if self.stopping:
                return
            # The group's heartbeats run in this loop too.
            await asyncio.sleep(0)
        await self._finish(unit)

    async def _take(self, record: RawRecord, unit: Unit) -> Unit:
        """Add what one raw record becomes to the unit, or to a new one if the unit had to go out first."""
        repeats = self._note_position(record)
        try:
            chunk = decode_record(record, self._settings.cluster)
            self._deps.nodes.admit(chunk.node, self._deps.cluster.clock())
            out = self._out_of(chunk)
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
            self._metrics.behind.labels(self._partition).set((self._deps.cluster.clock() - chunk.end_ms) / 1000)
        unit.end = self._next = record.offset + 1
        return unit

    def _out_of(self, chunk: RawChunk) -> Out | None:
        """Return what of a chunk was out when this partition was taken over; None if nothing was."""
        out = self._resumed.pop(chunk.id, None)
        if out is None or out.fits(chunk):
            return out
        self._metrics.foreign_output.inc()
        log.error(
            "%s: flows of it are out that do not fit it, and no enricher wrote them: all of it is written", chunk.id
        )
        return None

    async def _enrich(self, chunk: RawChunk, offset: int, out: Out | None, unit: Unit) -> Unit:
        self._deps.cluster.hear(chunk)
        patience = self._deps.patience
        ends = patience.resolve(chunk)
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
        unit.windows.append((chunk.end_ms, bool(late)))
        unit.rows += joined.taken.rows
        self._metrics.enriched(chunk, joined)
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
        self._metrics.contradicted.labels(chunk.node).inc()

    async def _finish(self, unit: Unit) -> None:
        """Publish a unit's flows, then its books, then commit; again and again until Kafka takes it."""
        if unit.end is None:
            return
        await self._publish_flows(unit)
        self._metrics.published(unit.windows, self._deps.cluster.clock())
        while True:
            try:
                await self._publisher.publish(unit.books)
                break
            except PublishError as error:
                # Keys are the same again, so a book that did arrive is overwritten by itself.
                log.warning("ledger of partition %s: %s; publishing it again", self._partition, error)
        position = OffsetAndMetadata(unit.end, recovery.commit_metadata(self._enriched_end))
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

    async def _publish_flows(self, unit: Unit) -> None:
        runs = unit.runs
        place = (self._settings.topics.enriched, self._partition)
        while runs:
            try:
                ends = await self._publisher.publish([part.run for part in runs])
                self._enriched_end = ends.get(place, self._enriched_end)
                return
            except PublishError as error:
                log.warning("flows of partition %s: %s; reading back what arrived", self._partition, error)
            tail = await recovery.read_tail(self._deps.service, self._settings, self._partition, self._enriched_end)
            runs = not_out(runs, tail.chunks)
            if not runs:
                self._enriched_end = tail.end

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
        place = (record.topic, record.partition, record.offset)
        value = dead_letter(error.reason, error.detail, "enricher", *place, record.timestamp, record.key, record.value)
        key = "/".join(map(str, place)).encode()
        unit.books.append(Record(self._settings.topics.dead_letter, 0, key, value, self._deps.cluster.clock()))
        unit.refused_bytes += len(value)
        self._metrics.refused(error.reason)
        log.warning("%s-%s@%s goes to the dead letters: %s", *place, error)
