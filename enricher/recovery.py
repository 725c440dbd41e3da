# SPDX-License-Identifier: Apache-2.0
"""What is already out: read back from Kafka after a start, a rebalance or a failed publication.

The raw offset is committed together with the offset that the output had reached (in the commit's metadata), so
what stands behind that offset belongs to chunks not committed yet. Rows of a chunk go out in order: the last one
found tells where to resume.
"""

import asyncio
import logging
import re
from dataclasses import dataclass, field

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from common import kafka
from common.service import Service
from enricher.kafka_read import bounds, reader, stretch
from enricher.settings import EnricherSettings
from enricher.unit import Out
from schemas.amount import Amount
from schemas.errors import DecodeError
from schemas.ids import split_flow_id

log = logging.getLogger(__name__)


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

    def add(self, flow_id: str, size: int, packets: int) -> None:
        """Take in one flow. A row that is not greater than the last is another writer's repeat of it."""
        chunk, row = split_flow_id(flow_id)
        out = self.chunks.setdefault(chunk, Out())
        if row > out.last_row:
            out.last_row = row
            out.amount += Amount(size, packets, 1)


class _Flow(msgspec.Struct):
    id: str
    bytes: int
    packets: int


_flow_decoder = msgspec.json.Decoder(_Flow)


async def committed(service: Service, settings: EnricherSettings, partition: int) -> Committed:
    """Return what the group committed for a raw partition."""
    where = TopicPartition(settings.topics.raw, partition)
    admin = await kafka.start(service, settings, lambda: AIOKafkaAdminClient(**kafka.client_options(settings)))
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            found = (await admin.list_consumer_group_offsets(settings.group_id, partitions=[where])).get(where)
    finally:
        await kafka.close(admin)
    if found is None or found.offset < 0:
        return Committed(None, None)
    return Committed(found.offset, parse_metadata(found.metadata or ""))


async def read_tail(service: Service, settings: EnricherSettings, partition: int, start: int | None) -> Tail:
    """Read the output partition from `start` (None, or no longer there: from its beginning) to its end."""
    where = TopicPartition(settings.topics.enriched, partition)
    async with reader(service, settings, where) as consumer:
        begin, end = await bounds(consumer, where, settings.kafka_deadline_seconds)
        first = begin if start is None or start > end else max(begin, start)
        if end - first > 1_000_000:
            log.info("reading back %s records of %s-%s", end - first, where.topic, partition)
        tail = Tail(end)
        async for records in stretch(consumer, where, first, end, settings.kafka_deadline_seconds):
            for record in records:
                try:
                    flow = _flow_decoder.decode(record.value or b"")
                    tail.add(flow.id, flow.bytes, flow.packets)
                except (msgspec.MsgspecError, DecodeError) as error:
                    log.warning("%s-%s@%s is no flow: %s", where.topic, partition, record.offset, error)
    return tail
