# SPDX-License-Identifier: Apache-2.0
"""Where the ready pods of each workload are, by zone, and in which zones it had any lately. Pure.

A workload that had all its pods in one zone is left out: it has no zone to move out of. A zone that a workload has left
stays, with 0, as long as an alert compares with yesterday; so what left can be told from what is not known. The pods of
jobs come and go by themselves, and those of DaemonSets are where nodes are: they are left out, too.
"""

import heapq
from collections import Counter
from collections.abc import Generator, Sequence
from typing import NamedTuple

from enricher.index.ownership import Index
from enricher.index.parts import parts
from enricher.index.tenancy import FOREVER, order, stretches
from schemas.topology import TopologyState

# A day, and the hour that is looked at of yesterday, and a bit.
KEPT_MS = 26 * 3_600_000
# In a cluster of three zones three series each.
MAX_WORKLOADS = 1_000
LEFT_OUT = ("Job", "CronJob", "DaemonSet")

# Namespace, kind, name.
Group = tuple[str, str, str]


class Ready(NamedTuple):
    """Ready pods by workload and zone, "" where the zone is not known. `left_out`: workloads beyond the bound."""

    pods: dict[tuple[str, str, str, str], int]
    left_out: int


class ReadyPods:
    """Counts them in the index, and remembers for a while where they were."""

    def __init__(self, index: Index, most: int = MAX_WORKLOADS) -> None:
        self._index = index
        self._most = most
        # When each workload was last seen to have a ready pod in a zone, Unix time.
        self._seen: dict[Group, dict[str, int]] = {}
        self._knows_history = False
        self._shown: set[Group] = set()

    def counting(self, now_ms: int) -> Generator[None, None, Ready]:
        """Return what holds now, of the workloads that had ready pods in two zones or more within `KEPT_MS`.

        Those that were in the last answer stay as long as they can; the others follow by name. It yields after
        each part, so that an event loop can do something else; the answer is that of the beginning. Work: linear in the
        objects of the index, the first time in its states.
        """
        objects = self._index.objects()
        zones = yield from _zones(objects)
        now: Counter[tuple[Group, str]] = Counter()
        for part in parts(objects):
            for states in part:
                if states[-1].to_ms is None and (group := _group(states[-1])) is not None:
                    now[group, zones.get(states[-1].node or "", "")] += 1
            yield
        if not self._knows_history:
            self._knows_history = True
            yield from self._recall(objects, zones, now_ms)
        for places in parts(list(now)):
            for group, zone in places:
                self._note(group, zone, now_ms)
            yield
        yield from self._forget(now_ms - KEPT_MS)
        spread = [group for group, seen in self._seen.items() if len(seen) > 1]
        shown = [group for group in spread if group in self._shown]
        others = (group for group in spread if group not in self._shown)
        shown += heapq.nsmallest(self._most - len(shown), others)
        self._shown = set(shown)
        yield
        pods = {(*group, zone): now[group, zone] for group in shown for zone in sorted(self._seen[group])}
        return Ready(pods, len(spread) - len(shown))

    def _recall(
        self, objects: Sequence[Sequence[TopologyState]], zones: dict[str, str], now_ms: int
    ) -> Generator[None, None, None]:
        """Note where pods were by what the index has on record."""
        for part in parts(objects):
            for states in part:
                for state, end_ms in stretches(states) if states[-1].kind == "pod" else ():
                    if (group := _group(state)) is not None and end_ms != FOREVER:
                        self._note(group, zones.get(state.node or "", ""), min(end_ms, now_ms))
            yield

    def _note(self, group: Group, zone: str, at_ms: int) -> None:
        seen = self._seen.setdefault(group, {})
        seen[zone] = max(seen.get(zone, 0), at_ms)

    def _forget(self, before_ms: int) -> Generator[None, None, None]:
        for part in parts(list(self._seen)):
            for group in part:
                kept = {zone: at for zone, at in self._seen[group].items() if at >= before_ms}
                if kept:
                    self._seen[group] = kept
                else:
                    del self._seen[group]
            yield


def _zones(objects: Sequence[Sequence[TopologyState]]) -> Generator[None, None, dict[str, str]]:
    """Return the zone of each node by its name, also of one that is gone: pods that it had know its name alone."""
    nodes: dict[str, TopologyState] = {}
    for part in parts(objects):
        for states in part:
            state = states[-1]
            if state.kind == "node" and (state.name not in nodes or order(nodes[state.name]) < order(state)):
                nodes[state.name] = state
        yield
    return {name: state.zone or "" for name, state in nodes.items()}


def _group(state: TopologyState) -> Group | None:
    """Return whose ready pod a state is of; None if of none."""
    workload = state.workload
    if state.kind != "pod" or not state.ready or workload is None or workload.kind in LEFT_OUT:
        return None
    return state.namespace or "", workload.kind, workload.name
