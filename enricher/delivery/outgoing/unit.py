# SPDX-License-Identifier: Apache-2.0
"""What chunks become in Kafka: runs of flows, ledger records, dead letters. Pure.

A unit is what is published and committed together; the flows of its chunks go out in order.
"""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.kafka.publish import Record, Run
from enricher.join.join import Joined, Out
from enricher.metrics import GivenOut
from schemas.amount import NOTHING, Amount
from schemas.flow import HEADERS
from schemas.ledger import UNANNOUNCED_REPEAT, LedgerRecord, encode_ledger
from schemas.raw import RawChunk
from schemas.topics import TopicNames

# Kafka refuses what is further ahead than message.timestamp.after.max.ms, one hour by default.
MAX_AHEAD_MS = 50 * 60_000
# Of the dead letters held in a unit; beyond it they go out.
_MAX_REFUSED_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class ChunkRun:
    """The flows of one chunk on their way; `numbers` are the last parts of their ids, ascending, one a value."""

    chunk: RawChunk
    numbers: list[int]
    run: Run


@dataclass(slots=True)
class Unit:
    """Chunks of one partition that are published and committed together. `end`: the raw offset to commit.

    `chunks`: those that were joined; `rows`: so many rows or addresses of theirs, whichever are more, are held.
    `seen_ms`: the end of the last window, also of one that came again. `refused_bytes`: of the dead letters among the
    books.
    """

    runs: list[ChunkRun] = field(default_factory=list)
    books: list[Record] = field(default_factory=list)
    chunks: list[GivenOut] = field(default_factory=list)
    seen_ms: int | None = None
    rows: int = 0
    refused_bytes: int = 0
    end: int | None = None

    def is_full(self, most_rows: int) -> bool:
        """Return whether it is to go out before more is added."""
        return self.rows >= most_rows or self.refused_bytes >= _MAX_REFUSED_BYTES

    def hold(self, given: GivenOut) -> None:
        """Add a chunk. It may have far more addresses than rows, and holds what each of them was."""
        self.chunks.append(given)
        self.rows += max(given.joined.taken.rows, len(given.chunk.addresses))

    def refuse(self, letter: Record) -> None:
        """Add a dead letter: it goes out with the books, and holds up nobody."""
        self.books.append(letter)
        self.refused_bytes += len(letter.value or b"")


class UnitWriter:
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
        return ChunkRun(chunk, joined.numbers, run)

    def enriched(self, chunk: RawChunk, joined: Joined, out: Out | None, now_ms: int) -> Record:
        """Return the ledger's entry of a chunk; `out` went out before this process took it up."""
        given = joined.given if out is None else joined.given + out.amount
        return self._entry(
            chunk,
            chunk.id,
            now_ms,
            taken=joined.taken,
            given=given,
            aside=joined.aside,
            senders=joined.senders,
            unmetered=joined.unmetered,
            rolled_up=joined.rolled_up if joined.rolled_up.rows else None,
            foreign_source=joined.foreign_source,
        )

    def repeat(self, chunk: RawChunk, offset: int, now_ms: int) -> Record:
        """Return the ledger's entry of a chunk that came before, under a key of its own.

        One that does not say that it may be a repeat has a reason of its own: collectors say so.
        """
        taken = taken_of(chunk)
        id_ = f"{chunk.id}@{offset}"
        reason = "repeat" if chunk.maybe_repeat else UNANNOUNCED_REPEAT
        return self._entry(chunk, id_, now_ms, taken=taken, given=NOTHING, aside={reason: taken})

    def _entry(self, chunk: RawChunk, id_: str, now_ms: int, **amounts: Any) -> Record:
        entry = LedgerRecord(
            hop="enricher",
            id=id_,
            partition=self._partition,
            start_ms=chunk.start_ms,
            end_ms=chunk.end_ms,
            node=chunk.node,
            **amounts,
        )
        time_ms = kafka_time(chunk.end_ms, now_ms)
        return Record(self._topics.ledger, self._partition, entry.key, encode_ledger(entry), time_ms)


def not_out(runs: list[ChunkRun], out: Mapping[str, Out]) -> list[ChunkRun]:
    """Return what of the runs is not out yet: all of a run of which not the beginning is out, and nothing else.

    It goes out in order, so it was somebody else who wrote a later row and not those before it.
    """
    rest = []
    for part in runs:
        found = out.get(part.chunk.id, Out())
        done = bisect.bisect_right(part.numbers, found.last)
        if done != found.amount.rows or not done:
            rest.append(part)
        elif done < len(part.numbers):
            run = msgspec.structs.replace(part.run, values=part.run.values[done:])
            rest.append(ChunkRun(part.chunk, part.numbers[done:], run))
    return rest


def taken_of(chunk: RawChunk) -> Amount:
    """Return what a chunk holds."""
    return Amount(sum(chunk.bytes), sum(chunk.packets), len(chunk.src))


def kafka_time(end_ms: int, now_ms: int) -> int:
    """Return a record's Kafka timestamp: its window's end, or the latest that a broker takes."""
    return min(end_ms, now_ms + MAX_AHEAD_MS)
