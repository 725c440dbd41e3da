# SPDX-License-Identifier: Apache-2.0
"""The consumer group: which raw partitions are ours, one worker for each, and what happens when that changes.

Every rebalance revokes everything (aiokafka has no cooperative assignor). A revoked worker finishes the unit under
way and commits it, within a deadline; what it could not finish the next owner reads back and completes.
"""

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from common import kafka
from common.errors import Stopped, leaves
from common.task_group import TaskGroup
from enricher.worker import Deps, Worker

log = logging.getLogger(__name__)

_REBALANCE_MS = 60_000
# Less than the rebalance's own time, so that the group does not throw us out while we finish.
_FINISH_SECONDS = 15.0
_CANCEL_SECONDS = 2.0
_RETRY_SECONDS = 2.0
_WATCH_SECONDS = 1.0
_NOBODYS = TopicPartition("", 0)


class Pipeline:
    """Reads the raw topic as a member of the group until the service stops."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._workers: dict[int, tuple[Worker, asyncio.Task[None]]] = {}

    def owns_first(self) -> bool:
        """Return whether raw partition 0 is ours: then the topology topic is ours to write."""
        return 0 in self._workers

    async def run(self) -> None:
        """Work; after any failure of Kafka begin anew from what is committed."""
        service = self._deps.service
        while not service.stopping.is_set():
            try:
                await self._session()
            except* Stopped:
                log.info("stopped before Kafka took what was under way: it stays uncommitted")
            except* (KafkaError, OSError, TimeoutError) as failure:
                line = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(failure))
                service.health.waiting("pipeline", f"{line}; beginning anew from what is committed")
                await service.pause(_RETRY_SECONDS)

    async def _session(self) -> None:
        settings, service = self._deps.settings, self._deps.service
        consumer = await kafka.start(service, settings, self._new_consumer)
        try:
            async with TaskGroup() as tasks:
                consumer.subscribe([settings.topics.raw], listener=_Listener(self, consumer, tasks))
                service.health.ready("pipeline")
                while not service.stopping.is_set():
                    # The group's own errors surface only here, and without a partition nobody else would ask.
                    await kafka.fetch(consumer, _NOBODYS, seconds=0)
                    await service.pause(_WATCH_SECONDS)
                await self.stop_workers()
        finally:
            self._workers.clear()
            await kafka.close(consumer)

    def _new_consumer(self) -> AIOKafkaConsumer:
        settings = self._deps.settings
        return kafka.new_consumer(
            settings,
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id,
            session_timeout_ms=int(settings.session_seconds * 1000),
            rebalance_timeout_ms=_REBALANCE_MS,
            heartbeat_interval_ms=int(settings.session_seconds * 300),
        )

    def start_worker(self, consumer: AIOKafkaConsumer, tasks: TaskGroup, partition: int) -> None:
        """Begin to work on a partition."""
        worker = Worker(self._deps, consumer, partition)
        task = tasks.create_task(self._live(worker, partition), name=f"partition-{partition}")
        self._workers[partition] = (worker, task)

    async def stop_workers(self) -> None:
        """Let all workers finish what is under way; cancel those that take too long."""
        tasks = []
        for worker, task in self._workers.values():
            worker.stopping = True
            tasks.append(task)
            if worker.idle:
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_FINISH_SECONDS)
            for task in late:
                task.cancel()
            if late:
                log.warning("%s partitions given up with a unit under way", len(late))
                await asyncio.wait(late, timeout=_CANCEL_SECONDS)
        self._workers.clear()

    async def _live(self, worker: Worker, partition: int) -> None:
        try:
            await worker.run()
        except (CommitFailedError, IllegalStateError) as error:
            # The group has moved on; whoever has the partition now reads back what is out.
            log.warning("partition %s is no longer ours: %s", partition, error)
            self._workers.pop(partition, None)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Called by aiokafka between two assignments."""

    def __init__(self, pipeline: Pipeline, consumer: AIOKafkaConsumer, tasks: TaskGroup) -> None:
        self._pipeline = pipeline
        self._consumer = consumer
        self._tasks = tasks

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._pipeline.stop_workers()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        for where in sorted(assigned):
            self._pipeline.start_worker(self._consumer, self._tasks, where.partition)
