# SPDX-License-Identifier: Apache-2.0
"""Names the end point behind an address as of a window, or says why it cannot. Pure.

In order: pod; node; service; the node whose podCIDR holds it (zone known, pod not); pod, node or podCIDR of another
cluster; the user's CIDR map, except its entries with `ours`; the node whose collector says that it is reached by it;
entries with `ours`; globally routable and not in an IPv6 site of a cluster; an API server, by the end points of the
Service default/kubernetes; else unknown. Each answer is kept with its JSON, ready but for the port.

Between clusters nothing is chosen. An address that a pod or a node has in two of them is `ambiguous_owner`, unless a
podCIDR of the cluster that counts holds it: then its own routes lead there. Of clusters whose podCIDRs overlap, no
route leads into the other's, and an address in there is nobody's for certain. ClusterIPs mean something in their own
cluster only.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

from enricher.index.addresses import pack, parse_prefix
from enricher.index.answer_cache import Kept, Memo
from enricher.index.as_of import ALWAYS, NO_NODE, ClusterWindow, Placed, common_place
from enricher.index.cidrs import Cidr, CidrMap, is_public, link_reason
from enricher.index.endpoints import INTERNET, Location, Resolved, Watcher, endpoint_json, observer_json
from enricher.index.ownership import Index, Slot
from schemas.flow import Kind
from schemas.topology import TopologyState

# Answers kept, about 1 kB each; when there are more, all are dropped and built again.
MAX_CACHED = 65_536


class Resolver:
    """Resolves addresses against the index and the CIDR map, and remembers the answers while they hold.

    `others`: the indexes of other clusters, by their names.
    """

    def __init__(self, index: Index, cidrs: CidrMap, others: Mapping[str, Index] = MappingProxyType({})) -> None:
        self.index = index
        self.cidrs = cidrs
        self.others = others
        self.indexes = (index, *others.values())
        self.memo = Memo(self.indexes)
        self._cache: dict[tuple[object, ...], Resolved] = {}
        self._apart: dict[str, bool] = {}
        for each in self.indexes if others else ():
            each.listen(self._changed)

    def is_apart(self, cluster: str) -> bool:
        """Return whether a cluster's podCIDRs overlap another's, so that no route leads from there into them."""
        if cluster not in self._apart:
            own = self.others[cluster]
            self._apart[cluster] = any(
                own.shares_pod_cidrs(each.pod_cidrs) or each.shares_pod_cidrs(own.pod_cidrs)
                for each in self.indexes
                if each is not own
            )
        return self._apart[cluster]

    def _changed(self, slot: Slot) -> None:
        if slot[0] == "cidr":
            self._apart.clear()

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
        at: Placed = NO_NODE,
        in_cluster: bool = False,
    ) -> Resolved:
        """Return the end point with its JSON, the same object for the same facts."""
        # The states are known by identity: comparing them would cost more than all the rest. The answer keeps them
        # alive, so that no other object can take their identity. The place does not follow from them: a node that is
        # not known has none.
        key = (kind, reason or "", node or "", address, in_cluster, at.place, id(owner), *map(id, at.states))
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            if reason is None and kind != "external" and at.place.zone is None and at.place.zone_id is None:
                reason = "zone_missing"
            head, tail = endpoint_json(kind, address, reason, at.place, owner, node)
            served = owner.served if isinstance(owner, TopologyState) else ()
            found = Resolved(kind, reason, at.place, node, in_cluster, head, tail, (owner, at.states), served)
            self._cache[key] = found
        return found


class WindowResolver:
    """Everything as of one window."""

    def __init__(self, resolver: Resolver, start_ms: int, end_ms: int) -> None:
        self._resolver = resolver
        self._memo = resolver.memo
        self._start_ms, self._end_ms = start_ms, end_ms

    # Not made for a chunk whose answers are all remembered.
    @cached_property
    def _own(self) -> ClusterWindow:
        return ClusterWindow(self._resolver.index, self._resolver.answer, self._start_ms, self._end_ms)

    @cached_property
    def _others(self) -> list[ClusterWindow]:
        window = self._resolver.answer, self._start_ms, self._end_ms
        return [ClusterWindow(index, *window, name) for name, index in self._resolver.others.items()]

    def resolve_all(self, addresses: Sequence[str]) -> list[Resolved]:
        """Return what each of `addresses` was."""
        known = self._memo.find(addresses, self._start_ms, self._end_ms)
        return [found or self._look_up(address) for found, address in zip(known, addresses, strict=True)]

    def resolve(self, address: str) -> Resolved:
        """Return what `address` was."""
        return self.resolve_all((address,))[0]

    def _look_up(self, address: str) -> Resolved:
        for cluster in (self._own, *self._others):
            cluster.same = ALWAYS
        found = self._resolve(address)
        same = self._own.same
        for cluster in self._others:
            same = same.within(*cluster.same)
        if same.from_ms < same.to_ms:
            self._memo.keep(address, Kept(same.from_ms, same.to_ms, found))
        return found

    def _resolve(self, address: str) -> Resolved:
        packed = pack(address)
        if packed is None:
            return self._folded(address) or self._resolver.answer("unknown", address, reason="address_invalid")
        if found := self._own.holder(address, packed):
            if not self._others or self._own.within_pod_cidr(address, packed):
                return found
            return self._one_of(address, [found, *(other.holder(address, packed) for other in self._others)]) or found
        if services := self._own.owners(("service", packed)):
            return self._service(address, services)
        return (
            self._own.within_pod_cidr(address, packed)
            or self._one_of(address, [self._elsewhere(other, address, packed) for other in self._others])
            or self._beside(address, packed)
        )

    def _elsewhere(self, other: ClusterWindow, address: str, packed: bytes) -> Resolved | None:
        """Return what another cluster says of an address that is not known to be in this one."""
        within = other.within_pod_cidr(address, packed)
        if within is not None and self._resolver.is_apart(other.name):
            return self._resolver.answer("unknown", address, reason="ambiguous_owner", in_cluster=True)
        return other.holder(address, packed) or within

    def _one_of(self, address: str, said: Iterable[Resolved | None]) -> Resolved | None:
        """Return what the one cluster says that knows an address; of several what is the same whichever it was."""
        ends = [end for end in said if end is not None]
        if len(ends) < 2:
            return ends[0] if ends else None
        at = Placed(tuple(s for end in ends for s in end.made_of[1]), common_place([end.place for end in ends]))
        return self._resolver.answer("unknown", address, reason="ambiguous_owner", at=at, in_cluster=True)

    def _beside(self, address: str, packed: bytes) -> Resolved:
        """Return what an address was that Kubernetes does not know as a pod's, a node's or a Service's."""
        answer = self._resolver.answer
        entry = self._resolver.cidrs.find(packed)
        if (entry is None or entry.ours or entry.external) and (
            found := self._own.reached_by(address, packed)
            or self._one_of(address, [other.reached_by(address, packed) for other in self._others])
        ):
            return found
        if entry is not None and not entry.external:
            return self._rule(address, entry)
        if is_public(packed) and not any(index.shares_site(packed) for index in self._resolver.indexes):
            return answer("external", address, owner=entry, at=Placed((), INTERNET))
        if slices := self._own.owners(("endpointslice", packed)):
            # Not `in_cluster`: no collector need run there.
            return answer("service", address, reason="api_server", owner=slices[-1])
        return answer("unknown", address, reason=link_reason(packed) or "vpc_unmapped")

    def own(self, found: Resolved, address: str, node: str) -> Resolved:
        """Return what an address was that the observing node says is its own; what Kubernetes knows goes first.

        `found`: what it was otherwise. A Service's may be bound to a device of the node (kube-proxy's IPVS,
        NodeLocal DNS): it answers there.
        """
        packed = pack(address)
        if packed is None or any(self._own.owners((kind, packed)) for kind in ("pod", "node")):
            return found
        if found.kind == "service":
            return self._on(found, address, node)
        return self._resolver.answer("node", address, node=node, at=self._own.at(node), in_cluster=True)

    def sent_here(self, found: Resolved, address: str, node: str) -> Resolved:
        """Return what an address was that the observing node sent from, and that is not known to be on it.

        Of a pod or node that Kubernetes knows to be elsewhere nothing is changed: the ledger says `foreign_source`. Not
        so of what another node's collector says it is, a virtual address that moved; nor of another cluster's: the
        address came from there, and its pod here is not known yet.
        """
        packed = pack(address)
        known = found.kind == "pod" or (found.kind == "node" and packed and self._own.owners(("node", packed)))
        if (known and not found.is_elsewhere) or found.reason in ("multicast", "address_invalid"):
            return found
        if self._others and packed and (own := self._own.holder(address, packed)) and own.node == node:
            return own
        if found.kind in ("service", "cidr") or found.reason in ("ambiguous_owner", "address_folded"):
            return self._on(found, address, node)
        return self._own.late(address, node)

    def _on(self, found: Resolved, address: str, node: str) -> Resolved:
        """Return the same end point on a node that is known."""
        at, owner = self._own.at(node), found.made_of[0]
        if not (at.place.zone or at.place.zone_id):
            at = Placed(found.made_of[1], found.place)
        reason = None if found.reason in ("zone_missing", "api_server") else found.reason
        return self._resolver.answer(found.kind, address, reason=reason, owner=owner, node=node, at=at, in_cluster=True)

    def watcher(self, name: str) -> Watcher:
        """Return the observing node."""
        known = self._memo.watcher(name, self._start_ms, self._end_ms)
        if known is not None:
            return known
        self._own.same = ALWAYS
        place = self._own.at(name).place
        found, same = Watcher(observer_json(name, place), place, name), self._own.same
        if same.from_ms < same.to_ms:
            self._memo.keep_watcher(name, Kept(same.from_ms, same.to_ms, found))
        return found

    def _rule(self, address: str, entry: Cidr) -> Resolved:
        at = Placed((), Location(entry.zone, entry.region, entry.zone_id))
        return self._resolver.answer("cidr", address, owner=entry, at=at, in_cluster=entry.ours)

    def _folded(self, address: str) -> Resolved | None:
        """Return what the prefix is that stands for folded addresses; None if it is none.

        All of it is one thing to us, or nothing is said: a rule of the map or an object within may be meant or not.
        """
        prefix, cidrs = parse_prefix(address), self._resolver.cidrs
        if prefix is None or prefix.bits != 32:
            return None
        if cidrs.divides(prefix) or any(index.shares_fold(prefix) for index in self._resolver.indexes):
            return self._resolver.answer("unknown", address, reason="address_folded")
        entry = cidrs.find_whole(prefix)
        if entry is not None and not entry.external:
            return self._rule(address, entry)
        return self._resolver.answer("external", address, owner=entry, at=Placed((), INTERNET))

    def _service(self, address: str, services: list[TopologyState]) -> Resolved:
        if len({service.uid for service in services}) > 1:
            return self._own.ambiguous(address, {None})
        return self._resolver.answer("service", address, owner=services[-1], in_cluster=True)
