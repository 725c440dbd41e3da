# SPDX-License-Identifier: Apache-2.0
"""What a collector holds in memory: the process as it runs on a node, windows of few and of many flows, real Kafka."""

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.kafka import pipeline
from bench.measure.figure import Figure, Target
from bench.measure.process import metric, resident_bytes, running, until
from bench.measure.report import Table
from bench.node import crossing
from bench.node.crossing import NODE, UDP
from collector.kernel import pins
from common.settings import KafkaSettings
from lab.network import namespaces

_FEW, _MANY = 100, 100_000
_WINDOW_SECONDS = 5
_TARGET_MB = 80.0
_BETWEEN_SECONDS = 0.1
_LISTEN = "127.0.0.1:9464"  # in the node's namespace, where nothing else is
_WHAT = f"""
Resident memory (VmRSS, shared libraries included) of `zonemeter run collector` with default settings but for windows
of {_WINDOW_SECONDS} s, each round once a window is published and cleared; the last row is the most it ever held.
"""


def measure(rounds: int, out: socket.socket) -> Table:
    """Return the table, between the three namespaces of `crossing`."""
    held: dict[int, list[float]] = {_FEW: [], _MANY: []}
    with _running() as pid:
        for flows, taken in held.items():
            packets = crossing.frames(UDP, flows)
            for _ in range(rounds + 1):
                wanted = _metric("rows") + flows
                crossing.send(out, packets, flows)
                _reach("rows", wanted)
                taken.append(_settled(pid))
        most = resident_bytes(pid, peak=True) / 1e6
    figures = [
        Figure("100 flows a window", "MB", held[_FEW][1:]),
        Figure("100,000 flows a window", "MB", held[_MANY][1:], target=Target(_TARGET_MB)),
        Figure("at most, since it began", "MB", [most]),
    ]
    return Table("What a collector holds", _WHAT, figures)


@contextlib.contextmanager
def _running() -> Iterator[int]:
    """Run a broker and a collector in the node's namespace; give the collector's process id."""
    root = Path("/sys/fs/bpf") / f"{crossing.PREFIX}-resident"
    namespaces.ip_batch(["link set lo up"], NODE)
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryDirectory())
        with namespaces.enter(NODE):
            settings = KafkaSettings(kafka_bootstrap=stack.enter_context(pipeline.broker()))
            asyncio.run(pipeline.make_topics(settings))
        flags = ["--node", "bench", "--cluster", "bench", "--kafka-bootstrap", settings.kafka_bootstrap]
        flags += ["--pin-dir", str(root), "--spool-dir", spool, "--listen", _LISTEN, "--log-level", "error"]
        flags += ["--window-seconds", str(_WINDOW_SECONDS)]
        stack.callback(pins.detach, root)
        enter = ("nsenter", f"--net=/run/netns/{NODE}")
        pid = stack.enter_context(running("cli", "run", "collector", *flags, before=enter))
        _reach("windows", 1)
        yield pid


def _reach(name: str, least: float) -> None:
    until(lambda: _metric(name) >= least, f"{least:.0f} {name} published")


def _metric(name: str) -> float:
    with namespaces.enter(NODE):
        return metric(f"http://{_LISTEN}/metrics", f"zonemeter_collector_{name}_total")


def _settled(pid: int) -> float:
    """Return MB resident once they no longer change: what was published may not be cleared yet."""
    held = -1
    while (now := resident_bytes(pid)) != held:
        held = now
        time.sleep(_BETWEEN_SECONDS)
    return held / 1e6
