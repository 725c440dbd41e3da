# SPDX-License-Identifier: Apache-2.0
"""Records on their way to Kafka, by the partition that they are about. Where one waits, no other does.

Of ledger entries and of dead letters alike: what is here, a partition must have in Kafka before more of it is taken.
So it waits, and is read on once its records are through: the reader pauses what is `waiting`. Of each partition no more
waits than comes of one fetch, or of one cut.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from aiokafka import TopicPartition

from common.errors import PublishError
from common.kafka.partitions import Kind, Partitions
from common.kafka.publish import PublishCounters, Publisher, Record
from common.service.running import Service
from common.settings import KafkaSettings
from sinks import kafka_io

log = logging.getLogger(__name__)

# How long all wait for one that may fail; then each waits for itself. Kafka acknowledges within hundredths of that.
TOGETHER_SECONDS = 2.0


class Deliveries:
    """Those of one sink, and of one kind. `one_place`: all go to the same partition of the same topic."""

    def __init__(
        self,
        service: Service,
        settings: KafkaSettings,
        counters: PublishCounters,
        partitions: Partitions,
        kind: Kind,
        *,
        one_place: bool = False,
    ) -> None:
        self._service = service
        self._partitions = partitions
        self._new_publisher = partial(Publisher, service, settings, counters)
        self._kind = kind
        self._one_place = one_place
        # Of a failure the partitions tell that it concerns.
        self._publisher = self._new_publisher(lambda _: None, TOGETHER_SECONDS)
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connect: a producer cannot be had any more once the service is told to stop."""
        await self._publisher.start()

    async def close(self) -> None:
        """Give up what waits, and disconnect."""
        await self.forget()
        await self._publisher.close()

    @property
    def waiting(self) -> set[TopicPartition]:
        """The partitions whose records are not known to be in Kafka."""
        return set(self._tasks)

    async def deliver(self, records: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Publish; if Kafka does not take all, each partition's are tried again by themselves, and it is `waiting`."""
        if not records:
            return
        if not (self._one_place and self._tasks):  # else what stops one stops the next, and costs the others the wait
            try:
                await self._publisher.publish([record for each in records.values() for record in each])
            except PublishError as error:
                log.warning("%s: %s; each partition's are published by themselves", self._kind, error)
            else:
                return
        for where, its in records.items():
            self._tasks[where] = asyncio.create_task(self._insist(where, its), name=f"{self._kind}-{where.partition}")

    def through(self) -> set[TopicPartition]:
        """Return the partitions that waited and wait no longer, each once."""
        through = {where for where, task in self._tasks.items() if task.done()}
        for where in through:
            self._tasks.pop(where).result()
        return through

    async def forget(self, kept: Collection[TopicPartition] = ()) -> None:
        """Give up what waits, but for `kept`: the next owner of a partition makes it again of what is durable."""
        tasks = {where: self._tasks.pop(where) for where in self.waiting.difference(kept)}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for where in tasks:
            self._partitions.works(where, self._kind)

    async def _insist(self, where: TopicPartition, records: Sequence[Record]) -> None:
        def tell(reason: str | None) -> None:
            if reason is not None:
                self._partitions.fails(where, f"its {self._kind} are not taken: {reason}", self._kind)

        publisher = self._new_publisher(tell)
        try:
            while True:
                try:
                    await publisher.publish(records)
                    break
                except PublishError as error:
                    log.debug("%s of partition %s: %s", self._kind, where.partition, error)
                await self._service.pause(kafka_io.RETRY_SECONDS)
            self._partitions.works(where, self._kind)
        finally:
            await publisher.close()
