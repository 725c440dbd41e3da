# SPDX-License-Identifier: Apache-2.0
"""Which flows are wanted: the filters of what is asked of history, as SQL over the flow log's columns. Pure.

A flow is wanted if one of its two ends meets all filters on ends (namespace, workload, pod, address, zone), its source
and its destination meet those on them, and the flow meets all others. Values of one filter are alternatives.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from enricher.index.addresses import Prefix, pack, parse_prefix, prefix_of
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
from sinks.flowlog.rows.columns import Value

Condition = tuple[str, list[Value]]

# The filters that have values: the name of their setting, and of their field of a selection.
FILTERS = {
    "cluster": "clusters",
    "namespace": "namespaces",
    "workload": "workloads",
    "pod": "pods",
    "address": "addresses",
    "zone": "zones",
    "source": "sources",
    "destination": "destinations",
    "scope": "scopes",
    "direction": "directions",
    "port": "ports",
}


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
        for name, field in FILTERS.items():
            yield name, getattr(self, field)
        yield "min-bytes", (self.min_bytes,) if self.min_bytes else ()

    def alone(self) -> Iterator[tuple[str, str, "Selection"]]:
        """Yield each value that is asked for, after its filter's name, with a selection of nothing else."""
        for name, field in FILTERS.items():
            for value in getattr(self, field):
                only: dict[str, Any] = {field: (value,)}
                yield name, str(value), Selection(**only)

    def held(self, addresses: Collection[str]) -> list[tuple[str, str]]:
        """Return which of these addresses are wanted, each with the filter that wants it: what `sql` compares with."""
        asked = (("address", self.addresses), ("source", self.sources), ("destination", self.destinations))
        found = []
        for name, texts in asked:
            networks = [parse_prefix(str(ipaddress.ip_network(text))) for text in texts if is_network(text)]
            found += [(name, each) for each in addresses if networks and _is_in(each, networks)]
        return found

    @property
    def on_addresses(self) -> bool:
        """Whether `sql` needs the addresses that are wanted."""
        return any((self.addresses, self.sources, self.destinations))

    def sql(self, addresses: str) -> Condition:
        """Return a condition over the flow log's columns that holds for the flows wanted, and its parameters in order.

        `addresses` names a table with columns `filter` and `address` that holds what `held` says of all of theirs.
        """
        parts: list[str] = ["bytes >= ?"] if self.min_bytes else []
        parameters: list[Value] = [self.min_bytes] if self.min_bytes else []
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
        return " AND ".join(parts) or "true", parameters

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


def _is_in(address: str, networks: Iterable[Prefix | None]) -> bool:
    packed = pack(address)
    if packed is None:
        return False
    return any(each and each.bits == 8 * len(packed) and prefix_of(packed, each.length) == each for each in networks)


def _choices_sql(side: str, choices: list[Choice]) -> Condition:
    condition = " OR ".join(f"({' AND '.join(f'{side}{name} = ?' for name in choice)})" for choice in choices)
    return condition, [value for choice in choices for value in choice.values()]


def _held_sql(side: str, name: str, addresses: str) -> str:
    return f"{side}address IN (SELECT address FROM {addresses} WHERE filter = '{name}')"  # noqa: S608 - all ours


def _add_in(parts: list[str], parameters: list[Value], column: str, wanted: Collection[Value]) -> None:
    if wanted:
        parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
        parameters += wanted
