# SPDX-License-Identifier: Apache-2.0
"""Reconciles the ledger as it comes: takes entries, keeps the windows that are open, lets go of those that fit. Pure.

Windows, the chunks of a window and what sinks took of them stand in one partition of the ledger, and everything is
done in order there. So what a hop has not taken, though it has taken something later of the same life of a node, will
not come any more; no clock is needed to tell. A window that fits everywhere is added to the sums and remembered as one
number of an interval, so that what is kept is what is under way.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter

from audit.boots import Boots
from audit.entry import Entry, add_up_entries
from audit.intervals import Intervals
from audit.known import OTHERS, Admitted
from audit.life import Life, Lives, Said
from audit.result import MAX_LISTED, Audit, Contradiction, Gone, Repeat, Shortfall, Sums
from audit.window import NOWHERE, OpenChunk, OpenWindow, Place, add_up, reach
from schemas.amount import NOTHING, Amount
from schemas.errors import DecodeError
from schemas.ids import MAX_DIGITS, Origin, chunk_id, parse_chunk_id, parse_number
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
# What a sink published again after a crash is its last checkpoint or manifest, in one entry or some.
_REMEMBERED_ENTRIES = 32

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
        self._flowlog_group = flowlog_group
        self._wanted = wanted
        self.lives = Boots()
        self.sinks: list[str] = []
        self.repeated: deque[Repeat] = deque(maxlen=MAX_LISTED)
        self.contradicted: deque[Contradiction] = deque(maxlen=MAX_LISTED)
        self._said = Said()
        self._open: dict[OpenWindow, None] = {}  # in the order in which they were opened
        # The open chunks that the enricher told of, by id: that of a part is not taken apart again, once for each sink.
        self._chunks: dict[str, OpenChunk] = {}
        self._lives = Lives(known or Admitted(MAX_CLUSTERS, MAX_NODES))
        self._entries: dict[tuple[str, int], deque[str]] = {}
        self._heard_ms: dict[int, int] = {}
        self._left = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def absent(self) -> list[str]:
        """The sinks that were not heard of yet."""
        return [sink for sink in SINKS if sink not in self.sinks]

    def take(self, record: LedgerRecord) -> None:
        """Take one entry, in the order of its partition; raise `DecodeError` for an id that is none."""
        if record.hop == "collector":
            self._take_window(record)
        elif record.hop == "enricher":
            self._take_chunk(record)
        else:
            self._take_checkpoint(record)

    def windows(self) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
        """Yield the open windows whose time is known, with what does not fit, by origin and in order."""
        return self.judged(sorted(self._open, key=attrgetter("key")))

    def judged(self, windows: Iterable[OpenWindow] | None = None) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
        """Yield those of the open windows (None: all, in any order) whose time is known, with what does not fit."""
        for window in list(self._open) if windows is None else windows:
            if window.start_ms is not None:
                yield window, window.judge(self._sinks_of(window), self._is_past)

    def gone(self, whole: Collection[int]) -> list[Gone]:
        """Return what nodes closed before the first window that the ledger holds; `whole`: partitions read whole."""
        # Where one before the range was read, the ledger goes back further than the range.
        outside = {life.origin: life.outside for life in self._lives if life.outside is not None}
        return [
            each
            for each in self.lives.gone(whole)
            if each.origin not in outside or outside[each.origin] > (each.generation, each.last)
        ]

    def close(self, window: OpenWindow, shortfalls: Iterable[Shortfall] = ()) -> None:
        """Add a window to the sums, with what does not fit, and let go of it."""
        if (start_ms := window.start_ms) is not None:
            sums = self._sums_of(window.origin, start_ms)
            for shortfall in shortfalls:
                sums.miss(shortfall)
        self.close_all((window,))

    def settle(self, margin_ms: int | None = None) -> None:
        """Close the windows that fit; with `margin_ms`, but for those of the last so many of their partition."""
        # By node, not in the order in which they were opened: a node's sums are in the processor's cache then.
        for life in self._lives:
            if fitting := self._fitting(life, margin_ms):
                self._add_up(life.origin, fitting)
                for window in fitting:
                    self._let_go(life, life.fitted, window.place)

    def _fitting(self, life: Life, margin_ms: int | None) -> list[OpenWindow]:
        sinks, heard_ms = self.sinks, self._heard_ms
        fitting = [each for each in life.open.values() if each.fits(self._sinks_of(each) if life.before else sinks)]
        if margin_ms is None:
            return fitting
        return [each for each in fitting if (of := each.record) and of.end_ms < heard_ms[of.partition] - margin_ms]

    def close_all(self, windows: Collection[OpenWindow]) -> None:
        """Add windows to the sums, and let go of them."""
        of: dict[Origin, list[OpenWindow]] = {}
        for window in windows:
            of.setdefault(window.origin, []).append(window)
        for origin, own in of.items():
            self._add_up(origin, own)
        for window in windows:
            life = self._lives[window.origin]
            self._let_go(life, life.fitted, window.place)

    def _add_up(self, origin: Origin, windows: Iterable[OpenWindow]) -> None:
        of: dict[int, tuple[Sums, list[OpenWindow]]] = {}
        for window in windows:
            if (start_ms := window.start_ms) is not None:
                sums = self._sums_of(origin, start_ms)
                of.setdefault(id(sums), (sums, []))[1].append(window)
        for sums, own in of.values():
            add_up(origin.node, own, sums)

    def trim(self, margin_ms: int, above: int) -> None:
        """Settle once more than `above` windows are open, and half as many again as the last time left open."""
        if len(self._open) > max(above, self._left * 3 // 2):
            self.settle(margin_ms)
            self._left = len(self._open)

    def bound(self, margin_ms: int, most: int) -> list[OpenWindow]:
        """Keep at most so many windows open: close those that fit, then drop the oldest, which are returned."""
        self.trim(margin_ms, most // 2)
        # Not all that fit are closed by now: `trim` does not look each time.
        oldest = self.oldest(max(len(self._open) - most, 0))
        fitting = [window for window in oldest if window.fits(self._sinks_of(window))]
        self.close_all(fitting)
        given_up = [window for window in oldest if window in self._open]
        for window in given_up:
            self.drop(window)
        return given_up

    def expire(self, before_ms: int) -> Iterator[tuple[OpenWindow, list[Shortfall]]]:
        """Let go of what ended before that time, whether or not it fits, and yield it with what does not fit."""
        for window in [window for window in self._open if window.end_ms < before_ms]:
            yield self.drop(window)
        self.lives.forget(before_ms)
        living = self.lives.origins() | {window.origin for window in self._open}
        self._lives.keep(living)
        self._bound_closed()

    def _bound_closed(self) -> None:
        for kind in ([life.fitted for life in self._lives], [life.dropped for life in self._lives]):
            if sum(map(len, kind)) > MAX_CLOSED:
                for closed in kind:
                    closed.shrink(max(MAX_CLOSED // len(kind), 1))

    def oldest(self, count: int) -> list[OpenWindow]:
        """Return the windows that are open for longest."""
        return list(itertools.islice(self._open, count))

    def drop(self, window: OpenWindow) -> tuple[OpenWindow, list[Shortfall]]:
        """Let go of a window, take nothing of it any more, and return it with what does not fit."""
        shortfalls = window.judge(self._sinks_of(window), self._is_past)
        life = self._lives[window.origin]
        self._let_go(life, life.dropped, window.place)
        return window, shortfalls

    def _take_window(self, record: LedgerRecord) -> None:
        life, origin, place = self._lives.find(record.id, record.id)
        self._heard_ms[record.partition] = max(self._heard_ms.get(record.partition, 0), record.end_ms)
        if life is None:
            if self._wanted(OTHERS, record.start_ms):
                self._count_only(record)
            return
        if not self._wanted(origin, record.start_ms):
            self._let_go(life, life.dropped, place)
            life.outside = place if life.outside is None else min(life.outside, place)
            return
        if not life.known:
            # What comes before the first window known of a life was closed before the range began.
            life.known = True
            for early in [each for each in life.open if each < place]:
                self._let_go(life, life.dropped, early)
        window = self._window(life, place, record.end_ms)
        if self._contradicts(life, place, None, record, None if window is None else window.record):
            return
        self.lives.take(origin, place, record)
        if window is not None and window.record is None:
            window.close_by(record)

    def _count_only(self, record: LedgerRecord) -> None:
        """Count a window of a node for which the books have no room: its bytes count as unaccounted for."""
        sums = self._sums_of(OTHERS, record.start_ms)
        sums.windows += 1
        ((shape, amounts, _),) = add_up_entries([Entry.of(record)])
        sums.hop("collector").add(shape, amounts, sums.room)
        sums.miss(Shortfall("collector", record.id, record.taken.bytes, record.taken.packets, NOT_RECONCILED))

    def _contradicts(
        self, life: Life, place: Place, chunk: int | None, record: LedgerRecord, first: Entry | None
    ) -> bool:
        """Return whether an entry says something else than the first one of its key, and note it if it does."""
        if first is None and place > life.gone:
            return False
        said = self._said.get(life.origin, place, chunk) if first is None else first.said()
        if said is None or said == Entry.of(record).said():
            return False
        before = None if first is None else (first.taken, first.given)
        self.contradicted.append(Contradiction(record.hop, record.id, before, (record.taken, record.given)))
        self._sums_of(life.origin, record.start_ms).contradictions += 1
        return True

    def _take_chunk(self, record: LedgerRecord) -> None:
        chunk, again, offset = record.id.partition("@")
        of, _, last = chunk.rpartition("/")
        number = parse_number(last, chunk)
        life, origin, place = self._lives.find(of, chunk)
        if life is None or not self._wanted(origin, record.start_ms):
            return
        if again:
            unannounced = record.aside.get(UNANNOUNCED_REPEAT, NOTHING)
            sums = self._sums_of(origin, record.start_ms)
            sums.repeats += record.taken
            sums.unannounced += unannounced
            at = int(offset) if offset.isdecimal() and len(offset) <= MAX_DIGITS else -1
            self.repeated.append(Repeat(chunk, at, record.taken, announced=UNANNOUNCED_REPEAT not in record.aside))
            return
        window = self._window(life, place, record.end_ms)
        known = None if window is None else window.chunk(number, life.reached)
        if self._contradicts(life, place, number, record, None if known is None else known.entry):
            return
        reach(life.reached, "enricher", (*place, number, 0))
        if window is not None and known is not None and known.entry is None:
            # A sender that has closed a window by then, or later, is metered: no need to remember what it sent.
            latest, start_ms = self.lives.latest(origin.cluster), record.start_ms
            senders = {name: size for name, size in record.senders.items() if latest.get(name, -1) < start_ms}
            window.enrich(known, record, senders, chunk)
            self._chunks[chunk] = known

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
            self.sinks.append(sink)
            for each in self._lives:
                if each.fitted:
                    each.before[sink] = each.fitted.last
        for chunk, amount in record.parts.items():
            if (known := self._chunks.get(chunk)) is not None:
                known.take_next(sink, amount)
            else:
                self._take_part(sink, record, chunk, amount)

    def _sink_of(self, record: LedgerRecord) -> str:
        group, _, manifest = record.id.partition("/")
        own = record.hop != "flowlog" or not manifest or group == self._flowlog_group
        return record.hop if own else f"flowlog {group}"

    def _take_part(self, sink: str, record: LedgerRecord, chunk: str, amount: Amount) -> None:
        """Take a part of a chunk of which the enricher has not told yet, or that was let go of."""
        origin, position = parse_chunk_id(chunk)
        life = self._lives.admit(origin)
        if life is None:
            return
        reach(life.reached, sink, position)
        window = self._window(life, position[:2], record.end_ms)
        if window is not None:
            window.chunk(position.chunk, life.reached).take(sink, amount)
        elif life.fitted.holds(*position[:2]) and sink in self._sinks_for(life, position[:2]):
            twice = Shortfall(sink, chunk_id(life.origin, *position[:3]), -amount.bytes, -amount.packets, TWICE)
            self._sums_of(life.origin, record.start_ms).miss(twice)

    def _window(self, life: Life, place: Place, end_ms: int) -> OpenWindow | None:
        """Return an open window, opened if need be; None if it was let go of."""
        window = life.open.get(place)
        if window is None:
            if life.holds(place):
                return None
            window = life.open[place] = OpenWindow(life.origin, place)
            self._open[window] = None
        if end_ms > window.last_ms:
            window.last_ms = end_ms
        return window

    def _let_go(self, life: Life, kind: Intervals, place: Place) -> None:
        window = life.open.pop(place, None)
        if window is not None:
            del self._open[window]
            self._forget(window)
        kind.add(*place)
        life.gone = max(life.gone, place)

    def _forget(self, window: OpenWindow) -> None:
        """Keep of a window that is let go of only what its entries said."""
        if window.record is not None:
            self._said.put(window.origin, window.place, None, window.record.said())
        for chunk in window.chunks():
            if (entry := chunk.entry) is not None:
                self._said.put(window.origin, window.place, chunk.number, entry.said())
                del self._chunks[chunk.id]

    def _sinks_of(self, window: OpenWindow) -> list[str]:
        return self._sinks_for(self._lives[window.origin], window.place)

    def _sinks_for(self, life: Life, place: Place) -> list[str]:
        """Return the sinks that a window is held to."""
        before = life.before
        return [sink for sink in self.sinks if place > before.get(sink, NOWHERE)] if before else self.sinks

    def _is_past(self, hop: str, origin: Origin, place: tuple[int, int, int]) -> bool:
        if hop == "collector":
            return self.lives.is_past(origin, place[:2])
        life = self._lives.get(origin)
        reached = None if life is None else life.reached.get(hop)
        return reached is not None and reached[:3] > place


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
    books.settle()  # what fits need not be sorted, nor judged
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
    audit.gaps, audit.gaps_cut = books.lives.gaps(), books.lives.cut()
    audit.gone = books.gone(whole)[:MAX_LISTED]
    audit.clock_steps = books.lives.clock_steps()
    audit.interleaved = books.lives.interleaved()
    audit.repeated = list(books.repeated)
    audit.contradicted = list(books.contradicted)
    audit.absent = books.absent
    return audit


def _is_late(shortfalls: Sequence[Shortfall]) -> bool:
    return bool(shortfalls) and all(short.late for short in shortfalls)
