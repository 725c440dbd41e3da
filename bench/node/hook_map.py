# SPDX-License-Identifier: Apache-2.0
"""The flow map: shared or per CPU, with two CPUs at it; and how long a full one takes."""

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence

from bench.measure.figure import Figure, Target
from bench.measure.report import Table
from bench.node import crossing
from bench.node.attached import Variant, timed, variant
from bench.node.crossing import UDP
from collector.kernel.layout import entries_for
from collector.window.encode import raw_chunks
from common.clock import now_ms

_MANY = 10_000
_WINDOW_MS = 10_000.0

_SHARING = """
Ns per packet above accept-only, of all packets of both CPUs. *Yardstick* is the same program with a value per CPU
(`percpu_hash`); both on the same packets, in turn. The other CPU sends at full speed meanwhile. *Same*: every packet of
both CPUs adds to the same flow, the worst that sharing can be; *own*: each CPU has its flows.
"""
_FULL = """
A full map of {n:,} flows, from the flip to its end: the other map counts from the flip on, so that none of this delays
the next window as long as it is over before that one ends. *Yardstick*: the window, 10 s.
"""


@contextlib.contextmanager
def flooding(packets: Sequence[bytes]) -> Iterator[None]:
    """Have another process on the last CPU send packets for the length of a block, this one staying on the first."""
    before = os.sched_getaffinity(0)
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {max(before)})
        with crossing.sender() as out:
            while True:
                crossing.send(out, packets, 1000)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.sched_setaffinity(0, before)


def sharing(rounds: int, out: socket.socket, yardstick: int) -> Table:
    """Compare the shared map with one that has a value per CPU, while two CPUs send."""
    one, other = crossing.frames(UDP, 1), crossing.frames(UDP, 1, destination="10.201.0.0")
    many, more = crossing.frames(UDP, _MANY), crossing.frames(UDP, _MANY, destination="10.201.0.0")
    cases = {
        "one flow, the same": (one, one),
        "one flow, own": (one, other),
        "10,000 flows, the same": (many, many),
        "10,000 flows, own": (many, more),
    }
    taken: dict[str, tuple[list[float], list[float]]] = {case: ([], []) for case in cases}
    with variant("shared") as shared, variant("percpu", altered="per_cpu") as per_cpu:
        for _ in range(rounds):
            for case, (here, there) in cases.items():
                with flooding(there):
                    for program, into in zip((shared, per_cpu), taken[case], strict=True):
                        ours, accept = timed(out, here, program, yardstick)
                        into.append(ours - accept)
    figures = [Figure(case, "ns", *both) for case, both in taken.items()]
    return Table("The map: shared, or a value per CPU", _SHARING, figures)


def full(rounds: int, out: socket.socket) -> Table:
    """Time each step from a full map's flip to its being empty again."""
    steps = ("flip and barrier", "drain and sort", "encode", "clear")
    taken: dict[str, list[float]] = {step: [] for step in (*steps, "together")}
    with variant("full") as program:
        room = entries_for(program.wanted.map_memory)
        packets = crossing.frames(UDP, room)
        for number in range(rounds + 1):
            with program.counting():
                crossing.send(out, packets, room)
            rows, spent = _close(program)
            if rows != room:
                raise RuntimeError(f"the map holds {rows:,} flows of {room:,}: something before the hook drops packets")
            if number > 0:
                for step, ms in zip(taken, (*spent, sum(spent)), strict=True):
                    taken[step].append(ms)
    windows = [_WINDOW_MS] * rounds
    figures = [
        Figure(step, "ms", ms, windows, target=Target(0.5) if step == "together" else None)
        for step, ms in taken.items()
    ]
    return Table("A full map", _FULL.format(n=room), figures)


def _close(program: Variant) -> tuple[int, list[float]]:
    times = [time.perf_counter()]
    window = program.meter.flip(now_ms())
    times.append(time.perf_counter())
    rows = window.rows()
    times.append(time.perf_counter())
    for _ in raw_chunks(window.meta, window.record, rows, maybe_repeat=False):
        pass
    times.append(time.perf_counter())
    program.meter.finish(window)
    times.append(time.perf_counter())
    return len(rows), [(after - before) * 1000 for before, after in itertools.pairwise(times)]
