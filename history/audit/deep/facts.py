# SPDX-License-Identifier: Apache-2.0
"""What stands in one partition of the topics and in the files, by chunk, beside what the ledger says of it. Pure."""

from dataclasses import dataclass, field

from history.model.time_range import TimeRange
from schemas.amount import NOTHING, Amount
from schemas.errors import DecodeError
from schemas.ids import Origin, Position, parse_chunk_id, split_flow_id
from schemas.ledger import LedgerRecord

# The last part of a flow's id is a row's number, or somewhat more; a greater one would cost memory and is none.
MAX_NUMBER = 1 << 20

Place = tuple[int, int, int]
# The topic of a dead letter's record, its partition and its offset.
Letter = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One thing by name. `source`: raw, enriched, archive or ledger. What is not a fault is worth knowing."""

    source: str
    what: str
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the records is looked at."""

    span: TimeRange
    cluster: str | None = None
    node: str | None = None

    def holds(self, origin: Origin, start_ms: int) -> bool:
        """Return whether a window that starts then is looked at."""
        mine = self.cluster in (None, origin.cluster) and self.node in (None, origin.node)
        return mine and self.span.holds(start_ms)


@dataclass(slots=True)
class Copy:
    """A chunk in the raw topic: where it stands first, and in `again` the offsets where it stands once more."""

    offset: int
    amount: Amount
    end_ms: int
    again: list[int] = field(default_factory=list)


@dataclass(slots=True)
class ChunkFlows:
    """The flows of one chunk as they stand in the enriched topic or the files; `numbers` is a set of bits."""

    amount: Amount = NOTHING
    numbers: int = 0

    def add(self, number: int, size: int, packets: int) -> bool:
        """Take a flow; return False if it was there already."""
        bit = 1 << number
        if self.numbers & bit:
            return False
        self.numbers |= bit
        self.amount += Amount(size, packets, 1)
        return True

    def missing(self, count: int) -> list[int]:
        """Return which of the first `count` numbers are not there."""
        return [number for number in range(count) if not self.numbers >> number & 1]


@dataclass(slots=True)
class Facts:
    """One partition. `repeats`: how often the enricher put a chunk aside.

    `again`: offset and id of flows that stand in the enriched topic once more. By sink: `put_aside`, how many flows it
    says it put aside as repeats; `read_to`, an offset of the enriched topic that it has surely read beyond.

    `kept_since_ms`: of a topic from whose beginning records were deleted, the time of the first that is left.
    """

    partition: int
    wanted: Wanted
    letters: frozenset[Letter] = frozenset()
    windows: dict[str, LedgerRecord] = field(default_factory=dict)
    entries: dict[str, LedgerRecord] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    reached: dict[str, dict[Origin, Place]] = field(default_factory=dict)
    raw: dict[str, Copy] = field(default_factory=dict)
    enriched: dict[str, ChunkFlows] = field(default_factory=dict)
    again: list[tuple[int, str]] = field(default_factory=list)
    put_aside: dict[str, int] = field(default_factory=dict)
    read_to: dict[str, int] = field(default_factory=dict)
    archive: dict[str, ChunkFlows] | None = None
    kept_since_ms: dict[str, int] = field(default_factory=dict)
    read: dict[str, Amount] = field(default_factory=dict)
    findings: list[Discrepancy] = field(default_factory=list)

    def reach(self, hop: str, origin: Origin, place: Place) -> None:
        """Note that a hop has taken this much of a life of a node."""
        of_hop = self.reached.setdefault(hop, {})
        of_hop[origin] = max(of_hop.get(origin, place), place)

    def is_past(self, hop: str, origin: Origin, place: Place) -> bool:
        """Return whether a hop has taken something later than this."""
        return self.reached.get(hop, {}).get(origin, (-1, -1, -1)) > place

    def is_kept(self, source: str, end_ms: int) -> bool:
        """Return whether what ended then would still be in a topic."""
        return end_ms >= self.kept_since_ms.get(source, 0)

    def expired_until(self, source: str, until_ms: int) -> None:
        """Note that what began before that was deleted, if anything was."""
        if until_ms:
            self.kept_since_ms[source] = until_ms

    def is_whole(self, source: str) -> bool:
        """Return whether nothing that was wanted has been deleted from a topic."""
        return source not in self.kept_since_ms

    def count(self, source: str, amount: Amount) -> None:
        """Add to what stands in a source."""
        self.read[source] = self.read.get(source, NOTHING) + amount

    def take_archive(self, part: "Facts") -> None:
        """Take what was read of the archive, whole, into facts that hold nothing of it yet."""
        self.archive = part.archive
        self.findings += part.findings
        self.kept_since_ms |= part.kept_since_ms
        for source, amount in part.read.items():
            self.count(source, amount)
        for origin, place in part.reached.get("archive", {}).items():
            self.reach("archive", origin, place)

    def find(self, source: str, what: str, *, is_fault: bool = True) -> None:
        """Name something."""
        self.findings.append(Discrepancy(source, what, is_fault))


def flow_place(flow_id: str) -> tuple[str, int, Origin, Position]:
    """Take a flow's id apart: its chunk, its number, whose it is; raise `DecodeError` if it is not a flow's id."""
    chunk, number = split_flow_id(flow_id)
    if number >= MAX_NUMBER:
        raise DecodeError("inconsistent", f"{flow_id!r}: its last part is greater than any row's number")
    origin, position = parse_chunk_id(chunk)
    return chunk, number, origin, position


@dataclass
class Deep:
    """What was found. `read`: what stands in the range, by source; `findings` are faults and repeats, by name."""

    read: dict[str, Amount] = field(default_factory=dict)
    findings: list[Discrepancy] = field(default_factory=list)

    @property
    def faults(self) -> list[Discrepancy]:
        """What should not be."""
        return [finding for finding in self.findings if finding.is_fault]

    def add(self, facts: Facts, findings: list[Discrepancy]) -> None:
        """Add a partition."""
        for source, amount in facts.read.items():
            self.read[source] = self.read.get(source, NOTHING) + amount
        self.findings += findings
