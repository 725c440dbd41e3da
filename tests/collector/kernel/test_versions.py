# SPDX-License-Identifier: Apache-2.0
"""A version with another key, record, control and codec takes over from this one and back again, in mid-window."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from collector.attach import netlink
from collector.kernel import pins
from collector.kernel.load_request import Answer, Request
from collector.window.encode import raw_chunks
from collector.window.meter import Meter
from lab.kafka.broker import Broker
from schemas.raw import decode_chunk
from tests.support.collector import metered, netlab
from tests.support.collector.another_version import ROWS_PER_CHUNK, _ports
from tests.support.collector.netlab import pod_address, send_udp
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually

ROOT = Path(__file__).resolve().parents[3]
ANOTHER = "tests.support.collector.another_version"
B = pod_address(1, 2)
PORTS = (5253, 5001, 5002, 5003, 5004)  # in the order of this version's rows: by bytes, the low one first


def send(rounds: int) -> None:
    for port in PORTS:
        send_udp("pod11", "pod12", B, count=rounds, size=72, port=port)


class Other:
    """A collector of the other version while it lives."""

    def __init__(self, process: "subprocess.Popen[str]", lines: IO[str], stdin: IO[str]) -> None:
        self.process, self._lines, self._stdin = process, lines, stdin
        self.found: list[list[list[int]]] = json.loads(lines.readline())

    def die_with_a_frozen_window(self) -> tuple[list[list[int]], list[bytes]]:
        """Return the ports of its rows, and the chunks that it would have published."""
        self._stdin.write("\n")
        self._stdin.flush()
        frozen, chunks = json.loads(self._lines.readline())
        assert self.process.wait(120) == 0
        return frozen, [chunk.encode() for chunk in chunks]


@contextmanager
def another_version(root: Path, answer: Answer) -> Iterator[Other]:
    devices = json.dumps(metered.devices("node1").uplinks)
    command = ["nsenter", f"--net=/run/netns/{netlab.ns('node1')}", sys.executable, "-m", ANOTHER, "live"]
    command += [str(root), msgspec.json.encode(answer).decode(), devices]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Other(process, process.stdout, process.stdin)


def loaded(wanted: Request) -> Answer:
    """Return what the other version's loader answers."""
    return metered.loaded("node1", wanted, sys.executable, "-m", ANOTHER, "load")[0]


@pytest.fixture
def root(nodes: None) -> Iterator[Path]:
    made = metered.pin_dir("versions")
    yield made
    pins.detach(made)


def test_another_layout_in_the_middle_of_a_window(root: Path) -> None:
    wanted = metered.request(root)
    other = loaded(wanted)
    with another_version(root, other) as theirs:
        assert theirs.found == []
        send(2)
        frozen, _ = theirs.die_with_a_frozen_window()
    assert frozen == [[port, 2] for port in reversed(PORTS)]
    send(3)  # into the window that is open

    ours = metered.load("node1", wanted)
    assert not ours.active
    meter = Meter(root, lambda: netlab.inside("node1", netlink.device_counters), metered.now_ms)
    metered.start("node1", meter, ours)
    found = []
    for window in meter.unfinished():
        assert window.meta.generation == other.generation
        found.append((window.record.sequence, window.maybe_repeat, _ports(window.rows())))
        assert sum(window.record.counters[0]) > 0
        chunks = raw_chunks(window.meta, window.record, window.rows(), maybe_repeat=window.maybe_repeat)
        sizes = [len(decode_chunk(chunk).src) for chunk in chunks]
        assert {*sizes[:-1]} == {ROWS_PER_CHUNK}, "cut as it may have been published: ids agree"
        assert sum(sizes) == len(window.rows())
        meter.finish(window)
    opened = [[port, 3] for port in reversed(PORTS)]
    assert found == [(1, True, frozen), (2, False, opened)], "what it may have published keeps its order"
    assert pins.generations(root) == [ours.generation]

    send(4)
    meter.close()
    with another_version(root, loaded(wanted)) as theirs:
        assert theirs.found == [[[port, 4] for port in PORTS]]
        theirs.die_with_a_frozen_window()


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[Topics]:
    broker = Broker(tmp_path / "kafka")
    try:
        asyncio.run(broker.start())
        yield Topics.make(broker.bootstrap)
    finally:
        broker.kill()


def test_another_codec_between_publish_and_acknowledgement(root: Path, topics: Topics, tmp_path: Path) -> None:
    """Killed after any number of a window's chunks; this version publishes the window again, written out otherwise."""
    wanted = metered.request(root, cluster="prod-eu")
    with another_version(root, loaded(wanted)) as theirs:
        send(2)
        _, before = theirs.die_with_a_frozen_window()
    meter = Meter(root, lambda: netlab.inside("node1", netlink.device_counters), metered.now_ms)
    metered.start("node1", meter, metered.load("node1", wanted))
    window = next(meter.unfinished())
    again = list(raw_chunks(window.meta, window.record, window.rows(), maybe_repeat=window.maybe_repeat))
    meter.close()
    assert len(before) == len(again) >= 3
    assert not set(before) & set(again)
    wanted_rows = {f"{{node}}{id_.partition('node1')[2]}": rest for id_, *rest in _rows_of(again) if rest[2] in PORTS}
    assert _rows_of(again) == _rows_of(before), "the same rows in the same places"
    assert sorted(rest[2:] for rest in wanted_rows.values()) == [[port, 200, 2] for port in sorted(PORTS)]

    # A node for each number of chunks that had been published.
    names = {f"killed-after-{count}": count for count in range(len(before) + 1)}

    def publish(name: str, chunks: list[bytes]) -> None:
        topics.produce([chunk.replace(b'node1"', f'{name}"'.encode()) for chunk in chunks], key=name.encode())

    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--group-instance-id", "one"]
    for name, count in names.items():
        publish(name, before[:count])
    with running(flags, tmp_path / "log", "before-commit:1") as doomed:
        assert doomed.wait() == -9
    assert topics.flows()
    for name in names:
        publish(name, again)
    with running(flags, tmp_path / "log"):
        eventually(lambda: len(topics.ledger()) == sum(names.values()) + len(names) * len(before))
    flows = {flow.id: flow for flow in topics.flows()}
    assert len(flows) == len(topics.flows())
    found = {
        id_: [flow.source.address, flow.destination.address, flow.destination.port, flow.bytes, flow.packets]
        for id_, flow in flows.items()
        if flow.destination.port in PORTS
    }
    assert found == {f"prod-eu/{id_.format(node=name)}": row for name in names for id_, row in wanted_rows.items()}


def _rows_of(chunks: list[bytes]) -> list[tuple[Any, ...]]:
    """Return id, ends, service's port, bytes and packets of each row."""
    found: list[tuple[Any, ...]] = []
    for chunk in map(decode_chunk, chunks):
        columns = zip(chunk.src, chunk.dst, chunk.dst_port, chunk.bytes, chunk.packets, strict=True)
        for index, (src, dst, *rest) in enumerate(columns):
            found.append((f"{chunk.id}/{index}", chunk.addresses[src], chunk.addresses[dst], *rest))
    return found
