# SPDX-License-Identifier: Apache-2.0
"""`make bench-freshness`: how long after a window's end its flows are in Kafka.

Once when nothing waits for the index, once when something does. A hundred nodes publish their windows at the same
aligned moment, as collectors do, through a real broker; a real enricher follows the lab's Kubernetes API and joins
them. A reader of the enriched topic notes when each flow came.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.kafka import pipeline
from bench.made_up.cluster import CLUSTER, WINDOW_MS, address_of, encoded
from bench.made_up.objects import PODS_A_NODE, node_object, pod_object
from bench.measure import process, report
from bench.measure.figure import Figure, Target
from bench.measure.report import Table
from common.clock import now_ms
from common.kafka import clients
from common.settings import KafkaSettings
from lab.kafka.broker import free_port
from lab.kube.api import ApiStart
from lab.kube.kubeconfig import kubeconfig

_NODES, _FLOWS_PER_NODE = 100, 300
_TOKEN = "bench"
_LATEST_SECONDS = 20.0
_TARGET, _TARGET_WAITING = 2.0, 4.0


def _objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for node in range(_NODES):
        yield "nodes", node_object(node)
        yield from (("pods", pod_object(node, place)) for place in range(PODS_A_NODE))


def _chunk(node: int, sequence: int, end_ms: int, *, late: bool) -> bytes:
    """Return a node's window; with `late` one of its senders is in its podCIDR, and nobody ever tells whose it is."""
    senders = [address_of(node, place) for place in range(PODS_A_NODE)]
    if late:
        senders[0] = address_of(node, PODS_A_NODE + sequence % 200)
    receivers = [address_of((node + hop) % _NODES, hop % PODS_A_NODE) for hop in range(1, 16)]
    rows = np.arange(_FLOWS_PER_NODE)
    columns: dict[str, Any] = dict.fromkeys(
        ("src_port", "direction", "dnat", "encapsulation"), np.zeros(_FLOWS_PER_NODE, np.int64)
    )
    columns |= {"src": rows % len(senders), "dst": len(senders) + rows // len(senders)}
    columns |= {"protocol": np.full(_FLOWS_PER_NODE, 6), "dst_port": 1024 + rows}
    columns |= {"bytes": 1000 + rows, "packets": 1 + rows}
    return encoded(node, sequence, end_ms - WINDOW_MS, senders + receivers, columns)


@dataclass
class Pipeline:
    """Kafka and an enricher at work, and a reader of what it gives out."""

    settings: KafkaSettings
    producer: AIOKafkaProducer
    consumer: AIOKafkaConsumer
    sequence: int = 0

    async def window(self, *, late: bool) -> float:
        """Publish one window of all nodes at its end; return the 99th percentile of its flows' ages, in seconds."""
        self.sequence += 1
        end_ms = (now_ms() // WINDOW_MS + 1) * WINDOW_MS
        chunks = [_chunk(n, self.sequence, end_ms, late=late and n % 10 == 0) for n in range(_NODES)]
        await asyncio.sleep(end_ms / 1000 - time.time())
        sent = [
            await self.producer.send(
                self.settings.topics.raw,
                chunk,
                key=f"node-{node}".encode(),
                partition=node % self.settings.partitions,
                timestamp_ms=end_ms,
            )
            for node, chunk in enumerate(chunks)
        ]
        await asyncio.gather(*sent)
        return await self._ages(end_ms)

    async def _ages(self, end_ms: int) -> float:
        ages: list[float] = []
        async with asyncio.timeout(_LATEST_SECONDS):
            while len(ages) < _NODES * _FLOWS_PER_NODE:
                batches = await self.consumer.getmany(timeout_ms=200)
                now = time.time()
                ages += [now - end_ms / 1000 for records in batches.values() for r in records if r.timestamp == end_ms]
        return float(np.percentile(ages, 99))


@contextlib.contextmanager
def _enricher(settings: KafkaSettings) -> Iterator[None]:
    """Run the lab's API and an enricher that follows it, ready."""
    port, listen = free_port(), f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as name:
        file, start = Path(name, "kubeconfig"), Path(name, "api.json")
        file.write_bytes(kubeconfig(f"http://127.0.0.1:{port}", _TOKEN))
        start.write_bytes(msgspec.json.encode(ApiStart(port, _TOKEN, list(_objects()))))
        flags = ["--listen", listen, "--cluster", CLUSTER, "--kubeconfig", str(file)]
        with process.running("lab.kube.api", str(start)), pipeline.running("enricher", settings, [flags]):
            process.until(lambda: process.page(f"http://{listen}/readyz") is not None, "the enricher is ready")
            yield


@contextlib.asynccontextmanager
async def running(bootstrap: str) -> AsyncIterator[Pipeline]:
    """Start everything, and give it when it is ready."""
    settings = KafkaSettings(kafka_bootstrap=bootstrap)
    await pipeline.make_topics(settings)
    with _enricher(settings):
        producer = clients.new_producer(settings)
        consumer = AIOKafkaConsumer(
            settings.topics.enriched, bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="latest"
        )
        async with producer, consumer:
            yield Pipeline(settings, producer, consumer)


async def _measure(rounds: int, bootstrap: str) -> tuple[list[float], list[float]]:
    plain, waiting = [], []
    async with running(bootstrap) as started:
        for number in range(rounds + 1):
            ages = [await started.window(late=late) for late in (False, True)]
            if number > 0:
                plain.append(ages[0])
                waiting.append(ages[1])
    return plain, waiting


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    with pipeline.broker() as bootstrap:
        plain, waiting = asyncio.run(_measure(rounds, bootstrap))
    text = f"""
{_NODES} nodes publish {_FLOWS_PER_NODE} flows each at the end of the same 10-second window; broker, enricher, the
lab's API and the reader share the machine. A figure is the 99th percentile over the {_NODES * _FLOWS_PER_NODE:,} flows
of a window, from the window's end to their arrival at a reader. The yardstick is the window itself, so there is no
other. When something waits, ten nodes have a sender of which no pod ever becomes known: their chunks wait as long as
any may, 2 s. `zonemeter_enricher_freshness_seconds` shows the same in operation.
"""
    figures = [
        Figure("nothing waits, p99", "s", plain, target=Target(_TARGET)),
        Figure("ten chunks wait, p99", "s", waiting, target=Target(_TARGET_WAITING)),
    ]
    return [Table("From the window's end to the enriched topic", text, figures)]


if __name__ == "__main__":
    raise SystemExit(report.main("freshness", "Freshness", measure))
