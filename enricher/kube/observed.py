# SPDX-License-Identifier: Apache-2.0
"""Turns what the Kubernetes API shows, object after object, into changes of the topology. Pure.

A change closes one state (`to_ms`) and opens another; what says nothing new says nothing. Seeded with the states
that the topology topic holds, a list after a restart yields only what happened meanwhile.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from enricher.index.tenancy import acquired
from enricher.kube.states.endpoint_slices import slice_state
from enricher.kube.states.fields import changed_ms, is_older, versions_like
from enricher.kube.states.namespaces import namespace_state
from enricher.kube.states.nodes import node_state
from enricher.kube.states.objects import EndpointSlice, Namespace, Node, Object, Pod, Service
from enricher.kube.states.pods import pod_state
from enricher.kube.states.served import NamedPorts, Offer, named_ports, offer_of, served
from enricher.kube.states.services import service_state
from schemas.topology import MAX_LISTED, Routing, TopologyState

# A pod whose object goes while its containers run (a forced delete, one that nobody watched) runs on until its
# kubelet hears of it.
LINGER_MS = 10_000

# Fields of a state that labels, annotations and references say, alone and in lists; a pod's labels say its services.
_TAKEN_OFF = ("zone", "region", "zone_id", "instance_type", "provider_id", "selector")
_TAKEN_OUT = ("addresses", "pod_cidrs", "services", "served")

Labels = frozenset[tuple[str, str]]


class Observed:
    """The last state of each object, and which services select which pods."""

    def __init__(
        self,
        recall: Callable[[str], Sequence[TopologyState]] = lambda _: (),
        tell_left_out: Callable[[str], None] = lambda _: None,
        namespace_labels: Collection[str] = (),
    ) -> None:
        """`recall` returns the states on record of an object, oldest first: etcd may bring back one that is gone.

        `tell_left_out` is told each time that a pod is selected by more services, or at more ports, than its
        state holds. `namespace_labels`: which of a namespace's labels its state holds.
        """
        self._recall = recall
        self._tell_left_out = tell_left_out
        self._namespace_labels = namespace_labels
        self._last: dict[str, TopologyState] = {}
        self._labels: dict[str, Labels] = {}
        # Of the pods whose containers name any.
        self._named_ports: dict[str, NamedPorts] = {}
        # The pods whose labels are known, by namespace: after a restart none, however many the history holds.
        self._pods: defaultdict[str, dict[str, None]] = defaultdict(dict)
        # Pods of one template carry equal labels: one set for all of them.
        self._label_sets: dict[Labels, Labels] = {}
        # By namespace and uid: a service deleted and made again while nobody looked has its old name.
        self._selectors: defaultdict[str, dict[str, tuple[Offer, Labels]]] = defaultdict(dict)

    def seed(self, states: Iterable[TopologyState]) -> None:
        """Take what is known from before; the last state of each object."""
        self._last.update((f"{state.kind}/{state.uid}", state) for state in states)

    def take(self, found: Object, list_version: str, now_ms: int) -> list[TopologyState]:
        """Take in an object as it is now; return the states that this closes and opens.

        `list_version` names a state that differs though its object's own resourceVersion is not new: what selects the
        pod changed while nobody looked, or etcd was restored from a backup. It holds from now on.
        """
        if isinstance(found, Service):
            return [
                *self._put(found, service_state(found, now_ms), list_version, now_ms),
                *self._select(found, list_version, now_ms),
            ]
        if isinstance(found, Node):
            return self._put(found, node_state(found, now_ms), list_version, now_ms)
        if isinstance(found, Namespace):
            return self._put(found, namespace_state(found, self._namespace_labels, now_ms), list_version, now_ms)
        if isinstance(found, EndpointSlice):
            return self._put(found, slice_state(found, now_ms), list_version, now_ms)
        state = pod_state(found, now_ms)
        self._label(found)
        if state is not None:
            state = self._selected(state)
        return self._put(found, state, list_version, now_ms)

    def drop(self, found: Object, now_ms: int) -> list[TopologyState]:
        """Take in that an object was deleted, as it was last; return the states that this closes and opens."""
        ended = pod_state(found, now_ms, deleted=True) if isinstance(found, Pod) else None
        if ended is None or ended.to_ms is None:
            return self._end(_key(found), found.metadata.resource_version, now_ms + _linger_ms(_key(found)))
        return self._end(_key(found), found.metadata.resource_version, ended.to_ms, ended.released_from_ms)

    def retain(self, kind: str, uids: set[str], list_version: str, now_ms: int) -> list[TopologyState]:
        """Take in that of a kind only these objects exist: others went while nobody looked."""
        gone = [key for key, state in self._last.items() if state.kind == kind and state.uid not in uids]
        return [change for key in gone for change in self._end(key, list_version, now_ms + _linger_ms(key))]

    def _put(self, found: Object, state: TopologyState | None, list_version: str, now_ms: int) -> list[TopologyState]:
        key = _key(found)
        last = self._last.get(key) or next(reversed(self._recall(key)), None)
        if last is not None:
            self._last[key] = last
        else:
            if state is not None:
                self._last[key] = state
            return [] if state is None else [state]
        if state is None:
            return self._close(key, min(changed_ms(found, now_ms) + 1000, now_ms))
        if state.to_ms is not None:
            return self._close(key, state.to_ms, state.released_from_ms)
        if last.to_ms is None and _same(last, state):
            return []
        own = state.resource_version
        back = list_version != own and is_older(own, last.resource_version)
        moved = own != last.resource_version and not back
        at = changed_ms(found, now_ms) if moved and not _lost(last, state) else now_ms
        version = own if moved else list_version
        return self._follow(key, msgspec.structs.replace(state, resource_version=version), at)

    def _follow(self, key: str, state: TopologyState, at_ms: int) -> list[TopologyState]:
        """Let `state` follow on the object's last one from `at_ms` on."""
        before = self._last[key]
        at_ms = max(at_ms, before.from_ms + 1)
        closed = self._close(key, at_ms)
        from_ms = max(at_ms, self._last[key].to_ms or 0)
        kept = set(before.addresses) == set(state.addresses) and before.host_network == state.host_network
        # Addresses it kept were acquired before. New ones it had when it said so, or a fraction of a second later.
        begin, by = acquired(before) if kept else (from_ms, from_ms + 1000)
        opened = msgspec.structs.replace(
            state,
            resource_version=self._free(key, state.resource_version, before),
            from_ms=from_ms,
            acquired_from_ms=None if begin == from_ms else begin,
            acquired_by_ms=None if by == from_ms else by,
        )
        self._last[key] = opened
        return [*closed, opened]

    def _free(self, key: str, version: str, before: TopologyState) -> str:
        """Return `version`, or a name like it if that already names this object's last state or an older one.

        One list can change a pod's state more than once, and after etcd is restored it gives versions out again.
        """
        taken = {state.resource_version for state in self._recall(key) if state.from_ms <= before.from_ms}
        taken.add(before.resource_version)
        return next(name for name in versions_like(version) if name not in taken)

    def _close(self, key: str, at_ms: int, released_ms: int | None = None) -> list[TopologyState]:
        last = self._last[key]
        if last.to_ms is not None:
            return []
        closed = msgspec.structs.replace(last, to_ms=max(at_ms, last.from_ms), released_from_ms=released_ms)
        self._last[key] = closed
        return [closed]

    def _end(self, key: str, version: str, at_ms: int, released_ms: int | None = None) -> list[TopologyState]:
        if key not in self._last:
            return []
        closed = self._close(key, at_ms, released_ms)
        state = self._last.pop(key)
        self._labels.pop(state.uid, None)
        self._named_ports.pop(state.uid, None)
        self._pods[state.namespace or ""].pop(key, None)
        if state.kind != "service" or self._selectors[state.namespace or ""].pop(state.uid, None) is None:
            return closed
        return closed + self._select_anew(state.namespace, version, at_ms)

    def _label(self, pod: Pod) -> None:
        if len(self._label_sets) > 2 * len(self._labels) + 1024:
            self._label_sets = {labels: labels for labels in self._labels.values()}
        self._pods[pod.metadata.namespace or ""][_key(pod)] = None
        labels = frozenset((pod.metadata.labels or {}).items())
        self._labels[pod.metadata.uid] = self._label_sets.setdefault(labels, labels)
        if named := named_ports(pod):
            self._named_ports[pod.metadata.uid] = named

    def _selected(self, pod: TopologyState) -> TopologyState:
        """Return a pod's state with the services that select it now."""
        labels = self._labels.get(pod.uid, frozenset())
        offers = [offer for offer, wanted in self._selectors[pod.namespace or ""].values() if wanted <= labels]
        names = {offer.service for offer in offers}
        ports = served(offers, self._named_ports.get(pod.uid, {})) if offers else ()
        if len(names) > MAX_LISTED or len(ports) > MAX_LISTED:
            self._tell_left_out("services")
        services = tuple(heapq.nsmallest(MAX_LISTED, names))
        # Of some of them it would seem that no other Service is behind a port.
        ports = ports if len(ports) <= MAX_LISTED else ()
        if (services, ports) == (pod.services, pod.served):
            return pod
        return msgspec.structs.replace(pod, services=services, served=ports)

    def _select(self, service: Service, list_version: str, now_ms: int) -> list[TopologyState]:
        """Take in a service's selector and ports; return the pods' states that they change."""
        meta = service.metadata
        # A service without a selector selects nothing, not everything (core/v1, ServiceSpec.selector).
        labels = frozenset((service.spec.selector or {}).items())
        wanted = (offer_of(service), labels) if labels else None
        own = self._selectors[meta.namespace or ""]
        if own.get(meta.uid) == wanted:
            return []
        own.pop(meta.uid, None)
        if wanted is not None:
            own[meta.uid] = wanted
        # As in `_lost`.
        at = now_ms if wanted is None else changed_ms(service, now_ms)
        return self._select_anew(meta.namespace, meta.resource_version, at, list_version)

    def _select_anew(
        self, namespace: str | None, version: str, at_ms: int, list_version: str | None = None
    ) -> list[TopologyState]:
        changes: list[TopologyState] = []
        for key in self._pods[namespace or ""]:
            last = self._last.get(key)
            if last is None or last.to_ms is not None:
                continue
            if (selected := self._selected(last)) is not last:
                # As in `_put`: an older version must not name a state again.
                back = list_version not in (None, version) and is_older(version, last.resource_version)
                name = list_version if back else version
                state = msgspec.structs.replace(selected, resource_version=name)
                changes += self._follow(key, state, at_ms)
        return changes


def _lost(last: TopologyState, state: TopologyState) -> bool:
    """Return whether something is gone that nothing took the place of.

    To take off what another manager set leaves no time in the managed fields (metav1 ManagedFieldsEntry): what they
    say is older, and until we saw it gone it may have been there.
    """
    if state.kind == "endpointslice":
        return False  # one controller writes all of it
    labels = state.labels or {}
    return (
        any(getattr(last, name) is not None and getattr(state, name) is None for name in _TAKEN_OFF)
        or any(set(getattr(state, name)) < set(getattr(last, name)) for name in _TAKEN_OUT)
        or any(value is not None and labels.get(name) is None for name, value in (last.labels or {}).items())
        # A pod that has an owner gets another only after it has none.
        or (last.workload not in (None, state.workload) and last.workload.kind != "Pod")
        or (last.routing is not None and state.routing is not None and _lost_routing(last.routing, state.routing))
    )


def _lost_routing(last: Routing, routing: Routing) -> bool:
    return any(
        before is not None and now is None
        for before, now in zip(msgspec.structs.astuple(last), msgspec.structs.astuple(routing), strict=True)
    )


def _key(found: Object) -> str:
    return f"{type(found).__name__.lower()}/{found.metadata.uid}"


def _linger_ms(key: str) -> int:
    return LINGER_MS if key.startswith("pod/") else 0


def _same(one: TopologyState, other: TopologyState) -> bool:
    times = ("from_ms", "to_ms", "acquired_from_ms", "acquired_by_ms", "released_from_ms")
    return one == msgspec.structs.replace(
        other, resource_version=one.resource_version, **{name: getattr(one, name) for name in times}
    )
