# SPDX-License-Identifier: Apache-2.0
"""A version with another key, record, control and codec takes over from this one and back again, in mid-window."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import pytest

from collector import netlink, pins
from collector.encode import raw_chunks
from collector.loading import Answer
from collector.meter import Meter
from schemas.raw import decode_chunk
from tests.collector import metered, netlab
from tests.collector.another_version import CODEC, ROWS_PER_CHUNK, _ports
from tests.collector.netlab import pod_address, send_udp

ROOT = Path(__file__).resolve().parents[2]
ANOTHER = "tests.collector.another_version"
B = pod_address(1, 2)
PORTS = (5253, 5001, 5002)  # in the order of this version's rows: by bytes, the low one first


def send(rounds: int) -> None:
    for port in PORTS:
        send_udp("pod11", "pod12", B, count=rounds, size=72, port=port)


class Other:
    """A collector of the other version while it lives."""

    def __init__(self, process: "subprocess.Popen[str]", lines: IO[str], stdin: IO[str]) -> None:
        self.process, self._lines, self._stdin = process, lines, stdin
        self.found: list[list[list[int]]] = json.loads(lines.readline())

    def die_with_a_frozen_window(self) -> list[list[int]]:
        self._stdin.write("\n")
        self._stdin.flush()
        frozen: list[list[int]] = json.loads(self._lines.readline())
        assert self.process.wait(30) == 0
        return frozen


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


@pytest.fixture
def root(nodes: None) -> Iterator[Path]:
    made = metered.pin_dir("versions")
    yield made
    pins.detach(made)


def test_another_layout_in_the_middle_of_a_window(root: Path) -> None:
    wanted = metered.request(root)
    other = metered.load("node1", wanted, module=(ANOTHER, "load"))
    with another_version(root, other) as theirs:
        assert theirs.found == []
        send(2)
        frozen = theirs.die_with_a_frozen_window()
    assert frozen == [[port, 2] for port in reversed(PORTS)]
    send(3)  # into the window that is open

    ours = metered.load("node1", wanted)
    assert not ours.active
    meter = Meter(root, lambda: netlab.inside("node1", netlink.device_counters), metered.now_ms)
    meter.start(ours, metered.devices("node1"))
    found = []
    for window in meter.unfinished():
        assert window.meta.generation == other.generation
        found.append((window.record.sequence, window.maybe_repeat, _ports(window.rows())))
        assert sum(window.record.counters[0]) > 0
        assert window.record.codec_version == CODEC
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
    with another_version(root, metered.load("node1", wanted, module=(ANOTHER, "load"))) as theirs:
        assert theirs.found == [[[port, 4] for port in PORTS]]
        theirs.die_with_a_frozen_window()
