# SPDX-License-Identifier: Apache-2.0
"""A collector killed between any two of its system calls, again and again: nothing is lost and nothing comes twice.

A pinned map changes by one system call at a time, so dying before each of them in turn is all the ways to die.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.result import ClockStep
from collector.kernel import bpf_syscall, pins
from collector.kernel.bpf_syscall import BpfCommand
from collector.kernel.load_request import Answer, Request
from collector.window import meter as meter_
from collector.window.encode import ledger_record, raw_chunks
from collector.window.meter import Meter, Window
from schemas.ledger import LedgerRecord, decode_ledger, encode_ledger
from schemas.raw import RawChunk, decode_chunk
from tests.support.collector import metered, netlab
from tests.support.collector.collector_process import bare
from tests.support.collector.netlab import pod_address, send_udp
from tests.support.reconciled import reconcile

A, B = pod_address(1, 1), pod_address(1, 2)
CHANGING = (BpfCommand.MAP_UPDATE_ELEM, BpfCommand.MAP_DELETE_ELEM, BpfCommand.MAP_DELETE_BATCH, BpfCommand.OBJ_PIN)


class Killed(BaseException):
    """What SIGKILL is: nothing runs after it."""


class Life:
    """Dies before the `last`-th thing that changes anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.guard(monkeypatch, bpf_syscall, "_call", lambda command, *_: command in CHANGING)
        self.guard(monkeypatch, Path, "unlink")
        self.guard(monkeypatch, Path, "rmdir")

    def step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1

    def guard(
        self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, changes: Callable[..., bool] = lambda *_: True
    ) -> None:
        """Make each call of `owner.name` for which `changes` is true one step."""
        real = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if changes(*args):
                self.step()
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)


class Node:
    """One node, one pin directory, many collectors; `published` is what Kafka would hold."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request = metered.request(metered.pin_dir(name))
        self.root = Path(self.request.pin_dir)
        self.life = Life(monkeypatch)
        self.published: list[bytes] = []
        self.sent = 0
        self.windows = 0

    def send(self, count: int) -> None:
        send_udp("pod11", "pod12", B, count=count, size=72)
        self.sent += count

    def collector(self, answer: Answer) -> None:
        """What a collector does from start to SIGTERM."""
        meter = Meter(self.root, lambda: netlab.inside("node1", dict), metered.now_ms)
        try:
            metered.start("node1", meter, answer)
            for window in meter.unfinished():
                self.hand_over(meter, window)
            self.send(3)
            self.hand_over(meter, meter.flip(metered.now_ms()))
            self.send(2)
            self.hand_over(meter, meter.flip(metered.now_ms(), short=True))
        finally:
            meter.close()

    def hand_over(self, meter: Meter, window: Window) -> None:
        for chunk in raw_chunks(window.meta, window.record, window.rows(), maybe_repeat=window.maybe_repeat):
            self.life.step()
            self.published.append(chunk)
        meter.finish(window)

    def restart(self) -> None:
        active = pins.active_generation(self.root)
        assert active is not None
        self.collector(Answer(active, active=True))

    def survive(self, steps: int | None, body: Callable[[], None]) -> bool:
        """Run `body` for so many steps; tell whether it came to its end."""
        self.life.left = steps
        try:
            body()
        except Killed:
            return False
        finally:
            self.life.left = None
        return True


@pytest.fixture
def node(nodes: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    made = Node("windows", monkeypatch)
    try:
        yield made
    finally:
        pins.detach(made.root)


def _distinct(published: list[bytes]) -> list[RawChunk]:
    """Return each chunk once, in order; any repeat is the same and says what it is."""
    first: dict[str, RawChunk] = {}
    for chunk in map(decode_chunk, published):
        if chunk.id in first:
            assert chunk.maybe_repeat
            assert bare(chunk) == bare(first[chunk.id])
        else:
            first[chunk.id] = chunk
    return list(first.values())


def check_node(node: Node) -> list[RawChunk]:
    chunks = _distinct(node.published)
    for before, after in itertools.pairwise(chunks):
        assert (before.generation, before.sequence) < (after.generation, after.sequence)
        assert before.end_ms == after.start_ms
        if before.generation == after.generation:
            assert after.sequence == before.sequence + 1
    _check_packets(node, chunks)
    return chunks


def _check_packets(node: Node, chunks: list[RawChunk]) -> None:
    packets = octets = 0
    for chunk in chunks:
        assert chunk.ledger is not None
        assert chunk.ledger.map.bytes == chunk.ledger.hook.bytes
        for row, index in enumerate(chunk.src):
            if (chunk.addresses[index], chunk.addresses[chunk.dst[row]], chunk.protocol[row]) == (A, B, 17):
                packets += chunk.packets[row]
                octets += chunk.bytes[row]
    assert (octets, packets) == (node.sent * 100, node.sent)


def _load(node: Node, request: Request) -> Answer:
    return metered.load("node1", request)


def test_killed_before_every_step_of_a_window(node: Node) -> None:
    node.collector(_load(node, node.request))
    steps = 0
    while not node.survive(steps, node.restart):
        node.restart()
        steps += 1
    assert steps > 30
    chunks = check_node(node)
    # The two short windows of each life that reached its end, and no other.
    assert sum(chunk.short for chunk in chunks) >= steps + 2


@pytest.mark.timeout(600)  # compiles a program for every few steps: a second each on a free machine
def test_killed_before_every_step_of_an_upgrade(node: Node) -> None:
    node.collector(_load(node, node.request))
    ports, steps = 50051, 0
    finished = False
    while not finished:
        ports += 1
        node.send(4)
        request = metered.request(node.root, service_ports=[ports])
        answer = _load(node, request)
        assert not answer.active

        def upgrade(answer: Answer = answer) -> None:
            node.collector(answer)

        # The steps up to the switch one by one, then every tenth: compiling takes a second.
        finished = node.survive(steps, upgrade)
        if not finished:
            node.collector(_load(node, request))
        steps += 1 if steps < 6 else 10
    assert steps > 40
    chunks = check_node(node)
    assert len(pins.generations(node.root)) == 1
    assert len({chunk.generation for chunk in chunks}) > 8


def test_the_same_program_is_used_again_and_counts_meanwhile(node: Node) -> None:
    first = _load(node, node.request)
    node.collector(first)
    node.send(5)  # nobody is there
    again = _load(node, node.request)
    assert again == Answer(first.generation, active=True)
    node.collector(again)
    chunks = check_node(node)
    assert [chunk.sequence for chunk in chunks] == [1, 2, 3, 4]


def test_another_node_name_is_another_generation_and_old_windows_keep_the_old_name(node: Node) -> None:
    first = _load(node, node.request)
    node.collector(first)
    node.send(5)
    second = _load(node, metered.request(node.root, node="renamed"))
    assert second == Answer(max(first.generation + 1, second.generation), active=False)
    node.collector(second)
    chunks = check_node(node)
    assert [(chunk.node, chunk.sequence) for chunk in chunks] == [
        ("node1", 1),
        ("node1", 2),
        ("node1", 3),
        ("renamed", 1),
        ("renamed", 2),
    ]


class Clock:
    """A node's clock, and the one that nobody sets: both go on as they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ms, self.boot_ms = 1_800_000_000_000, 500_000
        monkeypatch.setattr(meter_, "since_boot_ms", lambda: self.boot_ms)

    def __call__(self) -> int:
        return self.wall_ms

    def go(self, ms: int) -> int:
        self.wall_ms += ms
        self.boot_ms += ms
        return self.wall_ms


def _closed(node: Node, meter: Meter, end_ms: int, count: int) -> LedgerRecord:
    """Close a window that so many packets of ours went into, and return its entry in the ledger."""
    node.send(count)
    window = meter.flip(end_ms)
    entry = ledger_record(window.meta, window.record, window.rows(), 0)
    node.hand_over(meter, window)
    return decode_ledger(encode_ledger(entry))


@pytest.mark.parametrize("step_ms", [3_600_000, 4_000, -4_000, -3_600_000])
def test_a_clock_that_is_set_makes_no_window_longer_or_shorter_than_it_was(
    node: Node, monkeypatch: pytest.MonkeyPatch, step_ms: int
) -> None:
    """And the ledger says so: neither a gap nor an hour that nobody lived through, nor a packet lost or doubled."""
    clock = Clock(monkeypatch)
    meter = Meter(node.root, dict, clock)
    metered.start("node1", meter, _load(node, node.request))
    entries = [_closed(node, meter, clock.go(10_000), 1)]
    clock.go(3_000)
    clock.wall_ms += step_ms
    entries.append(_closed(node, meter, clock.go(7_000), 2))
    entries.append(_closed(node, meter, clock.go(10_000), 3))
    meter.close()
    began = 1_800_000_000_000
    assert [(entry.start_ms - began, entry.end_ms - began) for entry in entries] == [
        (0, 10_000),
        (step_ms + 10_000, step_ms + 20_000),
        (step_ms + 20_000, step_ms + 30_000),
    ]
    assert [entry.clock_step_ms for entry in entries] == [None, step_ms, None]
    assert [entry.balance() for entry in entries] == [None] * 3
    _check_packets(node, _distinct(node.published))

    audit = reconcile(entries, 0)
    assert audit.clock_steps == [ClockStep("node1", entries[1].end_ms, step_ms)]
    assert audit.gaps == []


def test_a_flip_that_comes_too_late_for_its_boundary_ends_the_window_when_it_comes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped, or the clock set, after the boundary was waited for."""
    clock = Clock(monkeypatch)
    meter = Meter(node.root, dict, clock)
    metered.start("node1", meter, _load(node, node.request))
    boundary = clock.go(10_000)
    assert _closed(node, meter, boundary, 1).end_ms == boundary
    clock.go(5_000)
    stopped = _closed(node, meter, boundary, 1)
    assert (stopped.end_ms, stopped.clock_step_ms) == (boundary + 5_000, None)
    boundary = clock.go(10_000)
    clock.wall_ms += 60_000
    stepped = _closed(node, meter, boundary, 1)
    assert (stepped.start_ms, stepped.end_ms) == (boundary + 50_000, boundary + 60_000)
    assert stepped.clock_step_ms == 60_000
    meter.close()


def test_an_upgrade_while_the_clock_goes_back(node: Node) -> None:
    clock = [1_800_000_000_000]
    first = _load(node, node.request)
    meter = Meter(node.root, dict, lambda: clock[0])
    metered.start("node1", meter, first)
    meter.close()
    clock[0] -= 1_000_000
    meter = Meter(node.root, dict, lambda: clock[0])
    metered.start("node1", meter, _load(node, metered.request(node.root, service_ports=[50055])))
    (left,) = [window.record for window in meter.unfinished()]
    assert left.end_ms == clock[0]
    assert 0 < left.end_ms - left.start_ms < 120_000
    assert left.start_ms == 1_800_000_000_000 + left.clock_step_ms
    assert metered.open_since_ms(meter) == clock[0]
    meter.close()
