# SPDX-License-Identifier: Apache-2.0
"""Makes what every broker starts from: an archive of Kafka's classes, and what a format says of its features.

The first is the JDK's dynamic class data sharing (JEP 350): a JVM that finds no archive, or one of other jars, loads
classes from the jars. Without the second each data directory is formatted by Kafka's tool. Run by `scripts/setup`.
"""

import asyncio
import logging
import shutil
import tempfile
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from lab.kafka.broker import CLASS_ARCHIVE, FEATURES, Broker

# At its end the JVM writes 50 MB.
_WRITTEN_SECONDS = 60.0
_TOPIC = "classes"


async def make(archive: Path, features: Path) -> None:
    """Let a broker serve one client of each kind, and keep the classes that it took and what its format said."""
    partial, written = archive.with_suffix(".partial"), features.with_suffix(".partial")
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory) / "kafka", jvm=(f"-XX:ArchiveClassesAtExit={partial}",))
        try:
            await broker.start()
            await _use(broker.bootstrap)
        finally:
            broker.stop(_WRITTEN_SECONDS)
        shutil.copyfile(Path(directory) / "kafka/data" / features.name, written)
    partial.replace(archive)
    written.replace(features)


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
    CLASS_ARCHIVE.unlink(missing_ok=True)  # a JVM that starts from one does not make another
    asyncio.run(make(CLASS_ARCHIVE, FEATURES))
