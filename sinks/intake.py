# SPDX-License-Identifier: Apache-2.0
"""How both sinks take flows: decode, skip what was taken before, refuse what cannot be read. Pure.

A lane is one partition: its position in the topic, and per life of a node the last flow taken. Whoever owns a
lane stores both in one step with what it made of the flows (a checkpoint, a manifest); then a crash at any moment
loses nothing and doubles nothing. No Kafka client here: records come in, rows come out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from schemas.errors import DecodeError
from schemas.flow import Endpoint, FlowHead, Observer, decode_endpoint, decode_head, decode_observer
from schemas.ids import Origin, parse_chunk_id, split_flow_id
from sinks.books import Books

# Distinct end points known by their bytes; then all are forgotten and learnt anew. About 1 KiB each.
MAX_KNOWN_ENDS = 100_000
# A node's life that brought nothing for so long cannot come again: the raw topic keeps 7 days.
MARK_KEPT_MS = 8 * 24 * 3_600_000
# 10000-01-01: no calendar goes further.
END_OF_TIME_MS = 253_402_300_800_000
# Greater than any row's number (schemas.ids.MAX_DIGITS).
EVERY_ROW = 2**63

E = TypeVar("E")


class SourceRecord(Protocol):
    """What is used of a Kafka record; `timestamp` is Unix time in milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Mark(msgspec.Struct):
    """The last flow taken of one life of a node, when its window ended and when it was taken (Unix time)."""

    generation: int
    sequence: int
    chunk: int
    row: int
    end_ms: int = 0
    taken_ms: int = 0


class Refused(NamedTuple):
    """A record that cannot be decoded, and why."""

    record: SourceRecord
    reason: str
    detail: str


class Row(NamedTuple, Generic[E]):
    """One flow taken for the first time, its source and destination as the reader knows them, its observer."""

    flow: FlowHead
    source: E
    destination: E
    observer: Observer


@dataclass(slots=True)
class Batch(Generic[E]):
    """What came of one batch of records; `missed` offsets were deleted before they could be read."""

    rows: list[Row[E]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    repeats: int = 0
    missed: int = 0


@dataclass(slots=True)
class Lane:
    """One partition. `position` is the offset to read next, None before the first record of an empty state."""

    partition: int
    position: int | None = None
    marks: dict[Origin, Mark] = field(default_factory=dict)
    touched: set[Origin] = field(default_factory=set)
    books: Books = field(default_factory=Books)

    def forget_old_marks(self, now_ms: int) -> list[Origin]:
        """Drop and return the lives of nodes that brought nothing for `MARK_KEPT_MS`."""
        old = [origin for origin, mark in self.marks.items() if mark.taken_ms < now_ms - MARK_KEPT_MS]
        for origin in old:
            del self.marks[origin]
        return old


class Intake(Generic[E]):
    """Takes records into rows; knows end points by their bytes, because they repeat."""

    def __init__(self, make_end: Callable[[Endpoint], E], max_known: int = MAX_KNOWN_ENDS) -> None:
        self._make_end = make_end
        self._max_known = max_known
        self._ends: dict[bytes, E] = {}
        self._observers: dict[bytes, Observer] = {}

    def take(self, lane: Lane, records: Sequence[SourceRecord], now_ms: int) -> Batch[E]:
        """Take the records of one partition, in the order of their offsets, and move the lane behind them."""
        batch: Batch[E] = Batch()
        if records:
            self._take_rows(lane, records, batch, now_ms)
            batch.missed = _missed(lane.position, records)
            lane.position = records[-1].offset + 1
        return batch

    def _take_rows(self, lane: Lane, records: Iterable[SourceRecord], batch: Batch[E], now_ms: int) -> None:
        run = _Run("", 0, 0, -1, Mark(0, 0, 0, 0))
        part = None
        for record in records:
            try:
                flow = decode_head(record.value)
                chunk, row = split_flow_id(flow.id)
                source, destination, observer = self._known(flow)
                if chunk != run.chunk or flow.start_ms != run.start_ms or flow.end_ms != run.end_ms:
                    run = _begin(lane, flow, chunk, now_ms)
                    part = None
            except DecodeError as error:
                lane.books.refuse(error.reason)
                batch.refused.append(Refused(record, error.reason, error.detail))
                continue
            if row <= run.floor:
                lane.books.repeats.add(flow.bytes, flow.packets)
                batch.repeats += 1
                continue
            part = part or lane.books.part(chunk)
            if not part.add_if_it_fits(flow.bytes, flow.packets):
                lane.books.refuse("inconsistent")
                batch.refused.append(Refused(record, "inconsistent", "the flows of its chunk come to more than 2^53"))
                continue
            run.floor = run.mark.row = row
            batch.rows.append(Row(flow, source, destination, observer))

    def _known(self, flow: FlowHead) -> tuple[E, E, Observer]:
        try:
            return (
                self._ends[bytes(flow.source)],
                self._ends[bytes(flow.destination)],
                self._observers[bytes(flow.observer)],
            )
        except KeyError:
            return self._end(bytes(flow.source)), self._end(bytes(flow.destination)), self._observer(flow)

    def _end(self, encoded: bytes) -> E:
        end = self._ends.get(encoded)
        if end is None:
            end = self._make_end(decode_endpoint(encoded))
            if len(self._ends) >= self._max_known:
                self._ends.clear()
            self._ends[encoded] = end
        return end

    def _observer(self, flow: FlowHead) -> Observer:
        encoded = bytes(flow.observer)
        observer = self._observers.get(encoded)
        if observer is None:
            observer = decode_observer(encoded)
            if len(self._observers) >= self._max_known:
                self._observers.clear()
            self._observers[encoded] = observer
        return observer


@dataclass(slots=True)
class _Run:
    """Flows of one chunk in a row; those up to row `floor` were taken before."""

    chunk: str
    start_ms: int
    end_ms: int
    floor: int
    mark: Mark


def _begin(lane: Lane, flow: FlowHead, chunk: str, now_ms: int) -> _Run:
    if not flow.start_ms <= flow.end_ms < END_OF_TIME_MS:
        raise DecodeError("inconsistent", f"a window from {flow.start_ms} to {flow.end_ms}")
    origin, position = parse_chunk_id(chunk)
    at = position[:3]
    mark = lane.marks.get(origin)
    if mark is None:
        mark = lane.marks[origin] = Mark(*at, row=-1)
    before = (mark.generation, mark.sequence, mark.chunk)
    lane.books.cover(flow.start_ms, flow.end_ms)
    lane.touched.add(origin)
    mark.taken_ms = now_ms
    if at < before:
        return _Run(chunk, flow.start_ms, flow.end_ms, EVERY_ROW, mark)
    if at > before:
        mark.generation, mark.sequence, mark.chunk = at
        mark.row = -1
    mark.end_ms = max(mark.end_ms, min(flow.end_ms, now_ms))
    return _Run(chunk, flow.start_ms, flow.end_ms, mark.row, mark)


def _missed(position: int | None, records: Sequence[SourceRecord]) -> int:
    first, last = records[0].offset, records[-1].offset
    holes = last - first + 1 - len(records)
    return holes if position is None or first < position else holes + first - position
