# SPDX-License-Identifier: Apache-2.0
"""A copy of a history, topics and files, that a test may spoil before it is audited."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from aiokafka.structs import ConsumerRecord

from common.kafka import clients
from history.read.topic import read_topic
from tests.support.history.lived import Lived
from tests.support.sinks.topics import Topics

Records = list[ConsumerRecord[bytes, bytes]]
# Of a topic's records in their order, those to publish; the topic by its name without prefix.
Edit = Callable[[str, Records], Records]


class Copy:
    """The copy."""

    def __init__(self, history: Lived, directory: Path) -> None:
        self.topics = Topics.make(history.topics.settings.kafka_bootstrap)
        self.archive = directory / "flows"
        self.span = history.span
        self._history = history
        shutil.copytree(history.archive, self.archive)
        names = (self.topics.settings.topics.enriched, history.topics.settings.topics.enriched)
        for manifest in self.archive.glob("_manifests/**/*.json"):
            manifest.write_bytes(manifest.read_bytes().replace(names[1].encode(), names[0].encode()))

    def publish(self, edit: Edit = lambda _, records: records) -> None:
        """Copy the topics, each as `edit` leaves it."""
        asyncio.run(self._publish(edit))

    @property
    def flags(self) -> list[str]:
        """The flags that make an audit read the copy, whole."""
        return [*self.topics.flags, *self.span, "--deep", "--archive", str(self.archive), "-o", "json"]

    async def _publish(self, edit: Edit) -> None:
        theirs, ours = self._history.topics.settings, self.topics.settings
        producer = clients.new_producer(ours)
        await producer.start()
        try:
            for source, target in zip(theirs.topics.all, ours.topics.all, strict=True):
                records = [record async for batch in read_topic(theirs, source) for record in batch]
                # However the partitions took turns, an edit finds the same record in the same place.
                records.sort(key=lambda record: (record.partition, record.offset))
                for record in edit(target.removeprefix(ours.topic_prefix), records):
                    where = {"partition": record.partition, "timestamp_ms": record.timestamp}
                    value = record.value
                    if target == ours.topics.dead_letter:
                        value = value.replace(theirs.topics.raw.encode(), ours.topics.raw.encode())
                    await producer.send(target, value, key=record.key, **where)
            await producer.flush()
        finally:
            await producer.stop()
