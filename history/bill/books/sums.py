# SPDX-License-Identifier: Apache-2.0
"""What a bill and what was metered come to, in the same cells, so that one can stand beside the other. Pure.

A cell is a period (an hour or a day, UTC), a resource, and a way. Of a bill a resource is what the cloud calls it, ""
where it is not a node of the cluster; of flows it is their nodes'. `ALL` stands for everything where resources cannot
be told apart, because the bill or the topology does not name them.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
GB, GIB = 10**9, 2**30

# `both`: the bill does not say whether bytes went out or came in.
Way = Literal["out", "in", "both"]
ALL = "*"


class Cell(NamedTuple):
    """Where bytes are compared."""

    period_ms: int
    resource: str
    way: Way


class NodeCell(NamedTuple):
    """The same of what was metered, by the node's name in Kubernetes."""

    period_ms: int
    node: str
    way: Way


@dataclass(slots=True)
class Quantity:
    """What lines of a bill come to. `units`: amounts of which it is not known how many bytes one is.

    `cost` is in the bill's currency, exactly as the lines have it.
    """

    bytes: int = 0
    units: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    lines: int = 0

    def add(self, other: "Quantity") -> None:
        """Add another."""
        self.bytes += other.bytes
        self.units += other.units
        self.cost += other.cost
        self.lines += other.lines

    def size(self, unit: int) -> int:
        """Return it in bytes, if a unit is so many."""
        return self.bytes + int((self.units * unit).to_integral_value())


def total(quantities: Iterable[Quantity]) -> Quantity:
    """Add quantities up."""
    found = Quantity()
    for each in quantities:
        found.add(each)
    return found


@dataclass(slots=True)
class Rates:
    """What was billed in one region for what crossed zones there, discounts included."""

    out: Quantity = field(default_factory=Quantity)
    into: Quantity = field(default_factory=Quantity)


@dataclass(slots=True)
class Billed:
    """What a bill comes to in a range.

    `cells`: what crossed zones, each line once; `twice`: lines that came again. `regional`: what stands under the same
    usage type and did not cross zones, by its operation; `apart`: other transfer, by name; `charges`: lines of these
    that are not usage, such as credits, by type. `others`: resources that are not nodes, the greatest first.
    `is_final`: None if the bill does not say.
    """

    provider: str = ""
    title: str = ""
    files: int = 0
    lines: int = 0
    period_ms: int = DAY_MS
    from_ms: int = 0
    to_ms: int = 0
    currency: str = ""
    is_final: bool | None = None
    names_resources: bool = True
    cells: dict[Cell, Quantity] = field(default_factory=dict)
    twice: Quantity = field(default_factory=Quantity)
    regional: dict[str, Quantity] = field(default_factory=dict)
    apart: dict[str, Quantity] = field(default_factory=dict)
    charges: dict[str, Quantity] = field(default_factory=dict)
    accounts: dict[str, Quantity] = field(default_factory=dict)
    others: dict[str, Quantity] = field(default_factory=dict)
    other_resources: int = 0
    rates: dict[str, Rates] = field(default_factory=dict)

    @property
    def is_separable(self) -> bool:
        """Whether it tells what went out from what came in."""
        return not any(cell.way == "both" for cell in self.cells)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways that it bills: Google Cloud bills only what goes out."""
        if not self.is_separable:
            return ("both",)
        known = {cell.way for cell in self.cells}
        if not known:
            return ("out",) if self.provider == "gcp" else ("out", "in")
        return tuple(way for way in ("out", "in") if way in known)


@dataclass(slots=True)
class Metered:
    """What was metered, in bytes by node: across zones, of unknown scope, and what a price file says is free.

    `windows`: when anything at all was metered, [start, end) in Unix milliseconds. `far`: of what crossed zones, the
    side that is not a node, by what the CIDR map calls it.
    """

    cells: dict[NodeCell, int] = field(default_factory=lambda: defaultdict(int))
    unknown: dict[NodeCell, int] = field(default_factory=lambda: defaultdict(int))
    free: dict[NodeCell, int] = field(default_factory=lambda: defaultdict(int))
    far: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    relayed: int = 0
    windows: set[tuple[int, int]] = field(default_factory=set)


@dataclass(slots=True)
class Trust:
    """How far what was metered can be trusted, by node, as the ledger has it.

    `unmeasured`: [from, to) that nobody metered; `unmeasured_at_least`: it was longer, by how much is not known;
    `coverage`: the part that the hook saw of what the uplinks sent;
    `lost`: the part of what the hook saw that was lost on the way. `unmetered`: nodes without a collector. `why_none`:
    why the ledger was not read; then only `unmetered` is known.
    """

    unmeasured: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    unmeasured_at_least: bool = False
    unmetered: set[str] = field(default_factory=set)
    coverage: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    why_none: str = ""
