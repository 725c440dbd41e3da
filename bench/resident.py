# SPDX-License-Identifier: Apache-2.0
"""What a collector holds in memory: the process as it runs on a node, windows of few and of many flows, real Kafka."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.kernel import crossing
from bench.kernel.crossing import NODE, UDP
from bench.measure.figure import Compare, Figure, Target
from bench.measure.process import resident_bytes
from bench.measure.report import Table
from collector.kernel import pins
from common.kafka import topic_admin
from common.settings import KafkaSettings
from lab.kafka.broker import Broker
from lab.network import namespaces
from schemas.topics import topic_specs

_FEW, _MANY = 100, 100_000
_WINDOW_SECONDS = 5
_TARGET_MB = 80.0
_DEADLINE_SECONDS = 60.0
_BETWEEN_SECONDS = 0.1
_LISTEN = "127.0.0.1:9464"  # in the node's namespace, where nothing else is
_WHAT = f"""
Resident memory (VmRSS, shared libraries included) of `zonemeter run collector` with default settings but for windows
of {_WINDOW_SECONDS} s, each round once a window is published and cleared; the last row is the most it ever held.
"""


def measure(rounds: int, out: socket.socket) -> Table:
    """Return the table, between the three namespaces of `crossing`."""
    held: dict[int, list[float]] = {_FEW: [], _MANY: []}
    with _running() as process:
        for flows, taken in held.items():
            packets = crossing.frames(UDP, flows)
            for _ in range(rounds + 1):
                published = _metric("zonemeter_collector_rows_total")
                crossing.send(out, packets, flows)
                _until(lambda wanted=published + flows: _metric("zonemeter_collector_rows_total") >= wanted)  # type: ignore[misc]
                taken.append(_settled(process.pid))
        most = resident_bytes(process.pid, peak=True) / 1e6
    figures = [
        Figure("100 flows a window", "MB", held[_FEW][1:], compare=Compare.ALONE),
        Figure("100,000 flows a window", "MB", held[_MANY][1:], compare=Compare.ALONE, target=Target(_TARGET_MB)),
        Figure("at most, since it began", "MB", [most], compare=Compare.ALONE),
    ]
    return Table("What a collector holds", _WHAT, figures)


@contextlib.contextmanager
def _running() -> Iterator[subprocess.Popen[bytes]]:
    """Run a broker and a collector in the node's namespace."""
    root = Path("/sys/fs/bpf") / f"{crossing.PREFIX}-resident"
    namespaces.ip_batch(["link set lo up"], NODE)
    with tempfile.TemporaryDirectory() as made:
        broker = Broker(Path(made) / "kafka")
        try:
            with namespaces.enter(NODE):
                asyncio.run(_start(broker))
            command = [
                *("nsenter", f"--net=/run/netns/{NODE}", sys.executable, "-m", "cli", "run", "collector"),
                *("--node", "bench", "--cluster", "bench", "--kafka-bootstrap", broker.bootstrap),
                *("--pin-dir", str(root), "--spool-dir", f"{made}/spool", "--listen", _LISTEN),
                *("--window-seconds", str(_WINDOW_SECONDS)),
            ]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                try:
                    _until(lambda: _metric("zonemeter_collector_windows_total") >= 1)
                    yield process
                finally:
                    process.send_signal(signal.SIGTERM)
                    process.wait(_DEADLINE_SECONDS)
        finally:
            broker.kill()
            pins.detach(root)


async def _start(broker: Broker) -> None:
    await broker.start()
    settings = KafkaSettings(kafka_bootstrap=broker.bootstrap)
    wanted = topic_specs(settings.topics, partitions=settings.partitions)
    async with topic_admin.admin_client(settings) as admin:
        await topic_admin.apply(admin, await topic_admin.describe(admin, wanted))


def _metric(name: str) -> float:
    """Return a counter's value as the collector serves it, 0 while it serves none; all its labels together."""
    try:
        with namespaces.enter(NODE), urllib.request.urlopen(f"http://{_LISTEN}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _settled(pid: int) -> float:
    """Return MB resident once they no longer change: what was published may not be cleared yet."""
    held = -1
    while (now := resident_bytes(pid)) != held:
        held = now
        time.sleep(_BETWEEN_SECONDS)
    return held / 1e6


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the collector did not come so far in {_DEADLINE_SECONDS:.0f} s")
        time.sleep(_BETWEEN_SECONDS)
