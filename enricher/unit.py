# SPDX-License-Identifier: Apache-2.0
"""What chunks become in Kafka: runs of flows, ledger records, dead letters. Pure.

A unit is what is published and committed together; the rows of its chunks go out in order.
"""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from common.publish import Record, Run
from enricher.join import Joined
from schemas.amount import NOTHING, Amount, total
from schemas.flow import HEADERS
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.raw import RawChunk
from schemas.topics import TopicNames

# Kafka refuses what is further ahead than message.timestamp.after.max.ms, one hour by default.
MAX_AHEAD_MS = 50 * 60_000


@dataclass(slots=True)
class Out:
    """What of one chunk is out: up to which row, and how much it comes to."""

    last_row: int = -1
    amount: Amount = NOTHING


@dataclass(slots=True)
class ChunkRun:
    """The flows of one chunk on their way; `rows` are their row numbers, one a value."""

    chunk_id: str
    rows: list[int]
    run: Run


@dataclass(slots=True)
class Unit:
    """Chunks of one partition that are published and committed together. `end`: the raw offset to commit."""

    runs: list[ChunkRun] = field(default_factory=list)
    books: list[Record] = field(default_factory=list)
    rows: int = 0
    end: int | None = None


class Writer:
    """Makes the records of one partition."""

    def __init__(self, topics: TopicNames, partition: int) -> None:
        self._topics = topics
        self._partition = partition

    def flows(self, chunk: RawChunk, joined: Joined, now_ms: int) -> ChunkRun:
        """Return the chunk's flows, keyed by node, at their window's end."""
        run = Run(
            self._topics.enriched,
            self._partition,
            chunk.node.encode(),
            joined.values,
            kafka_time(chunk.end_ms, now_ms),
            HEADERS,
        )
        return ChunkRun(chunk.id, joined.rows, run)

    def enriched(self, chunk: RawChunk, joined: Joined, out: Out | None, now_ms: int) -> Record:
        """Return the ledger's entry of a chunk; `out` went out before this process took it up.

        Of the rows before the last one that is out, those that are not out had been put aside, which only a metered
        sender's rows are.
        """
        given, aside = joined.given, dict(joined.aside)
        if out is not None:
            given += out.amount
            before = less(less(joined.taken, total(aside)), given)
            if before.rows:
                aside["sender_in_cluster"] = aside.get("sender_in_cluster", NOTHING) + before
        return self._entry(chunk, chunk.id, joined.taken, given, aside, now_ms)

    def repeat(self, chunk: RawChunk, offset: int, now_ms: int) -> Record:
        """Return the ledger's entry of a chunk that came before, under a key of its own."""
        taken = taken_of(chunk)
        return self._entry(chunk, f"{chunk.id}@{offset}", taken, NOTHING, {"repeat": taken}, now_ms)

    def _entry(
        self, chunk: RawChunk, id_: str, taken: Amount, given: Amount, aside: Mapping[str, Amount], now_ms: int
    ) -> Record:
        entry = LedgerRecord(
            hop="enricher",
            id=id_,
            partition=self._partition,
            start_ms=chunk.start_ms,
            end_ms=chunk.end_ms,
            taken=taken,
            given=given,
            aside=dict(aside),
            node=chunk.node,
        )
        time_ms = kafka_time(chunk.end_ms, now_ms)
        return Record(self._topics.ledger, self._partition, entry.key, encode_ledger(entry), time_ms)


def not_out(runs: list[ChunkRun], out: Mapping[str, Out]) -> list[ChunkRun]:
    """Return what of the runs is not out yet."""
    rest = []
    for part in runs:
        done = bisect.bisect_right(part.rows, out[part.chunk_id].last_row) if part.chunk_id in out else 0
        if done < len(part.rows):
            rest.append(ChunkRun(part.chunk_id, part.rows[done:], replace(part.run, values=part.run.values[done:])))
    return rest


def taken_of(chunk: RawChunk) -> Amount:
    """Return what a chunk holds."""
    return Amount(sum(chunk.bytes), sum(chunk.packets), len(chunk.src))


def less(one: Amount, other: Amount) -> Amount:
    """Return the difference; where it would be below nothing, nothing."""
    return Amount(max(one.bytes - other.bytes, 0), max(one.packets - other.packets, 0), max(one.rows - other.rows, 0))


def kafka_time(end_ms: int, now_ms: int) -> int:
    """Return a record's Kafka timestamp: its window's end, or the latest that a broker takes."""
    return min(end_ms, now_ms + MAX_AHEAD_MS)
