# SPDX-License-Identifier: Apache-2.0
"""A day of a made-up cluster whose right advice is known: who talked to whom, and what the topology said then."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from history.advise.advice import Advice, advise
from history.advise.finding import Case
from history.model.evidence import Cell, Evidence
from history.model.party import FIELDS, Parties, Party
from history.model.states.ready import Group
from history.model.summary import Summary, Traffic
from history.model.time_range import TimeRange
from prices.file import shipped
from schemas.flow import Scope, Workload
from schemas.topology import Routing, Served, TopologyState, ZoneEndPoints

BEGIN_MS = 1_795_392_000_000  # on the hour
HOUR_MS = 3_600_000
GB = 10**9

Places = Mapping[str, int]


@dataclass
class Scenario:
    """One cluster, zones a, b and c of a region, a node in each and more where more is needed.

    `say` and `exchange` take bytes for the whole range and spread them evenly over its hours.
    """

    hours: int = 24
    states: list[TopologyState] = field(default_factory=list)
    parties: Parties = field(default_factory=Parties)
    unknown: int = 0

    def __post_init__(self) -> None:
        self.evidence = Evidence(TimeRange(BEGIN_MS, BEGIN_MS + self.hours * HOUR_MS))
        self._places: dict[str, dict[str, int]] = {}
        self._services: dict[str, tuple[str, Routing | None]] = {}
        for zone in "abc":
            for number in range(3):
                self.states.append(_node(f"node-{zone}{number}", zone))

    def workload(self, label: str, places: Places, **fields: Any) -> None:
        """Run so many ready pods in each zone, one a node."""
        self._places[label] = dict(places)
        namespace, kind, name = label.split("/")
        for zone, count in places.items():
            for number in range(count):
                state = TopologyState(
                    kind="pod",
                    uid=f"{label}-{zone}{number}",
                    resource_version="1",
                    name=f"{name}-{zone}{number}",
                    namespace=namespace,
                    from_ms=BEGIN_MS - HOUR_MS,
                    node=f"node-{zone}{number % 3}",
                    workload=Workload(kind, name),
                    ready=True,
                )
                self.states.append(_with(state, **fields))

    def places(self, label: str) -> Places:
        """Return how many pods of a workload run in each zone."""
        return self._places[label]

    def service(self, name: str, label: str, port: int, routing: Routing | None, **fields: Any) -> None:
        """Put a Service before a workload's pods."""
        namespace, kind, workload = label.split("/")
        self._services[name] = (label, routing)
        served = Served(name, "tcp", port, routing is not None and routing.headless)
        self.states = [
            _with(state, services=(*state.services, name), served=(*state.served, served))
            if state.kind == "pod" and (state.namespace, state.workload) == (namespace, Workload(kind, workload))
            else state
            for state in self.states
        ]
        state = TopologyState(
            kind="service",
            uid=f"service-{name}",
            resource_version="1",
            name=name,
            namespace=namespace,
            from_ms=BEGIN_MS - HOUR_MS,
            routing=routing,
            selector={"app": workload},
        )
        self.states.append(_with(state, **fields))

    def slice(self, service: str, zones: Mapping[str, tuple[int, int]]) -> None:
        """Let an EndpointSlice of a Service say so many ready end points, and hints, in each zone."""
        label, _ = self._services[service]
        state = TopologyState(
            kind="endpointslice",
            uid=f"slice-{service}",
            resource_version="1",
            name=f"{service}-x",
            namespace=label.partition("/")[0],
            services=(service,),
            from_ms=BEGIN_MS,
            end_points=tuple(ZoneEndPoints(f"eu-west-1{zone}", *counts) for zone, counts in zones.items()),
        )
        self.states.append(state)

    def end(self, label: str, zone: str) -> Party:
        """Return a workload's pods in a zone, `node/NAME`, `cidr/NAME`, or `external/NAME`, as one end of traffic."""
        values: dict[str, str | None] = {"zone": f"eu-west-1{zone}", "region": "eu-west-1"}
        kind, _, name = label.partition("/")
        if kind == "external":
            values = {"kind": kind, "name": name}
        elif kind == "cidr":
            values |= {"kind": kind, "name": name}
        elif kind == "node":
            values |= {"kind": kind, "node": name}
        else:
            namespace, workload_kind, workload = label.split("/")
            values |= {"kind": "pod", "namespace": namespace, "workload_kind": workload_kind, "workload": workload}
        return self.parties.of([values.get(name) for name in FIELDS], broker=False)

    def say(
        self,
        client: tuple[str, str],
        server: tuple[str, str],
        port: int,
        asked: int,
        answered: int,
        *,
        service: str = "",
        dnat: bool = False,
        relay: bool = False,
        hours: range | None = None,
    ) -> None:
        """Let a client in a zone exchange so many bytes with a server in a zone; `hours`: only then."""
        ends = self.end(*client), self.end(*server)
        scope: Scope = "same_zone" if client[1] == server[1] else "cross_zone"
        if "external" in (ends[0].kind, ends[1].kind):
            scope = "external"
        when = hours or range(self.hours)
        for hour in when:
            at = BEGIN_MS + hour * HOUR_MS // self.evidence.slot_ms * self.evidence.slot_ms
            request = Cell(Traffic(scope, ends[0], ends[1], False), at, "destination", port, service, dnat, relay)
            reply = Cell(Traffic(scope, ends[1], ends[0], False), at, "source", port, service, False, relay)
            self.evidence.cells[request] += asked // len(when)
            self.evidence.cells[reply] += answered // len(when)

    def exchange(
        self, client: str, name: str, port: int, asked: int, answered: int, *, dnat: bool = True, local: bool = False
    ) -> None:
        """Let every client pod exchange so many bytes with a Service, spread blindly over its ready pods.

        `local`: a zone's own pods answer where there are any.
        """
        label, _ = self._services[name]
        for zone, clients in self._places[client].items():
            there = self._places[label]
            if local and zone in there:
                there = {zone: there[zone]}
            for other, servers in there.items():
                part = clients * servers / sum(there.values())
                sizes = int(asked * part), int(answered * part)
                self.say((client, zone), (label, other), port, *sizes, service=name, dnat=dnat)

    def span(self, hours: range) -> TimeRange:
        """Return these hours as a range."""
        return TimeRange(BEGIN_MS + hours.start * HOUR_MS, BEGIN_MS + hours.stop * HOUR_MS)

    def summary(self, hours: range | None = None) -> Summary:
        """Return all of it summed up, or what was sent in these hours."""
        span = self.evidence.span if hours is None else self.span(hours)
        summary = Summary(flows=1)
        summary.clusters.add("made-up")
        summary.windows.add((span.from_ms, span.to_ms))
        for cell, size in self.evidence.cells.items():
            if not span.holds(cell.at_ms):
                continue
            summary.traffic[cell.traffic] += size
            summary.slots[cell.at_ms, cell.traffic.scope] += size
        if self.unknown:
            nobody = self.parties.of(
                [{"kind": "unknown", "reason": "vpc_unmapped"}.get(name) for name in FIELDS], broker=False
            )
            summary.traffic[Traffic("unknown", nobody, nobody, False)] += self.unknown
            summary.slots[BEGIN_MS, "unknown"] += self.unknown
        return summary

    def advice(self, prices: str | None = "aws") -> Advice:
        """Return what is advised."""
        book = None if prices is None else shipped(prices)
        return advise(Case(self.evidence, self.states, self.parties), self.summary(), book)


def group(label: str) -> Group:
    """Return the group of a label."""
    return Group(*label.split("/"))


def _node(name: str, zone: str) -> TopologyState:
    return TopologyState(
        kind="node",
        uid=name,
        resource_version="1",
        name=name,
        from_ms=BEGIN_MS - 24 * HOUR_MS,
        zone=f"eu-west-1{zone}",
        region="eu-west-1",
    )


def _with(state: TopologyState, **fields: Any) -> TopologyState:
    return msgspec.structs.replace(state, **fields)
