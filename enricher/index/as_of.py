# SPDX-License-Identifier: Apache-2.0
"""What one cluster says of an address as of a window: who holds it, on which node, and where that is. Pure.

What is said holds for a stretch of time, in which nothing that was looked up begins or ends.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from enricher.index.endpoints import NOWHERE, Location, Resolved
from enricher.index.ownership import Index, Slot
from enricher.index.tenancy import FOREVER, acquired
from schemas.topology import TopologyState


class Placed(NamedTuple):
    """States within a window, and the place that all of them agree on."""

    states: tuple[TopologyState, ...]
    place: Location


NO_NODE = Placed((), NOWHERE)


class Stretch(NamedTuple):
    """A stretch of time, [from_ms, to_ms)."""

    from_ms: int
    to_ms: int

    def within(self, from_ms: int, to_ms: int) -> "Stretch":
        """Return what of it is within another."""
        return Stretch(max(self.from_ms, from_ms), min(self.to_ms, to_ms))


ALWAYS = Stretch(0, FOREVER)
_NEVER = Stretch(FOREVER, 0)


class ClusterWindow:
    """A cluster within [start_ms, end_ms). `answer` makes end points.

    `name`: of another cluster than the one that counts, and part of its nodes' names then. `same`: for what stretch of
    time what was looked up is the same; empty if it changes within the window.
    """

    def __init__(
        self, index: Index, answer: Callable[..., Resolved], start_ms: int, end_ms: int, name: str = ""
    ) -> None:
        self.index = index
        self.name = name
        self.same = ALWAYS
        self._answer = answer
        self._start_ms, self._end_ms = start_ms, end_ms
        self._nodes: dict[str | None, tuple[Placed, Stretch]] = {None: (NO_NODE, ALWAYS)}

    def owners(self, slot: Slot) -> list[TopologyState]:
        """Return the owners of a slot within the window, and cut `same` to the time in which they are these."""
        for edge in self.index.edges(slot):
            if edge <= self._start_ms:
                self.same = self.same.within(edge, FOREVER)
            elif edge >= self._end_ms:
                self.same = self.same.within(0, edge)
            else:
                self.same = _NEVER
        return self.index.owners(slot, self._start_ms, self._end_ms)

    def holder(self, address: str, packed: bytes) -> Resolved | None:
        """Return the pod or node that Kubernetes knows by an address."""
        if pods := self.owners(("pod", packed)):
            return self._pod(address, pods)
        return self._node(address, self.owners(("node", packed)))

    def within_pod_cidr(self, address: str, packed: bytes) -> Resolved | None:
        """Return what is on the node whose podCIDR holds an address, the longest, and that is not known."""
        names = {node.name for node in next(filter(None, map(self.owners, self.index.cidr_slots(packed))), ())}
        if not names:
            return None
        return self.ambiguous(address, {*names}) if len(names) > 1 else self.late(address, names.pop())

    def reached_by(self, address: str, packed: bytes) -> Resolved | None:
        """Return the node whose collector says that it is reached by an address."""
        return self._node(address, self.owners(("addresses", packed)))

    def late(self, address: str, node: str) -> Resolved:
        """Return a pod that is not known, on a node that is: its zone is certain, its name is not."""
        at, on = self.at(node), self._named(node)
        return self._answer("unknown", address, reason="late_index", node=on, at=at, in_cluster=True)

    def ambiguous(self, address: str, names: set[str | None]) -> Resolved:
        """Return what is on one of several nodes: their zone stays if all of them share it."""
        nodes = [self.at(name) for name in sorted(names, key=str)]
        at = Placed(tuple(s for node in nodes for s in node.states), common_place([node.place for node in nodes]))
        on = self._named(next(iter(names)) if len(names) == 1 else None)
        return self._answer("unknown", address, reason="ambiguous_owner", node=on, at=at, in_cluster=True)

    def at(self, name: str | None) -> Placed:
        """Return where a node is."""
        known = self._nodes.get(name)
        if known is None:
            before, self.same = self.same, ALWAYS
            states = self.owners(("name", name or ""))
            places = [_place(state) for state in states]
            known = self._nodes[name] = Placed(tuple(states), common_place(places)), self.same
            self.same = before
        found, same = known
        self.same = self.same.within(*same)
        return found

    def _pod(self, address: str, pods: list[TopologyState]) -> Resolved:
        pod = pods[-1]
        if len(pods) > 1 and any(other.uid != pod.uid for other in pods):
            return self.ambiguous(address, {other.node for other in pods})
        if any(other.served != pod.served for other in pods):
            # What came or went within the window is not said of all of it.
            always = tuple(each for each in pod.served if all(each in other.served for other in pods))
            pod = msgspec.structs.replace(pod, served=always)
        on, at = self._named(pod.node), self._at_node_of(pod)
        return self._answer("pod", address, owner=pod, node=on, at=at, in_cluster=True)

    def _at_node_of(self, pod: TopologyState) -> Placed:
        """Return where a pod is: on the node of that name.

        Where another node had the name when the pod got its address, what the two agree on: the pod's object may
        outlive its node for minutes, and the one that came under the name may be in another zone. Or it is the same
        machine, registered again; so one that had no zone says nothing against it.
        """
        at, got_by = self.at(pod.node), acquired(pod).by_ms
        if not at.states or at.states[0].from_ms <= got_by:
            return at
        uids = {state.uid for state in at.states}
        then = self.index.owners(("name", pod.node or ""), got_by, got_by + 1)
        before = [state for state in then if state.uid not in uids and (state.zone or state.zone_id)]
        if not before:
            return at
        return Placed((*before, *at.states), common_place([*map(_place, before), at.place]))

    def _node(self, address: str, nodes: list[TopologyState]) -> Resolved | None:
        names = {node.name for node in nodes}
        if not names:
            return None
        if len(names) > 1:
            return self.ambiguous(address, {*names})
        name = names.pop()
        return self._answer("node", address, node=self._named(name), at=self.at(name), in_cluster=True)

    def _named(self, node: str | None) -> str | None:
        return f"{self.name}/{node or ''}" if self.name else node


def _place(node: TopologyState) -> Location:
    return Location(node.zone or None, node.region or None, node.zone_id or None)


def common_place(places: Sequence[Location]) -> Location:
    """Return what all places agree on; nowhere if there is none."""
    if len(places) < 2:
        return places[0] if places else NOWHERE
    first = places[0]
    return Location(
        first.zone if all(place.zone == first.zone for place in places) else None,
        first.region if all(place.region == first.region for place in places) else None,
        first.zone_id if all(place.zone_id == first.zone_id for place in places) else None,
    )
