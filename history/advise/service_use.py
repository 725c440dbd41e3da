# SPDX-License-Identifier: Apache-2.0
"""How a Service is used: what its clients exchange with it, and what of that could stay in their zones. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from common.amounts import first_few, percent
from history.model.evidence import Cell, Evidence
from history.model.states.ready import Step, is_known, least, mean
from history.model.summary import IN_REGION

# Which part of a client's requests has to be seen translated for a Service to be in their way.
THROUGH_SERVICE = 0.5
# How far the local part may be from what blind balancing gives, and from when on it is local.
NEAR, LOCAL = 0.15, 0.95
# A zone whose end points would get so much more than now makes it a question.
MOST_LOAD = 1.5


@dataclass
class Demand:
    """What a zone's clients exchange with a Service, in bytes.

    `served`: in slots in which the zone had a ready end point all the time; of these `local` stays in the zone, and
    `expected` would if balancing were blind.
    """

    total: int = 0
    served: int = 0
    local: int = 0
    expected: float = 0.0

    @property
    def is_local(self) -> bool:
        """Whether nearly all stays in its zone."""
        return self.local >= LOCAL * self.served

    @property
    def is_blind(self) -> bool:
        """Whether so much stays in its zone as would if balancing were blind."""
        return abs(self.local - self.expected) <= NEAR * self.served

    def line(self, of: str = " of the traffic", spread: str = "blindly") -> str:
        """Return both parts in words."""
        stays, would = percent(self.local, self.served), percent(round(self.expected), self.served)
        return f"{stays}{of} stays in the zone; spread {spread}, {would} would"


@dataclass
class Use:
    """How one Service is used by those that use it: clients most of whose requests go by its own address.

    `sparable`: crossing cells whose client's zone had a ready end point all the time, with the bytes that went by the
    Service; `lacking`: those whose zone had none. Others reach the same pods directly, as a primary its replicas.
    """

    requests: int = 0
    translated: int = 0
    zones: dict[str, Demand] = field(default_factory=lambda: defaultdict(Demand))
    sparable: dict[Cell, int] = field(default_factory=dict)
    lacking: dict[Cell, int] = field(default_factory=dict)
    clients: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)

    @property
    def who(self) -> str:
        """Who uses it, and who serves, in words."""
        return f"clients: {first_few(sorted(self.clients))}; servers: {first_few(sorted(self.servers))}"

    @property
    def served(self) -> Demand:
        """What was exchanged in all zones while they had end points; all of it is `served`."""
        total = sum(demand.served for demand in self.zones.values())
        local = sum(demand.local for demand in self.zones.values())
        return Demand(total, total, local, sum(demand.expected for demand in self.zones.values()))


def use_of(
    cells: Iterable[tuple[Cell, int]], evidence: Evidence, steps: Sequence[Step], since_ms: int, *, headless: bool
) -> Use:
    """Return how a Service was used from `since_ms` on, by the slots that lie behind it wholly.

    `cells`: those whose server is behind it. `steps`: its ready pods.

    Of a headless Service, which has no address of its own, all clients are users.
    """
    use = Use()
    # By slot; None where nobody knows of a ready pod though some answered: the topology does not hold that time.
    counts: dict[int, tuple[dict[str, int], dict[str, float]] | None] = {}
    wanted = [
        (cell, size) for cell, size in cells if not cell.relay and cell.client.zone and cell.traffic.scope in IN_REGION
    ]
    shares = part_by_service(wanted)
    # Who answered was there, also where the topology has forgotten the pod, or it was ready for a part of the slot.
    answered = {(cell.at_ms, cell.server.zone) for cell, _ in wanted}
    for cell, size in wanted:
        from_ms, to_ms = evidence.slot_of(cell)
        share = 1.0 if headless else shares.get(cell.client.label, 0.0)
        if from_ms < since_ms or share < THROUGH_SERVICE:
            continue
        if cell.at_ms not in counts:
            known = is_known(steps, from_ms, to_ms)
            counts[cell.at_ms] = (least(steps, from_ms, to_ms), mean(steps, from_ms, to_ms)) if known else None
        if (ready := counts[cell.at_ms]) is None:
            continue
        always, usually = ready
        use.clients.add(cell.client.label)
        use.servers.add(cell.server.label)
        if cell.is_request:
            use.requests += size
            use.translated += size if cell.dnat else 0
        zone = use.zones[cell.client.zone]
        zone.total += size
        if always.get(cell.client.zone):
            zone.served += size
            zone.local += 0 if cell.crosses else size
            zone.expected += size * usually[cell.client.zone] / sum(usually.values())
            if cell.crosses:
                use.sparable[cell] = int(size * share)
        elif cell.crosses and (cell.at_ms, cell.client.zone) not in answered:
            use.lacking[cell] = int(size * share)
    return use


def part_by_service(cells: Iterable[tuple[Cell, int]]) -> dict[str, float]:
    """Return, for each client, which part of its requests was seen translated: went by the Service's own address."""
    requests: defaultdict[str, int] = defaultdict(int)
    translated: defaultdict[str, int] = defaultdict(int)
    for cell, size in cells:
        if cell.is_request:
            requests[cell.client.label] += size
            translated[cell.client.label] += size if cell.dnat else 0
    return {client: translated[client] / size for client, size in requests.items() if size}


def last_zones(steps: Sequence[Step]) -> dict[str, int]:
    """Return where end points were at the end of the range; those whose zone is not known are not there."""
    return {zone: count for zone, count in steps[-1].zones.items() if zone} if steps else {}


def load_afterwards(use: Use, end_points: Mapping[str, int]) -> dict[str, float]:
    """Return, for each zone, what an end point would get as a multiple of what it gets on average now."""
    total, count = sum(demand.total for demand in use.zones.values()), sum(end_points.values())
    if not total or not count:
        return {}
    orphans = sum(demand.total for zone, demand in use.zones.items() if not end_points.get(zone))
    share = total / count
    return {
        zone: ((use.zones[zone].total if zone in use.zones else 0) / number + orphans / count) / share
        for zone, number in end_points.items()
    }


def is_bearable(load: Mapping[str, float]) -> bool:
    """Return whether no zone's end points would get much more than now."""
    return max(load.values(), default=0.0) <= MOST_LOAD


def load_line(load: Mapping[str, float]) -> str:
    """Return that in words."""
    each = ", ".join(f"{zone} {ratio:.2f} x" for zone, ratio in sorted(load.items()))
    return f"load of an end point afterwards, against the average now: {each or 'not known'}"
