# SPDX-License-Identifier: Apache-2.0
"""One window's books laid side by side, and what does not fit between them. Pure.

collector   in = seen by the hook        out = rows published to raw
enricher    in = rows read from raw      out = flows published to enriched
a sink      parts = rows taken, first time, of each chunk
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from audit.result import Shortfall, Sums
from schemas.amount import NOTHING, Amount
from schemas.ids import Origin, chunk_id, window_id
from schemas.ledger import LedgerRecord

# Of a window's chunks that are missing.
_NAMED = 10
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


@dataclass(slots=True)
class OpenWindow:
    """What is known of a window so far; `record` is its collector's entry. `last_ms`: end of the latest entry."""

    key: Key
    record: LedgerRecord | None = None
    enriched: dict[int, LedgerRecord] = field(default_factory=dict)
    taken: dict[str, dict[int, Amount]] = field(default_factory=dict)
    last_ms: int = 0

    @property
    def start_ms(self) -> int | None:
        """When it began; None as long as only a sink has told of it."""
        return None if (entry := self._entry) is None else entry.start_ms

    @property
    def end_ms(self) -> int:
        """When it ended; of one of which only a sink has told, when at the latest."""
        return self.last_ms if (entry := self._entry) is None else entry.end_ms

    @property
    def _entry(self) -> LedgerRecord | None:
        return self.record or next(iter(self.enriched.values()), None)

    def take_part(self, sink: str, chunk: int, amount: Amount) -> None:
        """Note what a sink took of a chunk."""
        parts = self.taken.setdefault(sink, {})
        parts[chunk] = parts.get(chunk, NOTHING) + amount

    def judge(self, sinks: Iterable[str], is_past: IsPast) -> list[Shortfall]:
        """Return what does not fit; `sinks` are those that should have taken it."""
        if self.record is None:
            return self._nobody_closed(is_past)
        found = [*_own_balance(self.key.id, self.record), *self._judge_enricher(self.record, is_past)]
        for sink in sinks:
            found += self._judge_sink(sink, is_past)
        return found

    def add_to(self, sums: Sums) -> None:
        """Add the window to the sums of a range."""
        sums.windows += 1
        if self.record is not None:
            sums.hop("collector").add(self.record, sums.room)
            sums.cover(self.record)
        for record in self.enriched.values():
            sums.add_enriched(record)
        for sink, parts in self.taken.items():
            total = sums.hop(sink)
            total.taken += (amount := sum(parts.values(), NOTHING))
            total.given += amount

    def _judge_enricher(self, record: LedgerRecord, is_past: IsPast) -> list[Shortfall]:
        found = [short for entry in self.enriched.values() for short in _own_balance(self.key.id, entry)]
        chunks = record.chunks or 0
        missing = self._missing(chunks)
        # Chunks are taken in order: who is past any that is missing is past the first.
        late = bool(missing) and not self._is_past("enricher", missing[0], is_past)
        given = sum((entry.taken for entry in self.enriched.values()), NOTHING)
        why = "rows differ"
        if missing:
            names = ", ".join(map(str, missing[:_NAMED])) + (" ..." if len(missing) > _NAMED else "")
            why = f"chunk {names} of {chunks} not enriched"
            why += ", nor anything later of this node" if late else ", though later ones were: passed over"
        beyond = [chunk for chunk in self.enriched if chunk >= chunks]
        if beyond:
            why = f"chunk {beyond[0]} was enriched, the collector published {chunks}"
        return found + _difference("enricher", self.key.id, record.given, given, why, late=late)

    def _missing(self, chunks: int) -> list[int]:
        """Return the first chunks that no enricher tells of: how many there should be only the entry says."""
        absent = (chunk for chunk in range(chunks) if chunk not in self.enriched)
        return list(itertools.islice(absent, _NAMED + 1))

    def _judge_sink(self, sink: str, is_past: IsPast) -> list[Shortfall]:
        found = []
        parts = self.taken.get(sink, {})
        # The enricher's entry of a chunk comes after its flows: what it does not know of yet is not judged here.
        for chunk, entry in self.enriched.items():
            expected, got = entry.given, parts.get(chunk, NOTHING)
            late = not self._is_past(sink, chunk, is_past)
            why = "not taken whole" if got.bytes else "not taken"
            why += ", nor anything later of this node" if late else ", though later ones were: passed over"
            name = chunk_id(*self.key, chunk)
            found += _difference(sink, name, expected, got, why, late=late)
        return found

    def _nobody_closed(self, is_past: IsPast) -> list[Shortfall]:
        """Judge a window without its collector's entry, which comes last of the collector's records."""
        taken = sum((entry.taken for entry in self.enriched.values()), NOTHING)
        late = not self._is_past("collector", 0, is_past)
        why = "enriched, but the ledger has no entry of its collector"
        return _difference("collector", self.key.id, NOTHING, taken, why, late=late)

    def _is_past(self, hop: str, chunk: int, is_past: IsPast) -> bool:
        return is_past(hop, self.key.origin, (self.key.generation, self.key.sequence, chunk))


def _own_balance(window: str, record: LedgerRecord) -> list[Shortfall]:
    accounted = record.balance()
    if accounted is None:
        return []
    return _difference(record.hop, window, record.taken, accounted, "its own entry does not add up")


def _difference(
    hop: str, window: str, expected: Amount, got: Amount, why: str, *, late: bool = False
) -> list[Shortfall]:
    if (expected.bytes, expected.packets) == (got.bytes, got.packets):
        return []
    size, packets = expected.bytes - got.bytes, expected.packets - got.packets
    if size < 0 and hop not in ("collector", "enricher"):
        return [Shortfall(hop, window, size, packets, "taken more than once")]
    return [Shortfall(hop, window, size, packets, why, late)]
