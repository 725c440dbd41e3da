# SPDX-License-Identifier: Apache-2.0
"""Reconciles the ledger as it comes: takes entries, keeps the windows that are open, lets go of those that fit. Pure.

Windows, the chunks of a window and what sinks took of them stand in one partition of the ledger, and everything is
done in order there. So what a hop has not taken, though it has taken something later of the same life of a node, will
not come any more; no clock is needed to tell. A window that fits everywhere is added to the sums and remembered as one
number of an interval, so that what is kept is what is under way.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from audit.boots import Boots
from audit.intervals import Intervals
from audit.known import OTHERS, Admitted
from audit.result import MAX_LISTED, Audit, Contradiction, Gone, Repeat, Shortfall, Sums
from audit.window import Key, OpenWindow
from schemas.amount import NOTHING, Amount
from schemas.errors import DecodeError
from schemas.ids import MAX_DIGITS, Origin, parse_chunk_id, parse_window_id
from schemas.ledger import UNANNOUNCED_REPEAT, LedgerRecord
from schemas.topology import TopologyState

TWICE = "taken more than once"
SINKS = ("metrics", "flowlog")
NOT_RECONCILED = "not reconciled: more clusters or nodes send than there is room for"
# Sinks that are told apart: two, and flow logs of other groups.
MAX_SINKS = 16
# Clusters, and nodes that Kubernetes does not know, where nothing else is said.
MAX_CLUSTERS, MAX_NODES = 1_000, 100_000
# Intervals of numbers that were closed, in all.
MAX_CLOSED = 300_000
# Entries of closed windows that are remembered by what they said, to tell another that says something else.
MAX_SAID = 100_000
# What a sink published again after a crash is its last checkpoint or manifest, in one entry or some.
_REMEMBERED_ENTRIES = 32

Place = tuple[int, int, int]
# Where a window is counted: an origin and the window's start.
SumsOf = Callable[[Origin, int], Sums]
Wanted = Callable[[Origin, int], bool]


class Reconciler:
    """The open windows of one ledger topic. `wanted` tells of a window's origin and start whether it is of interest.

    `sums_of` gives the sums that a window's amounts are added to once it is closed. `flowlog_group`: a flow log of
    another group is a sink of its own, named "flowlog GROUP", because it takes everything once more. `known` says of
    whom the books are kept. Of two entries under one key the first counts.
    """

    def __init__(
        self,
        sums_of: SumsOf,
        wanted: Wanted = lambda origin, start_ms: True,
        flowlog_group: str = "zonemeter.flowlog",
        known: Admitted | None = None,
    ) -> None:
        self._sums_of = sums_of
        self._known_nodes = known or Admitted(MAX_CLUSTERS, MAX_NODES)
        self._flowlog_group = flowlog_group
        self._wanted = wanted
        self.lives = Boots()
        self.sinks: dict[str, dict[Origin, tuple[int, int]]] = {}
        self.repeated: deque[Repeat] = deque(maxlen=MAX_LISTED)
        self.contradicted: deque[Contradiction] = deque(maxlen=MAX_LISTED)
        self._said: dict[tuple[Key, int | None], int] = {}
        self._open: dict[Key, OpenWindow] = {}
        self._open_of: dict[Origin, set[Key]] = {}
        self._fitted: dict[Origin, Intervals] = {}
        self._dropped: dict[Origin, Intervals] = {}
        self._outside: dict[Origin, tuple[int, int]] = {}  # the first window of each life that was not of interest
        self._known: set[Origin] = set()
        self._reached: dict[str, dict[Origin, Place]] = {}
        self._entries: dict[tuple[str, int], deque[str]] = {}
        self._heard_ms: dict[int, int] = {}
        self._left = 0

    def __len__(self) -> int:
        return len(self._open)

    def take(self, record: LedgerRecord) -> None:
        """Take one entry, in the order of its partition; raise `DecodeError` for an id that is none."""
        if record.hop == "collector":
            self._take_window(record)
        elif record.hop == "enricher":
            self._take_chunk(record)
        else:
            self._take_checkpoint(record)

    def windows(self) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
        """Yield the open windows whose time is known, with what does not fit."""
        for key in sorted(self._open):
            window = self._open[key]
            if window.start_ms is not None:
                yield window, window.judge(self._sinks_for(key), self._is_past)

    def gone(self, whole: Collection[int]) -> list[Gone]:
        """Return what nodes closed before the first window that the ledger holds; `whole`: partitions read whole."""
        # Where one before the range was read, the ledger goes back further than the range.
        return [
            each
            for each in self.lives.gone(whole)
            if each.origin not in self._outside or self._outside[each.origin] > (each.generation, each.last)
        ]

    def close(self, window: OpenWindow, shortfalls: Iterable[Shortfall] = ()) -> None:
        """Add a window to the sums, with what does not fit, and let go of it."""
        if window.start_ms is not None:
            sums = self._sums_of(window.key.origin, window.start_ms)
            window.add_to(sums)
            for shortfall in shortfalls:
                sums.miss(shortfall)
        self._let_go(self._fitted, window.key)

    def settle(self, margin_ms: int) -> None:
        """Close the windows that fit, but for those of the last `margin_ms` of their partition."""
        for window, shortfalls in list(self.windows()):
            record = window.record
            if not shortfalls and record and record.end_ms < self._heard_ms[record.partition] - margin_ms:
                self.close(window)

    def trim(self, margin_ms: int, above: int) -> None:
        """Settle once more than `above` windows are open, and half as many again as the last time left open."""
        if len(self._open) > max(above, self._left * 3 // 2):
            self.settle(margin_ms)
            self._left = len(self._open)

    def expire(self, before_ms: int) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
        """Let go of what ended before that time, whether or not it fits, and yield it with what does not fit."""
        for key in [key for key, window in self._open.items() if window.end_ms < before_ms]:
            yield self.drop(key)
        self.lives.forget(before_ms)
        living = self.lives.origins() | self._open_of.keys()
        closed: list[dict[Origin, Any]] = [self._fitted, self._dropped, self._outside]
        tables = [*closed, *self._reached.values(), *self.sinks.values()]
        for table in tables:
            for origin in table.keys() - living:
                del table[origin]
        self._known &= living
        self._known_nodes.keep({origin[:2] for origin in living})
        self._bound_closed()

    def _bound_closed(self) -> None:
        for kind in (self._fitted, self._dropped):
            if sum(map(len, kind.values())) > MAX_CLOSED:
                for closed in kind.values():
                    closed.shrink(max(MAX_CLOSED // len(kind), 1))

    def drop(self, key: Key | None = None) -> tuple[OpenWindow, list[Shortfall]]:
        """Let go of a window (None: the one open for longest), take nothing of it any more, and return it."""
        window = self._open[key or next(iter(self._open))]
        shortfalls = window.judge(self._sinks_for(window.key), self._is_past)
        self._let_go(self._dropped, window.key)
        return window, shortfalls

    def _take_window(self, record: LedgerRecord) -> None:
        origin, position = parse_window_id(record.id)
        key = Key(origin, position.generation, position.sequence)
        self._heard_ms[record.partition] = max(self._heard_ms.get(record.partition, 0), record.end_ms)
        if not self._known_nodes.admits(origin):
            if self._wanted(OTHERS, record.start_ms):
                self._count_only(record)
            return
        if not self._wanted(origin, record.start_ms):
            self._let_go(self._dropped, key)
            self._outside[origin] = min(self._outside.get(origin, key[1:]), key[1:])
            return
        if origin not in self._known:
            # What comes before the first window known of a life was closed before the range began.
            self._known.add(origin)
            for early in [other for other in self._open_of.get(origin, ()) if other < key]:
                self._let_go(self._dropped, early)
        window = self._window(key, record.end_ms)
        if self._contradicts(key, None, record, None if window is None else window.record):
            return
        self.lives.take(key, record)
        if window is not None:
            window.record = window.record or record

    def _count_only(self, record: LedgerRecord) -> None:
        """Count a window of a node for which the books have no room: its bytes count as unaccounted for."""
        sums = self._sums_of(OTHERS, record.start_ms)
        sums.windows += 1
        sums.hop("collector").add(record, sums.room)
        sums.miss(Shortfall("collector", record.id, record.taken.bytes, record.taken.packets, NOT_RECONCILED))

    def _contradicts(self, key: Key, chunk: int | None, record: LedgerRecord, first: LedgerRecord | None) -> bool:
        """Return whether an entry says something else than the first one of its key, and note it if it does."""
        said = self._said.get((key, chunk)) if first is None else _what(first)
        if said is None or said == _what(record):
            return False
        before = None if first is None else (first.taken, first.given)
        self.contradicted.append(Contradiction(record.hop, record.id, before, (record.taken, record.given)))
        self._sums_of(key.origin, record.start_ms).contradictions += 1
        return True

    def _take_chunk(self, record: LedgerRecord) -> None:
        chunk, again, offset = record.id.partition("@")
        origin, position = parse_chunk_id(chunk)
        if not self._known_nodes.admits(origin) or not self._wanted(origin, record.start_ms):
            return
        if again:
            unannounced = record.aside.get(UNANNOUNCED_REPEAT, NOTHING)
            sums = self._sums_of(origin, record.start_ms)
            sums.repeats += record.taken
            sums.unannounced += unannounced
            number = int(offset) if offset.isdecimal() and len(offset) <= MAX_DIGITS else -1
            self.repeated.append(Repeat(chunk, number, record.taken, announced=UNANNOUNCED_REPEAT not in record.aside))
            return
        key = Key(origin, position.generation, position.sequence)
        window = self._window(key, record.end_ms)
        first = None if window is None else window.enriched.get(position.chunk)
        if self._contradicts(key, position.chunk, record, first):
            return
        self._reach("enricher", origin, position[:3])
        if window is not None:
            window.enriched.setdefault(position.chunk, record)

    def _take_checkpoint(self, record: LedgerRecord) -> None:
        sink = self._sink_of(record)
        if sink not in self.sinks and len(self.sinks) >= MAX_SINKS:
            raise DecodeError("too_many_names", f"{sink!r}: there are {MAX_SINKS} sinks already")
        entries = self._entries.setdefault((sink, record.partition), deque(maxlen=_REMEMBERED_ENTRIES))
        if record.id in entries:
            return
        entries.append(record.id)
        if sink not in self.sinks:
            # What was closed before this sink was heard of, it is not held to.
            self.sinks[sink] = {origin: closed.last for origin, closed in self._fitted.items()}
        for chunk, amount in record.parts.items():
            origin, position = parse_chunk_id(chunk)
            if not self._known_nodes.admits(origin):
                continue
            self._reach(sink, origin, position[:3])
            self._take_part(sink, record, Key(origin, position.generation, position.sequence), position.chunk, amount)

    def _sink_of(self, record: LedgerRecord) -> str:
        group, _, manifest = record.id.partition("/")
        own = record.hop != "flowlog" or not manifest or group == self._flowlog_group
        return record.hop if own else f"flowlog {group}"

    def _take_part(self, sink: str, record: LedgerRecord, key: Key, chunk: int, amount: Amount) -> None:
        window = self._window(key, record.end_ms)
        if window is not None:
            window.take_part(sink, chunk, amount)
        elif _holds(self._fitted, key) and sink in self._sinks_for(key):
            twice = Shortfall(sink, f"{key.id}/{chunk}", -amount.bytes, -amount.packets, TWICE)
            self._sums_of(key.origin, record.start_ms).miss(twice)

    def _window(self, key: Key, end_ms: int) -> OpenWindow | None:
        """Return an open window, opened if need be; None if it was let go of."""
        window = self._open.get(key)
        if window is None:
            if _holds(self._fitted, key) or _holds(self._dropped, key):
                return None
            window = self._open[key] = OpenWindow(key)
            self._open_of.setdefault(key.origin, set()).add(key)
        window.last_ms = max(window.last_ms, end_ms)
        return window

    def _let_go(self, kind: dict[Origin, Intervals], key: Key) -> None:
        window = self._open.pop(key, None)
        if window is not None:
            self._open_of[key.origin].discard(key)
            if not self._open_of[key.origin]:
                del self._open_of[key.origin]
            self._remember(window)
        kind.setdefault(key.origin, Intervals()).add(key.generation, key.sequence)

    def _remember(self, window: OpenWindow) -> None:
        """Remember what the entries of a window said that is let go of."""
        if window.record is not None:
            self._said[window.key, None] = _what(window.record)
        for chunk, entry in window.enriched.items():
            self._said[window.key, chunk] = _what(entry)
        while len(self._said) > MAX_SAID:
            del self._said[next(iter(self._said))]

    def _sinks_for(self, key: Key) -> list[str]:
        return [sink for sink, before in self.sinks.items() if key[1:] > before.get(key.origin, (-1, -1))]

    def _reach(self, hop: str, origin: Origin, place: Place) -> None:
        reached = self._reached.setdefault(hop, {})
        reached[origin] = max(reached.get(origin, place), place)

    def _is_past(self, hop: str, origin: Origin, place: Place) -> bool:
        if hop == "collector":
            return self.lives.is_past(origin, place[:2])
        reached = self._reached.get(hop, {}).get(origin)
        return reached is not None and reached > place


def late_windows(books: Reconciler, settled_before_ms: int) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
    """Yield the windows that ended before that time and lack only what a hop may still take, with that."""
    for window, shortfalls in books.windows():
        if _is_late(shortfalls) and window.end_ms < settled_before_ms:
            yield window, shortfalls


def conclude(
    books: Reconciler,
    audit: Audit,
    settled_before_ms: int,
    nodes: Iterable[TopologyState] | None = None,
    waiting: Collection[Shortfall] = (),
    whole: Collection[int] = (),
) -> Audit:
    """Close what is open of a range that has been read whole.

    What is only late, of a window that ended at `settled_before_ms` or later, is in flight and left out of every sum.
    So is an older one of which all that is late was seen to wait in Kafka (`waiting`); without that it is unaccounted,
    because the last windows of a life that are lost look the same. `whole`: partitions of the ledger that were
    read from the first record that they hold.
    """
    for window, shortfalls in list(books.windows()):
        if _is_late(shortfalls) and window.end_ms >= settled_before_ms:
            audit.in_flight += 1
        elif _is_late(shortfalls) and all(short in waiting for short in shortfalls):
            audit.late_windows += 1
            for short in shortfalls:
                audit.late[short.hop] = audit.late.get(short.hop, 0) + abs(short.bytes)
        else:
            books.close(window, shortfalls)
    audit.sum_up()
    audit.nodes_metered = books.lives.metered()
    audit.nodes_in_cluster = None if nodes is None else {node.name for node in nodes}
    audit.gaps = books.lives.gaps()
    audit.gone = books.gone(whole)[:MAX_LISTED]
    audit.clock_steps = books.lives.clock_steps()
    audit.interleaved = books.lives.interleaved()
    audit.repeated = list(books.repeated)
    audit.contradicted = list(books.contradicted)
    audit.absent = [sink for sink in SINKS if sink not in books.sinks]
    return audit


def _is_late(shortfalls: Sequence[Shortfall]) -> bool:
    return bool(shortfalls) and all(short.late for short in shortfalls)


def _holds(closed: dict[Origin, Intervals], key: Key) -> bool:
    return key.origin in closed and closed[key.origin].holds(key.generation, key.sequence)


def _what(record: LedgerRecord) -> int:
    """Return what an entry says, in short. Published again after a crash, it says the same."""
    window = (record.chunks, record.start_ms, record.end_ms) if record.hop == "collector" else ()
    reasons = sorted(record.aside), sorted(record.lost)
    amounts = [of[name] for of, names in zip((record.aside, record.lost), reasons, strict=True) for name in names]
    # Of bytes, because Python salts their hashes: none can be made to fit.
    return hash(msgspec.json.encode((record.taken, record.given, reasons, amounts, window)))
