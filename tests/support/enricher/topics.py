# SPDX-License-Identifier: Apache-2.0
"""Topics of one test: raw chunks go in, and what the enricher made of them comes out."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from common.kafka import clients, topic_admin
from common.settings import KafkaSettings
from history.read.topic import read_topic
from schemas.amount import Amount
from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.flow import Flow, decode_flow
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.raw import decode_chunk
from schemas.topics import topic_specs
from schemas.topology import TopologyState, decode_topology, encode_topology
from tests.support.builders import total
from tests.support.enricher.build import END

PARTITIONS = 3


@dataclass(frozen=True)
class Topics:
    """Topics of a cluster, under one prefix."""

    settings: KafkaSettings
    cluster: str = "prod-eu"

    @classmethod
    def make(cls, bootstrap: str, missing: tuple[str, ...] = ()) -> "Topics":
        return cls.at(bootstrap, f"t{uuid.uuid4().hex[:8]}.", missing)

    @classmethod
    def at(cls, bootstrap: str, prefix: str, missing: tuple[str, ...] = ()) -> "Topics":
        options: dict[str, Any] = {"kafka_bootstrap": bootstrap, "topic_prefix": prefix, "partitions": PARTITIONS}
        topics = cls(KafkaSettings(**options))
        topics.apply(missing)
        return topics

    @property
    def flags(self) -> list[str]:
        return [
            *("--kafka-bootstrap", self.settings.kafka_bootstrap),
            *("--topic-prefix", self.settings.topic_prefix),
            *("--partitions", str(self.settings.partitions)),
            *("--cluster", self.cluster),
        ]

    def apply(self, missing: tuple[str, ...] = ()) -> None:
        async def make() -> None:
            specs = topic_specs(self.settings.topics, partitions=PARTITIONS)
            wanted = [spec for spec in specs if not missing or not spec.name.endswith(missing)]
            async with topic_admin.admin_client(self.settings) as admin:
                await topic_admin.apply(admin, await topic_admin.describe(admin, wanted))

        asyncio.run(make())

    def recreate(self, name: str) -> None:
        """Delete a topic and create it again, empty."""

        async def delete() -> None:
            async with topic_admin.admin_client(self.settings) as admin:
                await admin.delete_topics([name])
                while True:
                    (found,) = await admin.describe_topics([name])
                    if found["error_code"]:
                        return
                    await asyncio.sleep(0.05)

        asyncio.run(delete())
        self.apply()

    def produce(self, values: Iterable[bytes | None], *, key: bytes = b"node-a1", partition: int = 0) -> None:
        """Append raw records."""
        self._produce(self.settings.topics.raw, [(partition, key, value) for value in values])

    def produce_topology(self, states: Sequence[TopologyState]) -> None:
        self._produce(self.settings.topics.topology, [(0, state.key, encode_topology(state)) for state in states])

    def produce_flows(self, values: Iterable[bytes], *, key: bytes = b"node-a1", partition: int = 0) -> None:
        """Append to the enriched topic, as nobody but an enricher may."""
        self._produce(self.settings.topics.enriched, [(partition, key, value) for value in values])

    def _produce(self, topic: str, records: list[tuple[int, bytes, bytes | None]]) -> None:
        async def send() -> None:
            producer = clients.new_producer(self.settings, max_request_size=4 * 1024 * 1024)
            await producer.start()
            try:
                sent = [
                    await producer.send(topic, value, key=key, partition=partition, timestamp_ms=_time(value))
                    for partition, key, value in records
                ]
                await asyncio.gather(*sent)
            finally:
                await producer.stop()

        asyncio.run(send())

    def delete_raw_before(self, offset: int, partition: int = 0) -> None:
        """Let raw records go as retention does."""

        async def delete() -> None:
            where = TopicPartition(self.settings.topics.raw, partition)
            async with topic_admin.admin_client(self.settings) as admin:
                await admin.delete_records({where: RecordsToDelete(before_offset=offset)})

        asyncio.run(delete())

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Commit an offset of the raw topic to the enricher's group, which has no members, as an operator does."""

        async def commit() -> None:
            where = TopicPartition(self.settings.topics.raw, partition)
            consumer = clients.new_consumer(self.settings, group_id=f"{self.settings.topic_prefix}enricher")
            await consumer.start()
            try:
                consumer.assign([where])
                await consumer.commit({where: OffsetAndMetadata(offset, metadata)})
            finally:
                await consumer.stop()

        asyncio.run(commit())

    def flows(self) -> list[Flow]:
        """Return all enriched flows, partition by partition, in order."""
        return [decode_flow(record.value) for record in self.records(self.settings.topics.enriched)]

    def ledger(self) -> dict[str, LedgerRecord]:
        """Return the newest of each of the enricher's ledger records by id; each of them adds up."""
        found = {r.key: decode_ledger(r.value) for r in self.records(self.settings.topics.ledger) if r.value}
        assert all(record.balance() is None for record in found.values()), found
        return {record.id: record for record in found.values() if record.hop == "enricher"}

    def dead_letters(self) -> list[DeadLetter]:
        return [decode_dead_letter(record.value) for record in self.records(self.settings.topics.dead_letter)]

    def topology(self) -> list[TopologyState]:
        return [decode_topology(record.value) for record in self.records(self.settings.topics.topology)]

    def records(self, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
        async def read() -> list[ConsumerRecord[bytes, bytes]]:
            return [record async for batch in read_topic(self.settings, topic) for record in batch]

        return sorted(asyncio.run(read()), key=lambda record: (record.partition, record.offset))


def _time(value: bytes | None) -> int:
    for decode in (decode_chunk, decode_flow):
        with suppress(ValueError):
            return decode(value).end_ms
    return END


def given(flows: Iterable[Flow]) -> Amount:
    """Return what flows come to."""
    return total({flow.id: Amount(flow.bytes, flow.packets, 1) for flow in flows})
