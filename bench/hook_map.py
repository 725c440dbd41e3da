# SPDX-License-Identifier: Apache-2.0
"""The flow map: shared or per CPU, with two CPUs at it; and how long a full one takes."""

import contextlib
import itertools
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import crossing
from bench.attached import Variant, timed, variant
from bench.crossing import UDP
from bench.figure import Figure, Target
from bench.report import Table
from collector import bpf_syscall as sys_bpf
from collector import pins
from collector.bpf_syscall import MapType
from collector.encode import raw_chunks
from collector.generation import possible_cpus
from collector.layout import KEY, TALLY, entries_for, map_bytes

_MANY = 10_000
_WINDOW_MS = 10_000.0
_TRIES, _FREED_SECONDS = 5, 0.5

_SHARING = """
Ns per packet above accept-only, of all packets of both CPUs. *Yardstick* is the same program with a value per CPU
(`percpu_hash`); both on the same packets, in turn. The other CPU sends at full speed meanwhile. *Same*: every packet of
both CPUs adds to the same flow, the worst that sharing can be; *own*: each CPU has its flows.
"""
_MEMORY = """
One map of n = {n:,} entries (`--map-memory 64MiB` has two); C possible CPUs, B = 16 x the next power of two from n. The
formula is the kernel's own (htab_map_mem_usage(), Linux 6.18). *Measured* is what VmallocUsed and Percpu of
/proc/meminfo grow by when such a map is made: whole pages, median of {tries}, on this machine's {here} possible CPUs. A
value per CPU takes more than the formula says: the allocator keeps books of its own. For other numbers of CPUs nothing
was measured; what stands there is calculated by the formula.

| possible CPUs | shared: B + 104 x (n + C) + 40 x C | per CPU: B + (96 + 16 x C) x (n + C) |
|---|---|---|
{rows}

Shared is what is used: it takes the same on any number of CPUs, and a drain reads one value an entry, not C. What its
atomic additions cost where CPUs meet on one flow is in the table above.
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
    with variant("shared") as shared, variant("percpu", loader="bench.per_cpu_loader") as per_cpu:
        for _ in range(rounds):
            for case, (here, there) in cases.items():
                with flooding(there):
                    for program, into in zip((shared, per_cpu), taken[case], strict=True):
                        ours, accept = timed(out, here, program, yardstick)
                        into.append(ours - accept)
    figures = [Figure(case, "ns", *both) for case, both in taken.items()]
    return Table("The map: shared, or a value per CPU", _SHARING, figures)


def memory() -> Table:
    """Say what both kinds of map take, by possible CPUs."""
    n = entries_for(64 << 20)
    here = possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    taken = {f"{cpus}, calculated": (map_bytes(n, cpus), _per_cpu_bytes(n, cpus)) for cpus in sorted({here, 16, 128})}
    taken = {f"{here}, measured": (_seen_bytes(MapType.HASH, n), _seen_bytes(MapType.PERCPU_HASH, n))} | taken
    rows = "\n".join(
        f"| {what} | {ours / 1e6:,.2f} MB | {other / 1e6:,.2f} MB |" for what, (ours, other) in taken.items()
    )
    return Table("What the map takes", _MEMORY.format(n=n, rows=rows, here=here, tries=_TRIES))


def _seen_bytes(kind: MapType, entries: int) -> int:
    """Return what the kernel's memory grows by with such a map."""
    grown = []
    for _ in range(_TRIES):
        before = _kernel_bytes()
        with pins.closing_fd(sys_bpf.map_create(kind, KEY.itemsize, TALLY.itemsize, entries, "zm_bench")):
            grown.append(_kernel_bytes() - before)
        time.sleep(_FREED_SECONDS)  # the kernel frees a map some time after its last descriptor is closed
    return int(statistics.median(grown))


def _kernel_bytes() -> int:
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(found[name].split()[0]) * 1024 for name in ("VmallocUsed", "Percpu"))


def _per_cpu_bytes(entries: int, cpus: int) -> int:
    return 16 * (1 << (entries - 1).bit_length()) + (96 + 16 * cpus) * (entries + cpus)


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
    window = program.meter.flip(time.time_ns() // 1_000_000)
    times.append(time.perf_counter())
    rows = window.rows()
    times.append(time.perf_counter())
    for _ in raw_chunks(window.meta, window.record, rows, maybe_repeat=False):
        pass
    times.append(time.perf_counter())
    program.meter.finish(window)
    times.append(time.perf_counter())
    return len(rows), [(after - before) * 1000 for before, after in itertools.pairwise(times)]
