# SPDX-License-Identifier: Apache-2.0
"""`zonemeter run collector` as a process, with a real broker: away, without topics, killed, killed itself."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from collector import pins
from collector.generation import Generation
from lab.broker import Broker
from schemas.ledger import LedgerRecord, decode_ledger
from schemas.raw import RawChunk, decode_chunk
from tests.collector import metered, netlab
from tests.collector.netlab import pod_address, send_udp, wait_until

ROOT = Path(__file__).resolve().parents[2]
A, B = pod_address(1, 1), pod_address(1, 2)
PORT = 9092  # in a network namespace of its own
LISTEN = "127.0.0.1:9460"


@pytest.fixture(scope="module")
def broker(nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """On the fabric, where the nodes reach it; not started."""
    made = Broker(tmp_path_factory.mktemp("kafka"), port=PORT, more_listeners=((netlab.CLIENT, 9094),))
    try:
        yield made
    finally:
        made.kill()


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
        self.running: subprocess.Popen[bytes] | None = None

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
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=ROOT)

    def signal(self, number: int) -> int:
        assert self.running is not None
        self.running.send_signal(number)
        return self.running.wait(15)

    def lines(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    def says(self, text: str, *, times: int = 1) -> bool:
        return wait_until(lambda: sum(text in line for line in self.lines()) >= times, 20)

    def metric(self, name: str) -> float:
        text = netlab.inside("node1", lambda: urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=5).read())
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
    netlab.run("fabric", sys.executable, "-m", "cli", "topics", "apply", *where, *more)


@pytest.fixture
def collector(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    made = Process(re.sub("[^a-z0-9]", "-", request.node.name)[:40], tmp_path)
    try:
        yield made
    finally:
        if made.running is not None and made.running.poll() is None:
            made.signal(signal.SIGKILL)
        pins.detach(made.pin_dir)


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


def published(collector: Process) -> tuple[list[RawChunk], list[LedgerRecord]]:
    """Return what Kafka holds; chunks once each, in order. Repeats must be the same but for saying so."""
    raw = netlab.inside("fabric", lambda: asyncio.run(_consume(f"{collector.prefix}flows.raw.v1")))
    ledger = netlab.inside("fabric", lambda: asyncio.run(_consume(f"{collector.prefix}ledger.v1")))
    first: dict[str, bytes] = {}
    for value in raw:
        chunk, plain = decode_chunk(value), value.replace(b',"maybe_repeat":true', b"")
        assert first.setdefault(chunk.id, plain) == plain
    return [decode_chunk(value) for value in first.values()], [decode_ledger(value) for value in ledger]


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


def test_it_waits_for_kafka_and_its_topics_and_counts_meanwhile(broker: Broker, collector: Process) -> None:
    collector.start()
    assert collector.says("not ready: Kafka at 192.168.50.99:9094")
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert not collector.ready()
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 3, 20)
    start(broker)
    assert collector.says("does not exist: zonemeter topics apply")
    assert collector.says("ready again: kafka")
    topics_apply(collector)
    assert wait_until(collector.ready, 20)
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= 2, 20)
    send_udp("pod11", "pod12", B, count=4, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks = check(collector, 7)
    assert [chunk.short for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not list(collector.spool.glob("*/*"))


def test_another_number_of_partitions_makes_it_wait(broker: Broker, collector: Process) -> None:
    topics_apply(collector, "--partitions", "5")
    collector.start()
    assert collector.says("has 5 partitions, the setting partitions says 12: they must agree")
    assert not collector.ready()
    assert collector.signal(signal.SIGTERM) == 0


def test_the_broker_killed_and_away_for_longer_than_a_deadline(broker: Broker, collector: Process) -> None:
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1, 20)
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.says("Kafka does not take windows")
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 3, 30)
    send_udp("pod11", "pod12", B, count=4, size=72)
    start(broker)
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_spool_windows") == 0, 30)
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2, 30)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, 7)


def test_without_a_disk_windows_grow(broker: Broker, collector: Process) -> None:
    collector.spool.write_text("a file where the directory should be")
    start(broker)
    topics_apply(collector)
    collector.start()
    assert collector.says("while Kafka is away windows grow in the kernel instead")
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1, 20)
    assert collector.metric("zonemeter_collector_spool_usable") == 0
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.says("windows grow in the kernel until Kafka takes them")
    begun = collector.metric("zonemeter_collector_spool_failures_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_failures_total") > begun, 20)
    send_udp("pod11", "pod12", B, count=4, size=72)
    start(broker)
    assert wait_until(collector.ready, 30)
    assert collector.signal(signal.SIGTERM) == 0
    chunks = check(collector, 7)
    assert max(chunk.end_ms - chunk.start_ms for chunk in chunks) > 3000


def test_left_alone_for_too_long_it_stops_and_the_ledger_says_since_when(broker: Broker, collector: Process) -> None:
    start(broker)
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1, 20)
    send_udp("pod11", "pod12", B, count=3, size=72)
    collector.signal(signal.SIGKILL)
    active = pins.active_generation(collector.pin_dir)
    meta = None if active is None else pins.read_meta(collector.pin_dir, active)
    assert meta is not None
    with contextlib.closing(Generation(collector.pin_dir, meta)) as generation:
        generation.renew(0.001)  # as if six hours had passed

        def stopped() -> bool:
            send_udp("pod12", "pod11", A, count=1, size=72)
            return generation.stopped_for() is not None

        assert wait_until(stopped, 20)
    send_udp("pod11", "pod12", B, count=4, size=72)  # seen by nobody
    collector.start()
    assert collector.says("no collector had been here for long (--deadman)")
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2, 20)
    send_udp("pod11", "pod12", B, count=5, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks, entries = published(collector)
    assert sum(packets_between(chunk, A, B) for chunk in chunks) == 3 + 5
    (cut,) = [entry for entry in entries if entry.ended_by == "deadman"]
    (gap,) = [(one.end_ms, two.start_ms) for one, two in pairwise(chunks) if one.end_ms != two.start_ms]
    assert gap[0] == cut.end_ms < gap[1]


def test_a_spool_outlives_the_node(broker: Broker, collector: Process) -> None:
    """Another boot, other pins, another name of the node: what the disk holds is published first, as it was."""
    boot_id = collector.log.parent / "boot_id"
    boot_id.write_text("111111111111")
    collector.command += ["--boot-id-file", str(boot_id)]
    start(broker)
    topics_apply(collector)
    broker.kill()
    collector.start()
    assert collector.says("counting")
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert wait_until(lambda: collector.metric("zonemeter_collector_spool_windows") >= 2, 30)
    collector.signal(signal.SIGKILL)
    spooled = len(list(collector.spool.glob("*/*.window")))
    pins.detach(collector.pin_dir)  # as a reboot does
    boot_id.write_text("222222222222")
    collector.command += ["--node", "renamed"]
    start(broker)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") > spooled, 30)
    send_udp("pod11", "pod12", B, count=4, size=72)
    assert collector.signal(signal.SIGTERM) == 0
    chunks, entries = published(collector)
    lives = [(chunk.node, chunk.boot_id, chunk.sequence) for chunk in chunks]
    assert sorted(lives) == [
        *(("node1", "111111111111", number) for number in range(1, spooled + 1)),
        *(("renamed", "222222222222", number) for number in range(1, len(chunks) - spooled + 1)),
    ]
    assert sum(packets_between(chunk, A, B) for chunk in chunks) == 3 + 4
    assert {entry.id for entry in entries} == {chunk.id.removesuffix("/0") for chunk in chunks}


def test_stopped_while_the_broker_is_away(broker: Broker, collector: Process) -> None:
    topics_apply(collector)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1, 20)
    broker.kill()
    send_udp("pod11", "pod12", B, count=3, size=72)
    assert collector.signal(signal.SIGTERM) == 0, collector.log.read_text()
    assert "windows stay in the spool; the next collector publishes them" in collector.lines()
    send_udp("pod11", "pod12", B, count=2, size=72)
    start(broker)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2, 30)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, 5)


def test_killed_again_and_again(broker: Broker, collector: Process) -> None:
    topics_apply(collector)
    sent = 0
    for life in range(1, 7):
        collector.start()
        assert collector.says("counting", times=life)
        for _ in range(3):
            send_udp("pod11", "pod12", B, count=5, size=72)
            sent += 5
        # Somewhere in a window's life: around the boundary most of it happens.
        wait_until(lambda: False, 0.9)
        collector.signal(signal.SIGKILL)
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 2, 30)
    assert collector.signal(signal.SIGTERM) == 0
    check(collector, sent)


def test_a_second_collector_is_refused(broker: Broker, collector: Process) -> None:
    collector.start()
    assert collector.says("counting")
    assert collector.running is not None
    second = subprocess.run([*collector.command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, cwd=ROOT)
    assert second.returncode == 2
    refused = [json.loads(line) for line in second.stderr.splitlines()]
    assert f"the collector with pid {collector.running.pid} has it" in refused[-1]["message"]
    other = [*collector.command, "--listen", "127.0.0.1:0", "--pin-dir", f"{collector.pin_dir}-2"]
    third = subprocess.run(other, capture_output=True, text=True, cwd=ROOT)
    Path(f"{collector.pin_dir}-2").rmdir()
    assert third.returncode == 2
    assert f"the collector with pid {collector.running.pid} counts for this node" in third.stderr.splitlines()[-1]
    detached = [sys.executable, "-m", "cli", "detach", "--pin-dir", str(collector.pin_dir)]
    done = subprocess.run(detached, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_detach_leaves_nothing(broker: Broker, collector: Process) -> None:
    collector.start()
    assert collector.says("counting")
    collector.signal(signal.SIGKILL)
    assert collector.pin_dir.is_dir()
    command = [sys.executable, "-m", "cli", "detach", "--pin-dir", str(collector.pin_dir)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        assert not collector.pin_dir.exists()


@pytest.mark.parametrize("missing", ["bpf", "net_admin", "perfmon"])
def test_a_missing_capability_is_named(broker: Broker, collector: Process, missing: str) -> None:
    few = {"bpf", "net_admin", "perfmon"} - {missing}
    collector.give_only(few)
    collector.start()
    assert collector.running is not None
    assert collector.running.wait(30) == 2
    assert f"missing CAP_{missing.upper()}: run as root, or add" in collector.lines()[-1]


@pytest.mark.parametrize(("hook", "kept"), [("netfilter", 1 << 39), ("tc", 1 << 39 | 1 << 12)])
def test_what_it_no_longer_needs_it_gives_up(broker: Broker, collector: Process, hook: str, kept: int) -> None:
    """It loads with three capabilities; what stays, in every thread, is what draining takes. And it works so."""
    start(broker)
    topics_apply(collector)
    collector.give_only({"bpf", "net_admin", "perfmon"})
    collector.command += ["--hook", hook]
    collector.start()
    assert wait_until(lambda: collector.ready() and collector.metric("zonemeter_collector_windows_total") >= 1, 30)
    threads = list(Path(f"/proc/{collector.pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        status = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm")} == {kept}, thread
        assert (int(status["CapAmb"], 16), status["NoNewPrivs"]) == (0, "1")
    netlab.ip("node1", "link add vx8 type vxlan id 8 dstport 4789 dev eth0\nlink set vx8 up")
    try:
        assert wait_until(lambda: collector.metric("zonemeter_collector_uplinks") == 2, 20)
        if hook == "tc":
            assert wait_until(lambda: len(list(collector.pin_dir.glob("link_tcx_*"))) == 4, 20)
    finally:
        netlab.ip("node1", "link del vx8")
    windows = collector.metric("zonemeter_collector_windows_total")
    assert wait_until(lambda: collector.metric("zonemeter_collector_windows_total") >= windows + 2, 30)
    assert collector.signal(signal.SIGTERM) == 0
