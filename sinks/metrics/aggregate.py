# SPDX-License-Identifier: Apache-2.0
"""Adds flows up into counters. Pure: rows come in, series that changed come out.

What a flow adds to depends on its two ends, its scope and little else, and that repeats from window to window. So
the first flow of a kind finds its series, a `SeriesRoute`, and the next ones are two additions each.

Cost is counted, not derived: bytes times the price in force when they are folded in. So another price file changes
what comes from then on, and no counter ever jumps; and the sums are whole numbers in the same checkpoint as the bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET

from prices.book import PriceBook
from schemas.flow import FlowHead, Observer, Scope, why_unknown
from schemas.ids import split_flow_id
from schemas.raw import ENCAPSULATIONS, OTHER_ENCAPSULATION
from sinks.intake import Row
from sinks.metrics.ends import End, region_of
from sinks.metrics.families import (
    DELAYED_BYTES,
    ENCAPSULATION_BYTES,
    KUBEZONNET_BYTES,
    OPENCOST_BYTES,
    OPENCOST_SCOPES,
    UNKNOWN_BYTES,
    WORKLOAD_BYTES,
    WORKLOAD_COST,
    ZONE_BYTES,
    ZONE_COST,
    ZONE_PACKETS,
    Sample,
    Spec,
)
from sinks.metrics.family import SEEN_MS, Changes, Family, Labels, Series
from sinks.tallies import Tallies

# Routes known at a time, about 400 bytes each; then all are forgotten and looked up again. Counters are not touched.
MAX_ROUTES = 200_000

# How often it is looked which series are idle, and which pairs are the heaviest.
SWEEP_MS = 60_000
DAY_MS = 24 * 3_600_000
# Bytes of windows that ended longer ago than this are delayed: a rate over the last hour shows them in the wrong hour.
DELAYED_MS = 600_000

# Both ends, scope, cluster; of a relayed packet the observer's zone and region; of an outer one its encapsulation.
RouteKey = tuple[End, End, Scope, str, tuple[str, str] | None, str | None]


@dataclass(slots=True, eq=False)
class SeriesRoute:
    """The series that one kind of flow adds to, and what it brought since the last fold.

    `rate`: what a byte costs, in subunits (prices/book.py). `unnamed`: the families in which its pair has no series;
    they have not been told of `waited` bytes yet.
    """

    byte_series: tuple[Series, ...]
    packet_series: tuple[Series, ...]
    cost_series: tuple[Series, ...] = ()
    rate: int = 0
    unnamed: tuple[tuple[Family, Labels], ...] = ()
    bytes: int = 0
    packets: int = 0
    touched: bool = False
    waited: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether one of its series counts no more, or its pair has been given one of its own."""
        series = (*self.byte_series, *self.cost_series)
        return any(each.closing or not each.served for each in series) or any(
            labels in family.series for family, labels in self.unnamed
        )


class Aggregate:
    """All counters. `max_series` bounds the workload and encapsulation families.

    The families of kubezonnet and OpenCost have a bound of their own, or None where they are not served.
    `prices`: a price file in USD; without one there are no cost families. `idle_ms`: how long a series that does not
    grow is served.
    """

    def __init__(
        self,
        max_series: int,
        kubezonnet_max_series: int | None,
        prices: PriceBook | None = None,
        idle_ms: int = DAY_MS,
        opencost_max_series: int | None = None,
    ) -> None:
        self._idle_ms = idle_ms
        # When this life began, and when it was last looked who may go; None before the first time.
        self._began_ms: int | None = None
        self._swept_ms = 0
        self._last_number = 0
        self.families: dict[str, Family] = {}
        self._zone_bytes = self._family(ZONE_BYTES)
        self._zone_packets = self._family(ZONE_PACKETS)
        self._workload = self._family(WORKLOAD_BYTES, max_series)
        self._unknown = self._family(UNKNOWN_BYTES)
        self._delayed = self._family(DELAYED_BYTES)
        self._encapsulation = self._family(ENCAPSULATION_BYTES, max_series)
        self._kubezonnet = (
            None if kubezonnet_max_series is None else self._family(KUBEZONNET_BYTES, kubezonnet_max_series)
        )
        self._opencost = None if opencost_max_series is None else self._family(OPENCOST_BYTES, opencost_max_series)
        self._prices = prices
        if prices is not None:
            self._zone_cost = self._family(ZONE_COST)
            # As many series as the bytes' at most: each takes over the labels of one of those.
            self._workload_cost = self._family(WORKLOAD_COST)
        self._routes: dict[RouteKey, SeriesRoute] = {}
        self._touched: list[SeriesRoute] = []
        self._waited: list[SeriesRoute] = []
        self._dirty: list[Series] = []

    def add(self, rows: Iterable[Row[End]], books: Tallies) -> None:
        """Count flows; the outer packets of overlays are put aside in the books, as what they are."""
        routes = self._routes
        for flow, source, destination, observer in rows:
            if flow.direction != "relay" and flow.encapsulation is UNSET:
                key: RouteKey = (source, destination, flow.scope, flow.k8s.cluster.name, None, None)
            else:
                key = _rare_key(flow, source, destination, observer, books)
            route = routes.get(key)
            if route is None:
                route = self._find(key)
            route.bytes += flow.bytes
            route.packets += flow.packets
            if not route.touched:
                route.touched = True
                self._touched.append(route)

    def note_delayed(self, rows: Iterable[Row[End]], now_ms: int) -> None:
        """Count again, by cluster, the bytes of flows that come so late; not those of outer packets."""
        for flow, *_ in rows:
            if flow.end_ms < now_ms - DELAYED_MS and flow.encapsulation is UNSET:
                _carry((self._delayed.get((flow.k8s.cluster.name,)),), flow.bytes, self._dirty)

    def fold(self, now_ms: int) -> Changes:
        """Carry what the routes brought over into their series; return what changed since the last fold."""
        dirty, self._dirty = self._dirty, []
        for route in self._touched:
            _carry(route.byte_series, route.bytes, dirty)
            _carry(route.packet_series, route.packets, dirty)
            _carry(route.cost_series, route.bytes * route.rate, dirty)
            if route.unnamed:
                if not route.waited:
                    self._waited.append(route)
                route.waited += route.bytes
            route.bytes = route.packets = 0
            route.touched = False
        self._touched.clear()
        for series in dirty:
            series.dirty = False
            series.changed_ms = now_ms
        self._sweep(now_ms)
        changes = Changes()
        changes.note(dirty)
        for family in self.families.values():
            family.settle(now_ms, changes)
        return changes

    def restore(self, sample: Sample) -> None:
        """Take one series back from a checkpoint; of a family that is switched off, only its number is kept."""
        self._last_number = max(self._last_number, sample.number)
        if sample.family in self.families:
            self.families[sample.family].restore(Series(*sample))

    def _sweep(self, now_ms: int) -> None:
        if self._began_ms is None:
            self._began_ms = self._swept_ms = now_ms
        if abs(now_ms - self._swept_ms) < SWEEP_MS:
            return
        self._swept_ms = now_ms
        self._tell_waited()
        may_leave = now_ms - self._began_ms >= SEEN_MS
        renamed = False
        for family in self.families.values():
            if self._prices is not None and family is self._workload_cost:
                self._close_costs()
            renamed |= family.sweep(now_ms, self._idle_ms, may_leave=may_leave)
        if renamed:
            # The others stay: to find them all again would take as long as counting some seconds' flows.
            self._routes = {key: route for key, route in self._routes.items() if not route.is_stale}

    def _tell_waited(self) -> None:
        """Tell families what pairs without a name brought: nothing else asks for it, so not with each fold."""
        for route in self._waited:
            for family, labels in route.unnamed:
                family.wait(labels, route.waited)
            route.waited = 0
        self._waited.clear()

    def _close_costs(self) -> None:
        """Have what a pair costs go by the name under which its bytes are counted."""
        for labels, series in self._workload_cost.series.items():
            named = self._workload.series.get(labels)
            series.closing = named is None or named.closing

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _family(self, spec: Spec, budget: int | None = None) -> Family:
        family = self.families[spec.name] = Family(spec, self._next_number, budget)
        return family

    def _find(self, key: RouteKey) -> SeriesRoute:
        if len(self._routes) >= MAX_ROUTES:
            self._tell_waited()
            self._routes.clear()
        route = self._routes[key] = self._route(*key)
        return route

    def _route(
        self,
        source: End,
        destination: End,
        scope: Scope,
        cluster: str,
        relay: tuple[str, str] | None,
        encapsulation: str | None,
    ) -> SeriesRoute:
        if encapsulation is not None:
            outer = (cluster, source.node, destination.node, encapsulation)
            return SeriesRoute((self._encapsulation.get(outer),), (), unnamed=_unnamed((self._encapsulation, outer)))
        # A relayed packet is sent on by the observer: its zone is the one that the traffic leaves.
        src_zone, src_region = (source.zone, source.region) if relay is None else relay
        src_reason = source.reason if relay is None else None
        zones = (cluster, src_zone, destination.zone, scope)
        pair = (
            cluster,
            *(source.namespace, source.kind, source.workload, src_zone),
            *(destination.namespace, destination.kind, destination.workload, destination.zone),
            scope,
        )
        capped: list[tuple[Family, Labels]] = [(self._workload, pair)]
        if self._kubezonnet is not None and scope == "cross_zone" and source.pod:
            capped.append((self._kubezonnet, (source.pod_namespace, source.pod)))
        if self._opencost is not None and scope in OPENCOST_SCOPES and source.pod:
            sent_by, where = (source.pod, source.pod_namespace), OPENCOST_SCOPES[scope]
            capped.append((self._opencost, (*sent_by, *where, destination.internet_name)))
        workload, *more = (family.get(labels) for family, labels in capped)
        byte_series = [self._zone_bytes.get(zones), workload, *more]
        if scope == "unknown":
            reason = why_unknown((src_zone, src_reason), (destination.zone, destination.reason))
            byte_series.append(self._unknown.get((cluster, reason)))
        route = SeriesRoute(tuple(byte_series), (self._zone_packets.get(zones),), unnamed=_unnamed(*capped))
        if self._prices is not None:
            sender = source.side._replace(region=src_region, zone=src_zone)
            price = self._prices.find(scope, sender, destination.side)
            if price is not None:
                route.rate = price.rate
                route.cost_series = self._cost_series(zones, workload.labels, price.rate)
        return route

    def _cost_series(self, zones: tuple[str, ...], workload: tuple[str, ...], rate: int) -> tuple[Series, ...]:
        # That a zone pair is free is worth a series of zero; that each of its pairs of workloads is, is not.
        zone = self._zone_cost.get(zones)
        return (zone, self._workload_cost.get(workload)) if rate else (zone,)


def _rare_key(flow: FlowHead, source: End, destination: End, observer: Observer, books: Tallies) -> RouteKey:
    cluster = flow.k8s.cluster.name
    if flow.encapsulation is not UNSET:
        chunk, _ = split_flow_id(flow.id)
        books.put_aside("encapsulation", chunk, flow.bytes, flow.packets)
        # A label must not take whatever a record says: it would make series without end.
        known = flow.encapsulation if flow.encapsulation in ENCAPSULATIONS else OTHER_ENCAPSULATION
        return source, destination, flow.scope, cluster, None, known
    zone = UNSET if observer.cloud is UNSET else observer.cloud.availability_zone
    relay = ("" if zone is UNSET else zone, region_of(observer.cloud))
    return source, destination, flow.scope, cluster, relay, None


def _unnamed(*pairs: tuple[Family, Labels]) -> tuple[tuple[Family, Labels], ...]:
    """Return those that have no series of their own and could have one."""
    return tuple(
        (family, labels)
        for family, labels in pairs
        if family.budget is not None and family.get(labels).labels != labels and family.can_name(labels)
    )


def _carry(targets: tuple[Series, ...], amount: int, dirty: list[Series]) -> None:
    for series in targets:
        series.value += amount
        if not series.dirty:
            series.dirty = True
            dirty.append(series)
