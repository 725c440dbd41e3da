# SPDX-License-Identifier: Apache-2.0
"""`make bench-enricher`: flows per CPU second from Kafka to Kafka, beside a loop that only fetches and sends.

One enricher with one partition, a static topology of 9,000 pods; chunks of 4,000 flows, records of some 900 bytes,
zstd, one broker. CPU is the process's own, user and system, over the last nine tenths of the chunks, so that its start
is not in it. The bare loop fetches the same raw chunks and sends ready-made records, the very values that the enricher
makes, with aiokafka: once one record a call (`send`), as most services do, and once in explicit batches
(`send_batch`), which is three times as cheap and what the enricher itself does. The target is for the first.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import cluster, report
from bench.bare_loop import RULE
from bench.figure import Figure, Target, in_turn
from bench.process import cpu_seconds, resident_bytes
from bench.report import Table
from common import kafka, topic_admin
from common.settings import KafkaSettings
from lab.broker import Broker, free_port
from schemas.topics import topic_specs
from schemas.topology import encode_topology_file

_PROJECT = Path(__file__).resolve().parent.parent
_CHUNKS = 100
_FIRST = _CHUNKS // 10
_DEADLINE_SECONDS = 300.0
_TARGET = 0.6


class Rig:
    """A broker, and a fresh set of topics that hold the raw chunks for each measurement."""

    def __init__(self, directory: Path) -> None:
        self._broker = Broker(directory / "kafka")
        self._directory = directory
        self._chunks = cluster.chunks(_CHUNKS)
        self.resident: list[float] = []
        (directory / "topology.json").write_bytes(encode_topology_file(cluster.states()))
        (directory / "cidrs.json").write_text(json.dumps({"cidr": [{"cidr": RULE.cidr, **_facts()}]}))
        asyncio.run(self._broker.start())

    def close(self) -> None:
        """Stop the broker."""
        self._broker.kill()

    def enricher(self, *flags: str) -> float:
        """Return the enricher's flows per CPU second."""
        settings = asyncio.run(self._fresh())
        command = [sys.executable, "-m", "cli", "run", "enricher", "--listen", f"127.0.0.1:{free_port()}"]
        command += ["--topology", str(self._directory / "topology.json"), "--cluster", cluster.CLUSTER, *flags]
        command += ["--cidr-map", str(self._directory / "cidrs.json"), "--log-level", "error"]
        command += ["--kafka-bootstrap", settings.kafka_bootstrap, "--topic-prefix", settings.topic_prefix]
        with subprocess.Popen([*command, "--partitions", "1"], cwd=_PROJECT) as process:
            try:
                return asyncio.run(self._watch(settings, process.pid))
            finally:
                process.kill()

    def bare_loop(self, how: str) -> float:
        """Return the yardstick's."""
        settings = asyncio.run(self._fresh())
        command = [sys.executable, "-m", "bench.bare_loop", settings.kafka_bootstrap, settings.topic_prefix, how]
        done = subprocess.run([*command, str(_CHUNKS)], cwd=_PROJECT, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        return float(found["flows"] / found["cpu_seconds"])

    async def _fresh(self) -> KafkaSettings:
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        settings = KafkaSettings(kafka_bootstrap=self._broker.bootstrap, topic_prefix=prefix, partitions=1)
        async with topic_admin.admin_client(settings) as admin:
            await topic_admin.apply(
                admin, await topic_admin.describe(admin, topic_specs(settings.topics, partitions=1))
            )
        producer = kafka.new_producer(settings)
        await producer.start()
        for chunk in self._chunks:
            await producer.send(
                settings.topics.raw, chunk.value, key=chunk.node.encode(), partition=0, timestamp_ms=chunk.end_ms
            )
        await producer.flush()
        await kafka.close(producer)
        return settings

    async def _watch(self, settings: KafkaSettings, pid: int) -> float:
        """Read the process's CPU when a tenth of the chunks is done and when all are: a ledger record is one chunk."""
        consumer = kafka.new_consumer(settings)
        await consumer.start()
        try:
            first, begun = await _reached(consumer, settings, _FIRST, pid)
            last, spent = await _reached(consumer, settings, _CHUNKS, pid)
        finally:
            await kafka.close(consumer)
        self.resident.append(resident_bytes(pid, peak=True) / 1e6)
        return (last - first) * cluster.ROWS / (spent - begun)


async def _reached(consumer: AIOKafkaConsumer, settings: KafkaSettings, chunks: int, pid: int) -> tuple[int, float]:
    where = TopicPartition(settings.topics.ledger, 0)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        done = (await consumer.end_offsets([where]))[where]
        if done >= chunks:
            return done, cpu_seconds(pid)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{done} of {chunks} chunks within {_DEADLINE_SECONDS} s")
        await asyncio.sleep(0.01)


def measure(rounds: int) -> Sequence[Table]:
    """Return the table of the enricher's throughput."""
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory))
        try:
            measures: list[Callable[[], float]] = [
                rig.enricher,
                lambda: rig.enricher("--detail", "workload"),
                lambda: rig.bare_loop("send"),
                lambda: rig.bare_loop("batches"),
            ]
            ours, rolled, one_by_one, batches = in_turn(rounds, *measures)
        finally:
            rig.close()
    unit = "flows/CPU s"
    figures = [
        Figure("beside one record a call", unit, ours, one_by_one, target=Target(_TARGET, at_least=True)),
        Figure("beside explicit batches", unit, ours, batches),
        Figure("`--detail workload`, beside explicit batches", unit, rolled, batches),
    ]
    text = (__doc__ or "").partition("\n\n")[2] + f"\nIt held {max(rig.resident):.0f} MB at most."
    return [Table("The enricher, Kafka to Kafka", text, figures)]


def _facts() -> dict[str, str | None]:
    return {"name": RULE.name, "zone": RULE.zone, "region": RULE.region}


if __name__ == "__main__":
    sys.exit(report.main("enricher", "The enricher", measure))
