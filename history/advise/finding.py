# SPDX-License-Identifier: Apache-2.0
"""What advice is: one finding, what it is made of, and what becomes of traffic if it is followed. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from enricher.index.tenancy import order, stretches
from history.advise.service_use import Use, use_of
from history.model.evidence import Cell, Evidence
from history.model.party import Parties
from history.model.states.ready import SERVICE, Group, Step, groups_of, is_known, ready_pods, services_of
from history.model.summary import Traffic
from schemas.topology import Routing, TopologyState

# `measured`: the traffic and the topology show it. `likely`: so do they, but something about them is in doubt.
# `ask`: whether it is a mistake at all, only people know.
Sure = Literal["measured", "likely", "ask"]

# Workloads that run until somebody ends them.
LASTING = ("Deployment", "StatefulSet", "DaemonSet")

# What becomes of a cell's bytes; what is in no traffic any more is not sent.
Fate = Mapping[Traffic, int]


@dataclass
class Finding:
    """One thing to change. `kind`: which rule found it, a word of docs/advise.md.

    `fates`: of the cells that it changes. `facts`: the evidence. `conditions`: what has to be true first. `costs`: what
    it costs in turn. `manifests`: for `kubectl apply --server-side`. `steps`: what else is to be done. `elsewhere`:
    bytes that cross no zones and are billed by another item, such as a NAT gateway's.
    """

    kind: str
    title: str
    subject: str
    sure: Sure
    fates: dict[Cell, Fate]
    facts: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    ready: Sequence[Step] = ()
    elsewhere: int = 0


@dataclass(frozen=True)
class Unavoidable:
    """What no change of this kind can spare: `why`, in words, and the cells."""

    why: str
    cells: dict[Cell, int]


class Hints(NamedTuple):
    """How many end points of a Service are ready, how many of those have hints, and since when all, or not all, have.

    That is not known of the time before `since_ms`, or was otherwise.
    """

    ready: int
    hinted: int
    since_ms: int


class Case:
    """What the rules look at: the evidence, and the topology of its time."""

    def __init__(self, evidence: Evidence, states: Sequence[TopologyState], parties: Parties) -> None:
        self.evidence = evidence
        self.parties = parties
        self.ready = ready_pods(states, evidence.span)
        self._states = states
        self._uses: dict[Group, Use] = {}

    @cached_property
    def cells(self) -> dict[Cell, int]:
        """The evidence, without what was exchanged with workloads that had nothing ready in the last slot of the range.

        Who has gone needs no change. Jobs stay: they end, and come again.
        """
        since_ms = self.evidence.span.to_ms - self.evidence.slot_ms
        gone = {
            str(group)
            for group, steps in self.ready.items()
            if group.kind in LASTING and not any(step.zones for step in steps if step.to_ms > since_ms)
        }
        if not gone:
            return self.evidence.cells
        return {
            cell: size
            for cell, size in self.evidence.cells.items()
            if cell.client.label not in gone and cell.server.label not in gone
        }

    @cached_property
    def by_service(self) -> dict[Group, list[tuple[Cell, int]]]:
        """The cells whose server is a pod behind a Service that is known."""
        found: defaultdict[Group, list[tuple[Cell, int]]] = defaultdict(list)
        for cell, size in self.cells.items():
            if cell.service and cell.serves is not None and cell.server.kind == "pod":
                found[Group(cell.server.namespace, SERVICE, cell.service)].append((cell, size))
        return found

    @cached_property
    def by_server(self) -> dict[tuple[str, int], list[tuple[Cell, int]]]:
        """The cells whose server is known, by its label and port."""
        found: defaultdict[tuple[str, int], list[tuple[Cell, int]]] = defaultdict(list)
        for cell, size in self.cells.items():
            if cell.serves is not None and cell.port:
                found[cell.server.label, cell.port].append((cell, size))
        return found

    @cached_property
    def shows_translation(self) -> bool:
        """Whether any request is seen translated: with load balancing in sockets, or the hook tc, none is."""
        return any(cell.dnat for cell in self.evidence.cells)

    @cached_property
    def _services(self) -> dict[Group, list[TopologyState]]:
        found: defaultdict[Group, list[TopologyState]] = defaultdict(list)
        for state in sorted(self._states, key=lambda state: state.from_ms):
            if state.kind == "service" and state.from_ms < self.evidence.span.to_ms:
                found[Group(state.namespace or "", SERVICE, state.name)].append(state)
        return found

    def holds(self, group: Group | None, cell: Cell) -> bool:
        """Return whether the topology holds a ready pod at each moment of a cell's slot, or has none to hold (None)."""
        return group is None or is_known(self.ready.get(group, ()), *self.evidence.slot_of(cell))

    @cached_property
    def untold(self) -> tuple[int, int]:
        """What Services exchanged, in bytes, and how much of that while the topology held no ready pod of theirs."""
        known: dict[tuple[Group, int], bool] = {}
        total = untold = 0
        for service, cells in self.by_service.items():
            for cell, size in cells:
                if (service, cell.at_ms) not in known:
                    known[service, cell.at_ms] = self.holds(service, cell)
                total += size
                untold += 0 if known[service, cell.at_ms] else size
        return total, untold

    def routing(self, service: Group) -> tuple[Routing | None, int]:
        """Return how a Service chose end points at the end of the range, and since when; None where nobody says."""
        states = self._services.get(service, [])
        if not states:
            return None, self.evidence.span.from_ms
        last = states[-1]
        since = last.from_ms
        for state in reversed(states):
            if state.routing != last.routing:
                break
            since = state.from_ms
        return last.routing, since

    def selector(self, service: Group) -> dict[str, str]:
        """Return which labels a Service's pods had at the end of the range; empty where nobody says."""
        states = self._services.get(service, [])
        return (states[-1].selector or {}) if states else {}

    @cached_property
    def _slices(self) -> dict[Group, list[list[TopologyState]]]:
        """The states of each EndpointSlice that began before the range ended, in order, by its Service."""
        slices: defaultdict[str, list[TopologyState]] = defaultdict(list)
        for state in sorted(self._states, key=order):
            if state.kind == "endpointslice" and state.services and state.from_ms < self.evidence.span.to_ms:
                slices[state.uid].append(state)
        found: defaultdict[Group, list[list[TopologyState]]] = defaultdict(list)
        for states in slices.values():
            found[Group(states[-1].namespace or "", SERVICE, states[-1].services[0])].append(states)
        return found

    def hints(self, service: Group) -> Hints | None:
        """Return which of a Service's end points had hints at the end of the range.

        None where no EndpointSlice was watched.
        """
        end = self.evidence.span.to_ms
        held = [stretch for states in self._slices.get(service, ()) for stretch in stretches(states)]
        last = [_count(state) for state, until in held if until >= end]
        ready, hinted = sum(ready for ready, _ in last), sum(hinted for _, hinted in last)
        if not ready:
            return None
        # The slice that was watched first says from when on anything is known.
        since = min(state.from_ms for state, _ in held)
        other = [until for state, until in held if until < end and _is_hinted(state) != (ready == hinted)]
        return Hints(ready, hinted, max(since, *other) if other else since)

    def use(self, service: Group) -> Use:
        """Return how a Service was used since it was last told how to choose end points."""
        if service not in self._uses:
            routing, since_ms = self.routing(service)
            headless = routing is not None and routing.headless
            steps = self.ready.get(service, ())
            self._uses[service] = use_of(self.by_service[service], self.evidence, steps, since_ms, headless=headless)
        return self._uses[service]

    @cached_property
    def nodes(self) -> dict[Group, set[str]]:
        """The nodes on which a workload, or a Service, had ready pods when the range ended."""
        end = self.evidence.span.to_ms
        last: dict[str, TopologyState] = {}
        for state in sorted(self._states, key=lambda state: state.from_ms):
            if state.kind == "pod" and state.from_ms < end:
                last[state.uid] = state
        found: defaultdict[Group, set[str]] = defaultdict(set)
        for state in last.values():
            if state.node and state.ready and (state.to_ms is None or state.to_ms >= end):
                for group in groups_of(state):
                    found[group].add(state.node)
        return found

    @cached_property
    def _services_before(self) -> defaultdict[Group, set[Group]]:
        """The Services whose end points a workload's pods were in the range."""
        return services_of(state for state in self._states if self.evidence.span.meets(state.from_ms, state.to_ms))

    def services_of(self, workload: Group) -> set[Group]:
        """Return the Services with an address of their own whose end points a workload's pods were in the range."""
        return {
            each
            for each in self._services_before[workload]
            if (routing := self.routing(each)[0]) is not None and not routing.headless
        }

    @cached_property
    def crossing_of_clients(self) -> dict[str, dict[Cell, int]]:
        """What goes between zones to and from each client, by its label: if it is stopped, all of it ends."""
        found: defaultdict[str, dict[Cell, int]] = defaultdict(dict)
        for cell, size in self.cells.items():
            if cell.crosses and cell.serves is not None:
                found[cell.client.label][cell] = size
        return found

    def within(self, cell: Cell, size: int) -> Fate:
        """Return what becomes of bytes that stay in the client's zone."""
        traffic, client = cell.traffic, cell.client
        server = self.parties.at(cell.server, client.zone, client.region)
        ends = (server, client) if cell.serves == "source" else (client, server)
        return {Traffic("same_zone", *ends, traffic.received): size}

    def kept(self, cell: Cell, spared: int) -> Fate:
        """Return what becomes of a cell of which so many bytes stay in the client's zone."""
        rest = self.evidence.cells[cell] - spared
        return {**self.within(cell, spared), **({cell.traffic: rest} if rest else {})}


def _count(slice_: TopologyState) -> tuple[int, int]:
    return sum(zone.ready for zone in slice_.end_points), sum(zone.hinted for zone in slice_.end_points)


def _is_hinted(slice_: TopologyState) -> bool:
    ready, hinted = _count(slice_)
    return ready == hinted


def manifest(group: Group, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest that names an object and what is to change of it: server-side apply leaves all else."""
    return {
        "apiVersion": "v1" if group.kind == SERVICE else "apps/v1",
        "kind": group.kind,
        "metadata": {"namespace": group.namespace, "name": group.name},
        "spec": spec,
    }
