# SPDX-License-Identifier: Apache-2.0
"""An end point of a flow as reports name it: its workload where it has one, else what it is. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from history.model.end_names import reads_as_network
from history.model.states.ready import Group, workload_of
from prices.book import Side
from sinks.flowlog.rows.columns import Value

# What an `Party` is made of, among the flow log's columns; the address and the port are not.
FIELDS = (
    "kind",
    "namespace",
    "pod",
    "workload_kind",
    "workload",
    "service",
    "node",
    "zone",
    "region",
    "name",
    "reason",
)


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """One side of a flow; "" where something is not known or does not apply. Equal means the same object.

    `broker`: it is a Kafka broker that this pipeline writes to, by address and port, and the other end is a node.
    """

    label: str
    kind: str
    namespace: str
    zone: str
    region: str
    name: str
    reason: str
    broker: bool = False

    @property
    def side(self) -> Side:
        """What its price may depend on."""
        return Side(self.region, self.name, self.kind == "external", self.zone)

    @property
    def workload(self) -> Group | None:
        """The workload whose pod it is, if it is one's."""
        return workload_of(self.label) if self.kind == "pod" else None


class MeterTraffic(NamedTuple):
    """How the meter's own traffic is told: its namespace, and its brokers by (address, port)."""

    namespace: str = ""
    brokers: frozenset[tuple[str, int]] = frozenset()

    def tells(self, source: Party, destination: Party) -> bool:
        """Return whether traffic between these two is the meter's own.

        Collectors are on the host's network: what a node itself sends to zonemeter's broker is theirs.
        """
        if self.namespace and self.namespace in (source.namespace, destination.namespace):
            return True
        return (source.kind == "node" and destination.broker) or (destination.kind == "node" and source.broker)


class Parties:
    """Makes end points, one object for each distinct one."""

    def __init__(self, brokers: Collection[tuple[str, int]] = ()) -> None:
        self.brokers = brokers
        self._known: dict[tuple[Value, ...], Party] = {}
        self._moved: dict[tuple[Party, str, str], Party] = {}

    def of(self, values: list[Value], *, broker: bool) -> Party:
        """Return the end point with these values, in the order of `FIELDS`."""
        as_read = (*values, broker)
        if (known := self._known.get(as_read)) is not None:
            return known
        kind, namespace, pod, workload_kind, workload, service, node, zone, region, name, reason = (
            str(value or "") for value in values
        )
        # An external end's may also be the prefix that stands for folded addresses.
        name = name if kind == "cidr" or (kind == "external" and not reads_as_network(name)) else ""
        label = _label(kind, namespace, pod, workload_kind, workload, service, node, name)
        facts = (label, kind, namespace, zone, region, name, reason, broker)
        end = self._known.get(facts)
        if end is None:
            end = self._known[facts] = Party(*facts)
        self._known[as_read] = end
        return end

    def at(self, end: Party, zone: str, region: str) -> Party:
        """Return the same end point as if it were in that zone: a relayed packet is sent on from the observer's."""
        # Why its own zone is not known says nothing of the observer's.
        if (end.zone, end.region, end.reason) == (zone, region, ""):
            return end
        moved = self._moved.get((end, zone, region))
        if moved is None:
            moved = self._moved[end, zone, region] = replace(end, zone=zone, region=region, reason="")
        return moved


def _label(
    kind: str, namespace: str, pod: str, workload_kind: str, workload: str, service: str, node: str, name: str
) -> str:
    if kind == "pod":
        return f"{namespace}/{workload_kind}/{workload}" if workload else f"{namespace}/Pod/{pod}"
    if kind == "node":
        return f"node/{node}"
    if kind == "service":
        return f"{namespace}/Service/{service}"
    return f"{kind}/{name}" if name else kind
