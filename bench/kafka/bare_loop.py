# SPDX-License-Identifier: Apache-2.0
"""The enricher's yardstick, a process of its own: fetch the same raw chunks, send ready-made records of the same size.

Nothing is decoded, joined or remembered; what remains is what aiokafka and zstd cost. Prints flows and CPU seconds.

    python -m bench.kafka.bare_loop BOOTSTRAP PREFIX send|batches CHUNKS
"""

import asyncio
import gc
import json
import sys
import time

from aiokafka import AIOKafkaProducer, TopicPartition

from bench.made_up import cluster
from common.kafka import clients
from common.settings import KafkaSettings
from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from schemas.flow import HEADERS
from schemas.raw import decode_chunk

RULE = Cidr(cidr="10.250.0.0/24", name="orders-db", zone="eu-west-1b", region="eu-west-1")


def ready_made() -> list[list[bytes]]:
    """Return what the enricher makes of a chunk of each of the nodes."""
    index = Index()
    for state in cluster.states():
        index.apply(state)
    resolver = Resolver(index, CidrMap([RULE]))
    made = [decode_chunk(chunk.value) for chunk in cluster.chunks(3)]
    return [list(join(chunk, resolve(chunk, resolver), 0, 0).values) for chunk in made]


async def run(settings: KafkaSettings, how: str, chunks: int) -> tuple[int, float]:
    """Return how many flows were sent and the CPU seconds that took."""
    values = ready_made()
    consumer, producer = clients.new_consumer(settings), clients.new_producer(settings)
    await consumer.start()
    await producer.start()
    gc.collect()
    gc.freeze()
    where = TopicPartition(settings.topics.raw, 0)
    consumer.assign([where])
    consumer.seek(where, 0)
    send = _one_by_one if how == "send" else _in_batches
    flows, taken = 0, 0
    begun = time.process_time()
    while taken < chunks:
        for records in (await consumer.getmany(where, timeout_ms=1000, max_records=64)).values():
            for record in records:
                node = int(record.key.rpartition(b"-")[2])
                await send(producer, settings.topics.enriched, record.key, values[node], record.timestamp)
                flows += len(values[node])
                taken += 1
    spent = time.process_time() - begun
    await clients.close(consumer)
    await clients.close(producer)
    return flows, spent


async def _one_by_one(producer: AIOKafkaProducer, topic: str, key: bytes, values: list[bytes], at_ms: int) -> None:
    headers = list(HEADERS)
    sent = [
        await producer.send(topic, value, key=key, partition=0, timestamp_ms=at_ms, headers=headers) for value in values
    ]
    await asyncio.gather(*sent)


async def _in_batches(producer: AIOKafkaProducer, topic: str, key: bytes, values: list[bytes], at_ms: int) -> None:
    batch = producer.create_batch()
    headers = list(HEADERS)
    for value in values:
        if batch.append(key=key, value=value, timestamp=at_ms, headers=headers) is None:
            await (await producer.send_batch(batch, topic, partition=0))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=at_ms, headers=headers)
    await (await producer.send_batch(batch, topic, partition=0))


def main() -> None:
    """Run it as the command line says."""
    bootstrap, prefix, how, chunks = sys.argv[1:]
    settings = KafkaSettings(kafka_bootstrap=bootstrap, topic_prefix=prefix, partitions=1)
    flows, spent = asyncio.run(run(settings, how, int(chunks)))
    print(json.dumps({"flows": flows, "cpu_seconds": spent}))


if __name__ == "__main__":
    main()
