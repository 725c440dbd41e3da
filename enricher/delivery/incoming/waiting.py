# SPDX-License-Identifier: Apache-2.0
"""When a chunk waits for the index: for a sender on its own node that is not known yet.

A pod's first packets can be faster than the news of it. The chunk waits, never the flow, a moment after its
window's end and once per address, unless that was a pod's since; what lags behind anyway never waits.
"""

from common.in_parts import in_parts
from enricher.index.addresses import pack
from enricher.index.resolve import Resolver
from enricher.index.tenancy import FOREVER
from enricher.join.join import ResolvedChunk, late_sources, resolving
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics
from schemas.raw import RawChunk

# Addresses waited for in vain are remembered: a node's bridges and second network cards never become pods.
_MAX_REMEMBERED = 100_000


class LateSenders:
    """Resolves chunks, and waits where that helps."""

    def __init__(self, cluster: ClusterView, resolver: Resolver, metrics: EnricherMetrics, late_seconds: float) -> None:
        self._cluster = cluster
        self._resolver = resolver
        self._metrics = metrics
        self._late_ms = int(late_seconds * 1000)
        self._in_vain: dict[str, int] = {}

    async def resolve(self, chunk: RawChunk) -> ResolvedChunk:
        """Resolve a chunk's addresses with what is known now; of many in parts, as heartbeats run in this loop too."""
        return await in_parts(resolving(chunk, self._resolver))

    def worth_waiting_for(self, chunk: RawChunk, ends: ResolvedChunk) -> set[str]:
        """Return the senders that may yet become known; empty if it is too late or nobody would tell."""
        if not self._cluster.live or self._remaining_ms(chunk) <= 0:
            return set()
        return {address for address in late_sources(chunk, ends) if not self._known_vain(address)}

    async def wait(self, chunk: RawChunk, late: set[str]) -> ResolvedChunk:
        """Wait until all of them are known, or until it is too late; return the chunk resolved."""
        ends = await self.resolve(chunk)
        while late and (remaining := self._remaining_ms(chunk)) > 0:
            await self._cluster.news(remaining / 1000)
            ends = await self.resolve(chunk)
            late &= late_sources(chunk, ends)
        self._metrics.waits.labels("late" if late else "known").inc()
        now = self._cluster.clock()
        for address in late:
            self._in_vain[address] = now
        while len(self._in_vain) > _MAX_REMEMBERED:
            del self._in_vain[next(iter(self._in_vain))]
        return ends

    def _known_vain(self, address: str) -> bool:
        """Return whether it was waited for in vain, and has not been a pod's since."""
        since = self._in_vain.get(address)
        if since is None:
            return False
        packed = pack(address)
        owners = self._cluster.index.owners(("pod", packed), since, FOREVER) if packed else []
        if owners:
            del self._in_vain[address]
            return False
        return True

    def _remaining_ms(self, chunk: RawChunk) -> int:
        return chunk.end_ms + self._late_ms - self._cluster.clock()
