# SPDX-License-Identifier: Apache-2.0
"""What is already out: read back from Kafka after a start, a rebalance or a failed publication.

The raw offset is committed together with the offset that the output had reached (in the commit's metadata), so
what stands behind that offset belongs to chunks not committed yet. Each flow tells which rows of its chunk it holds.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from common.kafka import by_time, clients
from common.kafka.reading import held, reader, stretch
from common.service.running import Service
from enricher.delivery.outgoing.resumed import Page
from enricher.join.join import Out
from enricher.settings import EnricherSettings
from schemas.errors import DecodeError
from schemas.flow import Flow, decode_flow, other_attribution
from schemas.ids import parse_flow_id, split_flow_id

log = logging.getLogger(__name__)

# How much older than what stands before it a raw record may be, for what is out of it to be found by time.
_OUT_OF_ORDER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed raw offset, and the offset that the output had reached then. None: not known."""

    raw_offset: int | None
    enriched_offset: int | None


def commit_metadata(enriched_offset: int | None) -> str:
    """Return what to store with a raw offset."""
    return "" if enriched_offset is None else f"enriched={enriched_offset}"


def parse_metadata(metadata: str) -> int | None:
    """Return the output's offset; None if somebody else committed (an operator's reset, an older version)."""
    found = re.fullmatch(r"enriched=(\d{1,18})", metadata)
    return int(found[1]) if found else None


@dataclass(slots=True)
class Tail:
    """What stands in the output behind some offset, by chunk id; `end` is the offset after it."""

    end: int = 0
    chunks: dict[str, Out] = field(default_factory=dict)

    def add(self, flow: Flow) -> None:
        """Take in one flow."""
        chunk, number = split_flow_id(flow.id)
        self.chunks.setdefault(chunk, Out()).add(number, flow.rows or (number,), flow.bytes, flow.packets)


def read_back(value: bytes | None, key: bytes | None, partition: int) -> Flow:
    """Decode a flow that is out; raise `DecodeError` if no sink takes it, or no enricher wrote it there."""
    flow = decode_flow(value)
    if flow.attribution_version:
        raise other_attribution(flow.attribution_version)
    origin, _ = parse_flow_id(flow.id)
    if key != origin.node.encode():
        raise DecodeError("inconsistent", f"the key is {(key or b'')[:100]!r}, the node {origin.node[:100]!r}")
    if flow.raw.partition != partition:
        raise DecodeError("inconsistent", f"its chunk is in partition {flow.raw.partition}, and it in {partition}")
    return flow


async def committed(service: Service, settings: EnricherSettings, partition: int) -> Committed:
    """Return what the group committed for a raw partition."""
    where = TopicPartition(settings.topics.raw, partition)
    admin = await clients.start(service, settings, lambda: AIOKafkaAdminClient(**clients.client_options(settings)))
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            found = (await admin.list_consumer_group_offsets(settings.group_id, partitions=[where])).get(where)
    finally:
        await clients.close(admin)
    if found is None or found.offset < 0:
        return Committed(None, None)
    enriched_offset = parse_metadata(found.metadata or "")
    if enriched_offset is None:
        said = (found.metadata or "")[:100]
        log.warning(
            "partition %s: its offset was committed by somebody else, who says %r of the output; "
            "what is already out is looked for by time",
            *(partition, said),
        )
    return Committed(found.offset, enriched_offset)


async def not_committed(
    service: Service, settings: EnricherSettings, partition: int, committed: Committed, raw_first: int
) -> tuple[range, range]:
    """Return the raw offsets from `raw_first` on, and those of the output that may hold something of them.

    Where the output's offset was not committed with the raw one, its beginning is looked for by time.
    """
    raw, where = (TopicPartition(name, partition) for name in (settings.topics.raw, settings.topics.enriched))
    deadline = settings.kafka_deadline_seconds
    async with reader(service, settings, where) as consumer:
        there = (await held(consumer, [where], deadline))[where]
        raw_held = (await held(consumer, [raw], deadline))[raw]
        wanted = range(max(raw_first, raw_held.start), max(raw_first, raw_held.stop))
        start = committed.enriched_offset
        if start is not None and start <= there.stop:
            return wanted, range(max(start, there.start), there.stop)
        if not wanted:
            return wanted, range(there.stop, there.stop)
        from_ms = await _time_of_first(service, settings, raw, wanted) - _OUT_OF_ORDER_MS
        async with asyncio.timeout(deadline):
            start = await _from(consumer, where, there, from_ms)
    log.info(
        "partition %s: what is already out of %s raw records is looked for among %s of the output",
        *(partition, len(wanted), there.stop - start),
    )
    return wanted, range(start, there.stop)


async def _time_of_first(service: Service, settings: EnricherSettings, raw: TopicPartition, wanted: range) -> int:
    """Return the Kafka time of the first of these records, 0 where all are gone by now."""
    async with reader(service, settings, raw) as consumer:
        async for records in stretch(consumer, {raw: wanted}, settings.kafka_deadline_seconds):
            return int(records[0].timestamp)
    return 0


async def _from(consumer: AIOKafkaConsumer, where: TopicPartition, there: range, time_ms: int) -> int:
    """Return the offset from which on all records of that time or later stand, also those without a time."""
    if time_ms <= 0:
        return there.start
    return (await by_time.beginnings(consumer, time_ms, {where: there}))[where].start


async def read_pages(
    service: Service, settings: EnricherSettings, partition: int, unread: range
) -> AsyncGenerator[Page, None]:
    """Yield the flows at these offsets of the output, each with its own, and the offset to go on from."""
    where = TopicPartition(settings.topics.enriched, partition)
    async with reader(service, settings, where) as consumer:
        async for records in stretch(consumer, {where: unread}, settings.kafka_deadline_seconds):
            flows = []
            for record in records:
                try:
                    flows.append((record.offset, read_back(record.value, record.key, partition)))
                except DecodeError as error:
                    log.warning("%s-%s@%s is not a flow: %s", where.topic, partition, record.offset, error)
            yield flows, records[-1].offset + 1


async def read_tail(service: Service, settings: EnricherSettings, partition: int, start: int) -> Tail:
    """Read the output partition from `start` to its present end: what one unit gave out, after it failed."""
    where = TopicPartition(settings.topics.enriched, partition)
    async with reader(service, settings, where) as consumer:
        there = (await held(consumer, [where], settings.kafka_deadline_seconds))[where]
    tail = Tail(there.stop)
    async for flows, _ in read_pages(service, settings, partition, range(max(there.start, start), there.stop)):
        for _, flow in flows:
            tail.add(flow)
    return tail
