# SPDX-License-Identifier: Apache-2.0
"""What became of the traffic that a change concerns, before and after it. Pure.

Compared is the part that crosses zones: traffic grows and shrinks by itself. The effect is what crosses more or less
than it would have with the part of before, at the volume of after. Slots that a change lies in are left out.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from history.model.bill import NOTHING, Pricer
from history.model.evidence import Cell, Evidence
from history.model.states.events import Event
from history.model.states.ready import SERVICE, Group
from history.model.summary import IN_REGION
from prices.book import PriceBook


@dataclass
class Volume:
    """Traffic over some time. `cost`: of what crossed zones, in subunits."""

    milliseconds: int = 0
    bytes: int = 0
    crossing: int = 0
    cost: int = 0

    @property
    def part(self) -> float | None:
        """Which part crossed zones; None where nothing was sent."""
        return self.crossing / self.bytes if self.bytes else None


class Effect(NamedTuple):
    """A change with its traffic before and after it, up to the changes of the same subject around it."""

    event: Event
    before: Volume
    after: Volume

    @property
    def bytes_per_hour(self) -> float | None:
        """How much more crosses zones (less: below 0) than with the part of before; None where that is not known."""
        if self.before.part is None or self.after.part is None or not self.after.milliseconds:
            return None
        return (self.after.part - self.before.part) * self.after.bytes * 3_600_000 / self.after.milliseconds

    @property
    def cost_per_byte(self) -> float | None:
        """What a byte that crosses costs these pairs, in subunits; None: nothing of it has a price."""
        crossing, cost = self.before.crossing + self.after.crossing, self.before.cost + self.after.cost
        return cost / crossing if crossing and cost else None


def effects(found: Sequence[Event], evidence: Evidence, book: PriceBook | None) -> list[Effect]:
    """Return each change with what became of its traffic, in order of time."""
    concerned = _concerned(found, evidence, book)
    times: defaultdict[Group, list[int]] = defaultdict(list)
    for event in found:
        times[event.subject].append(event.at_ms)
    made = []
    for event in found:
        slots = concerned.get(event.subject, {})
        others = times[event.subject]
        begin = max((at for at in others if at < event.at_ms), default=evidence.span.from_ms)
        end = min((at for at in others if at > event.at_ms), default=evidence.span.to_ms)
        before, after = _volume(slots, evidence, begin, event.at_ms), _volume(slots, evidence, event.at_ms, end)
        made.append(Effect(event, before, after))
    return made


def _concerned(found: Sequence[Event], evidence: Evidence, book: PriceBook | None) -> dict[Group, dict[int, Volume]]:
    """Return, for what changed, the traffic of each slot: one pass over the evidence for all changes."""
    wanted, pricer = {event.subject for event in found}, Pricer(book)
    sums: defaultdict[Group, defaultdict[int, Volume]] = defaultdict(lambda: defaultdict(Volume))
    for cell, size in evidence.cells.items():
        if cell.traffic.scope not in IN_REGION:
            continue
        for subject in _subjects(cell) & wanted:
            volume = sums[subject][cell.at_ms]
            volume.bytes += size
            if cell.crosses:
                volume.crossing += size
                volume.cost += (pricer.cost(cell.traffic, size) or NOTHING).total
    return {subject: dict(slots) for subject, slots in sums.items()}


def _subjects(cell: Cell) -> set[Group]:
    found = {group for end in (cell.client, cell.server) if (group := end.workload)}
    if cell.service:
        found.add(Group(cell.server.namespace, SERVICE, cell.service))
    return found


def _volume(slots: dict[int, Volume], evidence: Evidence, from_ms: int, to_ms: int) -> Volume:
    slot = evidence.slot_ms
    first, last = -(-from_ms // slot) * slot, to_ms // slot * slot
    if from_ms == evidence.span.from_ms:
        first = from_ms // slot * slot
    total = Volume(milliseconds=max(last - max(first, from_ms), 0))
    for at, volume in slots.items():
        if first <= at < last:
            total.bytes += volume.bytes
            total.crossing += volume.crossing
            total.cost += volume.cost
    return total
