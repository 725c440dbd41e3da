# SPDX-License-Identifier: Apache-2.0
"""Which flows are wanted: the filters of a replay, on rows as they come in and as SQL over the archive. Pure.

A flow is wanted if one of its two ends meets all filters on ends (namespace, workload, pod, address, zone), its source
and its destination meet those on them, and the flow meets all others. Values of one filter are alternatives.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from enricher.index.addresses import pack, parse_prefix, prefix_of
from history.model.end_names import (
    Choice,
    check_end,
    check_network,
    check_pod,
    is_network,
    pod_columns,
    side_columns,
    workload_columns,
)
from schemas.flow import DIRECTIONS, SCOPES
from sinks.flowlog.columns import END_COLUMNS, FlatEnd, Value
from sinks.intake import Row

_AT = {name: place for place, name in enumerate(END_COLUMNS)}

Condition = tuple[str, list[Value]]


class _Verdict(NamedTuple):
    """What one end meets: the filters on either end, the one on ports, that on the source, that on the destination."""

    either: bool
    port: bool
    source: bool
    destination: bool


@dataclass(frozen=True)
class Selection:
    """The filters; an empty one lets everything through. Raises `ValueError` for values that could never match.

    `workloads`: `name`, `Kind/name`, `namespace/name` or `namespace/Kind/name`, also `node/name` and `cidr/name`, as
    tables print them. `pods`: `name` or `namespace/name`. `addresses`: an address or a CIDR. `sources`,
    `destinations`: any of these three. `ports`: of either end.
    """

    clusters: Collection[str] = ()
    namespaces: Collection[str] = ()
    workloads: Collection[str] = ()
    pods: Collection[str] = ()
    addresses: Collection[str] = ()
    zones: Collection[str] = ()
    sources: Collection[str] = ()
    destinations: Collection[str] = ()
    scopes: Collection[str] = ()
    directions: Collection[str] = ()
    ports: Collection[int] = ()
    min_bytes: int = 0
    _verdicts: dict[FlatEnd, _Verdict] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, given, known in (("scope", self.scopes, SCOPES), ("direction", self.directions, DIRECTIONS)):
            for value in given:
                if value not in known:
                    raise ValueError(f"{name} {value!r}: expected one of {', '.join(known)}")
        for port in self.ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"port {port}: expected 1 to 65535")
        for text in self.addresses:
            check_network(text)
        for text in self.workloads:
            check_end("workload", text)
        for text in self.pods:
            check_pod(text)
        for name, texts in (("source", self.sources), ("destination", self.destinations)):
            for text in texts:
                if not is_network(text):
                    check_end(name, text)

    @property
    def is_any(self) -> bool:
        """Whether it lets everything through."""
        return not any(given for _, given in self.given())

    def given(self) -> Iterator[tuple[str, Collection[str | int]]]:
        """Yield each filter by the name of its setting, with its values, those that are empty too."""
        yield "cluster", self.clusters
        yield "namespace", self.namespaces
        yield "workload", self.workloads
        yield "pod", self.pods
        yield "address", self.addresses
        yield "zone", self.zones
        yield "source", self.sources
        yield "destination", self.destinations
        yield "scope", self.scopes
        yield "direction", self.directions
        yield "port", self.ports
        yield "min-bytes", (self.min_bytes,) if self.min_bytes else ()

    def one_sided(self) -> Iterator[tuple[str, str, "Selection"]]:
        """Yield the values of what is asked of one side or of the way, each with its filter's name and alone."""
        for text in self.sources:
            yield "source", text, Selection(sources=(text,))
        for text in self.destinations:
            yield "destination", text, Selection(destinations=(text,))
        for text in self.directions:
            yield "direction", text, Selection(directions=(text,))

    def wants(self, row: Row[FlatEnd]) -> bool:
        """Return whether a flow is wanted."""
        flow, from_end, to_end, _ = row
        if flow.bytes < self.min_bytes or (self.scopes and flow.scope not in self.scopes):
            return False
        if self.clusters and flow.k8s.cluster.name not in self.clusters:
            return False
        if self.directions and flow.direction not in self.directions:
            return False
        source, destination = self._verdict(from_end), self._verdict(to_end)
        return (
            (source.either or destination.either)
            and (source.port or destination.port)
            and source.source
            and destination.destination
        )

    def _verdict(self, end: FlatEnd) -> _Verdict:
        verdict = self._verdicts.get(end)
        if verdict is None:
            if len(self._verdicts) > 200_000:
                self._verdicts.clear()
            values = end.values
            verdict = self._verdicts[end] = _Verdict(
                self._end_fits(values),
                not self.ports or values[_AT["port"]] in self.ports,
                _side_fits(values, self.sources),
                _side_fits(values, self.destinations),
            )
        return verdict

    def _end_fits(self, values: tuple[Value, ...]) -> bool:
        return (
            (not self.namespaces or values[_AT["namespace"]] in self.namespaces)
            and (not self.zones or values[_AT["zone"]] in self.zones)
            and (not self.workloads or _any_fits(values, self.workloads, workload_columns))
            and (not self.pods or _any_fits(values, self.pods, pod_columns))
            and (not self.addresses or self.holds(str(values[_AT["address"]])))
        )

    def holds(self, address: str) -> bool:
        """Return whether an address is one of those wanted of either end."""
        return _holds(self.addresses, address)

    def held(self, addresses: Iterable[str]) -> list[tuple[str, str]]:
        """Return which of these addresses are wanted, each with the filter that wants it: what `sql` compares with."""
        asked = (("address", self.addresses), ("source", self.sources), ("destination", self.destinations))
        return [(name, each) for name, texts in asked if texts for each in addresses if _holds(texts, each)]

    @property
    def on_addresses(self) -> bool:
        """Whether `sql` needs the addresses that are wanted."""
        return any((self.addresses, self.sources, self.destinations))

    def sql(self, addresses: str) -> Condition:
        """Return the same as a condition over the flow log's columns, with its parameters in order.

        `addresses` names a table with columns `filter` and `address` that holds what `held` says of all of the log's.
        """
        parts: list[str] = ["bytes >= ?"]
        parameters: list[Value] = [self.min_bytes]
        for column, wanted in (("scope", self.scopes), ("cluster", self.clusters), ("direction", self.directions)):
            _add_in(parts, parameters, column, wanted)
        for test in (self._end_sql, self._port_sql):
            source, destination = test("src_", addresses), test("dst_", addresses)
            if source[0]:
                parts.append(f"(({source[0]}) OR ({destination[0]}))")
                parameters += source[1] + destination[1]
        for side, name, texts in (("src_", "source", self.sources), ("dst_", "destination", self.destinations)):
            if texts:
                condition, values = _choices_sql(side, side_columns(texts))
                parts.append(f"({' OR '.join(filter(None, (condition, _held_sql(side, name, addresses))))})")
                parameters += values
        return " AND ".join(parts), parameters

    def _port_sql(self, side: str, addresses: str) -> Condition:
        del addresses
        parts: list[str] = []
        parameters: list[Value] = []
        _add_in(parts, parameters, f"{side}port", self.ports)
        return " AND ".join(parts), parameters

    def _end_sql(self, side: str, addresses: str) -> Condition:
        parts: list[str] = []
        parameters: list[Value] = []
        _add_in(parts, parameters, f"{side}namespace", self.namespaces)
        _add_in(parts, parameters, f"{side}zone", self.zones)
        for texts, expand in ((self.workloads, workload_columns), (self.pods, pod_columns)):
            if texts:
                condition, values = _choices_sql(side, [choice for text in texts for choice in expand(text)])
                parts.append(f"({condition})")
                parameters += values
        if self.addresses:
            parts.append(_held_sql(side, "address", addresses))
        return " AND ".join(parts), parameters


def _holds(texts: Iterable[str], address: str) -> bool:
    packed = pack(address)
    if packed is None:
        return False
    wanted = (parse_prefix(str(ipaddress.ip_network(text))) for text in texts if is_network(text))
    return any(w is not None and w.bits == 8 * len(packed) and prefix_of(packed, w.length) == w for w in wanted)


def _side_fits(values: tuple[Value, ...], texts: Collection[str]) -> bool:
    if not texts or any(_meets(values, choice) for choice in side_columns(texts)):
        return True
    return _holds(texts, str(values[_AT["address"]]))


def _any_fits(values: tuple[Value, ...], texts: Iterable[str], columns: Callable[[str], list[Choice]]) -> bool:
    return any(_meets(values, choice) for text in texts for choice in columns(text))


def _meets(values: tuple[Value, ...], wanted: Mapping[str, Value]) -> bool:
    return all(values[_AT[name]] == value for name, value in wanted.items())


def _choices_sql(side: str, choices: list[Choice]) -> Condition:
    condition = " OR ".join(f"({' AND '.join(f'{side}{name} = ?' for name in choice)})" for choice in choices)
    return condition, [value for choice in choices for value in choice.values()]


def _held_sql(side: str, name: str, addresses: str) -> str:
    return f"{side}address IN (SELECT address FROM {addresses} WHERE filter = '{name}')"  # noqa: S608 - all ours


def _add_in(parts: list[str], parameters: list[Value], column: str, wanted: Collection[Value]) -> None:
    if wanted:
        parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
        parameters += wanted
