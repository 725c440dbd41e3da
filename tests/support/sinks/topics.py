# SPDX-License-Identifier: Apache-2.0
"""Topics of one test: what goes in, and what the sinks say there."""

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.kafka import clients, topic_admin
from common.settings import KafkaSettings
from history.read.topic import read_topic
from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.flow import Flow
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.topics import topic_specs
from tests.support.sinks.flows import END_MS, encoded

PARTITIONS = 3


@dataclass(frozen=True)
class Topics:
    """Topics under one prefix."""

    settings: KafkaSettings

    @classmethod
    def make(cls, bootstrap: str, missing: tuple[str, ...] = ()) -> "Topics":
        """Make the topics, all but those whose names end in one of `missing`."""
        topics = cls.named(bootstrap)
        asyncio.run(topics.apply(missing))
        return topics

    @classmethod
    def named(cls, bootstrap: str) -> "Topics":
        """Choose a prefix, and make nothing."""
        prefix = f"t{uuid.uuid4().hex[:8]}."
        options: dict[str, Any] = {"kafka_bootstrap": bootstrap, "topic_prefix": prefix, "partitions": PARTITIONS}
        return cls(KafkaSettings(**options))

    @property
    def flags(self) -> list[str]:
        """The flags that make a service use these topics."""
        settings = self.settings
        return [
            *("--kafka-bootstrap", settings.kafka_bootstrap),
            *("--topic-prefix", settings.topic_prefix),
            *("--partitions", str(settings.partitions)),
        ]

    async def apply(self, missing: tuple[str, ...] = ()) -> None:
        """Make what is not there."""
        specs = [
            spec
            for spec in topic_specs(self.settings.topics, partitions=PARTITIONS)
            if not missing or not spec.name.endswith(missing)
        ]
        async with topic_admin.admin_client(self.settings) as admin:
            await topic_admin.apply(admin, await topic_admin.describe(admin, specs))
            # What the controller has made, the broker learns a moment later.
            while True:
                if all(state.partitions for state in await topic_admin.describe(admin, specs)):
                    break
                await asyncio.sleep(0.05)

    async def delete(self, *names: str) -> None:
        """Delete topics, by default all, and wait until the broker knows."""
        gone = list(names or self.settings.topics.all)
        async with topic_admin.admin_client(self.settings) as admin:
            await admin.delete_topics(gone)
            while True:
                if all(found["error_code"] for found in await admin.describe_topics(gone)):
                    break
                await asyncio.sleep(0.05)

    def produce(self, flows: Mapping[int, Iterable[Flow | bytes | None]]) -> None:
        """Append to the enriched topic: flows, or values as they are, by partition."""
        values = {p: [encoded(f) if isinstance(f, Flow) else f for f in each] for p, each in flows.items()}
        asyncio.run(self._produce(values))

    async def _produce(self, values: Mapping[int, list[bytes | None]]) -> None:
        producer = clients.new_producer(self.settings, max_request_size=4 * 1024 * 1024)
        await producer.start()
        try:
            topic = self.settings.topics.enriched
            sent = [
                await producer.send(topic, value, key=b"node-a1", partition=partition, timestamp_ms=END_MS)
                for partition, each in values.items()
                for value in each
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def ledger(self, hop: str) -> dict[bytes, LedgerRecord]:
        """Return the newest ledger record of each key of a hop."""
        records = {
            key: decode_ledger(value) for key, value in self._read(self.settings.topics.ledger) if value is not None
        }
        return {key: record for key, record in records.items() if record.hop == hop}

    def dead_letters(self) -> list[DeadLetter]:
        """Return all dead letters."""
        return [decode_dead_letter(value) for _, value in self._read(self.settings.topics.dead_letter)]

    def _read(self, topic: str) -> list[tuple[bytes, bytes | None]]:
        async def read() -> list[tuple[bytes, bytes | None]]:
            return [(r.key, r.value) async for batch in read_topic(self.settings, topic) for r in batch]

        return asyncio.run(read())
