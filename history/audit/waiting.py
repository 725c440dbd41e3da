# SPDX-License-Identifier: Apache-2.0
"""Whether what a hop has not taken yet waits for it in Kafka. Joins no group and moves no position.

The ledger alone does not tell a hop that is behind from the loss of the last thing that a node published: either way
nothing later of that life was taken. So what is late is looked for in the topic, from where the hop's group stands on.
What is not seen there, for whatever reason, stays unaccounted.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec
from aiokafka.errors import KafkaError

from audit.books import Reconciler, late_windows
from audit.result import Shortfall
from common.errors import Refusal
from common.kafka.reading import Records
from common.kafka.topic_admin import admin_client
from common.settings import KafkaSettings
from history.read.topic import read_topic
from schemas.amount import NOTHING, Amount
from schemas.codec import Count, reader
from schemas.errors import DecodeError
from schemas.flow import MAX_READ_BYTES as MAX_FLOW_BYTES
from schemas.flow import AttributionVersion
from schemas.ids import Origin, split_flow_id, window_id
from schemas.raw import MAX_READ_BYTES as MAX_CHUNK_BYTES

# By hop and partition: the offset that its group goes on from.
Positions = Mapping[str, Mapping[int, int]]
# Of what waits for one hop in one partition, so much is looked through: some ten seconds.
MAX_RECORDS = 1_000_000


class Late(NamedTuple):
    """What does not fit of a window because its hop may still take it, and the partition that it stands in.

    `enriched`: the window's chunks that the enricher has taken.
    """

    short: Shortfall
    partition: int
    enriched: Collection[int]


def late_of(books: Reconciler, settled_before_ms: int) -> list[Late]:
    """Return what does not fit of the windows that ended before that time, where a hop may still take it."""
    found: list[Late] = []
    for window, shortfalls in late_windows(books, settled_before_ms):
        if window.record is not None:
            enriched = window.enriched  # once for all: there may be as many shortfalls as chunks
            found += [Late(short, window.record.partition, enriched) for short in shortfalls]
    return found


class _Part(NamedTuple):
    """What a record holds of what a shortfall is named by: a chunk of a window, or a flow of a chunk, by its number."""

    of: str
    number: int
    amount: Amount


class _Chunk(msgspec.Struct, frozen=True):
    cluster: str
    node: str
    boot_id: str
    generation: Count
    sequence: Count
    chunk: Count
    bytes: list[Count]
    packets: list[Count]


class _Flow(msgspec.Struct, frozen=True):
    id: str
    bytes: Count
    packets: Count
    attribution_version: AttributionVersion | None = None


_read_chunk = reader(_Chunk, MAX_CHUNK_BYTES)
_read_flow = reader(_Flow, MAX_FLOW_BYTES)


async def positions(settings: KafkaSettings) -> Positions:
    """Return where the hops stand, each by the group that it has by default; none of a hop whose group has none.

    To be read before the ledger: what is taken meanwhile is then at these positions or beyond, and not missed.
    """
    found: dict[str, dict[int, int]] = {}
    with suppress(Refusal):
        async with admin_client(settings) as admin:
            for hop, topic in _topics(settings).items():
                with suppress(KafkaError):  # one that may not be asked has no position
                    committed = await admin.list_consumer_group_offsets(f"{settings.topic_prefix}{hop}")
                    of_topic = {at.partition: to.offset for at, to in committed.items() if at.topic == topic}
                    found[hop] = {partition: offset for partition, offset in of_topic.items() if offset >= 0}
    return {hop: own for hop, own in found.items() if own}


async def waiting(settings: KafkaSettings, stands: Positions, late: Collection[Late]) -> set[Shortfall]:
    """Return those that stand whole in Kafka where the hop has yet to come; `stands` as `positions` gave it."""
    found: set[Shortfall] = set()
    groups: dict[tuple[str, int], dict[str, Late]] = {}
    for each in late:
        if each.short.hop in stands and min(each.short.bytes, each.short.packets) >= 0:
            groups.setdefault((each.short.hop, each.partition), {})[each.short.window] = each
    for (hop, partition), wanted in groups.items():
        with suppress(Refusal):  # what cannot be read is not seen
            there = await _there(settings, hop, partition, stands[hop].get(partition, 0), wanted)
            found |= {wanted[window].short for window in there}
    return found


async def _there(
    settings: KafkaSettings, hop: str, partition: int, start: int, wanted: Mapping[str, Late]
) -> Collection[str]:
    """Return what of it stands whole in a partition from there on, as far as it is looked through."""
    there: set[str] = set()
    parts: set[tuple[str, int]] = set()  # one that came again counts once
    sums: dict[str, Amount] = {}
    seen = 0
    async for batch in read_topic(settings, _topics(settings)[hop], starts={partition: start}, only=partition):
        for of, number, amount in _parts(hop, batch):
            late = wanted.get(of)
            if late is None or (of, number) in parts or (hop == "enricher" and number in late.enriched):
                continue
            parts.add((of, number))
            sums[of] = sums.get(of, NOTHING) + amount
            if sums[of].bytes >= late.short.bytes and sums[of].packets >= late.short.packets:
                there.add(of)
        seen += len(batch)
        if len(there) == len(wanted) or seen > MAX_RECORDS:
            break
    return there


def _topics(settings: KafkaSettings) -> dict[str, str]:
    names = settings.topics
    return {"enricher": names.raw, "metrics": names.enriched, "flowlog": names.enriched}


def _parts(hop: str, batch: Records) -> Iterator[_Part]:
    for record in batch:
        with suppress(DecodeError):
            if hop == "enricher":
                chunk = _read_chunk(record.value)
                origin = Origin(chunk.cluster, chunk.node, chunk.boot_id)
                amount = Amount(sum(chunk.bytes), sum(chunk.packets))
                yield _Part(window_id(origin, chunk.generation, chunk.sequence), chunk.chunk, amount)
            else:
                flow = _read_flow(record.value)
                if not flow.attribution_version:  # no sink takes a corrected flow for the one that it corrects
                    yield _Part(*split_flow_id(flow.id), Amount(flow.bytes, flow.packets))
