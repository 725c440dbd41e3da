# SPDX-License-Identifier: Apache-2.0
"""Names the end point behind an address as of a window, or says why it cannot. Pure.

In order: pod; node; service; the node whose podCIDR holds it (zone known, pod not); the user's CIDR map, except its
entries with `ours`; the node whose collector says that it is reached by it; entries with `ours`; globally routable and
not in an IPv6 site of the cluster; an API server, by the end points of the Service default/kubernetes; else unknown.
Each answer is kept with its JSON, ready but for the port.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from enricher.index.addresses import pack, parse_prefix
from enricher.index.answer_cache import KeptAnswer, Memo
from enricher.index.cidrs import Cidr, CidrMap, is_public, link_reason
from enricher.index.endpoints import INTERNET, NOWHERE, Location, Resolved, Watcher, endpoint_json, observer_json
from enricher.index.ownership import Index, Slot
from enricher.index.tenancy import FOREVER
from schemas.flow import Kind
from schemas.topology import TopologyState

# Answers kept, about 1 kB each; when there are more, all are dropped and built again.
MAX_CACHED = 65_536


class _Node(NamedTuple):
    """A node's states within a window and the place that all of them agree on."""

    states: tuple[TopologyState, ...]
    place: Location


_NO_NODE = _Node((), NOWHERE)


class _Stretch(NamedTuple):
    """A stretch of time, [from_ms, to_ms)."""

    from_ms: int
    to_ms: int

    def within(self, from_ms: int, to_ms: int) -> "_Stretch":
        """Return what of it is within another."""
        return _Stretch(max(self.from_ms, from_ms), min(self.to_ms, to_ms))


_ALWAYS = _Stretch(0, FOREVER)
_NEVER = _Stretch(FOREVER, 0)


class Resolver:
    """Resolves addresses against the index and the CIDR map, and remembers the answers while they hold."""

    def __init__(self, index: Index, cidrs: CidrMap) -> None:
        self.index = index
        self.cidrs = cidrs
        self.memo = Memo(index)
        self._cache: dict[tuple[object, ...], Resolved] = {}

    def window(self, start_ms: int, end_ms: int) -> "WindowResolver":
        """Return the view of everything as of [start_ms, end_ms). It must not outlive a change of the index."""
        return WindowResolver(self, start_ms, end_ms)

    def answer(
        self,
        kind: Kind,
        address: str,
        *,
        reason: str | None = None,
        owner: TopologyState | Cidr | None = None,
        node: str | None = None,
        at: _Node = _NO_NODE,
        in_cluster: bool = False,
    ) -> Resolved:
        """Return the end point with its JSON, the same object for the same facts."""
        # The states are known by identity: comparing them would cost more than all the rest. The answer keeps them
        # alive, so that no other object can take their identity.
        key = (kind, reason or "", node or "", address, id(owner), *map(id, at.states))
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            if reason is None and kind != "external" and at.place.zone is None and at.place.zone_id is None:
                reason = "zone_missing"
            head, tail = endpoint_json(kind, address, reason, at.place, owner, node)
            found = Resolved(kind, reason, at.place, node, in_cluster, head, tail, (owner, at.states))
            self._cache[key] = found
        return found


class WindowResolver:
    """Everything as of one window."""

    def __init__(self, resolver: Resolver, start_ms: int, end_ms: int) -> None:
        self._resolver = resolver
        self._index = resolver.index
        self._memo = resolver.memo
        self._start_ms, self._end_ms = start_ms, end_ms
        # For what stretch of time what was looked up last is the same; empty if it changes within the window.
        self._same = _ALWAYS
        self._nodes: dict[str | None, tuple[_Node, _Stretch]] = {None: (_NO_NODE, _ALWAYS)}

    def resolve(self, address: str) -> Resolved:
        """Return what `address` was."""
        known = self._memo.find(address, self._start_ms, self._end_ms)
        if known is not None:
            return known
        self._same = _ALWAYS
        found = self._resolve(address)
        if self._same.from_ms < self._same.to_ms:
            self._memo.keep(address, KeptAnswer(self._same.from_ms, self._same.to_ms, found))
        return found

    def _resolve(self, address: str) -> Resolved:
        answer = self._resolver.answer
        packed = pack(address)
        if packed is None:
            return self._folded(address) or answer("unknown", address, reason="address_invalid")
        if pods := self._owners(("pod", packed)):
            return self._pod(address, pods)
        if nodes := self._owners(("node", packed)):
            return self._node(address, nodes)
        if services := self._owners(("service", packed)):
            return self._service(address, services)
        if nodes := next(filter(None, map(self._owners, self._index.cidr_slots(packed))), []):
            return self._in_pod_cidr(address, nodes)
        entry = self._resolver.cidrs.find(packed)
        if (entry is None or entry.ours or entry.external) and (nodes := self._owners(("addresses", packed))):
            return self._node(address, nodes)
        if entry is not None and not entry.external:
            return self._rule(address, entry)
        if is_public(packed) and not self._index.shares_site(packed):
            return answer("external", address, owner=entry, at=_Node((), INTERNET))
        if slices := self._owners(("endpointslice", packed)):
            # Not `in_cluster`: no collector need run there.
            return answer("service", address, owner=slices[-1])
        return answer("unknown", address, reason=link_reason(packed) or "vpc_unmapped")

    def _owners(self, slot: Slot) -> list[TopologyState]:
        """Return the owners of a slot within the window, and cut `_same` to the time in which they are these."""
        for edge in self._index.edges(slot):
            if edge <= self._start_ms:
                self._same = self._same.within(edge, FOREVER)
            elif edge >= self._end_ms:
                self._same = self._same.within(0, edge)
            else:
                self._same = _NEVER
        return self._index.owners(slot, self._start_ms, self._end_ms)

    def own(self, address: str, node: str) -> Resolved:
        """Return what an address was that the observing node says is its own; what Kubernetes knows goes first.

        A Service's may be bound to a device of the node (kube-proxy's IPVS, NodeLocal DNS): it answers there.
        """
        found, packed = self.resolve(address), pack(address)
        if packed is None or any(self._owners((kind, packed)) for kind in ("pod", "node")):
            return found
        if found.kind == "service":
            return self._on(found, address, node)
        return self._resolver.answer("node", address, node=node, at=self._at(node), in_cluster=True)

    def sent_here(self, address: str, node: str) -> Resolved:
        """Return what an address was that the observing node sent from, and that is not known to be on it.

        Of a pod or node that Kubernetes knows to be elsewhere nothing is changed: the ledger says `foreign_source`. Of
        what another node's collector says it is: a virtual address that moved.
        """
        found, packed = self.resolve(address), pack(address)
        known = found.kind == "pod" or (found.kind == "node" and packed and self._owners(("node", packed)))
        if known or found.reason in ("multicast", "address_invalid"):
            return found
        if found.kind in ("service", "cidr") or found.reason in ("ambiguous_owner", "address_folded"):
            return self._on(found, address, node)
        return self.late(address, node)

    def _on(self, found: Resolved, address: str, node: str) -> Resolved:
        """Return the same end point on a node that is known."""
        at, owner = self._at(node), found.made_of[0]
        if not (at.place.zone or at.place.zone_id):
            at = _Node(found.made_of[1], found.place)
        reason = None if found.reason == "zone_missing" else found.reason
        return self._resolver.answer(found.kind, address, reason=reason, owner=owner, node=node, at=at, in_cluster=True)

    def late(self, address: str, node: str) -> Resolved:
        """Return a pod that is not known, on a node that is: its zone is certain, its name is not."""
        return self._resolver.answer(
            "unknown", address, reason="late_index", node=node, at=self._at(node), in_cluster=True
        )

    def watcher(self, name: str) -> Watcher:
        """Return the observing node."""
        place = self._at(name).place
        return Watcher(observer_json(name, place), place, name)

    def _rule(self, address: str, entry: Cidr) -> Resolved:
        at = _Node((), Location(entry.zone, entry.region, entry.zone_id))
        return self._resolver.answer("cidr", address, owner=entry, at=at, in_cluster=entry.ours)

    def _folded(self, address: str) -> Resolved | None:
        """Return what the prefix is that stands for folded addresses; None if it is none.

        All of it is one thing to us, or nothing is said: a rule of the map or an object within may be meant or not.
        """
        prefix, cidrs = parse_prefix(address), self._resolver.cidrs
        if prefix is None or prefix.bits != 32:
            return None
        if cidrs.divides(prefix) or self._index.shares_fold(prefix):
            return self._resolver.answer("unknown", address, reason="address_folded")
        entry = cidrs.find_whole(prefix)
        if entry is not None and not entry.external:
            return self._rule(address, entry)
        return self._resolver.answer("external", address, owner=entry, at=_Node((), INTERNET))

    def _pod(self, address: str, pods: list[TopologyState]) -> Resolved:
        pod = pods[-1]
        if len(pods) > 1 and any(other.uid != pod.uid for other in pods):
            return self._ambiguous(address, {other.node for other in pods})
        if any(other.served != pod.served for other in pods):
            # What came or went within the window is not said of all of it.
            always = tuple(each for each in pod.served if all(each in other.served for other in pods))
            pod = msgspec.structs.replace(pod, served=always)
        return self._resolver.answer("pod", address, owner=pod, node=pod.node, at=self._at(pod.node), in_cluster=True)

    def _node(self, address: str, nodes: list[TopologyState]) -> Resolved:
        names = {node.name for node in nodes}
        if len(names) > 1:
            return self._ambiguous(address, set(names))
        name = names.pop()
        return self._resolver.answer("node", address, node=name, at=self._at(name), in_cluster=True)

    def _service(self, address: str, services: list[TopologyState]) -> Resolved:
        if len({service.uid for service in services}) > 1:
            return self._ambiguous(address, {None})
        return self._resolver.answer("service", address, owner=services[-1], in_cluster=True)

    def _in_pod_cidr(self, address: str, nodes: list[TopologyState]) -> Resolved:
        names = {node.name for node in nodes}
        return self._ambiguous(address, set(names)) if len(names) > 1 else self.late(address, names.pop())

    def _ambiguous(self, address: str, names: set[str | None]) -> Resolved:
        # The owners' node and zone stay if all of them share it: that much is certain whichever of them it was.
        nodes = [self._at(name) for name in sorted(names, key=str)]
        at = _Node(tuple(s for node in nodes for s in node.states), _common([node.place for node in nodes]))
        node = next(iter(names)) if len(names) == 1 else None
        return self._resolver.answer("unknown", address, reason="ambiguous_owner", node=node, at=at, in_cluster=True)

    def _at(self, name: str | None) -> _Node:
        known = self._nodes.get(name)
        if known is None:
            before, self._same = self._same, _ALWAYS
            states = self._owners(("name", name or ""))
            places = [Location(s.zone or None, s.region or None, s.zone_id or None) for s in states]
            known = self._nodes[name] = _Node(tuple(states), _common(places)), self._same
            self._same = before
        found, same = known
        self._same = self._same.within(*same)
        return found


def _common(places: Sequence[Location]) -> Location:
    """Return what all places agree on; nowhere if there is none."""
    if len(places) < 2:
        return places[0] if places else NOWHERE
    first = places[0]
    return Location(
        first.zone if all(place.zone == first.zone for place in places) else None,
        first.region if all(place.region == first.region for place in places) else None,
        first.zone_id if all(place.zone_id == first.zone_id for place in places) else None,
    )
