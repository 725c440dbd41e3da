# SPDX-License-Identifier: Apache-2.0
"""Where a Service's or a workload's ready pods were, at any time of the past. Pure: from states of the topology topic.

A pod counts in the zone that its node had then. Where no state says that a pod was ready it does not count; where no
state says in which zone, it counts in the zone "".
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from enricher.index.tenancy import order, stretches
from history.model.time_range import TimeRange
from schemas.topology import TopologyState

SERVICE = "Service"


class Group(NamedTuple):
    """What pods belong to: a workload, or a Service that selects them (`kind` is then `Service`)."""

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return "/".join(self)


class Step(NamedTuple):
    """Ready pods by zone in [from_ms, to_ms); a zone without any is not there."""

    from_ms: int
    to_ms: int
    zones: Mapping[str, int]


def ready_pods(states: Iterable[TopologyState], span: TimeRange) -> dict[Group, list[Step]]:
    """Return, for each group of pods, steps without a gap from the beginning of the range to its end.

    A group that had no ready pod in all of the range is not there. Work: linear in the states, but for sorting them.
    """
    changes: defaultdict[Group, list[tuple[int, str, int]]] = defaultdict(list)
    pods, nodes = _by_object(states)
    for states_of_pod in pods:
        for state, end in stretches(states_of_pod):
            from_ms, to_ms = max(state.from_ms, span.from_ms), min(end, span.to_ms)
            if not state.ready or from_ms >= to_ms:
                continue
            for begin, until, zone in _zones(nodes.get(state.node or "", ()), from_ms, to_ms):
                for group in groups_of(state):
                    changes[group] += [(begin, zone, 1), (until, zone, -1)]
    return {group: list(_steps(sorted(found), span)) for group, found in changes.items()}


def groups_of(pod: TopologyState) -> Iterator[Group]:
    """Yield what a pod belongs to in one of its states."""
    namespace = pod.namespace or ""
    if pod.workload is not None:
        yield Group(namespace, pod.workload.kind, pod.workload.name)
    for name in pod.services:
        yield Group(namespace, SERVICE, name)


def workload_of(label: str) -> Group | None:
    """Return the workload that a label of the form `namespace/Kind/name` names; None for anything else."""
    parts = label.split("/")
    return Group(*parts) if len(parts) == 3 and parts[1] not in ("Pod", SERVICE) else None


def services_of(states: Iterable[TopologyState]) -> defaultdict[Group, set[Group]]:
    """Return the Services whose end points a workload's pods are, or were, by workload."""
    found: defaultdict[Group, set[Group]] = defaultdict(set)
    for state in states:
        if state.kind == "pod" and state.workload is not None:
            workload, *services = groups_of(state)
            found[workload].update(services)
    return found


def least(steps: Sequence[Step], from_ms: int, to_ms: int) -> dict[str, int]:
    """Return how many ready pods each zone had all the time in [from_ms, to_ms); zones with none are not there."""
    found: dict[str, int] | None = None
    for step in _within(steps, from_ms, to_ms):
        if found is None:
            found = dict(step.zones)
        else:
            found = {zone: min(count, step.zones[zone]) for zone, count in found.items() if zone in step.zones}
    return found or {}


def is_known(steps: Sequence[Step], from_ms: int, to_ms: int) -> bool:
    """Return whether some pod was ready at each moment of [from_ms, to_ms): else the history may not hold that time."""
    return all(step.zones for step in _within(steps, from_ms, to_ms))


def mean(steps: Sequence[Step], from_ms: int, to_ms: int) -> dict[str, float]:
    """Return how many ready pods each zone had on average over [from_ms, to_ms)."""
    sums: defaultdict[str, int] = defaultdict(int)
    for step in _within(steps, from_ms, to_ms):
        for zone, count in step.zones.items():
            sums[zone] += count * (min(step.to_ms, to_ms) - max(step.from_ms, from_ms))
    return {zone: total / (to_ms - from_ms) for zone, total in sums.items()}


def _within(steps: Sequence[Step], from_ms: int, to_ms: int) -> Iterator[Step]:
    # Nothing is known beyond the steps: what reaches beyond them had none.
    if not steps or from_ms < steps[0].from_ms or steps[-1].to_ms < to_ms:
        yield Step(from_ms, from_ms, {})
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if steps[middle].to_ms <= from_ms else (low, middle)
    for step in steps[low:]:
        if step.from_ms >= to_ms:
            return
        yield step


def _by_object(
    states: Iterable[TopologyState],
) -> tuple[list[list[TopologyState]], dict[str, list[tuple[int, int, str]]]]:
    """Return the states of each pod in order, and for each node's name its zones: (from, to, zone), in order."""
    pods: defaultdict[str, list[TopologyState]] = defaultdict(list)
    nodes: defaultdict[str, list[TopologyState]] = defaultdict(list)
    for state in states:
        if state.kind == "pod":
            pods[state.uid].append(state)
        elif state.kind == "node":
            # By name: a machine that is made again is another object, and the pods on it know its name alone.
            nodes[state.name].append(state)
    for found in (*pods.values(), *nodes.values()):
        found.sort(key=order)
    return list(pods.values()), {
        name: [(state.from_ms, end, state.zone or "") for state, end in stretches(found)]
        for name, found in nodes.items()
    }


def _zones(known: Sequence[tuple[int, int, str]], from_ms: int, to_ms: int) -> Iterator[tuple[int, int, str]]:
    """Yield in which zone a node was during [from_ms, to_ms), without a gap: "" where that is not known."""
    at = from_ms
    for since, until, zone in known:
        begin, end = max(since, at), min(until, to_ms)
        if begin < end:
            if at < begin:
                yield at, begin, ""
            yield begin, end, zone
            at = end
    if at < to_ms:
        yield at, to_ms, ""


def _steps(changes: Sequence[tuple[int, str, int]], span: TimeRange) -> Iterator[Step]:
    zones: dict[str, int] = {}
    at = span.from_ms
    for time, zone, change in changes:
        if time > at:
            yield Step(at, time, {name: count for name, count in zones.items() if count})
            at = time
        zones[zone] = zones.get(zone, 0) + change
    if at < span.to_ms:
        yield Step(at, span.to_ms, {name: count for name, count in zones.items() if count})
