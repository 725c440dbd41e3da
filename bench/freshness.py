# SPDX-License-Identifier: Apache-2.0
"""`make bench-freshness`: how long after a window's end its flows are in Kafka.

Once when nothing waits for the index, once when something does. A hundred nodes publish their windows at the same
aligned moment, as collectors do, through a real broker; a real enricher follows the lab's Kubernetes API and joins
them. A reader of the enriched topic notes when each flow came.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.measure import report
from bench.measure.figure import Compare, Figure, Target
from bench.measure.report import Table
from common.kafka import clients, topic_admin
from common.settings import KafkaSettings
from lab.kafka.broker import Broker, free_port
from lab.kube.api import ApiStart
from lab.kube.kubeconfig import kubeconfig
from schemas.raw import encode_chunk
from schemas.topics import topic_specs

_PROJECT = Path(__file__).resolve().parent.parent
_NODES, _PODS_PER_NODE, _FLOWS_PER_NODE = 100, 20, 300
_WINDOW_MS = 10_000
_TOKEN, _STARTED = "bench", "2026-01-01T00:00:00Z"
_READY_SECONDS, _LATEST_SECONDS = 120.0, 20.0
_TARGET, _TARGET_WAITING = 2.0, 4.0


def _pod_address(node: int, pod: int) -> str:
    return f"10.{node}.0.{pod + 10}"


def _objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for node in range(_NODES):
        labels = {"topology.kubernetes.io/zone": f"zone-{node % 3}", "topology.kubernetes.io/region": "region"}
        metadata = {"name": f"node-{node}", "uid": f"n{node}", "creationTimestamp": _STARTED, "labels": labels}
        address = {"type": "InternalIP", "address": f"192.168.1.{node}"}
        yield (
            "nodes",
            {"metadata": metadata, "spec": {"podCIDR": f"10.{node}.0.0/16"}, "status": {"addresses": [address]}},
        )
        for pod in range(_PODS_PER_NODE):
            name = f"pod-{node}-{pod}"
            status = {"phase": "Running", "startTime": _STARTED, "podIPs": [{"ip": _pod_address(node, pod)}]}
            metadata = {"name": name, "namespace": "bench", "uid": name, "labels": {"app": "bench"}}
            yield "pods", {"metadata": metadata, "spec": {"nodeName": f"node-{node}"}, "status": status}


def _chunk(node: int, sequence: int, end_ms: int, *, late: bool) -> bytes:
    """Return a node's window; with `late` one of its senders is in its podCIDR, and nobody ever tells whose it is."""
    senders = [_pod_address(node, pod) for pod in range(_PODS_PER_NODE)]
    if late:
        senders[0] = f"10.{node}.{1 + sequence % 200}.{sequence // 200 + 1}"
    receivers = [_pod_address((node + hop) % _NODES, hop % _PODS_PER_NODE) for hop in range(1, 16)]
    rows = np.arange(_FLOWS_PER_NODE)
    columns: dict[str, Any] = dict.fromkeys(
        ("src_port", "direction", "dnat", "encapsulation"), np.zeros(_FLOWS_PER_NODE, np.int64)
    )
    columns |= {"src": rows % len(senders), "dst": len(senders) + rows // len(senders)}
    columns |= {"protocol": np.full(_FLOWS_PER_NODE, 6), "dst_port": 1024 + rows}
    columns |= {"bytes": 1000 + rows, "packets": 1 + rows}
    amount = {"bytes": int(columns["bytes"].sum()), "packets": int(columns["packets"].sum()), "rows": _FLOWS_PER_NODE}
    head: dict[str, Any] = {"cluster": "bench", "node": f"node-{node}", "boot_id": "0123456789ab", "generation": 1}
    head |= {"sequence": sequence, "chunk": 0, "chunks": 1, "start_ms": end_ms - _WINDOW_MS, "end_ms": end_ms}
    head |= {"hook": "netfilter", "ledger": {"hook": amount, "map": amount}}
    return encode_chunk(head, senders + receivers, columns)


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
        end_ms = (time.time_ns() // 1_000_000 // _WINDOW_MS + 1) * _WINDOW_MS
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
def _process(module: list[str], *flags: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", *module, *flags], cwd=_PROJECT, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _enricher(directory: Path, settings: KafkaSettings) -> Iterator[str]:
    """Run the lab's API and an enricher that follows it; give where the enricher listens."""
    port, listen = free_port(), f"127.0.0.1:{free_port()}"
    file, start = directory / "kubeconfig", directory / "api.json"
    file.write_bytes(kubeconfig(f"http://127.0.0.1:{port}", _TOKEN))
    start.write_bytes(msgspec.json.encode(ApiStart(port, _TOKEN, list(_objects()))))
    flags = ["--listen", listen, "--kafka-bootstrap", settings.kafka_bootstrap, "--cluster", "bench"]
    with (
        _process(["lab.kube.api"], str(start)),
        _process(["cli", "run", "enricher"], *flags, "--kubeconfig", str(file)),
    ):
        yield listen


def _wait_until_ready(listen: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{listen}/readyz", timeout=5).close()
            return
        time.sleep(0.2)
    raise SystemExit("the enricher is not ready")


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Pipeline]:
    """Start everything, and give it when it is ready."""
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name, "kafka"))
        try:
            await broker.start()
            settings = KafkaSettings(kafka_bootstrap=broker.bootstrap)
            async with topic_admin.admin_client(settings) as admin:
                await topic_admin.apply(admin, await topic_admin.describe(admin, topic_specs(settings.topics)))
            with _enricher(Path(name), settings) as listen:
                await asyncio.to_thread(_wait_until_ready, listen)
                producer = clients.new_producer(settings)
                consumer = AIOKafkaConsumer(
                    settings.topics.enriched, bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="latest"
                )
                async with producer, consumer:
                    yield Pipeline(settings, producer, consumer)
        finally:
            broker.stop()


async def _measure(rounds: int) -> tuple[list[float], list[float]]:
    plain, waiting = [], []
    async with running() as pipeline:
        for number in range(rounds + 1):
            ages = [await pipeline.window(late=late) for late in (False, True)]
            if number > 0:
                plain.append(ages[0])
                waiting.append(ages[1])
    return plain, waiting


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    plain, waiting = asyncio.run(_measure(rounds))
    text = f"""
{_NODES} nodes publish {_FLOWS_PER_NODE} flows each at the end of the same 10-second window; broker, enricher, the
lab's API and the reader share the machine. A figure is the 99th percentile over the {_NODES * _FLOWS_PER_NODE:,} flows
of a window, from the window's end to their arrival at a reader. The yardstick is the window itself, so there is no
other. When something waits, ten nodes have a sender of which no pod ever becomes known: their chunks wait as long as
any may, 2 s. `zonemeter_enricher_freshness_seconds` shows the same in operation.
"""
    figures = [
        Figure("nothing waits, p99", "s", plain, compare=Compare.ALONE, target=Target(_TARGET)),
        Figure("ten chunks wait, p99", "s", waiting, compare=Compare.ALONE, target=Target(_TARGET_WAITING)),
    ]
    return [Table("From the window's end to the enriched topic", text, figures)]


if __name__ == "__main__":
    raise SystemExit(report.main("freshness", "Freshness", measure))
