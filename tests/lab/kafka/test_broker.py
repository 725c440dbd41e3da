# SPDX-License-Identifier: Apache-2.0
import asyncio
import re
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from lab.errors import LabError
from lab.kafka import broker as broker_module
from lab.kafka.broker import Broker, format_data, free_port

TOPIC = "letters"


async def create_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    await admin.close()


async def produce(bootstrap: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(TOPIC, value)


async def consume(bootstrap: str) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        partition = TopicPartition(TOPIC, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        return [(await consumer.getone()).value for _ in range(end)]


def test_a_broker_serves_survives_a_kill_and_stops(tmp_path: Path) -> None:
    async def inside() -> None:
        extra = ("127.0.0.1", free_port())
        broker = Broker(tmp_path / "kafka", more_listeners=(extra,))
        try:
            await broker.start()
            assert broker.process is not None
            other = f"127.0.0.1:{extra[1]}"
            await create_topic(broker.bootstrap)
            await produce(broker.bootstrap, b"a")
            await produce(other, b"b")
            assert await consume(other) == [b"a", b"b"]
            assert resident_megabytes(broker.process.pid) < 300
            broker.kill()
            await broker.start()
            await produce(broker.bootstrap, b"c")
            assert await consume(broker.bootstrap) == [b"a", b"b", b"c"]
            process = broker.process
            broker.stop()
            assert not process.alive
        finally:
            broker.stop()

    asyncio.run(inside())


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_missing_jars_and_missing_java_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "JARS", tmp_path / "none")
    with pytest.raises(LabError, match=r"none: Apache Kafka's jars are not there; run scripts/setup"):
        Broker(tmp_path / "kafka").launch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"java: command not found; .* run scripts/setup"):
        Broker(tmp_path / "kafka").launch()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def inside() -> None:
        broker = Broker(tmp_path / "kafka", settings={"log.segment.bytes": "none"})
        with pytest.raises(LabError, match=r"Kafka on port \d+ ended: .*log.segment.bytes"):
            await broker.start()

    asyncio.run(inside())


def test_a_data_directory_is_what_kafkas_own_tool_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> dict[str, set[str]]:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "server.properties").write_text(Broker(directory, 9, node_id=7)._properties())
        format_data(directory, 7)
        described = {path.name: path.read_bytes() for path in (directory / "data").iterdir()}
        lines = described["meta.properties"].decode().splitlines()
        told = {line for line in lines if not line.startswith(("#", "directory.id="))}
        features = set(re.findall(r"[a-z.]+\.version", described["bootstrap.checkpoint"].decode("latin-1")))
        return {"files": set(described), "told": told, "features": features}

    assert broker_module.FEATURES.exists(), "scripts/setup makes it"
    written = made("written")
    monkeypatch.setattr(broker_module, "FEATURES", tmp_path / "none")
    assert written == made("by-tool")
    assert "metadata.version" in written["features"]
