# SPDX-License-Identifier: Apache-2.0
"""Sets what was metered beside what was billed, and says of every reason how much of the difference it is. Pure.

Each cell has a difference, billed less metered. What a file or the ledger says outright comes off first: lines that
came twice, transfer that did not cross zones, resources that are not nodes, nodes without a collector. Then come
estimates, such as a node's rate times the time that nobody metered. An estimate takes no more of a cell's difference
than is left, and only of the sign that it can have, so it never makes one. What is left of all cells is unexplained.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.amounts import counted
from history.bill.books.missing import Missing, missing
from history.bill.books.resources import Nodes
from history.bill.books.sums import ALL, DAY_MS, GB, Billed, Cell, Metered, NodeCell, Trust
from history.bill.books.unit import Unit, fit

# A bill goes on growing for so long behind its time, until it is final.
FILLS_LATE_MS = 2 * DAY_MS
# A cell of which more than one byte in so many is unknown has no say in what a unit is.
_KNOWN_ENOUGH = 200

How = Literal["read", "estimated"]
Why = Literal[
    "twice",
    "regional",
    "other_resources",
    "unmetered_nodes",
    "not_charged",
    "unmeasured_time",
    "lost",
    "coverage",
    "sent_unmetered",
    "unknown",
    "free",
    "not_final",
]
_NOT_METERED: tuple[Why, ...] = ("unmetered_nodes", "unmeasured_time", "lost", "coverage")


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a difference. `bytes`: positive where it makes the bill greater. `how`: read, or estimated."""

    why: Why
    bytes: int
    how: How
    detail: str = ""


@dataclass(slots=True)
class Sum:
    """What was metered and billed of a day, a way, or a resource, and what of the difference has no reason."""

    metered: int = 0
    billed: int = 0
    unexplained: int = 0


@dataclass(slots=True)
class Comparison:
    """A bill beside what was metered. `names`: of each resource, the nodes that it is."""

    unit: Unit
    metered: int
    billed: int
    reasons: list[Reason]
    ways: dict[str, Sum]
    periods: dict[int, Sum]
    resources: dict[str, Sum]
    names: dict[str, list[str]]

    @property
    def explained(self) -> int:
        """What all reasons come to."""
        return sum(reason.bytes for reason in self.reasons)

    @property
    def unexplained(self) -> int:
        """Billed, less metered, less explained."""
        return self.billed - self.metered - self.explained

    @property
    def off(self) -> float:
        """The part of the greater of the two that is unexplained."""
        return abs(self.unexplained) / most if (most := max(self.billed, self.metered)) else 0.0


def compare(
    billed: Billed, metered: Metered, trust: Trust, nodes: Nodes, now_ms: int, unit: Unit | None = None
) -> Comparison:
    """Compare. `unit`: what one of the bill's is, if somebody says so; else it is fitted."""
    books = _Books(nodes, matched=billed.names_resources and bool(nodes.resources))
    books.metered = books.sums(metered.cells)
    gone = missing(billed, metered, trust)
    unit = unit or _fitted(books, billed, metered, gone)
    books.billed = {cell: quantity.size(unit.bytes) for cell, quantity in billed.cells.items()}
    for cell in {*books.metered, *books.billed}:
        books.left[cell] = books.billed.get(cell, 0) - books.metered.get(cell, 0)
    _read(books, billed, trust, unit)
    _estimate(books, billed, metered, gone, now_ms)
    beside = sum(each.size(unit.bytes) for each in (billed.twice, *billed.regional.values()))
    return books.comparison(unit, beside)


class _Books:
    """What is compared, by cell. `left`: of the difference, what has no reason yet. `gone`: sent and not metered.

    Where nothing can be matched, all stands in one place.
    """

    def __init__(self, nodes: Nodes, *, matched: bool) -> None:
        self.nodes = nodes
        self.matched = matched
        self.names: dict[str, set[str]] = defaultdict(set)
        self.metered: dict[Cell, int] = {}
        self.billed: dict[Cell, int] = {}
        self.left: dict[Cell, int] = {}
        self.gone: dict[int, int] = defaultdict(int)
        self._reasons: dict[tuple[Why, How, str], int] = {}

    def place(self, cell: NodeCell) -> Cell:
        """Return where in the bill a node's bytes stand."""
        if not self.matched:
            return Cell(cell.period_ms, ALL, cell.way)
        resource = self.nodes.resource(cell.node, cell.period_ms) or ""
        if resource:
            self.names[resource].add(cell.node)
        return Cell(cell.period_ms, resource, cell.way)

    def sums(self, cells: Mapping[NodeCell, int]) -> dict[Cell, int]:
        """Return nodes' bytes by where they stand."""
        found: dict[Cell, int] = defaultdict(int)
        for cell, size in cells.items():
            found[self.place(cell)] += size
        return found

    def note(self, why: Why, size: int, how: How, detail: str = "") -> None:
        """Note a reason, or more of it."""
        if size:
            key = (why, how, detail)
            self._reasons[key] = self._reasons.get(key, 0) + size

    def take(self, why: Why, how: How, most: Mapping[Cell, int], detail: str = "") -> None:
        """Explain up to so much of what is left of each cell: more billed if it is positive, less if negative."""
        size = 0
        for cell, bound in most.items():
            left = self.left.get(cell, 0)
            if left * bound <= 0:
                continue
            part = min(left, bound) if bound > 0 else max(left, bound)
            self.left[cell] = left - part
            size += part
            if why in _NOT_METERED and cell.way != "in":
                self.gone[cell.period_ms] += part
        self.note(why, size, how, detail)

    def comparison(self, unit: Unit, beside: int) -> Comparison:
        """Return what it all comes to."""
        ways: dict[str, Sum] = {}
        periods: dict[int, Sum] = {}
        resources: dict[str, Sum] = {}
        for cell in sorted(self.left):
            sums = (
                ways.setdefault(cell.way, Sum()),
                periods.setdefault(cell.period_ms, Sum()),
                resources.setdefault(cell.resource, Sum()),
            )
            for each in sums:
                each.metered += self.metered.get(cell, 0)
                each.billed += self.billed.get(cell, 0)
                each.unexplained += self.left[cell]
        return Comparison(
            unit=unit,
            metered=sum(self.metered.values()),
            billed=sum(self.billed.values()) + beside,
            reasons=[Reason(why, size, how, detail) for (why, how, detail), size in self._reasons.items()],
            ways={way: ways[way] for way in ("out", "in", "both") if way in ways},
            periods=periods,
            resources=resources,
            names={resource: sorted(names) for resource, names in self.names.items()},
        )


def _fitted(books: _Books, billed: Billed, metered: Metered, gone: Missing) -> Unit:
    """Fit the unit to cells that were metered whole: of what went out, if any, which a node counts itself."""
    if billed.cells and not any(quantity.units for quantity in billed.cells.values()):
        return Unit(GB, "known")
    poor = {books.place(cell) for cell in (*gone.cells, *metered.free)}
    unknown = books.sums(metered.unknown)
    whole = {
        cell: (books.metered.get(cell, 0) - quantity.bytes, quantity.units)
        for cell, quantity in billed.cells.items()
        if cell.resource and cell not in poor
        if unknown.get(cell, 0) * _KNOWN_ENOUGH <= books.metered.get(cell, 0)
    }
    sent = [sizes for cell, sizes in whole.items() if cell.way != "in"]
    return fit(sent or whole.values())


def _read(books: _Books, billed: Billed, trust: Trust, unit: Unit) -> None:
    """Take off what the bill or the ledger says outright."""
    text = f"{counted(billed.twice.lines, 'line')} that came before"
    books.note("twice", billed.twice.size(unit.bytes), "read", text)
    for operation, quantity in billed.regional.items():
        books.note("regional", quantity.size(unit.bytes), "read", operation)
    if books.matched:
        elsewhere = {cell: left for cell, left in books.left.items() if not cell.resource}
        books.take("other_resources", "read", elsewhere, _others(billed))
        books.take("unmetered_nodes", "read", _of_unmetered(books, trust), _some(trust.unmetered))
    if billed.provider == "azure" and not any(books.billed.values()):
        books.take("not_charged", "read", dict(books.left), "Azure bills nothing for transfer between zones")


def _others(billed: Billed) -> str:
    if not billed.other_resources:
        return "nodes whose provider id is not known"
    return f"{counted(billed.other_resources, 'resource')}: {_some(list(billed.others), billed.other_resources)}"


def _some(names: list[str] | set[str], of: int | None = None) -> str:
    shown = list(names)[:3] if isinstance(names, list) else sorted(names)[:3]
    return ", ".join(shown) + (", ..." if (of or len(names)) > len(shown) else "")


def _of_unmetered(books: _Books, trust: Trust) -> dict[Cell, int]:
    """Return what is left of resources all of whose nodes have no collector."""
    periods = {cell.period_ms for cell in books.left}
    unmetered = {books.nodes.resource(node, period) for node in trust.unmetered for period in periods}
    metered = {cell.resource for cell in books.metered if cell.way != "in" and books.metered[cell]}
    return {
        cell: left
        for cell, left in books.left.items()
        if cell.resource in unmetered - metered - {None, ""} and left > 0
    }


def _estimate(books: _Books, billed: Billed, metered: Metered, gone: Missing, now_ms: int) -> None:
    """Take off what can be estimated, of what is left."""
    whole = {cell: left for cell, left in books.left.items() if left > 0 and _is_whole(books, cell, gone)}
    for why, estimates in gone.estimates.items():
        books.take(why, "estimated", books.sums(estimates) | (whole if why == "unmeasured_time" else {}))
    books.take("sent_unmetered", "estimated", _received(books))
    books.take("unknown", "estimated", books.sums(metered.unknown))
    books.take("free", "read", {cell: -size for cell, size in books.sums(metered.free).items()})
    if billed.is_final is not True:
        late_ms = (now_ms if billed.is_final is None else min(billed.to_ms, now_ms)) - FILLS_LATE_MS
        late = {cell: left for cell, left in books.left.items() if left < 0 and cell.period_ms >= late_ms}
        books.take("not_final", "estimated", late)


def _is_whole(books: _Books, cell: Cell, gone: Missing) -> bool:
    """Return whether nothing of a cell was metered, for want of metering."""
    if cell.period_ms in gone.nobody:
        return True
    names = books.names.get(cell.resource, set())
    return cell.way != "in" and bool(names) and all((cell.period_ms, name) in gone.whole for name in names)


def _received(books: _Books) -> dict[Cell, int]:
    """Return how much receivers may lack of what was sent and not metered: together no more than that."""
    rest = dict(books.gone)
    found: dict[Cell, int] = {}
    for cell, left in sorted(books.left.items(), key=lambda item: -item[1]):
        part = min(left, rest.get(cell.period_ms, 0)) if cell.way != "out" else 0
        if part > 0:
            found[cell] = part
            rest[cell.period_ms] -= part
    return found
