# SPDX-License-Identifier: Apache-2.0
"""Makes the archive of Kafka's classes that every broker starts from (JDK: dynamic class data sharing, JEP 350).

A JVM that finds no archive, or one of other jars, loads classes from the jars. Run by `scripts/setup`.
"""

import asyncio
import logging
import tempfile
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from lab.kafka.broker import CLASS_ARCHIVE, Broker

# At its end the JVM writes 50 MB.
_WRITTEN_SECONDS = 60.0
_TOPIC = "classes"


async def make(archive: Path) -> None:
    """Let a broker serve one client of each kind, and keep the classes that it took."""
    partial = archive.with_suffix(".partial")
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory) / "kafka", jvm=(f"-XX:ArchiveClassesAtExit={partial}",))
        try:
            await broker.start()
            await _use(broker.bootstrap)
        finally:
            broker.stop(_WRITTEN_SECONDS)
    partial.replace(archive)


async def _use(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(_TOPIC, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(_TOPIC, b"value")
    async with AIOKafkaConsumer(
        _TOPIC, bootstrap_servers=bootstrap, group_id=_TOPIC, auto_offset_reset="earliest"
    ) as consumer:
        await consumer.getone()
        await consumer.commit()


if __name__ == "__main__":
    logging.disable()  # aiokafka says that a coordinator is not there yet
    asyncio.run(make(CLASS_ARCHIVE))
