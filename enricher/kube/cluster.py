# SPDX-License-Identifier: Apache-2.0
"""The cluster as this process knows it: the index, what the API showed, and who waits for news of it.

Changes go into the index at once and into `pending`, which the topology topic's writer empties, or into `told`: what
raw chunks say, which nobody else may have read, the enricher that read them writes.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable

from common.clock import now_ms
from enricher.index.ownership import Index
from enricher.index.reachable import gone, heard
from enricher.kube.observed import Observed
from enricher.kube.states import endpoint_slices, namespaces, nodes, pods, services
from enricher.kube.states.objects import EndpointSlice, Namespace, Node, Object, Pod
from schemas.raw import RawChunk
from schemas.topology import TopologyState

Clock = Callable[[], int]


class ClusterView:
    """A sink of what the API shows. `live`: there is an API, so that what is not known yet may become known.

    `tell_left_out` is told what of an object is left out, each time that the API shows it, and `tell_unheard` what of
    a node's own addresses, each time that a chunk says it. `namespace_labels`: which labels of namespaces are kept.
    `watches_slices`: whether all EndpointSlices are shown, not the API servers' alone.
    """

    def __init__(
        self,
        index: Index,
        *,
        live: bool,
        clock: Clock = now_ms,
        tell_left_out: Callable[[str], None] = lambda _: None,
        tell_unheard: Callable[[str], None] = lambda _: None,
        namespace_labels: Collection[str] = (),
        watches_slices: bool = False,
    ) -> None:
        self.index = index
        self.live = live
        self.clock = clock
        self.pending: dict[bytes, TopologyState] = {}
        self.told: dict[bytes, TopologyState] = {}
        self._tell_left_out = tell_left_out
        self._tell_unheard = tell_unheard
        self._namespace_labels = namespace_labels
        self._watches_slices = watches_slices
        self._observed = Observed(index.states_of, tell_left_out, namespace_labels)
        self._news = asyncio.Event()

    def load(self, states: Iterable[TopologyState]) -> None:
        """Take states from a file or the topic into the index."""
        changed = [self.index.apply(state) for state in states]
        if any(changed):
            self._tell()

    def begin(self) -> None:
        """Compare what the API will show with the history loaded so far."""
        self._observed.seed(self.index.current())
        if not self._namespace_labels:
            # Nobody looks any more: what was known holds no longer.
            self.retain("namespace", set(), "")
        if not self._watches_slices:
            # But for the API servers', which is watched in any case.
            slices = (state for state in self.index.current() if state.kind == "endpointslice")
            self.retain("endpointslice", {state.uid for state in slices if state.addresses}, "")

    def take(self, found: Object, version: str) -> None:
        """Take in an object as it is now."""
        for what in self._left_out(found):
            self._tell_left_out(what)
        self._change(self._observed.take(found, version, self.clock()))

    def drop(self, found: Object) -> None:
        """Take in that an object was deleted."""
        self._change(self._observed.drop(found, self.clock()))

    def retain(self, kind: str, uids: set[str], version: str) -> None:
        """Take in that of a kind only these exist."""
        self._change(self._observed.retain(kind, uids, version, self.clock()))

    def hear(self, chunk: RawChunk) -> None:
        """Take in by which addresses a node says that it is reached."""
        self._tell_of(heard(self.index, chunk, self.clock(), self._tell_unheard))

    def confirm(self, state: TopologyState) -> None:
        """Note that the topic holds a state: what it says as well need not be written."""
        for unwritten in (self.pending, self.told):
            waiting = unwritten.get(state.key)
            if waiting is not None and (waiting.to_ms is None or state.to_ms is not None):
                del unwritten[state.key]

    def write_again(self) -> None:
        """Note that the topic holds nothing of what is known: the writer of it writes all that is not confirmed."""
        # What was not written yet stays, though the index may have forgotten it for want of room.
        self.pending |= {state.key: state for states in self.index.objects() for state in states}

    async def news(self, seconds: float) -> None:
        """Return when something changed, at the latest after so long."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return

    def _change(self, states: list[TopologyState]) -> None:
        for state in states:
            self.index.apply(state)
            self.pending[state.key] = state
        if states:
            self._tell_of(gone(self.index, states))
            self._tell()

    def _tell_of(self, states: list[TopologyState]) -> None:
        for state in states:
            self.index.apply(state)
            if self.live:
                self.told[state.key] = state
        if states:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _left_out(self, found: Object) -> list[str]:
        if isinstance(found, Pod):
            return pods.left_out(found)
        if isinstance(found, Namespace):
            return namespaces.left_out(found, self._namespace_labels)
        if isinstance(found, EndpointSlice):
            return endpoint_slices.left_out(found)
        return nodes.left_out(found) if isinstance(found, Node) else services.left_out(found)
