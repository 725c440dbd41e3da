# SPDX-License-Identifier: Apache-2.0
"""What changed in a cluster over a range, out of states of the topology topic. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import msgspec

from history.model.states.ready import SERVICE, Group, Step, ready_pods
from history.model.time_range import TimeRange, timestamp
from schemas.topology import Routing, TopologyState

# Where ready pods are has settled once it stays the same for so long. New pods that come closer together than that are
# one rollout.
SETTLED_MS, ROLLOUT_MS = 10 * 60_000, 30 * 60_000

What = Literal["new", "gone", "scaled", "moved", "rollout", "policy"]
# What can only be seen beside what was there before.
_PLACEMENTS = ("moved", "scaled", "new", "gone")


class Event(NamedTuple):
    """One change. `moved`: as many ready pods, in other zones. `detail`: in words."""

    at_ms: int
    subject: Group
    what: What
    detail: str


def known_events(states: Sequence[TopologyState], span: TimeRange) -> tuple[list[Event], str]:
    """Return what changed, in order of time, and from when on that is known where it is not from the beginning on.

    What ended long ago is taken off the topology topic: what follows on it then looks new.
    """
    found = events(states, span)
    ends = [state.to_ms for state in states if state.kind == "pod" and state.to_ms is not None]
    since_ms = min(ends, default=span.from_ms)
    if since_ms <= span.from_ms:
        return found, ""
    known = [each for each in found if each.what not in _PLACEMENTS or each.at_ms >= since_ms]
    if len(known) == len(found):
        return found, ""
    return (
        known,
        f"the topology holds no pod that ended before {timestamp(since_ms)}: where pods were then is not known",
    )


def events(states: Sequence[TopologyState], span: TimeRange) -> list[Event]:
    """Return what changed, in order of time.

    A pod that restarts, or a node that goes for less than ten minutes, changes nothing.
    """
    found = [
        event
        for group, steps in ready_pods(states, span).items()
        if group.kind != SERVICE
        for event in _placements(group, steps)
    ]
    taken = defaultdict(list)
    for event in found:
        taken[event.subject].append(event.at_ms)
    found += [
        event
        for event in _rollouts(states, span)
        if all(abs(event.at_ms - at) > ROLLOUT_MS for at in taken[event.subject])
    ]
    return sorted([*found, *_policies(states, span)])


def _placements(group: Group, steps: Sequence[Step]) -> Iterator[Event]:
    """Yield where the number of ready pods in each zone settled otherwise."""
    end = steps[-1].to_ms
    before: Step | None = None
    for step in _joined(steps):
        # The last one may still be on the way.
        if step.to_ms - step.from_ms < SETTLED_MS and not (step.to_ms == end and before is None):
            continue
        if before is not None and step.zones != before.zones:
            yield Event(step.from_ms, group, _what(before, step), f"{_places(before)} -> {_places(step)}")
        before = step


def _joined(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield steps, those that say the same as one."""
    for _, same in groupby(steps, key=lambda step: step.zones):
        first, *more = same
        yield first._replace(to_ms=more[-1].to_ms) if more else first


def _what(before: Step, after: Step) -> What:
    one, other = sum(before.zones.values()), sum(after.zones.values())
    if not one:
        return "new"
    if not other:
        return "gone"
    return "moved" if one == other else "scaled"


def _places(step: Step) -> str:
    return ", ".join(f"{zone or '?'} {count}" for zone, count in sorted(step.zones.items())) or "none"


def _rollouts(states: Iterable[TopologyState], span: TimeRange) -> Iterator[Event]:
    """Yield where at least half of a workload's pods were made again within a short time."""
    born: defaultdict[Group, dict[str, int]] = defaultdict(dict)
    for state in states:
        if state.kind == "pod" and state.workload is not None and state.workload.kind not in ("Job", "CronJob"):
            group = Group(state.namespace or "", state.workload.kind, state.workload.name)
            born[group][state.uid] = min(state.from_ms, born[group].get(state.uid, state.from_ms))
    for group, pods in born.items():
        there = sum(1 for at in pods.values() if at < span.from_ms)
        batch: list[int] = []
        for at in [*sorted(at for at in pods.values() if span.from_ms <= at < span.to_ms), None]:
            if at is not None and (not batch or at - batch[-1] <= ROLLOUT_MS):
                batch.append(at)
                continue
            if batch and there and 2 * len(batch) >= there:
                yield Event(batch[0], group, "rollout", f"{len(batch)} new pod{'' if len(batch) == 1 else 's'}")
            there = max(there, len(batch))
            batch = [] if at is None else [at]


def _policies(states: Iterable[TopologyState], span: TimeRange) -> Iterator[Event]:
    """Yield where a Service was told otherwise how to choose end points."""
    last: dict[str, Routing] = {}
    for state in sorted((each for each in states if each.kind == "service"), key=lambda each: each.from_ms):
        if state.routing is None:
            continue
        before = last.get(state.uid)
        last[state.uid] = state.routing
        if before is not None and before != state.routing and span.holds(state.from_ms):
            group = Group(state.namespace or "", SERVICE, state.name)
            yield Event(state.from_ms, group, "policy", _difference(before, state.routing))


def _difference(before: Routing, after: Routing) -> str:
    one, other = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    return ", ".join(
        f"{name} {one[name] or 'not set'} -> {other[name] or 'not set'}" for name in one if one[name] != other[name]
    )
