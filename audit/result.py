# SPDX-License-Identifier: Apache-2.0
"""What an audit comes to: sums by hop, and by name whatever does not fit. Pure.

Of what does not fit there are two kinds. *Passed over*: the hop has taken something later of the same life of a node,
and everything is taken in order, so it will not come any more. *Late*: nothing later has been taken either, so the hop
is behind, or stopped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from audit.entry import Coverage, Named, Shape
from audit.known import OTHER
from schemas.amount import NOTHING, Amount
from schemas.ids import Origin

K = TypeVar("K")

# What of an audit is listed by name; the sums go on.
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class Gap:
    """Time of one node that nobody metered, or windows of it that the ledger does not hold.

    `to_ms`: None if the clock says that it ended before it began, as of two boots whose clocks differ.
    """

    node: str
    from_ms: int
    to_ms: int | None
    why: str

    @property
    def length_ms(self) -> int | None:
        """How long it was; None if that is not known."""
        return None if self.to_ms is None else self.to_ms - self.from_ms


@dataclass(frozen=True, slots=True)
class Gone:
    """Windows 1 to `last` of a node's generation, all before `before_ms`: counted, and not in the ledger."""

    node: str
    before_ms: int
    origin: Origin
    generation: int
    last: int


@dataclass(frozen=True, slots=True)
class ClockStep:
    """A node's clock was set by so much, forward or back (negative), in the window that ended at `to_ms`."""

    node: str
    to_ms: int
    step_ms: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What `hop` should have taken of a window and did not (or took too often: then the amount is negative).

    `window` is its id, or a chunk's where the hop goes by chunks. `late`: it may still come.
    """

    hop: str
    window: str
    bytes: int
    packets: int
    why: str
    late: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    """A chunk that stood in the raw topic a second time, at that offset, and was put aside."""

    chunk: str
    offset: int
    amount: Amount
    announced: bool = True


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A second entry under the key of another, that says something else: the first counts."""

    hop: str
    id: str
    first: tuple[Amount, Amount] | None
    later: tuple[Amount, Amount]


@dataclass(slots=True)
class Room:
    """How many more names there is room for, in many sums together; None: for any number."""

    left: int | None = None

    def take(self) -> bool:
        """Take room for one, if there is any."""
        if self.left is None:
            return True
        if not self.left:
            return False
        self.left -= 1
        return True

    def give_back(self, names: int) -> None:
        """Give room back."""
        if self.left is not None:
            self.left += names


def unmeasured_ms(gaps: Iterable[Gap]) -> int:
    """Return how long gaps are together, as far as is known."""
    return sum(gap.length_ms or 0 for gap in gaps)


def covered(nodes: Iterable[Coverage]) -> dict[str, float]:
    """Return the ratios over all nodes: what one saw too much of makes up for no other."""
    capped = Coverage()
    for each in nodes:
        out_hook, in_hook = min(each.out_hook, each.out_uplinks), min(each.in_hook, each.in_uplinks)
        capped.add(Coverage(out_hook, each.out_uplinks, in_hook, each.in_uplinks))
    return capped.ratios()


@dataclass(slots=True)
class HopTotal:
    """One hop over the whole range."""

    taken: Amount = NOTHING
    given: Amount = NOTHING
    aside: dict[str, Amount] = field(default_factory=dict)
    lost: dict[str, Amount] = field(default_factory=dict)

    def add(self, shape: Shape, amounts: Sequence[Amount], room: Room) -> None:
        """Add entries of that shape, of which these are the sums."""
        taken, given, *others = amounts
        self.taken += taken
        self.given += given
        if shape.aside:
            _merge(self.aside, zip(shape.aside, others, strict=False), room, OTHER)
        if shape.lost:
            _merge(self.lost, zip(shape.lost, others[len(shape.aside) :], strict=True), room, OTHER)

    def take(self, amount: Amount) -> None:
        """Add what it took and gave on."""
        self.taken = self.given = self.taken + amount

    @property
    def names(self) -> int:
        """How many reasons it names."""
        return len(self.aside) + len(self.lost)

    def merge(self, other: "HopTotal") -> None:
        """Add another total of the same hop."""
        self.taken += other.taken
        self.given += other.given
        _merge(self.aside, other.aside.items(), Room(), OTHER)
        _merge(self.lost, other.lost.items(), Room(), OTHER)


@dataclass(slots=True)
class Sums:
    """What windows that are decided come to. `unaccounted` is by hop; what came twice counts as well.

    `senders` splits what the enricher put aside as `sender_in_cluster` by the node that should have counted it, but for
    nodes that were known to have counted by then.
    `foreign` is what a node says it sent from addresses of another, by (node, owner). `shortfalls`, unless None, is the
    list of what does not fit, cut at `MAX_LISTED`. `unannounced` is what of `repeats` did not say that it might be one.
    `contradictions`: entries that came again and said something else. `room` bounds the names of nodes and reasons:
    what finds none is `_other_`.
    """

    hops: dict[str, HopTotal] = field(default_factory=dict)
    windows: int = 0
    open_windows: int = 0
    unaccounted: dict[str, int] = field(default_factory=dict)
    mismatches: int = 0
    repeats: Amount = NOTHING
    unannounced: Amount = NOTHING
    contradictions: int = 0
    coverage: dict[str, Coverage] = field(default_factory=dict)
    senders: dict[str, Amount] = field(default_factory=dict)
    foreign: dict[tuple[str, str], Amount] = field(default_factory=dict)
    shortfalls: list[Shortfall] | None = None
    room: Room = field(default_factory=Room)

    @property
    def names(self) -> int:
        """How many names it holds."""
        return len(self.coverage) + len(self.senders) + len(self.foreign) + sum(hop.names for hop in self.hops.values())

    @property
    def seen(self) -> Amount:
        """What the hook saw."""
        return self.hops["collector"].taken if "collector" in self.hops else NOTHING

    @property
    def unaccounted_bytes(self) -> int:
        """Bytes that are neither where they should be nor lost for a reason."""
        return sum(self.unaccounted.values())

    @property
    def closes(self) -> bool:
        """Whether every byte and packet that was seen is accounted for, and anything was seen at all."""
        return not self.mismatches and self.seen.bytes > 0

    @property
    def ratio(self) -> float:
        """Accounted for / seen, 1.0 only if the books close; 0.0 if nothing was seen."""
        if not self.seen.bytes:
            return 0.0
        # Never rounds up to one: a single missing byte in a petabyte must show.
        return max(min(1 - self.unaccounted_bytes / self.seen.bytes, 1.0 if self.closes else 0.999999), 0.0)

    def hop(self, name: str) -> HopTotal:
        """Return a hop's total, to add to."""
        total = self.hops.get(name)
        if total is None:
            total = self.hops[name] = HopTotal()
        return total

    def miss(self, shortfall: Shortfall) -> None:
        """Add what does not fit; by name, where names are kept."""
        self.mismatches += 1
        self.unaccounted[shortfall.hop] = self.unaccounted.get(shortfall.hop, 0) + abs(shortfall.bytes)
        if self.shortfalls is not None and len(self.shortfalls) < MAX_LISTED:
            self.shortfalls.append(shortfall)

    def cover(self, node: str, coverage: Coverage) -> None:
        """Add one window to its node's coverage."""
        own = self.coverage.get(node)
        if own is None:
            own = self.coverage.setdefault(node if self.room.take() else OTHER, Coverage())
        own.add(coverage)

    def receive(self, node: str, senders: Named, foreign: Named) -> None:
        """Add what the enricher says of those that sent to a node, and of what it sent in another's name."""
        _merge(self.senders, senders.items(), self.room, OTHER)
        _merge(self.foreign, (((node, owner), size) for owner, size in foreign.items()), self.room, (OTHER, OTHER))

    def merge(self, other: "Sums") -> None:
        """Add other sums."""
        _merge(self.senders, other.senders.items(), Room(), OTHER)
        _merge(self.foreign, other.foreign.items(), Room(), (OTHER, OTHER))
        for name, total in other.hops.items():
            self.hop(name).merge(total)
        self.windows += other.windows
        self.open_windows += other.open_windows
        self.mismatches += other.mismatches
        self.repeats += other.repeats
        self.unannounced += other.unannounced
        self.contradictions += other.contradictions
        for hop, size in other.unaccounted.items():
            self.unaccounted[hop] = self.unaccounted.get(hop, 0) + size
        for node, coverage in other.coverage.items():
            self.coverage.setdefault(node, Coverage()).add(coverage)


@dataclass(slots=True)
class Audit(Sums):
    """The books of a time range, closed. The lists are cut at `MAX_LISTED`, but for that of gaps; the sums are not.

    `nodes`: the same sums by (cluster, node). `interleaved`: the boot ids of each node that went on side by side.
    `absent`: sinks that never reported. `refused`: where in Kafka a record stands that was refused, and why.
    `gone`: what nodes closed before the first window that the ledger holds of them; how long that took is not known.
    `gaps_cut`: there were more gaps than the books have room for.
    `late`: bytes by hop that wait for it in Kafka, of `late_windows`, which are in no sum.
    """

    in_flight: int = 0
    late_windows: int = 0
    late: dict[str, int] = field(default_factory=dict)
    nodes_metered: set[str] = field(default_factory=set)
    nodes_in_cluster: set[str] | None = None
    gaps: list[Gap] = field(default_factory=list)
    gaps_cut: bool = False
    gone: list[Gone] = field(default_factory=list)
    clock_steps: list[ClockStep] = field(default_factory=list)
    shortfalls: list[Shortfall] = field(default_factory=list)
    nodes: dict[tuple[str, str], Sums] = field(default_factory=dict)
    repeated: list[Repeat] = field(default_factory=list)
    contradicted: list[Contradiction] = field(default_factory=list)
    interleaved: dict[str, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def has_arrived(self) -> bool:
        """Whether the books close and nothing is left out of them that is under way or late."""
        return self.closes and not self.in_flight and not self.late_windows

    @property
    def unmeasured_ms(self) -> int:
        """Milliseconds of nodes that nobody metered, as far as is known."""
        return unmeasured_ms(self.gaps)

    @property
    def unmeasured_at_least(self) -> bool:
        """Whether it was longer, by how much is not known."""
        return self.gaps_cut or any(gap.to_ms is None for gap in self.gaps)

    def of(self, origin: Origin, _: int = 0) -> Sums:
        """Return a node's sums."""
        sums = self.nodes.get(node := origin[:2])
        if sums is None:
            sums = self.nodes[node] = Sums(shortfalls=self.shortfalls)
        return sums

    def sum_up(self) -> None:
        """Add the sums of all nodes."""
        for sums in self.nodes.values():
            self.merge(sums)

    @property
    def is_forged(self) -> bool:
        """Whether somebody may write in a node's name."""
        return bool(self.interleaved or self.foreign or self.contradictions)

    def unmetered_senders(self) -> dict[str, Amount]:
        """Return what receivers put aside of nodes that closed no window: nobody counted it."""
        told = {*self.nodes_metered, "?", OTHER}
        return {node: amount for node, amount in self.senders.items() if node not in told}


def _merge(own: dict[K, Amount], other: Iterable[tuple[K, Amount]], room: Room, rest: K) -> None:
    """Add amounts by name; where there is no room for one more name, to `rest`."""
    for name, amount in other:
        before = own.get(name)
        if before is not None:
            own[name] = before + amount
        elif room.take():
            own[name] = amount
        else:
            own[rest] = own.get(rest, NOTHING) + amount
