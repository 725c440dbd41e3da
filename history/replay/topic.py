# SPDX-License-Identifier: Apache-2.0
"""Replays flows into another topic: the same JSON, ids and Kafka timestamps as the live ones, keyed by node."""

import asyncio
from collections import defaultdict

import msgspec

from common import clock
from common.errors import PublishError, Refusal
from common.kafka import clients
from common.kafka.clients import partition_for
from common.kafka.publish import Publisher, Run
from common.kafka.topic_admin import admin_client, apply, describe
from common.service.running import Service
from common.settings import KafkaSettings
from enricher.delivery.outgoing.unit import kafka_time
from history.read.batch import ArchiveParties, FlowBatch
from schemas.flow import HEADERS
from schemas.topics import ANY_AGE_MS, TopicSpec

TRIES = 3
# What is replayed is old: a topic with the usual retention would delete it at once.
CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(ANY_AGE_MS),
}


class TopicWriter:
    """Publishes batches to a topic, which is made if it does not exist; each node's flows stay in one partition."""

    def __init__(self, settings: KafkaSettings, topic: str, partitions: int) -> None:
        self._topic = topic
        self._partitions = partitions
        self._publisher = Publisher(Service("replay"), settings)
        self._deadline_seconds = TRIES * settings.kafka_deadline_seconds
        self._known = ArchiveParties()
        self._written = 0

    @classmethod
    async def open(cls, settings: KafkaSettings, topic: str) -> "TopicWriter":
        """Make the topic if need be; raises `Refusal`."""
        async with admin_client(settings) as admin:
            (like,) = await admin.describe_topics([settings.topics.enriched])
            replicas = min((len(partition["replicas"]) for partition in like["partitions"]), default=1)
            [state] = await describe(admin, [TopicSpec(topic, settings.partitions, replicas, CONFIG)])
            if state.partitions is None:
                await apply(admin, [state])
        return cls(settings, topic, state.partitions or settings.partitions)

    async def write(self, batch: FlowBatch) -> None:
        """Publish some flows; raise `Refusal` if Kafka does not take them."""
        now_ms = clock.now_ms()
        groups: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        for row in batch.rows(self._known):
            groups[row.observer.node, row.flow.end_ms].append(msgspec.json.encode(row.flow))
        runs = [
            Run(
                self._topic,
                partition_for(node, self._partitions),
                node.encode(),
                values,
                kafka_time(end_ms, now_ms),
                HEADERS,
            )
            for (node, end_ms), values in groups.items()
        ]
        await self._publish(runs)
        self._written += len(batch)

    async def finish(self) -> None:
        """Nothing is held back: everything is acknowledged by now."""

    async def aclose(self) -> None:
        """Close the producer."""
        await self._publisher.close()

    async def _publish(self, runs: list[Run]) -> None:
        try:
            # A publisher that lost its broker looks for it as long as its service lives, and ours is told to stop by
            # nobody.
            async with asyncio.timeout(self._deadline_seconds):
                await self._insist(runs)
        except (PublishError, TimeoutError) as error:
            raise Refusal(
                f"topic {self._topic}: {clients.reason(error)}; {self._written:,} flows are there; run it again, "
                "readers know repeats by their ids"
            ) from error

    async def _insist(self, runs: list[Run]) -> None:
        for left in reversed(range(TRIES)):
            try:
                await self._publisher.publish(runs)
            except PublishError:
                # What did arrive comes again with the same ids: a reader that keeps marks skips it.
                if not left:
                    raise
            else:
                return
