# SPDX-License-Identifier: Apache-2.0
"""What one partition gives out: a unit's flows, then its ledger entries and dead letters, until Kafka takes them.

Each flow goes out once in effect. What is out already is read back ahead of the chunks, and again after a publication
that failed; it counts as out only if it fits its chunk, since others may write to the topic. Ledger entries
and dead letters go out again as they are: their keys are the same, so one that did arrive is overwritten by itself.
"""

import logging
from functools import partial

from common.errors import PublishError
from common.kafka.publish import Publisher
from enricher.delivery.deps import Deps
from enricher.delivery.outgoing import recovery
from enricher.delivery.outgoing.recovery import Committed
from enricher.delivery.outgoing.resumed import Resumed
from enricher.delivery.outgoing.unit import ChunkRun, Unit, not_out
from enricher.join.join import Out
from schemas.raw import RawChunk

log = logging.getLogger(__name__)


class Output:
    """One partition's, with a producer of its own: one that Kafka refuses must not end what others have under way."""

    def __init__(self, deps: Deps, publisher: Publisher, partition: int) -> None:
        self._deps = deps
        self._publisher = publisher
        self._partition = partition
        self._place = (deps.settings.topics.enriched, partition)
        self._where = deps.service, deps.settings, partition
        self._pages = partial(recovery.read_pages, *self._where)
        self._resumed = Resumed(self._pages, range(0), range(0))
        self._end = 0

    async def recover(self, found: Committed, raw_first: int) -> int:
        """Begin to read back what is out of raw from that offset on; return of how many chunks something is so far."""
        raw, unread = await recovery.not_committed(*self._where, found, raw_first)
        self._resumed = Resumed(self._pages, unread, raw)
        self._end = unread.stop
        await self._resumed.read_on(raw_first)
        return len(self._resumed)

    async def resumed(self, chunk: RawChunk, raw_offset: int) -> Out | None:
        """Return what of a chunk was out when this partition was taken over, once; None if nothing was."""
        return self._if_it_fits(chunk, await self._resumed.take(chunk, raw_offset))

    def position(self, raw_offset: int) -> str:
        """How far it came, as it is committed with the raw offset."""
        start = self._resumed.committed(raw_offset)
        return recovery.commit_metadata(self._end if start is None else start)

    async def publish(self, unit: Unit) -> None:
        """Publish a unit, the books last: they say what is out. Again and again until Kafka takes it."""
        await self._publish_flows(unit.runs)
        self._deps.metrics.given_out(unit.chunks, self._deps.cluster.clock())
        while True:
            try:
                await self._publisher.publish(unit.books)
                return
            except PublishError as error:
                log.warning("ledger of partition %s: %s; publishing it again", self._partition, error)

    async def close(self) -> None:
        """Close the producer; whatever was not acknowledged is not committed either."""
        await self._publisher.close()

    async def _publish_flows(self, all_runs: list[ChunkRun]) -> None:
        """Publish runs; after a failure what did not arrive, and all of a chunk that others wrote in the name of."""
        runs = all_runs
        while runs:
            try:
                ends = await self._publisher.publish([part.run for part in runs])
                self._end = ends.get(self._place, self._end)
                return
            except PublishError as error:
                log.warning("flows of partition %s: %s; reading back what arrived", self._partition, error)
            arrived = await recovery.read_tail(*self._where, self._end)
            fitting = (
                (part.chunk.id, self._if_it_fits(part.chunk, arrived.chunks.pop(part.chunk.id, None)))
                for part in all_runs
            )
            runs = not_out(all_runs, {chunk_id: out for chunk_id, out in fitting if out is not None})
            if not runs:
                self._end = arrived.end

    def _if_it_fits(self, chunk: RawChunk, out: Out | None) -> Out | None:
        if out is None or out.fits(chunk):
            return out
        self._deps.metrics.foreign_output.inc()
        log.error(
            "%s: flows of it are out that do not fit it, and no enricher wrote them: all of it is written", chunk.id
        )
        return None
