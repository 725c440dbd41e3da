# SPDX-License-Identifier: Apache-2.0
"""The topology topic: history is read before anything is joined, then followed; changes are written to it.

A state that ended longer ago than raw flows are kept is taken off (a tombstone), a namespace's 400 days later; one
that still holds never is.

The enricher that owns raw partition 0 writes. The others follow what it writes and keep only what it did not: if
it dies, its successor writes the rest. What raw chunks say of nodes' addresses, each writes that has read it. Two
writers for a moment do no harm: both write the same under a key. A topic that was recreated is written whole again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from common.errors import PublishError, Refusal, Stopped
from common.in_parts import in_parts
from common.input.files import read_named
from common.kafka import clients
from common.kafka.partitions import LOOK_SECONDS
from common.kafka.publish import Publisher, Record
from common.kafka.reading import Records, held, reader, stretch
from common.service.running import Service
from enricher.kube.cluster import ClusterView
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from schemas.errors import DecodeError
from schemas.topology import (
    MAX_TOPOLOGY_FILE_BYTES,
    TopologyState,
    decode_topology_file,
    encode_topology,
    read_state,
)

log = logging.getLogger(__name__)

_WRITE_SECONDS = 0.25
_FETCH_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_PRUNE_SECONDS = 60.0
_MAX_WRITE = 5000
# Who bears the cost of a month is asked when it is over, and of a year ago, too; labels of namespaces are few.
NAMESPACE_HISTORY_MS = 400 * 86_400_000


def read_states(path: Path) -> list[TopologyState]:
    """Read the `--topology` file; raise `Refusal` naming what is wrong with it."""
    content = read_named("topology", path, "a JSON file of topology states", MAX_TOPOLOGY_FILE_BYTES)
    try:
        states = decode_topology_file(content)
    except DecodeError as error:
        raise Refusal(f"topology = {str(path)!r}: {error}; expected a JSON array of topology states") from error
    if not any(state.kind == "node" for state in states):
        raise Refusal(f"topology = {str(path)!r}: it holds no node, so that no zone could ever be known")
    return states


class TopologyTopic:
    """Reads the topic, and writes what the topic does not know yet."""

    def __init__(
        self, service: Service, settings: EnricherSettings, cluster: ClusterView, metrics: EnricherMetrics
    ) -> None:
        self._service = service
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._where = TopicPartition(settings.topics.topology, 0)
        self._position = 0
        self._tight = settings.index_max_states

    async def read_history(self) -> None:
        """Read the topic to its present end, however long Kafka takes to give it; `Stopped` if told to stop before."""
        self._service.health.waiting("history", f"reading {self._where.topic}")
        while not self._service.stopping.is_set():
            try:
                async with reader(self._service, self._settings, self._where) as consumer:
                    await self._service.unless_stopped(self._catch_up(consumer))
            except (KafkaError, OSError, TimeoutError) as error:
                self._service.health.waiting("history", f"{self._where.topic}: {clients.reason(error)}")
                await self._service.pause(_RETRY_SECONDS)
            else:
                self._service.health.ready("history")
                return

    async def follow(self) -> None:
        """Take in what is written from now on, until told to stop while Kafka is away."""
        while True:
            try:
                async with reader(self._service, self._settings, self._where) as consumer:
                    await self._catch_up(consumer)
                    consumer.seek(self._where, self._position)
                    await self._follow(consumer)
            except Stopped:
                return
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("%s: %s; retrying", self._where.topic, clients.reason(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        looked = time.monotonic()
        while True:
            batches = await clients.fetch(consumer, self._where, seconds=_FETCH_SECONDS)
            if records := batches.get(self._where, ()):
                self._notice(records[0].offset)
                self._take(records)
            if time.monotonic() - looked > LOOK_SECONDS:
                # One that is empty gives no record that would tell.
                there = (await held(consumer, [self._where], self._settings.kafka_deadline_seconds))[self._where]
                if self._notice(there.stop):
                    consumer.seek(self._where, there.start)
                looked = time.monotonic()

    async def write(self, publisher: Publisher, is_writer: Callable[[], bool]) -> None:
        """Write what changed while `is_writer` says so, and forget what is too old to matter.

        Returns when told to stop while Kafka is away: the next writer sees in the topic what is missing.
        """
        with contextlib.suppress(Stopped):
            await self._write_on(publisher, is_writer)

    async def _write_on(self, publisher: Publisher, is_writer: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        begun, pruned = loop.time(), 0.0
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            # The first time as soon as it is clear who writes: what the history held may be old.
            if loop.time() - (pruned or begun) > _PRUNE_SECONDS or (not pruned and is_writer()):
                ended = await self._prune()
                if ended and is_writer():
                    await self._bury(publisher, ended)
                pruned = loop.time()
            states = [*self._cluster.told.values(), *(self._cluster.pending.values() if is_writer() else ())]
            if states:
                await self._write_some(publisher, states[:_MAX_WRITE])

    async def _write_some(self, publisher: Publisher, states: list[TopologyState]) -> None:
        now = self._cluster.clock()
        records = [Record(self._where.topic, 0, state.key, encode_topology(state), now) for state in states]
        try:
            await publisher.publish(records)
        except PublishError as error:
            log.warning("%s: %s; writing it again", self._where.topic, error)
            return
        for state in states:
            self._cluster.confirm(state)
        self._metrics.topology_writes.inc(len(states))

    async def _prune(self) -> list[TopologyState]:
        """Forget what is too old to matter, and return it; then what exceeds the room."""
        before_ms = self._cluster.clock() - int(self._settings.history_hours * 3_600_000)
        ended = await in_parts(self._cluster.index.pruning(before_ms, {"namespace": before_ms - NAMESPACE_HISTORY_MS}))
        self._keep_small()
        return ended

    def _keep_small(self) -> None:
        most = self._settings.index_max_states
        if self._cluster.index.states <= self._tight:
            return
        # A tenth below, so that it is not looked through again with every change; so too if that much still holds.
        evicted = self._cluster.index.shrink(most - most // 10)
        self._tight = max(most, self._cluster.index.states + most // 10)
        self._metrics.index_evicted.inc(evicted)
        log.warning(
            "index: %s states forgotten early, %s are left: index_max_states is %s",
            *(evicted, self._cluster.index.states, most),
        )

    async def _bury(self, publisher: Publisher, ended: list[TopologyState]) -> None:
        """Take states off the topic. What fails stays there until a later start reads it and prunes it again."""
        now = self._cluster.clock()
        records = [Record(self._where.topic, 0, state.key, None, now) for state in ended]
        for first in range(0, len(records), _MAX_WRITE):
            part = records[first : first + _MAX_WRITE]
            try:
                await publisher.publish(part)
            except PublishError as error:
                log.warning("%s: %s; %s tombstones not written", self._where.topic, error, len(records) - first)
                return
            self._metrics.topology_tombstones.inc(len(part))

    async def _catch_up(self, consumer: AIOKafkaConsumer) -> None:
        deadline = self._settings.kafka_deadline_seconds
        there = (await held(consumer, [self._where], deadline))[self._where]
        self._notice(there.stop)
        start = max(there.start, self._position)
        async for records in stretch(consumer, {self._where: range(start, there.stop)}, deadline):
            self._take(records)
        self._position = there.stop

    def _notice(self, offset: int) -> bool:
        """Return whether the topic was recreated, as an offset before where reading stood tells: then it lacks all.

        What is read of it from its beginning on need not be written.
        """
        if offset >= self._position:
            return False
        log.warning("%s goes on at %s, after %s: it is written again", self._where.topic, offset, self._position)
        self._cluster.write_again()
        self._position = 0
        return True

    def _take(self, records: Records) -> None:
        states = []
        for record in records:
            self._position = record.offset + 1
            if record.value is None:
                continue  # tombstoned: older than all that is still to be joined
            try:
                states.append(read_state(record.value, record.key))
            except DecodeError as error:
                self._metrics.topology_refused.labels(error.reason).inc()
                log.warning("%s@%s: %s", self._where.topic, record.offset, error)
        self._cluster.load(states)
        self._keep_small()
        for state in states:
            self._cluster.confirm(state)
