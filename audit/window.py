# SPDX-License-Identifier: Apache-2.0
"""One window's books laid side by side, and what does not fit between them. Pure.

collector   in = seen by the hook        out = rows published to raw
enricher    in = rows read from raw      out = flows published to enriched
a sink      parts = rows taken, first time, of each chunk
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from audit.entry import Entry
from audit.result import Shortfall, Sums
from schemas.amount import NOTHING, Amount
from schemas.ids import Origin, chunk_id, window_id

# Of a window's chunks that are missing.
_NAMED = 10
# Where in the stream of a node's life a window or a chunk stands.
Place = tuple[int, int]
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


class OpenChunk(msgspec.Struct, eq=False, gc=False):
    """What is known of a chunk so far; `entry` is the enricher's, under `id`, `taken` what each sink took of it."""

    entry: Entry | None = None
    id: str = ""
    taken: dict[str, Amount] = {}

    def take(self, sink: str, amount: Amount) -> None:
        """Note what a sink took."""
        before = self.taken.get(sink)
        if before is not None:
            amount = before + amount
        # The same numbers are kept once.
        self.taken[sink] = self.entry.given if self.entry is not None and self.entry.given == amount else amount


class OpenWindow(msgspec.Struct, eq=False, gc=False):
    """What is known of a window so far; `record` is its collector's entry. `last_ms`: end of the latest entry.

    `told`: who says when it was, its collector or, as long as that has not, the enricher of a chunk.
    """

    origin: Origin
    place: Place
    record: Entry | None = None
    told: Entry | None = None
    chunks: dict[int, OpenChunk] = {}
    last_ms: int = 0

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

    @property
    def enriched(self) -> dict[int, Entry]:
        """The enricher's entries by chunk, in order."""
        return {number: chunk.entry for number, chunk in sorted(self.chunks.items()) if chunk.entry is not None}

    def chunk(self, number: int) -> OpenChunk:
        """Return one of its chunks, to note what is told of it."""
        chunk = self.chunks.get(number)
        if chunk is None:
            chunk = self.chunks[number] = OpenChunk()
        return chunk

    def fits(self, sinks: Iterable[str]) -> bool:
        """Return whether `judge` finds nothing: most windows, and all that do are asked at some time."""
        record = self.record
        if record is None or record.accounted is not None:
            return False
        size = packets = 0
        for chunk in self.chunks.values():
            entry = chunk.entry
            if entry is None:
                continue
            size, packets = size + entry.taken.bytes, packets + entry.taken.packets
            given = entry.given
            if entry.accounted is not None:
                return False
            for sink in sinks:
                got = chunk.taken.get(sink, NOTHING)
                if got is not given and (got.bytes, got.packets) != (given.bytes, given.packets):
                    return False
        return size == record.given.bytes and packets == record.given.packets

    def judge(self, sinks: Sequence[str], is_past: IsPast) -> list[Shortfall]:
        """Return what does not fit; `sinks` are those that should have taken it."""
        if self.record is None:
            return self._nobody_closed(is_past)
        if self.fits(sinks):
            return []
        window, enriched = self.key.id, self.enriched
        found = [*_own_balance(window, self.record), *self._judge_enricher(window, self.record, enriched, is_past)]
        for sink in sinks:
            found += self._judge_sink(sink, enriched, is_past)
        return found

    def add_to(self, sums: Sums) -> None:
        """Add the window to the sums of a range."""
        sums.windows += 1
        node = self.origin.node
        if self.record is not None:
            sums.hop("collector").add(self.record, sums.room)
            if self.record.coverage is not None:
                sums.cover(node, self.record.coverage)
        for chunk in self.chunks.values():
            if (entry := chunk.entry) is not None:
                sums.hop("enricher").add(entry, sums.room)
                if entry.senders.names or entry.foreign.names:
                    sums.receive(node, entry.senders, entry.foreign)
            for sink, amount in chunk.taken.items():
                total = sums.hop(sink)
                total.taken = total.given = total.taken + amount

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

    def _judge_sink(self, sink: str, enriched: Mapping[int, Entry], is_past: IsPast) -> list[Shortfall]:
        found = []
        # The enricher's entry of a chunk comes after its flows: what it does not know of yet is not judged here.
        for chunk, entry in enriched.items():
            expected, got = entry.given, self.chunks[chunk].taken.get(sink, NOTHING)
            late = not self._is_past(sink, chunk, is_past)
            why = "not taken whole" if got.bytes else "not taken"
            why += ", nor anything later of this node" if late else ", though later ones were: passed over"
            name = chunk_id(self.origin, *self.place, chunk)
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


def _missing(chunks: int, enriched: Collection[int]) -> list[int]:
    """Return the first chunks that no enricher tells of: how many there should be only the entry says."""
    absent = (chunk for chunk in range(chunks) if chunk not in enriched)
    return list(itertools.islice(absent, _NAMED + 1))


def _own_balance(window: str, entry: Entry) -> list[Shortfall]:
    if entry.accounted is None:
        return []
    return _difference(entry.hop, window, entry.taken, entry.accounted, "its own entry does not add up")


def _difference(
    hop: str, window: str, expected: Amount, got: Amount, why: str, *, late: bool = False
) -> list[Shortfall]:
    if (expected.bytes, expected.packets) == (got.bytes, got.packets):
        return []
    size, packets = expected.bytes - got.bytes, expected.packets - got.packets
    if size < 0 and hop not in ("collector", "enricher"):
        return [Shortfall(hop, window, size, packets, "taken more than once")]
    return [Shortfall(hop, window, size, packets, why, late)]
