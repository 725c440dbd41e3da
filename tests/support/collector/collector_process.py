# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run collector` as a process on the first node, and what a real broker on the fabric holds of it."""

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from lab.kafka.broker import Broker
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.raw import RawChunk, decode_chunk
from tests.support.collector import metered, netlab
from tests.support.collector.netlab import pod_address, wait_until
from tests.support.forked import Forked
from tests.support.services import DEADLINE_SECONDS

ROOT = Path(__file__).resolve().parents[3]
A, B = pod_address(1, 1), pod_address(1, 2)
PORT = 9092  # in a network namespace of its own
LISTEN = "127.0.0.1:9460"


def start(broker: Broker) -> None:
    """Start it where it does not run."""
    if broker.process is None:
        netlab.inside("fabric", lambda: asyncio.run(broker.start()))


class Process:
    """A collector on the first node."""

    def __init__(self, name: str, directory: Path, *more: str) -> None:
        self.prefix = f"{name}."
        self.pin_dir = metered.pin_dir(name)
        self.log = directory / "log"
        self.spool = directory / "spool"
        self.command = [
            *("nsenter", f"--net=/run/netns/{netlab.ns('node1')}", sys.executable, "-m", "cli", "run", "collector"),
            *("--node", "node1", "--cluster", name, "--kafka-bootstrap", f"{netlab.CLIENT}:9094"),
            *("--pin-dir", str(self.pin_dir), "--window-seconds", "1"),
            *("--map-memory", "1MiB", "--listen", LISTEN, "--drain-seconds", "6", "--kafka-deadline-seconds", "5"),
            *("--topic-prefix", self.prefix, "--spool-dir", str(self.spool), *more),
        ]
        self.running: subprocess.Popen[bytes] | Forked | None = None

    def give_only(self, capabilities: set[str]) -> None:
        """Start it with these and no others, as a container's runtime does."""
        bounds = "".join(f",+{name}" for name in sorted(capabilities))
        self.command[2:2] = ["setpriv", f"--bounding-set=-all{bounds}", "--inh-caps=-all"]

    @property
    def pid(self) -> int:
        """Its process: nsenter and setpriv run what they start in their own place."""
        assert self.running is not None
        return self.running.pid

    def start(self) -> None:
        if self.command[2] == sys.executable:  # nothing but nsenter before it
            self.running = Forked(self.command[4:], ROOT, self.log, self.log, netlab.ns("node1"))
            return
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=ROOT)

    def signal(self, number: int) -> int:
        assert self.running is not None
        self.running.send_signal(number)
        return self.running.wait(DEADLINE_SECONDS)

    def lines(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    def says(self, text: str, *, times: int = 1) -> bool:
        return wait_until(lambda: sum(text in line for line in self.lines()) >= times)

    def metric(self, name: str) -> float:
        text = netlab.inside(
            "node1", lambda: urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=DEADLINE_SECONDS).read()
        )
        return next(float(line.split()[1]) for line in text.decode().splitlines() if line.startswith(name + " "))

    def ready(self) -> bool:
        def ask() -> bool:
            try:
                return bool(urllib.request.urlopen(f"http://{LISTEN}/readyz", timeout=5).status == 200)
            except (urllib.error.URLError, OSError):
                return False

        return netlab.inside("node1", ask)


def topics_apply(collector: Process, *more: str) -> None:
    where = ("--kafka-bootstrap", f"127.0.0.1:{PORT}", "--topic-prefix", collector.prefix)
    words = ["cli", "topics", "apply", *where, *more]
    said = collector.log.with_name("topics")
    assert Forked(words, ROOT, said, said, netlab.ns("fabric")).wait() == 0, said.read_text()


async def _consume(topic: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{PORT}", auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(12)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        values: list[bytes] = []
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                for records in (await consumer.getmany(partition, timeout_ms=1000)).values():
                    values.extend(record.value for record in records)
        return values
    finally:
        await consumer.stop()


def bare(chunk: RawChunk) -> RawChunk:
    """Return a chunk without what a repeat may say otherwise: that it is one, and what only its own collector knew."""
    return msgspec.structs.replace(chunk, maybe_repeat=False, own=[], node_addresses=None)


def published(collector: Process) -> tuple[list[RawChunk], list[LedgerRecord]]:
    """Return what Kafka holds; chunks once each, in order. Repeats must be the same but for `bare`."""
    raw = netlab.inside("fabric", lambda: asyncio.run(_consume(f"{collector.prefix}flows.raw.v1")))
    ledger = netlab.inside("fabric", lambda: asyncio.run(_consume(f"{collector.prefix}ledger.v1")))
    first: dict[str, RawChunk] = {}
    for chunk in map(decode_chunk, raw):
        assert bare(first.setdefault(chunk.id, chunk)) == bare(chunk)
    return list(first.values()), [decode_ledger(value) for value in ledger]


def check(collector: Process, sent: int) -> list[RawChunk]:
    """Windows without a gap, books that balance, and every packet of ours exactly once."""
    chunks, entries = published(collector)
    assert chunks
    for before, after in pairwise(chunks):
        assert after.start_ms == before.end_ms
        assert (after.generation, after.sequence) == (before.generation, before.sequence + 1)
    assert all(entry.balance() is None for entry in entries)
    assert {entry.id for entry in entries} == {chunk.id.removesuffix("/0") for chunk in chunks}
    counted = [
        (chunk.bytes[row], chunk.packets[row])
        for chunk in chunks
        for row in range(len(chunk.src))
        if (chunk.addresses[chunk.src[row]], chunk.addresses[chunk.dst[row]], chunk.protocol[row]) == (A, B, 17)
    ]
    assert (sum(octets for octets, _ in counted), sum(packets for _, packets in counted)) == (100 * sent, sent)
    return chunks


def packets_between(chunk: RawChunk, src: str, dst: str) -> int:
    return sum(
        chunk.packets[row]
        for row in range(len(chunk.src))
        if (chunk.addresses[chunk.src[row]], chunk.addresses[chunk.dst[row]]) == (src, dst)
    )
