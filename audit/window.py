# SPDX-License-Identifier: Apache-2.0
"""One window's books laid side by side, and what does not fit between them. Pure.

collector   in = seen by the hook        out = rows published to raw
enricher    in = rows read from raw      out = flows published to enriched
a sink      parts = rows taken, first time, of each chunk
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import msgspec

from audit.entry import Entry, add_up_entries
from audit.result import Shortfall, Sums
from schemas.amount import NOTHING, Amount
from schemas.ids import MAX_NUMBER, Origin, chunk_id, window_id
from schemas.ledger import LedgerRecord

# Of a window's chunks that are missing.
_NAMED = 10
# Where in the stream of a node's life a window or a chunk stands.
Place = tuple[int, int]
# By hop, the last that it has taken of a life of a node: generation, sequence, chunk, row.
Reached = dict[str, tuple[int, int, int, int]]
# Before everything that is counted.
NOWHERE = (-1, -1, -1, -1)
# Beyond it.
EVERYWHERE = (MAX_NUMBER + 1, 0)
# A hop, a life of a node, and a place in its stream (generation, sequence, chunk): whether the hop is past it.
IsPast = Callable[[str, Origin, tuple[int, int, int]], bool]


class Key(NamedTuple):
    """Which window; the keys of one life of a node compare in the order in which it counted."""

    origin: Origin
    generation: int
    sequence: int

    @property
    def id(self) -> str:
        """The window's id."""
        return window_id(*self)


def reach(reached: Reached, hop: str, position: tuple[int, int, int, int]) -> None:
    """Note that a hop has taken something."""
    if position > reached.get(hop, NOWHERE):
        reached[hop] = position


# Which sinks took a chunk: the same few tuples for all chunks.
_and = lru_cache(maxsize=1024)(lambda sinks, one_more: (*sinks, one_more))


class OpenChunk(msgspec.Struct, eq=False, gc=False):
    """What is known of a chunk so far; `entry` is the enricher's, under `id`.

    `whole`: the sinks that took just what the enricher gave. `odd`: what each sink took, where that is not so of all,
    or the enricher gave nothing, so that a sink need not have taken it.
    """

    place: Place
    number: int
    reached: Reached
    entry: Entry | None = None
    id: str = ""
    whole: tuple[str, ...] = ()
    odd: dict[str, Amount] | None = None

    def take(self, sink: str, amount: Amount) -> None:
        """Note what a sink took."""
        entry = self.entry
        if entry is not None and self.odd is None and sink not in self.whole and entry.gave(amount):
            self.whole = _and(self.whole, sink)
            return
        self.odd = self.taken()
        before = self.odd.get(sink)
        self.odd[sink] = amount if before is None else before + amount
        self.whole = ()

    def take_next(self, sink: str, amount: Amount) -> None:
        """Note what a sink took, and that it has come so far."""
        reach(self.reached, sink, (*self.place, self.number, 0))
        self.take(sink, amount)

    def took(self, sink: str) -> Amount:
        """Return what a sink took."""
        if self.entry is not None and sink in self.whole:
            return self.entry.given
        return NOTHING if self.odd is None else self.odd.get(sink, NOTHING)

    def taken(self) -> dict[str, Amount]:
        """Return what each sink took."""
        if self.entry is None or not self.whole:
            return self.odd or {}
        return dict.fromkeys(self.whole, self.entry.given)


class OpenWindow(msgspec.Struct, eq=False, gc=False):
    """What is known of a window so far; `record` is its collector's entry. `last_ms`: end of the latest entry.

    `told`: who says when it was, its collector or, as long as that has not, the enricher of a chunk. `first`: chunk 0,
    the only one of most windows. `left_bytes`, `left_packets`: what the collector gave less what the enricher took.
    `adds_up`: each of its entries does.
    """

    origin: Origin
    place: Place
    record: Entry | None = None
    told: Entry | None = None
    first: OpenChunk | None = None
    others: dict[int, OpenChunk] | None = None
    last_ms: int = 0
    left_bytes: int = 0
    left_packets: int = 0
    adds_up: bool = True

    @property
    def key(self) -> Key:
        """Which window it is."""
        return Key(self.origin, *self.place)

    @property
    def start_ms(self) -> int | None:
        """When it began; None as long as only a sink has told of it."""
        return None if self.told is None else self.told.start_ms

    @property
    def end_ms(self) -> int:
        """When it ended; of one of which only a sink has told, when at the latest."""
        return self.last_ms if self.told is None else self.told.end_ms

    def close_by(self, record: LedgerRecord) -> None:
        """Take its collector's entry."""
        self.record = self.told = Entry.of(record, beside=self.told)
        self._count(record.given, 1, self.record)

    def enrich(self, chunk: OpenChunk, record: LedgerRecord, senders: Mapping[str, Amount], id_: str) -> None:
        """Take the enricher's entry of one of its chunks."""
        chunk.entry, chunk.id = Entry.of(record, senders, self.told), id_
        self.told = self.told or chunk.entry
        if chunk.odd is None and not (record.given.bytes or record.given.packets):
            chunk.odd = {}
        self._count(record.taken, -1, chunk.entry)

    def _count(self, amount: Amount, sign: int, entry: Entry) -> None:
        self.left_bytes += sign * amount.bytes
        self.left_packets += sign * amount.packets
        self.adds_up &= entry.accounted is None

    @property
    def enriched(self) -> dict[int, Entry]:
        """The enricher's entries by chunk, in order."""
        return {chunk.number: chunk.entry for chunk in self._in_order() if chunk.entry is not None}

    def _in_order(self) -> list[OpenChunk]:
        return sorted(self.chunks(), key=attrgetter("number"))

    def chunks(self) -> Collection[OpenChunk]:
        """Return its chunks."""
        first, others = self.first, self.others
        if first is None:
            return () if others is None else others.values()
        return (first,) if others is None else (first, *others.values())

    def chunk(self, number: int, reached: Reached) -> OpenChunk:
        """Return one of its chunks, to note what is told of it; `reached`: of its life."""
        if number == 0:
            if self.first is None:
                self.first = OpenChunk(self.place, 0, reached)
            return self.first
        if self.others is None:
            self.others = {}
        chunk = self.others.get(number)
        if chunk is None:
            chunk = self.others[number] = OpenChunk(self.place, number, reached)
        return chunk

    def fits(self, sinks: Iterable[str]) -> bool:
        """Return whether `judge` finds nothing: most windows, and all that do are asked at some time."""
        if self.record is None or self.left_bytes or self.left_packets or not self.adds_up:
            return False
        for chunk in self.chunks():
            entry, odd = chunk.entry, chunk.odd
            if entry is None:
                continue
            # Where a sink is behind, the entries of all that waits for it need not be looked at.
            for sink in sinks:
                if sink not in chunk.whole and (odd is None or not _same_size(chunk.took(sink), entry.given)):
                    return False
        return True

    def judge(self, sinks: Sequence[str], is_past: IsPast) -> list[Shortfall]:
        """Return what does not fit; `sinks` are those that should have taken it."""
        if self.record is None:
            return self._nobody_closed(is_past)
        if self.fits(sinks):
            return []
        window, enriched = self.key.id, self.enriched
        found = [*_own_balance(window, self.record), *self._judge_enricher(window, self.record, enriched, is_past)]
        for sink in sinks:
            found += self._judge_sink(sink, is_past)
        return found

    def _judge_enricher(
        self, window: str, record: Entry, enriched: Mapping[int, Entry], is_past: IsPast
    ) -> list[Shortfall]:
        found = [short for entry in enriched.values() for short in _own_balance(window, entry)]
        chunks = record.chunks or 0
        missing = _missing(chunks, enriched)
        # Chunks are taken in order: who is past any that is missing is past the first.
        late = bool(missing) and not self._is_past("enricher", missing[0], is_past)
        given = sum((entry.taken for entry in enriched.values()), NOTHING)
        why = "rows differ"
        if missing:
            names = ", ".join(map(str, missing[:_NAMED])) + (" ..." if len(missing) > _NAMED else "")
            why = f"chunk {names} of {chunks} not enriched"
            why += ", nor anything later of this node" if late else ", though later ones were: passed over"
        beyond = [chunk for chunk in enriched if chunk >= chunks]
        if beyond:
            why = f"chunk {beyond[0]} was enriched, the collector published {chunks}"
        return found + _difference("enricher", window, record.given, given, why, late=late)

    def _judge_sink(self, sink: str, is_past: IsPast) -> list[Shortfall]:
        found = []
        for chunk in self._in_order():
            # The enricher's entry of a chunk comes after its flows: what it does not know of yet is not judged here.
            if (entry := chunk.entry) is None or _same_size(expected := entry.given, got := chunk.took(sink)):
                continue
            late = not self._is_past(sink, chunk.number, is_past)
            why = "not taken whole" if got.bytes else "not taken"
            why += ", nor anything later of this node" if late else ", though later ones were: passed over"
            name = chunk_id(self.origin, *self.place, chunk.number)
            found += _difference(sink, name, expected, got, why, late=late)
        return found

    def _nobody_closed(self, is_past: IsPast) -> list[Shortfall]:
        """Judge a window without its collector's entry, which comes last of the collector's records."""
        taken = sum((entry.taken for entry in self.enriched.values()), NOTHING)
        late = not self._is_past("collector", 0, is_past)
        why = "enriched, but the ledger has no entry of its collector"
        return _difference("collector", self.key.id, NOTHING, taken, why, late=late)

    def _is_past(self, hop: str, chunk: int, is_past: IsPast) -> bool:
        return is_past(hop, self.origin, (*self.place, chunk))


def add_up(node: str, windows: Sequence[OpenWindow], sums: Sums) -> None:
    """Add windows of one node to the sums of a range."""
    sums.windows += len(windows)
    records = [window.record for window in windows if window.record is not None]
    for shape, amounts, coverage in add_up_entries(records):
        sums.hop("collector").add(shape, amounts, sums.room)
        if coverage is not None:
            sums.cover(node, coverage)
    whole: dict[tuple[str, ...], list[Entry]] = {}
    odd: list[tuple[str, Amount]] = []
    for window in windows:
        for chunk in window.chunks():
            if (entry := chunk.entry) is not None:
                whole.setdefault(chunk.whole, []).append(entry)
                if entry.senders.names or entry.foreign.names:
                    sums.receive(node, entry.senders, entry.foreign)
            if chunk.odd is not None:
                odd += chunk.odd.items()
    for sinks, entries in whole.items():
        for shape, amounts, _ in add_up_entries(entries):
            sums.hop("enricher").add(shape, amounts, sums.room)
            for sink in sinks:
                sums.hop(sink).take(amounts[1])
    for sink, amount in odd:
        sums.hop(sink).take(amount)


def _missing(chunks: int, enriched: Collection[int]) -> list[int]:
    """Return the first chunks that no enricher tells of: how many there should be only the entry says."""
    absent = (chunk for chunk in range(chunks) if chunk not in enriched)
    return list(itertools.islice(absent, _NAMED + 1))


def _own_balance(window: str, entry: Entry) -> list[Shortfall]:
    if entry.accounted is None:
        return []
    return _difference(entry.shape.hop, window, entry.taken, entry.accounted, "its own entry does not add up")


def _same_size(one: Amount, other: Amount) -> bool:
    return one.bytes == other.bytes and one.packets == other.packets


def _difference(
    hop: str, window: str, expected: Amount, got: Amount, why: str, *, late: bool = False
) -> list[Shortfall]:
    if _same_size(expected, got):
        return []
    size, packets = expected.bytes - got.bytes, expected.packets - got.packets
    if size < 0 and hop not in ("collector", "enricher"):
        return [Shortfall(hop, window, size, packets, "taken more than once")]
    return [Shortfall(hop, window, size, packets, why, late)]
