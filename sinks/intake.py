# SPDX-License-Identifier: Apache-2.0
"""How every sink takes flows: decode, skip what was taken before, refuse what cannot be read. Pure.

A lane is one partition: its position in the topic, and per life of a node the last flow taken. The sink that owns a
lane stores both in one step with what it made of the flows (a checkpoint, a manifest); then a crash at any moment
loses nothing and doubles nothing. No Kafka client here: records come in, rows come out.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from common.plausible import CLOCK_SLACK_MS, Place, seen_end_ms, why_not_then, why_not_there
from schemas.codec import Milliseconds, offsets_of
from schemas.errors import DecodeError
from schemas.flow import Endpoint, FlowHead, Observer, decode_endpoint, decode_head, decode_observer, other_attribution
from schemas.ids import MAX_NUMBER, Origin, parse_chunk_id, split_flow_id
from schemas.ledger import Hop, LedgerRecord
from sinks.tallies import Tallies

# Distinct end points known by their bytes; then all are forgotten and learned again. About 1.2 KiB each, names and all;
# if somebody writes longer ones, fewer.
MAX_KNOWN_ENDS = 200_000
MAX_KNOWN_BYTES = 256 * 1024 * 1024
# What knowing one takes beside its bytes and the object: its place in a dictionary, and what the allocator rounds up.
KNOWN_BYTES = 120
# An observer takes at most so many times its bytes; there are few.
OBSERVER_FACTOR = 5
# A node's life that brought nothing for so long cannot come again: the raw topic keeps 7 days.
MARK_KEPT_MS = 8 * 24 * 3_600_000
# Marks of one partition. Kubernetes has no cluster of so many nodes, and a partition holds a part of them.
MAX_MARKS = 10_000
# Beyond it a life makes room that brought nothing for so long; what is published twice is so within moments.
MARK_IDLE_MS = 3_600_000
# Greater than any row's number (schemas.ids.MAX_DIGITS).
EVERY_ROW = 2**63

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]

E = TypeVar("E")


class SourceRecord(Protocol):
    """What is used of a Kafka record; `timestamp` is Unix time in milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class FlowMark(msgspec.Struct):
    """The last flow taken of one life of a node, until when that life was seen and when it was taken (Unix time)."""

    generation: Number
    sequence: Number
    chunk: Number
    row: Annotated[int, msgspec.Meta(ge=-1, le=MAX_NUMBER)]
    end_ms: Milliseconds = 0
    taken_ms: Milliseconds = 0

    @property
    def seen_ms(self) -> int:
        """Until when the node was seen, and no later than when that was taken: its clock may be ahead."""
        return min(self.end_ms, self.taken_ms) if self.taken_ms else self.end_ms


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
    """What came of one batch of records; `missed` offsets were deleted before they could be read.

    `first_offset`: of its first record. `renumbered` chunks were taken although they are numbered below the one before.
    `forgot`: the ends of earlier rows are known no longer; who holds such rows alone keeps their ends in memory.
    """

    rows: list[Row[E]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    repeats: int = 0
    missed: int = 0
    renumbered: int = 0
    first_offset: int | None = None
    forgot: bool = False


@dataclass(slots=True)
class Lane:
    """One partition. `position` is the offset to read next, None before the first record of an empty state.

    `marks` stand in the order in which their nodes were heard of. `pushed_out` made room for others. `refused`, by
    reason, from offset `refused_from` on, has no dead letter yet, and is not in the books. `closed_at`: where the
    books begin, which is where they were closed last.
    """

    partition: int
    position: int | None = None
    marks: dict[Origin, FlowMark] = field(default_factory=dict)
    touched: set[Origin] = field(default_factory=set)
    books: Tallies = field(default_factory=Tallies)
    pushed_out: list[Origin] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refused_from: int | None = None
    closed_at: int | None = None

    def __post_init__(self) -> None:
        self.marks = dict(sorted(self.marks.items(), key=lambda item: item[1].taken_ms))

    @property
    def durable_position(self) -> int | None:
        """The offset from which a reader who has all of this lane's marks loses nothing, and no dead letter either."""
        if self.position is None or self.refused_from is None:
            return self.position
        return min(self.position, self.refused_from)

    @property
    def since_close(self) -> str:
        """The offsets that the books are about. There are none where only what was refused before has come to them."""
        return f"{self.closed_at}-{self.position}"

    def refuse(self, refused: Sequence[Refused]) -> None:
        """Note what was refused, until it is a dead letter."""
        self.refused.update(each.reason for each in refused)
        if self.refused_from is None and refused:
            first = refused[0].record
            self.refused_from = first.offset + 1 - offsets_of(first.value)

    def settle(self) -> None:
        """Take what was refused into the books: its dead letters are in Kafka."""
        for reason, count in self.refused.items():
            self.books.refuse(reason, count)
        self.refused, self.refused_from = Counter(), None

    def close(self, hop: Hop, name: str, now_ms: int) -> list[LedgerRecord]:
        """Return the ledger entries of what was taken since the last time, and begin new books."""
        entries = self.books.records(hop, name, self.partition, now_ms)
        self.books, self.touched, self.closed_at = Tallies(), set(), self.position
        return entries

    def believe(self, now_ms: int) -> None:
        """Hold marks that were read back to what holds for those that are made now: by this clock, and so many.

        The clock by which they were made may have been ahead, and a file may have been written by hand. `touched` are
        those that the file says otherwise.
        """
        for origin, mark in self.marks.items():
            seen = seen_end_ms(mark.end_ms, now_ms), min(mark.taken_ms, now_ms)
            if seen != (mark.end_ms, mark.taken_ms):
                mark.end_ms, mark.taken_ms = seen
                self.touched.add(origin)
        while len(self.marks) > MAX_MARKS:
            self._drop_oldest()

    def forget_old_marks(self, now_ms: int) -> list[Origin]:
        """Drop the lives that brought nothing for `MARK_KEPT_MS`; return all that have gone since the last time.

        Others have to have been seen so much later, by their own clocks: this one may be days ahead for a moment.
        """
        if self._silent_since() < now_ms - MARK_KEPT_MS:
            latest_ms = min(now_ms, max(mark.seen_ms for mark in self.marks.values()))
            while self._silent_since() < latest_ms - MARK_KEPT_MS:
                self._drop_oldest()
        gone = [origin for origin in self.pushed_out if origin not in self.marks]
        self.pushed_out.clear()
        return gone

    def make_room(self, origin: Origin, now_ms: int) -> None:
        """See that there is room for one life more; raise `DecodeError` if nobody makes any."""
        if len(self.marks) < MAX_MARKS:
            return
        if self._silent_since() >= now_ms - MARK_IDLE_MS:
            raise DecodeError("too_many_names", f"{MAX_MARKS} boots of nodes have sent, and none of {origin.node!r}")
        self._drop_oldest()

    def _silent_since(self) -> float:
        return next((mark.taken_ms for mark in self.marks.values()), math.inf)

    def _drop_oldest(self) -> None:
        origin = next(iter(self.marks))
        del self.marks[origin]
        self.pushed_out.append(origin)


class Intake(Generic[E]):
    """Takes records into rows; knows end points by their bytes, because they repeat."""

    def __init__(
        self, make_end: Callable[[Endpoint], E], max_known: int = MAX_KNOWN_ENDS, attribution_version: int = 0
    ) -> None:
        """`attribution_version`: the one that is taken, 0 as recorded; flows of others are refused.

        What an end takes is asked of it: `__sizeof__` has to count what belongs to it alone.
        """
        self._make_end = make_end
        self._attribution = attribution_version or UNSET
        self._max_known = max_known
        self._ends: dict[bytes, E] = {}
        self._observers: dict[bytes, Observer] = {}
        self._known_bytes = 0
        self._forgot = False

    def take(self, lane: Lane, records: Sequence[SourceRecord], now_ms: int) -> Batch[E]:
        """Take the records of one partition, in the order of their offsets, and move the lane behind them.

        The lane's books hold all but what was refused: see `Lane.refuse` and `settle`.
        """
        batch: Batch[E] = Batch()
        self._forgot = False
        if records:
            batch.first_offset = records[0].offset
            if lane.closed_at is None:
                lane.closed_at = batch.first_offset
            self._take_rows(lane, records, batch, now_ms)
            batch.missed = _missed(lane.position, records)
            lane.position = records[-1].offset + 1
        batch.forgot = self._forgot
        return batch

    def _take_rows(self, lane: Lane, records: Iterable[SourceRecord], batch: Batch[E], now_ms: int) -> None:
        run = _Run("", 0, 0, -1, FlowMark(0, 0, 0, 0))
        part = watched = None
        for record in records:
            try:
                flow = decode_head(record.value)
                if flow.attribution_version != self._attribution:
                    raise other_attribution(flow.attribution_version, self._attribution)
                chunk, row = split_flow_id(flow.id)
                source, destination = self._end(bytes(flow.source)), self._end(bytes(flow.destination))
                if flow.observer != watched:
                    observer, watched = self._observer(bytes(flow.observer)), flow.observer
                if chunk != run.chunk or flow.start_ms != run.start_ms or flow.end_ms != run.end_ms:
                    run = _begin(lane, flow, chunk, now_ms)
                    batch.renumbered += run.is_renumbered
                    part = None
            except DecodeError as error:
                batch.refused.append(Refused(record, error.reason, error.detail))
                continue
            if row <= run.floor:
                lane.books.repeats.add(flow.bytes, flow.packets)
                batch.repeats += 1
                continue
            part = part or lane.books.part(chunk)
            if not part.add_if_it_fits(flow.bytes, flow.packets):
                batch.refused.append(Refused(record, "inconsistent", "the flows of its chunk come to more than 2^53"))
                continue
            run.floor = run.mark.row = row
            # As `Row(...)`, without Python's own step of it.
            batch.rows.append(tuple.__new__(Row, (flow, source, destination, observer)))

    def _end(self, encoded: bytes) -> E:
        end = self._ends.get(encoded)
        if end is None:
            end = self._make_end(decode_endpoint(encoded))
            self._make_room(sys.getsizeof(encoded) + sys.getsizeof(end))
            self._ends[encoded] = end
        return end

    def _observer(self, encoded: bytes) -> Observer:
        observer = self._observers.get(encoded)
        if observer is None:
            observer = decode_observer(encoded)
            self._make_room(OBSERVER_FACTOR * sys.getsizeof(encoded))
            self._observers[encoded] = observer
        return observer

    def _make_room(self, size: int) -> None:
        size += KNOWN_BYTES
        self._known_bytes += size
        if len(self._ends) + len(self._observers) >= self._max_known or self._known_bytes > MAX_KNOWN_BYTES:
            self._ends.clear()
            self._observers.clear()
            self._known_bytes = size
            self._forgot = True


@dataclass(slots=True)
class _Run:
    """Flows of one chunk in a row; those up to row `floor` were taken before.

    `is_renumbered`: its number is below that of the chunk before, and it is of a later time.
    """

    chunk: str
    start_ms: int
    end_ms: int
    floor: int
    mark: FlowMark
    is_renumbered: bool = False


def _begin(lane: Lane, flow: FlowHead, chunk: str, now_ms: int) -> _Run:
    if flow.start_ms > flow.end_ms:
        raise DecodeError("inconsistent", f"a window from {flow.start_ms} to {flow.end_ms}")
    origin, position = parse_chunk_id(chunk)
    mark = lane.marks.get(origin)
    _check_plausible(flow, Place(*position[:2]), mark, now_ms)
    if mark is None:
        lane.make_room(origin, now_ms)
        mark = FlowMark(*position[:3], row=-1)
    # To the end: who was heard of last.
    lane.marks.pop(origin, None)
    lane.marks[origin] = mark
    lane.books.cover(flow.start_ms, flow.end_ms)
    lane.touched.add(origin)
    mark.taken_ms = now_ms
    at, before = position[:3], (mark.generation, mark.sequence, mark.chunk)
    # A number that somebody made up must not turn the true ones below it into repeats.  Those are of a time that the
    # node has been seen in; as long as its clock is ahead, no time is proof of anything.
    is_later = flow.start_ms >= mark.end_ms and flow.end_ms <= now_ms + CLOCK_SLACK_MS
    if at < before and not is_later:
        return _Run(chunk, flow.start_ms, flow.end_ms, EVERY_ROW, mark)
    if at != before:
        mark.generation, mark.sequence, mark.chunk = at
        mark.row = -1
    mark.end_ms = max(mark.end_ms, seen_end_ms(flow.end_ms, now_ms))
    return _Run(chunk, flow.start_ms, flow.end_ms, mark.row, mark, is_renumbered=at < before)


def _check_plausible(flow: FlowHead, place: Place, mark: FlowMark | None, now_ms: int) -> None:
    why = why_not_then(flow.start_ms, flow.end_ms, now_ms)
    if why is None and mark is not None:
        why = why_not_there(Place(mark.generation, mark.sequence), mark.end_ms, place, now_ms)
    if why is not None:
        raise DecodeError("implausible", why)


def _missed(position: int | None, records: Sequence[SourceRecord]) -> int:
    first, last = records[0].offset, records[-1].offset
    holes = last - first + 1 - len(records)
    if holes or first != position:
        # A batch that could not be unpacked is one record.
        first -= offsets_of(records[0].value) - 1
        holes = last - first + 1 - sum(offsets_of(record.value) for record in records)
    return holes if position is None or first < position else holes + first - position
