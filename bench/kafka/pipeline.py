# SPDX-License-Identifier: Apache-2.0
"""Topics full of a bench cluster's chunks, services that work on them, and what CPU that takes.

CPU is the processes' own, user and system, over the last nine tenths of the work, so that no start is in it.
"""

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiokafka import TopicPartition

from bench.made_up.cluster import Chunk
from bench.measure import process
from bench.measure.process import DEADLINE_SECONDS, cpu_seconds
from common.kafka import clients, topic_admin
from common.settings import KafkaSettings
from lab.kafka.broker import Broker, free_port
from schemas.topics import topic_specs
from schemas.topology import TopologyState, encode_topology_file

# How far the work is, in any unit that grows evenly with it.
Done = Callable[[], Awaitable[int]]


@contextmanager
def broker(directory: Path | None = None) -> Iterator[str]:
    """Run a Kafka broker for the length of a block; give its address. `directory`: where `kafka/` becomes its own."""
    with tempfile.TemporaryDirectory() as own:
        made = Broker((directory or Path(own)) / "kafka")
        try:
            asyncio.run(made.start())
            yield made.bootstrap
        finally:
            made.kill()


async def make_topics(settings: KafkaSettings) -> None:
    """Make zonemeter's topics as the settings name them."""
    specs = topic_specs(settings.topics, partitions=settings.partitions)
    async with topic_admin.admin_client(settings) as admin:
        await topic_admin.apply(admin, await topic_admin.describe(admin, specs))


async def fresh(bootstrap: str, partitions: int, chunks: Sequence[Chunk]) -> KafkaSettings:
    """Make topics of a new prefix and fill the raw one; a node's chunks are all in one partition."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    settings = KafkaSettings(kafka_bootstrap=bootstrap, topic_prefix=prefix, partitions=partitions)
    await make_topics(settings)
    await publish(settings, chunks)
    return settings


async def publish(settings: KafkaSettings, chunks: Sequence[Chunk]) -> None:
    """Append chunks to the raw topic."""
    producer = clients.new_producer(settings)
    await producer.start()
    for chunk in chunks:
        place = int(chunk.node.rpartition("-")[2]) % settings.partitions
        key = chunk.node.encode()
        await producer.send(settings.topics.raw, chunk.value, key=key, partition=place, timestamp_ms=chunk.end_ms)
    await producer.flush()
    await clients.close(producer)


@contextmanager
def running(room: str, settings: KafkaSettings, each: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Run one `zonemeter run <room>` with each of the sets of flags; give their process ids."""
    command = ["cli", "run", room, "--log-level", "error", "--kafka-bootstrap", settings.kafka_bootstrap]
    command += ["--topic-prefix", settings.topic_prefix, "--partitions", str(settings.partitions)]
    with ExitStack() as stack:
        pids = []
        for flags in each:
            listen = ["--listen", f"127.0.0.1:{free_port()}"] if "--listen" not in flags else []
            pids.append(stack.enter_context(process.running(*command, *listen, *flags)))
        yield pids


@contextmanager
def all_services(
    settings: KafkaSettings, directory: Path, states: list[TopologyState], more: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, tuple[int, str]]]:
    """Run enricher, sinks and audit in a directory; once all are ready, give the process id and address of each.

    `more`: further flags of each. The enricher joins with `states`.
    """
    topology = directory / "topology.json"
    topology.write_bytes(encode_topology_file(states))
    flags = {
        "enricher": ["--topology", str(topology)],
        "metrics": ["--state-dir", str(directory / "metrics")],
        "flowlog": ["--output", str(directory / "flowlog")],
        "audit": [],
    }
    found = {}
    with ExitStack() as stack:
        for room, own in flags.items():
            address = f"127.0.0.1:{free_port()}"
            (pid,) = stack.enter_context(running(room, settings, [[*own, *more[room], "--listen", address]]))
            found[room] = pid, address
        for room, (_, address) in found.items():
            ready = partial(process.page, f"http://{address}/readyz")
            process.until(lambda ready=ready: ready() is not None, f"{room} ready")  # type: ignore[misc]
        yield found


@dataclass(frozen=True, slots=True)
class Work:
    """What was done from a tenth of the whole to its end, and what it took."""

    units: int
    cpu_seconds: float
    wall_seconds: float


async def work(pids: Sequence[int], done: Done, total: int) -> Work:
    """Wait until `total` is done; return what the processes spent on all but its first tenth."""
    first, cpu, wall = await _reached(pids, done, total // 10)
    last, cpu_then, wall_then = await _reached(pids, done, total)
    return Work(last - first, cpu_then - cpu, wall_then - wall)


async def _reached(pids: Sequence[int], done: Done, wanted: int) -> tuple[int, float, float]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (reached := await done()) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{reached} of {wanted} within {DEADLINE_SECONDS} s")
        await asyncio.sleep(0.01)
    return reached, sum(map(cpu_seconds, pids)), time.monotonic()


def places(topic: str, settings: KafkaSettings) -> list[TopicPartition]:
    """Return a topic's partitions."""
    return [TopicPartition(topic, number) for number in range(settings.partitions)]
