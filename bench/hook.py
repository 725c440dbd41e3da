# SPDX-License-Identifier: Apache-2.0
"""`make bench-hook`: what the program at the hook costs per packet, above one that only accepts.

Both are attached to the same hook and see the same packets; the kernel's own statistics (kernel.bpf_stats_enabled)
time them. Its two readings of the clock are in both. A packet is what the hook is called with: a TCP super-packet is
one.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench import crossing, report, run_stats
from bench.crossing import TCP, UDP
from bench.figure import Compare, Figure, Target
from bench.report import Table
from collector import bpf_syscall as sys_bpf
from collector import pins
from collector.loading import Answer, Request
from collector.meter import Devices, Meter
from lab import namespaces

_PROJECT = Path(__file__).resolve().parent.parent
_PINS = Path("/sys/fs/bpf") / crossing.PREFIX
# r0 = NF_ACCEPT; exit
_ACCEPT = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_IPV4, _POST_ROUTING, _FIRST = 2, 4, -50  # well before the hook's own priority
_SLICES, _PACKETS = 20, 10_000
_MANY = 10_000
_AT_TC = ", at tc"  # no target of its own: it reads through a helper what netfilter's program reads by itself
_TARGET_ONE, _TARGET_MANY = 130.0, 350.0


def _load_yardstick() -> int:
    return sys_bpf.prog_load(sys_bpf.PROG_TYPE_NETFILTER, sys_bpf.BPF_NETFILTER, _ACCEPT, "zm_yardstick")


@contextlib.contextmanager
def accepting() -> Iterator[int]:
    """Attach the yardstick in the node's namespace and give its file descriptor."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(pins.closing_fd(_load_yardstick()))
        with namespaces.enter(crossing.NODE):
            link = sys_bpf.netfilter_link_create(program, _IPV4, _POST_ROUTING, _FIRST)
        stack.callback(os.close, link)
        yield program


@contextlib.contextmanager
def counting(**changes: object) -> Iterator[int]:
    """Attach the hook as the collector does, with some settings changed, and give the dispatcher's descriptor."""
    wanted = Request(**{**_request(), **changes})  # type: ignore[arg-type]
    try:
        enter = ["nsenter", f"--net={namespaces.DIRECTORY / crossing.NODE}", sys.executable, "-m", "collector.loader"]
        done = subprocess.run(
            enter, input=msgspec.json.encode(wanted), stdout=subprocess.PIPE, cwd=_PROJECT, check=True
        )
        meter = Meter(_PINS, dict, lambda: time.time_ns() // 1_000_000)
        with namespaces.enter(crossing.NODE):
            uplink = socket.if_nametoindex("eth0")
            meter.start(msgspec.json.decode(done.stdout, type=Answer), Devices({uplink: "eth0"}, {}))
        path = _PINS / pins.DISPATCHER[wanted.hook]
        with contextlib.closing(meter), pins.closing_fd(sys_bpf.obj_get(str(path))) as dispatcher:
            yield dispatcher
    finally:
        pins.detach(_PINS)


def _request() -> dict[str, object]:
    return {
        "pin_dir": str(_PINS),
        "cluster": "bench",
        "node": "node",
        "boot_id": "0123456789ab",
        "map_memory": 64 << 20,
        "ports": "service",
        "service_ports": [],
    }


def timed(out: socket.socket, packets: Sequence[bytes], ours: int, yardstick: int) -> tuple[float, float]:
    """Return ns per packet of both: the medians of slices, so that an interrupt in one does not count."""
    costs: list[tuple[float, float]] = []
    crossing.send(out, packets, max(len(packets), 1000))  # every flow has its entry, every cache what it can hold
    for _ in range(_SLICES):
        before = run_stats.cost(ours), run_stats.cost(yardstick)
        crossing.send(out, packets, _PACKETS)
        costs.append((run_stats.cost(ours).since(before[0]), run_stats.cost(yardstick).since(before[1])))
    return median(cost for cost, _ in costs), median(cost for _, cost in costs)


def measure(rounds: int) -> list[Table]:
    """Return the table of the hook's cost."""
    kinds = {
        "UDP, 64 bytes, one flow": (crossing.frames(UDP, 1), _TARGET_ONE),
        "TCP super-packets of 14 kB, one flow": (crossing.frames(TCP, 1, payload=14_480), _TARGET_ONE),
        "UDP, 64 bytes, 10,000 flows in turn": (crossing.frames(UDP, _MANY), _TARGET_MANY),
        "TCP super-packets of 14 kB, 10,000 flows in turn": (crossing.frames(TCP, _MANY, payload=14_480), _TARGET_MANY),
    }
    taken: dict[str, list[tuple[float, float]]] = {}
    with crossing.built() as out, run_stats.enabled(), accepting() as yardstick:
        for suffix, hook in (("", "netfilter"), (_AT_TC, "tc")):
            with counting(hook=hook) as ours:
                for _ in range(rounds):
                    for kind, (packets, _) in kinds.items():
                        taken.setdefault(kind + suffix, []).append(timed(out, packets, ours, yardstick))
    figures = [_figure(kind, each, kinds[kind][1] if kind in kinds else None) for kind, each in taken.items()]
    return [Table("What a packet costs at the hook", __doc__.partition("\n\n")[2], figures)]


def _figure(kind: str, taken: Sequence[tuple[float, float]], bound: float | None) -> Figure:
    ours, yardstick = [cost for cost, _ in taken], [cost for _, cost in taken]
    return Figure(kind, "ns", ours, yardstick, Compare.DIFFERENCE, None if bound is None else Target(bound))


if __name__ == "__main__":
    sys.exit(report.main("hook", "The hook", measure))
