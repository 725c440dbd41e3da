# SPDX-License-Identifier: Apache-2.0
"""The sinks' yardstick, a process of its own: `getmany` over the enriched topic, and nothing else.

It is aiokafka's own: `common.kafka` is not imported, which puts its way to make records in place of aiokafka's. Prints
flows per CPU second over the last nine tenths.

    python -m bench.kafka.read_loop BOOTSTRAP PREFIX PARTITIONS
"""

import asyncio
import gc
import sys
import time

from aiokafka import AIOKafkaConsumer, TopicPartition

from common.settings import KafkaSettings


async def run(settings: KafkaSettings) -> float:
    """Return flows per CPU second."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        fetch_max_bytes=8 * 1024 * 1024,
        max_partition_fetch_bytes=2 * 1024 * 1024,
    )
    await consumer.start()
    places = [TopicPartition(settings.topics.enriched, number) for number in range(settings.partitions)]
    total = sum((await consumer.end_offsets(places)).values())
    consumer.assign(places)
    for place in places:
        consumer.seek(place, 0)
    gc.collect()
    gc.freeze()
    taken, first, begun = 0, 0, 0.0
    while taken < total:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            taken += len(records)
        if not first and taken >= total // 10:
            first, begun = taken, time.process_time()
    spent = time.process_time() - begun
    await consumer.stop()
    return (taken - first) / spent


def main() -> None:
    """Run it as the command line says."""
    bootstrap, prefix, partitions = sys.argv[1:]
    settings = KafkaSettings(kafka_bootstrap=bootstrap, topic_prefix=prefix, partitions=int(partitions))
    print(asyncio.run(run(settings)))


if __name__ == "__main__":
    main()
