# SPDX-License-Identifier: Apache-2.0
"""Which flows are wanted: the filters of a replay, on rows as they come in and as SQL over the archive. Pure.

A flow is wanted if one of its two ends meets all filters on ends (namespace, workload, pod, address, zone) and the
flow meets all others. Values of one filter are alternatives.
"""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import UNSET

from enricher.addresses import pack, parse_prefix, prefix_of
from schemas.flow import SCOPES
from sinks.flowlog.columns import END_COLUMNS, FlatEnd, Value
from sinks.intake import Row

_AT = {name: place for place, name in enumerate(END_COLUMNS)}

Condition = tuple[str, list[Value]]


@dataclass(frozen=True)
class Selection:
    """The filters; an empty one lets everything through. Raises `ValueError` for values that could never match.

    `workloads`: `name`, `Kind/name`, `namespace/name` or `namespace/Kind/name`. `pods`: `name` or `namespace/name`.
    `addresses`: an address or a CIDR. `ports`: of either end.
    """

    clusters: Collection[str] = ()
    namespaces: Collection[str] = ()
    workloads: Collection[str] = ()
    pods: Collection[str] = ()
    addresses: Collection[str] = ()
    zones: Collection[str] = ()
    scopes: Collection[str] = ()
    ports: Collection[int] = ()
    min_bytes: int = 0
    _verdicts: dict[FlatEnd, tuple[bool, bool]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise ValueError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
        for text in self.addresses:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"address {text!r}: {error}; expected such as 10.42.1.17 or 10.42.0.0/16") from error
        for text in self.workloads:
            if not 1 <= len(text.split("/")) <= 3 or not all(text.split("/")):
                raise ValueError(f"workload {text!r}: expected name, Kind/name, namespace/name or namespace/Kind/name")
        for text in self.pods:
            if not 1 <= len(text.split("/")) <= 2 or not all(text.split("/")):
                raise ValueError(f"pod {text!r}: expected name or namespace/name")

    @property
    def on_ends(self) -> bool:
        """Whether there is any filter on ends."""
        return any((self.namespaces, self.workloads, self.pods, self.addresses, self.zones))

    def wants(self, row: Row[FlatEnd]) -> bool:
        """Tell whether a flow is wanted."""
        flow, from_end, to_end, _ = row
        if flow.bytes < self.min_bytes or (self.scopes and flow.scope not in self.scopes):
            return False
        if self.clusters and flow.k8s.cluster.name not in self.clusters:
            return False
        if not (self.on_ends or self.ports):
            return True
        source, destination = self._verdict(from_end), self._verdict(to_end)
        return (source[0] or destination[0]) and (source[1] or destination[1])

    def _verdict(self, end: FlatEnd) -> tuple[bool, bool]:
        """Tell whether an end meets the filters on ends, and the one on ports."""
        verdict = self._verdicts.get(end)
        if verdict is None:
            if len(self._verdicts) > 200_000:
                self._verdicts.clear()
            verdict = self._verdicts[end] = (self._end_fits(end.values), self._port_fits(end.values))
        return verdict

    def _port_fits(self, values: tuple[Value, ...]) -> bool:
        return not self.ports or values[_AT["port"]] in self.ports

    def _end_fits(self, values: tuple[Value, ...]) -> bool:
        return (
            (not self.namespaces or values[_AT["namespace"]] in self.namespaces)
            and (not self.zones or values[_AT["zone"]] in self.zones)
            and (not self.workloads or _workload_fits(values, self.workloads))
            and (not self.pods or _pod_fits(values, self.pods))
            and (not self.addresses or self.holds(str(values[_AT["address"]])))
        )

    def holds(self, address: str) -> bool:
        """Tell whether an address is one of those wanted."""
        packed = pack(address)
        if packed is None:
            return False
        wanted = (parse_prefix(str(ipaddress.ip_network(text))) for text in self.addresses)
        return any(w is not None and w.bits == 8 * len(packed) and prefix_of(packed, w.length) == w for w in wanted)

    def sql(self, addresses: str) -> Condition:
        """Return the same as a condition over the flow log's columns, with its parameters in order.

        `addresses` names a table with a column `address` that holds all addresses of the log that are wanted.
        """
        parts: list[str] = ["bytes >= ?"]
        parameters: list[Value] = [self.min_bytes]
        for column, wanted in (("scope", self.scopes), ("cluster", self.clusters)):
            _add_in(parts, parameters, column, wanted)
        for test in (self._end_sql, self._port_sql):
            source, destination = test("src_", addresses), test("dst_", addresses)
            if source[0]:
                parts.append(f"(({source[0]}) OR ({destination[0]}))")
                parameters += source[1] + destination[1]
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
        for texts, expand in ((self.workloads, workload_columns), (self.pods, _pod_columns)):
            choices = [choice for text in texts for choice in expand(text)]
            if choices:
                parts.append(f"({' OR '.join(_all_of(choice, side) for choice in choices)})")
                parameters += [value for choice in choices for value in choice.values()]
        if self.addresses:
            parts.append(f"{side}address IN (SELECT address FROM {addresses})")  # noqa: S608 - both names are ours
        return " AND ".join(parts), parameters


def workload_columns(text: str) -> list[dict[str, Value]]:
    """Return what a workload's columns may be if it goes by that text."""
    parts = text.split("/")
    if len(parts) == 1:
        return [{"workload": text}]
    if len(parts) == 2:
        return [
            {"namespace": parts[0], "workload": parts[1]},
            {"workload_kind": parts[0], "workload": parts[1]},
        ]
    return [dict(zip(("namespace", "workload_kind", "workload"), parts, strict=True))]


def _pod_columns(text: str) -> list[dict[str, Value]]:
    namespace, slash, name = text.partition("/")
    return [{"namespace": namespace, "pod": name}] if slash else [{"pod": text}]


def _workload_fits(values: tuple[Value, ...], texts: Iterable[str]) -> bool:
    return any(_meets(values, choice) for text in texts for choice in workload_columns(text))


def _pod_fits(values: tuple[Value, ...], texts: Iterable[str]) -> bool:
    return any(_meets(values, choice) for text in texts for choice in _pod_columns(text))


def _meets(values: tuple[Value, ...], wanted: Mapping[str, Value]) -> bool:
    return all(values[_AT[name]] == value for name, value in wanted.items())


def _all_of(choice: Mapping[str, Value], side: str) -> str:
    return f"({' AND '.join(f'{side}{name} = ?' for name in choice)})"


def _add_in(parts: list[str], parameters: list[Value], column: str, wanted: Collection[Value]) -> None:
    if wanted:
        parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
        parameters += wanted


def is_outer(row: Row[FlatEnd]) -> bool:
    """Tell whether a flow is the outer packets of an overlay, whose inner packets are flows of their own."""
    return row.flow.encapsulation is not UNSET
