# SPDX-License-Identifier: Apache-2.0
"""Which findings are worth telling, what each spares, in order, and what nothing can spare. Pure.

Savings that overlap are never summed twice: findings are taken in order, the greatest first, and traffic that an
earlier one changes is not there for a later one. What all of them spare is at most what crossed zones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from common.amounts import counted, human, percent
from history.advise.finding import Case, Fate, Finding
from history.advise.rules import balancing, mesh, outside, passed_on, placement, twice
from history.advise.rules.unavoidable import unavoidable
from history.model.bill import NOTHING, Cost, Pricer, sum_costs
from history.model.evidence import Cell
from history.model.summary import Summary
from prices.book import SUBUNITS, PriceBook, per_month

# A finding that spares less in a month is not told: it costs more to read. Without prices: so many bytes.
LEAST_MONEY, LEAST_BYTES = 10, 500 * 10**9
# With more unknown than this part of all bytes nothing counts as measured.
MOST_UNKNOWN = 0.01
# More than this part of what Services exchange, at times of which the topology knows nothing, is told.
MOST_UNTOLD = 0.01

RULES = (
    balancing.findings,
    mesh.findings,
    placement.findings,
    twice.findings,
    passed_on.findings,
    outside.findings,
)


@dataclass(frozen=True)
class Amount:
    """Bytes in the range, and what they cost there; None: no price."""

    bytes: int = 0
    cost: Cost | None = None

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.bytes + other.bytes, sum_costs((self.cost, other.cost)))


class ZonePair(NamedTuple):
    """What crosses between two zones of the traffic that a finding changes, and how much of it would do so then."""

    source: str
    destination: str
    bytes: int
    after: int


@dataclass(frozen=True)
class Advised:
    """A finding with what it spares beyond those before it, and what crosses zones of the traffic that it is about.

    `zones`: the greatest first; what they have less afterwards is the bytes that the finding spares.
    """

    number: int
    finding: Finding
    crossing: Amount
    spared: Amount
    zones: Sequence[ZonePair] = ()


@dataclass
class Advice:
    """All of it. `small`: findings not told because they spare little. `notes`: what makes all of it less sure."""

    told: list[Advised] = field(default_factory=list)
    small: list[Advised] = field(default_factory=list)
    crossing: Amount = Amount()
    spared: Amount = Amount()
    unavoidable: list[tuple[str, Amount]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def left_out(self, book: PriceBook | None) -> str:
        """Say how many findings are not told because they spare little; "" for none."""
        least = f"{human(LEAST_BYTES)} a month" if book is None else f"{LEAST_MONEY} {book.currency} a month"
        return f"{counted(len(self.small), 'finding')} below {least} left out" if self.small else ""

    def fates(self, numbers: Sequence[int]) -> dict[Cell, Fate]:
        """Return what becomes of traffic if the findings of these numbers are followed; raises `KeyError`."""
        by_number = {each.number: each for each in self.told}
        found: dict[Cell, Fate] = {}
        for number in sorted(numbers):
            for cell, fate in by_number[number].finding.fates.items():
                found.setdefault(cell, fate)
        return found


def advise(case: Case, summary: Summary, book: PriceBook | None) -> Advice:
    """Return what to change, the greatest saving first."""
    pricer = Pricer(book)
    notes = _notes(case, summary)
    doubtful = any(note.startswith("unknown") for note in notes)
    found = list(chain.from_iterable(rule(case) for rule in RULES))
    sizes = case.evidence.cells
    found.sort(key=lambda each: (-_spared(each.fates, sizes), -each.elsewhere, each.kind, each.subject))
    advice = Advice(notes=notes, crossing=_sum(case.evidence.crossing(), pricer))
    taken: set[Cell] = set()
    for finding in found:
        fates = {cell: fate for cell, fate in finding.fates.items() if cell not in taken}
        crossing = _sum(((cell, sizes[cell]) for cell in finding.fates if cell.crosses), pricer)
        finding.fates = fates
        if doubtful and finding.sure == "measured":
            finding.sure = "likely"
        spared = _saving(fates, sizes, pricer)
        told = _is_worth(spared if fates else Amount(finding.elsewhere), summary.metered_ms)
        into = advice.told if told else advice.small
        number = len(advice.told) + 1 if told else 0
        into.append(Advised(number, finding, crossing, spared, _zones(fates, sizes)))
        if told:
            taken |= fates.keys()
    advice.spared = sum((each.spared for each in advice.told), Amount())
    advice.unavoidable = [(each.why, _sum(each.cells.items(), pricer)) for each in unavoidable(case, taken)]
    return advice


def _notes(case: Case, summary: Summary) -> list[str]:
    notes = []
    total, unknown = summary.bytes, summary.scopes.get("unknown", 0)
    if total and unknown > MOST_UNKNOWN * total:
        notes.append("unknown traffic is above 1 %: what looks measured is called likely")
    if case.by_service and not case.shows_translation:
        notes.append(
            "no request is seen translated: Services are balanced in sockets (Cilium) or the hook is tc; "
            "what Services could keep in a zone is not visible here"
        )
    served, untold = case.untold
    if untold > MOST_UNTOLD * served:
        notes.append(
            f"for {percent(untold, served)} of what Services exchanged the topology holds no ready pod of theirs, and "
            "nothing is said of it: is it this cluster's topology, and as old as the range?"
        )
    if not case.by_service:
        notes.append("no traffic names a Service: the topology holds none of this range, or the flows are of before")
    return notes


def _spared(fates: dict[Cell, Fate], sizes: dict[Cell, int]) -> int:
    return sum(
        sizes[cell] - sum(size for traffic, size in fate.items() if traffic.scope == "cross_zone")
        for cell, fate in fates.items()
        if cell.crosses
    )


def _zones(fates: dict[Cell, Fate], sizes: dict[Cell, int]) -> list[ZonePair]:
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for cell, fate in fates.items():
        if cell.crosses:
            pair = sums[cell.traffic.source.zone, cell.traffic.destination.zone]
            pair[0] += sizes[cell]
            pair[1] += sum(size for traffic, size in fate.items() if traffic.scope == "cross_zone")
    return sorted((ZonePair(*zones, *sizes) for zones, sizes in sums.items()), key=lambda each: (-each.bytes, each))


def _saving(fates: dict[Cell, Fate], sizes: dict[Cell, int], pricer: Pricer) -> Amount:
    costs = []
    for cell, fate in fates.items():
        before = pricer.cost(cell.traffic, sizes[cell])
        if before is not None:
            costs.append(before - (sum_costs(pricer.cost(traffic, size) for traffic, size in fate.items()) or NOTHING))
    return Amount(_spared(fates, sizes), sum_costs(costs))


def _sum(cells: Iterable[tuple[Cell, int]], pricer: Pricer) -> Amount:
    found = list(cells)
    return Amount(sum(size for _, size in found), sum_costs(pricer.cost(cell.traffic, size) for cell, size in found))


def _is_worth(spared: Amount, metered_ms: int) -> bool:
    if spared.cost is not None:
        return bool(per_month(spared.cost.total, metered_ms) >= LEAST_MONEY * SUBUNITS)
    return per_month(spared.bytes, metered_ms) >= LEAST_BYTES
