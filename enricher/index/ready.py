# SPDX-License-Identifier: Apache-2.0
"""Where the ready pods of each workload are, by zone, and in which zones it had any lately. Pure.

A workload that had all its pods in one zone is left out: it has no zone to move out of. A zone that a workload has left
stays, with 0, as long as an alert compares with yesterday; so what left can be told from what is not known. The pods of
jobs come and go by themselves, and those of DaemonSets are where nodes are: they are left out, too.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from enricher.index.ownership import Index
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

    def count(self, now_ms: int) -> Ready:
        """Return what holds now, of the workloads that had ready pods in two zones or more within `KEPT_MS`.

        Those that were in the last answer stay as long as they can; the others follow by name. Work: linear in the
        objects of the index, the first time in its states.
        """
        zones = self._zones()
        now: Counter[tuple[Group, str]] = Counter()
        for state in self._index.current():
            if state.to_ms is None and (group := _group(state)) is not None:
                now[group, zones.get(state.node or "", "")] += 1
        if not self._knows_history:
            self._knows_history = True
            for group, zone, until_ms in self._history(zones, now_ms):
                self._note(group, zone, until_ms)
        for group, zone in now:
            self._note(group, zone, now_ms)
        self._forget(now_ms - KEPT_MS)
        spread = [group for group, seen in self._seen.items() if len(seen) > 1]
        spread.sort(key=lambda group: (group not in self._shown, group))
        shown = spread[: self._most]
        self._shown = set(shown)
        pods = {(*group, zone): now[group, zone] for group in shown for zone in sorted(self._seen[group])}
        return Ready(pods, len(spread) - len(shown))

    def _zones(self) -> dict[str, str]:
        """Return the zone of each node by its name, also of one that is gone: pods that it had know its name alone."""
        nodes: dict[str, TopologyState] = {}
        for state in self._index.current():
            if state.kind == "node" and (state.name not in nodes or order(nodes[state.name]) < order(state)):
                nodes[state.name] = state
        return {name: state.zone or "" for name, state in nodes.items()}

    def _history(self, zones: dict[str, str], now_ms: int) -> Iterator[tuple[Group, str, int]]:
        for last in self._index.current():
            if last.kind == "pod":
                for state, end_ms in stretches(self._index.states_of(f"pod/{last.uid}")):
                    if (group := _group(state)) is not None and end_ms != FOREVER:
                        yield group, zones.get(state.node or "", ""), min(end_ms, now_ms)

    def _note(self, group: Group, zone: str, at_ms: int) -> None:
        seen = self._seen.setdefault(group, {})
        seen[zone] = max(seen.get(zone, 0), at_ms)

    def _forget(self, before_ms: int) -> None:
        kept = {group: {zone: at for zone, at in seen.items() if at >= before_ms} for group, seen in self._seen.items()}
        self._seen = {group: seen for group, seen in kept.items() if seen}


def _group(state: TopologyState) -> Group | None:
    """Return whose ready pod a state is of; None if of none."""
    workload = state.workload
    if state.kind != "pod" or not state.ready or workload is None or workload.kind in LEFT_OUT:
        return None
    return state.namespace or "", workload.kind, workload.name
