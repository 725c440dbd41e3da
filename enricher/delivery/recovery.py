# SPDX-License-Identifier: Apache-2.0
"""What is already out: read back from Kafka after a start, a rebalance or a failed publication.

The raw offset is committed together with the offset that the output had reached (in the commit's metadata), so
what stands behind that offset belongs to chunks not committed yet. Each flow tells which rows of its chunk it holds.
"""

import asyncio
import logging
import re
from dataclasses import dataclass, field

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from common.kafka import clients
from common.kafka.reading import held, reader, stretch
from common.service.running import Service
from enricher.join.join import Out
from enricher.settings import EnricherSettings
from schemas.errors import DecodeError
from schemas.flow import Flow, decode_flow
from schemas.ids import parse_flow_id, split_flow_id

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

    def add(self, flow: Flow) -> None:
        """Take in one flow."""
        chunk, number = split_flow_id(flow.id)
        self.chunks.setdefault(chunk, Out()).add(number, flow.rows or (number,), flow.bytes, flow.packets)


def read_back(value: bytes | None, key: bytes | None, partition: int) -> Flow:
    """Decode a flow that is out; raise `DecodeError` if no sink takes it, or no enricher wrote it there."""
    flow = decode_flow(value)
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
            "what is already out is looked for from the output's beginning",
            *(partition, said),
        )
    return Committed(found.offset, enriched_offset)


async def read_tail(service: Service, settings: EnricherSettings, partition: int, start: int | None) -> Tail:
    """Read the output partition from `start` (None, or no longer there: from its beginning) to its end."""
    where = TopicPartition(settings.topics.enriched, partition)
    async with reader(service, settings, where) as consumer:
        there = (await held(consumer, [where], settings.kafka_deadline_seconds))[where]
        first = there.start if start is None or start > there.stop else max(there.start, start)
        if there.stop - first > 1_000_000:
            log.info("reading back %s records of %s-%s", there.stop - first, where.topic, partition)
        tail, wanted = Tail(there.stop), {where: range(first, there.stop)}
        async for records in stretch(consumer, wanted, settings.kafka_deadline_seconds):
            for record in records:
                try:
                    tail.add(read_back(record.value, record.key, partition))
                except DecodeError as error:
                    log.warning("%s-%s@%s is not a flow: %s", where.topic, partition, record.offset, error)
    return tail
