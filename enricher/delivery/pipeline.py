# SPDX-License-Identifier: Apache-2.0
"""The consumer group: which raw partitions are ours, one worker for each, and what happens when that changes.

Every rebalance revokes everything (aiokafka has no cooperative assignor). A revoked worker finishes the unit under
way and commits it, within a deadline; what it could not finish the next owner reads back and completes. A worker that
fails begins again by itself while the others go on; only if all of them fail does the session end and start again.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from common.errors import Refusal, Stopped, leaves
from common.kafka import clients
from common.kafka.partitions import LOOK_SECONDS
from common.service.backoff import Backoff
from common.task_group import TaskGroup
from enricher.delivery.deps import Deps
from enricher.delivery.membership import client_id, refuse_others
from enricher.delivery.worker import Worker

log = logging.getLogger(__name__)

_REBALANCE_MS = 60_000
# Less than the rebalance's own time, so that the group does not throw us out while we finish.
_FINISH_SECONDS, _CANCEL_SECONDS, _LEAVE_SECONDS = 15.0, 2.0, 5.0
_RETRY_SECONDS = 2.0
_WATCH_SECONDS = 1.0
# A worker that fails begins again the later, the oftener it failed within so long of having begun.
_SOUND_SECONDS = 60.0
_NOBODYS = TopicPartition("", 0)


class Shares(NamedTuple):
    """What takes how many seconds at most, where a silent Kafka makes it take all of them.

    `leave`: the group; it takes as much again to be cancelled, up to a second.
    """

    finish: float = _FINISH_SECONDS
    cancel: float = _CANCEL_SECONDS
    leave: float = _LEAVE_SECONDS

    @classmethod
    def of(cls, drain_seconds: float) -> "Shares":
        """Return the shares of the time that there is to end in; some of it is left for the publisher to close."""
        parts = (0.4, 0.1, 0.2)
        return cls(*(min(most, part * drain_seconds) for most, part in zip(cls(), parts, strict=True)))


_SHARES = Shares()


class Pipeline:
    """Reads the raw topic as a member of the group until the service stops."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._workers: dict[TopicPartition, tuple[Worker, asyncio.Task[None]]] = {}

    def owns_first(self) -> bool:
        """Return whether raw partition 0 is ours: then the topology topic is ours to write."""
        return TopicPartition(self._deps.settings.topics.raw, 0) in self._workers

    async def run(self) -> None:
        """Work; after any failure of Kafka start again from what is committed."""
        service = self._deps.service
        while not service.stopping.is_set():
            try:
                await self._session()
            except* Stopped:
                log.info("stopped before Kafka took what was under way: it stays uncommitted")
            except* (KafkaError, OSError, TimeoutError) as failure:
                line = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(failure))
                service.health.waiting("pipeline", f"{line}; starting again from what is committed")
                await service.pause(_RETRY_SECONDS)

    async def _session(self) -> None:
        settings, service = self._deps.settings, self._deps.service
        await refuse_others(service, settings)
        consumer = await clients.start(service, settings, self._new_consumer)
        try:
            async with TaskGroup() as tasks:
                consumer.subscribe([settings.topics.raw], listener=_Listener(self, consumer, tasks))
                service.health.ready("pipeline")
                watching = tasks.create_task(self._watch(consumer), name="watch-partitions")
                while not service.stopping.is_set():
                    # The group's own errors surface only here, and without a partition nobody else would ask.
                    await clients.fetch(consumer, _NOBODYS, seconds=0)
                    await service.pause(_WATCH_SECONDS)
                watching.cancel()
                await self.stop_workers(Shares.of(settings.drain_seconds))
        finally:
            self._workers.clear()
            self._deps.partitions.keep(())
            await clients.close(consumer, Shares.of(settings.drain_seconds).leave)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """Look how far behind each partition is; a worker cannot tell where it reads nothing."""
        settings, service = self._deps.settings, self._deps.service
        deadline, topic = settings.kafka_deadline_seconds, settings.topics.raw
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            positions = {where: worker.position for where, (worker, _) in self._workers.items()}
            silent = await self._deps.partitions.look(consumer, deadline, topic, positions)
            if silent is None:
                service.health.ready("kafka")
            else:
                clients.away(service, settings, silent)

    def _new_consumer(self) -> AIOKafkaConsumer:
        settings = self._deps.settings
        return clients.new_consumer(
            settings,
            client_id=client_id(settings),
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id,
            session_timeout_ms=int(settings.session_seconds * 1000),
            rebalance_timeout_ms=_REBALANCE_MS,
            heartbeat_interval_ms=int(settings.session_seconds * 300),
        )

    def start_workers(self, consumer: AIOKafkaConsumer, tasks: TaskGroup, assigned: Iterable[TopicPartition]) -> None:
        """Begin to work on the partitions that are ours now."""
        ours = sorted(assigned)
        self._deps.partitions.keep(ours)
        for where in ours:
            worker = Worker(self._deps, consumer, where.partition)
            task = tasks.create_task(self._live(worker, where), name=f"partition-{where.partition}")
            self._workers[where] = (worker, task)

    async def stop_workers(self, shares: Shares = _SHARES) -> None:
        """Let all workers finish what is under way; cancel those that take longer."""
        tasks = []
        for where, (worker, task) in self._workers.items():
            worker.stopping = True
            tasks.append(task)
            # One that fails would not finish, and the group waits for it.
            if worker.idle or self._deps.partitions.is_failing(where):
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=shares.finish)
            for task in late:
                task.cancel()
            if late:
                log.warning("%s partitions given up with a unit under way", len(late))
                await asyncio.wait(late, timeout=shares.cancel)
        self._workers.clear()

    async def _live(self, worker: Worker, where: TopicPartition) -> None:
        """Let a worker work; again and again if it fails and others do not."""
        partitions, backoff = self._deps.partitions, Backoff(sound_seconds=_SOUND_SECONDS)
        while True:
            try:
                await worker.run()
                return
            except (CommitFailedError, IllegalStateError) as error:
                # The group has moved on; the enricher that has the partition now reads back what is out.
                log.warning("partition %s now belongs to another enricher: %s", where.partition, error)
                self._workers.pop(where, None)
                return
            except (Refusal, Stopped):
                raise
            except Exception as error:
                if not isinstance(error, KafkaError | OSError | TimeoutError):
                    log.exception("partition %s: its worker crashed", where.partition)
                partitions.fails(where, f"{type(error).__name__}: {clients.reason(error)}")
                if all(map(partitions.is_failing, self._workers)):
                    raise
            await asyncio.sleep(backoff.next_seconds(time.monotonic()))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Called by aiokafka between two assignments."""

    def __init__(self, pipeline: Pipeline, consumer: AIOKafkaConsumer, tasks: TaskGroup) -> None:
        self._pipeline = pipeline
        self._consumer = consumer
        self._tasks = tasks

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._pipeline.stop_workers()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._pipeline.start_workers(self._consumer, self._tasks, assigned)
