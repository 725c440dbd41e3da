# SPDX-License-Identifier: Apache-2.0
"""Reads one partition of ledger, raw and enriched into facts, and the dead letters that explain bad records."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import msgspec
from aiokafka.structs import ConsumerRecord
from msgspec import UNSET, UnsetType

from common.settings import KafkaSettings
from history.audit.deep.facts import ChunkFlows, Copy, Facts, Letter, flow_place
from history.model.time_range import TimeRange
from history.read.topic import NoTopic, Reading, read_topic
from schemas.amount import NOTHING, Amount
from schemas.codec import Count, Milliseconds, reader
from schemas.dead_letter import decode_dead_letter
from schemas.errors import DecodeError
from schemas.flow import MAX_READ_BYTES, AttributionVersion, other_attribution
from schemas.ids import parse_chunk_id, parse_window_id
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.raw import decode_chunk

# Everything that was there is gone.
NOTHING_KEPT_MS = 2**63
RawRecord: TypeAlias = ConsumerRecord[bytes, bytes]


class _Flow(msgspec.Struct, frozen=True):
    id: str
    start_ms: Milliseconds
    bytes: Count
    packets: Count
    attribution_version: AttributionVersion | UnsetType = UNSET


_read_flow = reader(_Flow, MAX_READ_BYTES)


async def read_letters(settings: KafkaSettings, span: TimeRange) -> frozenset[Letter]:
    """Return where the records stood that somebody refused since the range began; none if they have no topic."""
    letters = set()
    with suppress(NoTopic):
        async for batch in read_topic(settings, settings.topics.dead_letter, span.from_ms):
            for record in batch:
                try:
                    letter = decode_dead_letter(record.value)
                except DecodeError:
                    continue  # dead-letters list says so
                letters.add((letter.topic, letter.partition, letter.offset))
    return frozenset(letters)


async def read_partition(settings: KafkaSettings, facts: Facts) -> None:
    """Read the range's records of one partition; the ledger first."""
    topics = settings.topics
    await _read(settings, facts, topics.ledger, "ledger", _take_entry)
    await _read(settings, facts, topics.raw, "raw", _take_chunk)
    await _read(settings, facts, topics.enriched, "enriched", _take_flow)


async def _read(
    settings: KafkaSettings, facts: Facts, topic: str, source: str, take: Callable[[Facts, RawRecord], None]
) -> None:
    """Take every record of a partition; name those that cannot be taken."""
    reading = Reading()
    async for batch in read_topic(settings, topic, facts.wanted.span.from_ms, only=facts.partition, reading=reading):
        if reading.cut_off and source not in facts.kept_since_ms:
            facts.kept_since_ms[source] = batch[0].timestamp
        for record in batch:
            try:
                take(facts, record)
            except DecodeError as error:
                _refused(facts, source, record, error)
    if reading.cut_off:
        facts.kept_since_ms.setdefault(source, NOTHING_KEPT_MS)


def _refused(facts: Facts, source: str, record: RawRecord, error: DecodeError) -> None:
    where = f"partition {record.partition} offset {record.offset}"
    has_letter = (record.topic, record.partition, record.offset) in facts.letters
    told = "it is among the dead letters" if has_letter else "and no dead letter tells of it"
    facts.find(source, f"{where} cannot be read: {error}; {told}", is_fault=not has_letter)


def _take_entry(facts: Facts, record: RawRecord) -> None:
    entry = decode_ledger(record.value)
    if entry.hop == "collector":
        origin, position = parse_window_id(entry.id)
        if facts.wanted.holds(origin, entry.start_ms):
            facts.reach("collector", origin, position[:3])
            if entry.id not in facts.windows:
                facts.count("ledger", entry.given)
            facts.windows[entry.id] = entry
    elif entry.hop == "enricher":
        _take_enricher_entry(facts, entry)
    else:
        _take_sink_entry(facts, entry)


def _take_sink_entry(facts: Facts, entry: LedgerRecord) -> None:
    for chunk in entry.parts:
        origin, position = parse_chunk_id(chunk)
        facts.reach(entry.hop, origin, position[:3])
    repeats = entry.aside.get("repeat", NOTHING).rows
    facts.put_aside[entry.hop] = facts.put_aside.get(entry.hop, 0) + repeats


def _take_enricher_entry(facts: Facts, entry: LedgerRecord) -> None:
    chunk, again, _ = entry.id.partition("@")
    origin, position = parse_chunk_id(chunk)
    if not facts.wanted.holds(origin, entry.start_ms):
        return
    facts.reach("enricher", origin, position[:3])
    if again:
        facts.repeats[chunk] = facts.repeats.get(chunk, 0) + 1
    else:
        facts.entries[chunk] = entry


def _take_chunk(facts: Facts, record: RawRecord) -> None:
    chunk = decode_chunk(record.value)
    if not facts.wanted.holds(chunk.origin, chunk.start_ms):
        return
    amount = Amount(sum(chunk.bytes), sum(chunk.packets), len(chunk.src))
    known = facts.raw.get(chunk.id)
    if known is None:
        facts.raw[chunk.id] = Copy(record.offset, amount, chunk.end_ms)
        facts.count("raw", amount)
        return
    known.again.append(record.offset)
    if known.amount != amount:
        both = f"offsets {known.offset} and {record.offset} of partition {record.partition}"
        facts.find("raw", f"{both} are both {chunk.id}, and differ")


def _take_flow(facts: Facts, record: RawRecord) -> None:
    flow = _read_flow(record.value)
    if flow.attribution_version:
        raise other_attribution(flow.attribution_version)
    chunk, number, origin, position = flow_place(flow.id)
    if not facts.wanted.holds(origin, flow.start_ms):
        return
    if chunk not in facts.enriched:
        facts.enriched[chunk] = ChunkFlows()
        for sink in facts.put_aside:
            if facts.is_past(sink, origin, position[:3]):
                facts.read_to[sink] = record.offset
    if facts.enriched[chunk].add(number, flow.bytes, flow.packets):
        facts.count("enriched", Amount(flow.bytes, flow.packets, 1))
    else:
        facts.again.append((record.offset, flow.id))
