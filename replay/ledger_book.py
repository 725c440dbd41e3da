# SPDX-License-Identifier: Apache-2.0
"""Reconciles the ledger: every window from the hook to each sink, and what did not arrive, by name. Pure.

A window's books are laid side by side:

    collector   in = seen by the hook        out = rows published to raw
    enricher    in = rows read from raw      out = flows published to enriched
    a sink      parts = rows taken, first time, of each chunk

What one hop gave and the next did not take is unaccounted, unless the window is too young: then it is in flight.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.amount import NOTHING, Amount
from schemas.errors import DecodeError
from schemas.ids import Origin, chunk_id, parse_chunk_id, parse_window_id, window_id
from schemas.ledger import LedgerRecord
from schemas.topology import TopologyState

SINKS = ("metrics", "flowlog")


@dataclass(frozen=True, slots=True)
class Window:
    """One window as its collector closed it."""

    origin: Origin
    generation: int
    sequence: int
    record: LedgerRecord

    @property
    def id(self) -> str:
        """The window's id."""
        return window_id(self.origin, self.generation, self.sequence)

    def chunk_ids(self) -> list[str]:
        """Return the ids of the chunks that the collector says it published."""
        count = self.record.chunks or 0
        return [chunk_id(self.origin, self.generation, self.sequence, chunk) for chunk in range(count)]


@dataclass(frozen=True, slots=True)
class Gap:
    """Time of one node that nobody metered, or windows of it that the ledger does not hold."""

    node: str
    from_ms: int
    to_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What `hop` should have taken of a window and did not (or took too often: then the amount is negative)."""

    hop: str
    window: str
    bytes: int
    packets: int
    why: str


@dataclass
class HopTotal:
    """One hop over the whole range."""

    taken: Amount = NOTHING
    given: Amount = NOTHING
    aside: dict[str, Amount] = field(default_factory=dict)
    lost: dict[str, Amount] = field(default_factory=dict)

    def add(self, record: LedgerRecord) -> None:
        """Add one entry."""
        self.taken += record.taken
        self.given += record.given
        for own, other in ((self.aside, record.aside), (self.lost, record.lost)):
            for reason, amount in other.items():
                own[reason] = own.get(reason, NOTHING) + amount


@dataclass
class Audit:
    """The books of a time range, closed."""

    hops: dict[str, HopTotal] = field(default_factory=dict)
    windows: int = 0
    in_flight: int = 0
    nodes_metered: set[str] = field(default_factory=set)
    nodes_in_cluster: set[str] | None = None
    gaps: list[Gap] = field(default_factory=list)
    shortfalls: list[Shortfall] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def seen(self) -> Amount:
        """What the hook saw."""
        return self.hops["collector"].taken if "collector" in self.hops else NOTHING

    @property
    def unaccounted_bytes(self) -> int:
        """Bytes that are neither where they should be nor lost for a reason; what came twice counts as well."""
        return sum(abs(short.bytes) for short in self.shortfalls)

    @property
    def closes(self) -> bool:
        """Whether every byte and packet that was seen is accounted for, and anything was seen at all."""
        return not self.shortfalls and self.seen.bytes > 0

    @property
    def ratio(self) -> float:
        """Accounted for / seen, 1.0 only if the books close; 0.0 if nothing was seen."""
        if not self.seen.bytes:
            return 0.0
        # Never rounds up to one: a single missing byte in a petabyte must show.
        return min(1 - self.unaccounted_bytes / self.seen.bytes, 1.0 if self.closes else 0.999999)


def reconcile(
    records: Iterable[LedgerRecord], settled_before_ms: int, nodes: Iterable[TopologyState] | None = None
) -> Audit:
    """Close the books over `records`: the newest of each key, of windows in the range.

    A window that ended at `settled_before_ms` or later may still be under way: if it has not arrived everywhere,
    it is counted as in flight and left out of every sum. `nodes`, if given, are the cluster's nodes in the range.
    """
    by_hop: dict[str, list[LedgerRecord]] = defaultdict(list)
    for record in records:
        by_hop[record.hop].append(record)
    windows = [_window(record) for record in by_hop["collector"]]
    enriched = {record.id: record for record in by_hop["enricher"] if _is_chunk(record.id)}
    sinks = {hop: _parts(by_hop[hop]) for hop in SINKS if by_hop[hop]}
    audit = Audit(absent=[hop for hop in SINKS if hop not in sinks])
    if nodes is not None:
        audit.nodes_in_cluster = {node.name for node in nodes}
    for window in sorted(windows, key=lambda w: (w.origin, w.generation, w.sequence)):
        shortfalls = _check(window, enriched, sinks)
        if shortfalls and window.record.end_ms >= settled_before_ms:
            audit.in_flight += 1
            continue
        audit.windows += 1
        audit.nodes_metered.add(window.origin.node)
        audit.shortfalls += shortfalls
        _add(audit, window, enriched, sinks)
    audit.gaps = _gaps(windows)
    return audit


def _window(record: LedgerRecord) -> Window:
    origin, position = parse_window_id(record.id)
    return Window(origin, position.generation, position.sequence, record)


def _is_chunk(record_id: str) -> bool:
    """Tell a chunk's first entry from that of a repeat, which carries more behind the chunk's id."""
    try:
        parse_chunk_id(record_id)
    except DecodeError:
        return False
    return True


def _parts(records: list[LedgerRecord]) -> dict[str, Amount]:
    sums: dict[str, Amount] = {}
    for record in records:
        for chunk, amount in record.parts.items():
            sums[chunk] = sums.get(chunk, NOTHING) + amount
    return sums


def _check(window: Window, enriched: dict[str, LedgerRecord], sinks: dict[str, dict[str, Amount]]) -> list[Shortfall]:
    found = [*_own_balance(window.id, window.record)]
    given = NOTHING
    missing = []
    for chunk in window.chunk_ids():
        record = enriched.get(chunk)
        if record is None:
            missing.append(chunk)
            continue
        found += _own_balance(window.id, record)
        given += record.taken
    why = f"chunk {', '.join(c.rpartition('/')[2] for c in missing)} of {window.record.chunks} not enriched"
    found += _difference("enricher", window.id, window.record.given, given, why if missing else "rows differ")
    for hop, parts in sinks.items():
        for chunk in window.chunk_ids():
            if chunk in enriched:
                expected, got = enriched[chunk].given, parts.get(chunk, NOTHING)
                found += _difference(hop, chunk, expected, got, "not taken whole" if got.bytes else "not taken")
    return found


def _own_balance(window: str, record: LedgerRecord) -> list[Shortfall]:
    accounted = record.balance()
    if accounted is None:
        return []
    return _difference(record.hop, window, record.taken, accounted, "its own entry does not add up")


def _difference(hop: str, window: str, expected: Amount, got: Amount, why: str) -> list[Shortfall]:
    if (expected.bytes, expected.packets) == (got.bytes, got.packets):
        return []
    twice = got.bytes > expected.bytes
    return [
        Shortfall(
            hop,
            window,
            expected.bytes - got.bytes,
            expected.packets - got.packets,
            "taken more than once" if twice else why,
        )
    ]


def _add(audit: Audit, window: Window, enriched: dict[str, LedgerRecord], sinks: dict[str, dict[str, Amount]]) -> None:
    audit.hops.setdefault("collector", HopTotal()).add(window.record)
    total = audit.hops.setdefault("enricher", HopTotal())
    for chunk in window.chunk_ids():
        if chunk in enriched:
            total.add(enriched[chunk])
        for hop, parts in sinks.items():
            hop_total = audit.hops.setdefault(hop, HopTotal())
            hop_total.taken += parts.get(chunk, NOTHING)
            hop_total.given += parts.get(chunk, NOTHING)


def _gaps(windows: list[Window]) -> list[Gap]:
    gaps: list[Gap] = []
    by_node: dict[str, list[Window]] = defaultdict(list)
    for window in windows:
        by_node[window.origin.node].append(window)
    for node, own in sorted(by_node.items()):
        own.sort(key=lambda w: (w.record.start_ms, w.generation, w.sequence))
        for before, after in itertools.pairwise(own):
            why = _why_gap(before, after)
            if why:
                gaps.append(Gap(node, before.record.end_ms, after.record.start_ms, why))
    return gaps


def _why_gap(before: Window, after: Window) -> str | None:
    if before.origin != after.origin:
        return f"a new boot, {after.origin.boot_id}: what was not published before it is unmeasured"
    if before.generation == after.generation and after.sequence > before.sequence + 1:
        return f"sequence {before.sequence + 1} to {after.sequence - 1} missing"
    if after.record.start_ms > before.record.end_ms:
        return "not counted in between"
    return None
