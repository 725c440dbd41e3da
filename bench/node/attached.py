# SPDX-License-Identifier: Apache-2.0
"""Programs at a node's hook, side by side: the yardstick, and the hook in variants of which one counts at a time."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.measure import run_stats
from bench.measure.process import PROJECT
from bench.node import crossing
from collector.attach import netfilter
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.load_request import Answer, Request
from collector.window.meter import Devices, Meter
from common.clock import now_ms
from lab.network import namespaces

_BPFFS = Path("/sys/fs/bpf")
# r0 = NF_ACCEPT; exit
_ACCEPT = sys_bpf.INSTRUCTION.pack(0xB7, 0, 0, 1) + sys_bpf.INSTRUCTION.pack(0x95, 0, 0, 0)
_IPV4, _POST_ROUTING, _FIRST = 2, 4, -50  # well before the hook's own priority
_SLICES, _PACKETS = 20, 10_000


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to build the hook, attached and silent until it is `counting`."""

    meter: Meter
    root: Path
    wanted: Request
    generation: int
    dispatcher: int

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Let it count for the length of a block."""
        pins.activate(self.root, self.generation, self.wanted.hook)
        try:
            yield
        finally:
            pins.deactivate(self.root, self.wanted.hook)

    @contextlib.contextmanager
    def detached(self) -> Iterator[None]:
        """Let it count for the length of a block, but only where it is `attached`; no window can begin any more."""
        self.meter.close()  # which holds the links
        self._detach()
        with self.counting():
            yield

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Attach it for the length of a block, while it is `detached` otherwise."""
        with namespaces.enter(crossing.NODE):
            netfilter.attach(self.root)
        try:
            yield
        finally:
            self._detach()

    def _detach(self) -> None:
        for link in self.root.glob(pins.LINKS["netfilter"]):
            link.unlink()

    def begin_window(self) -> None:
        """Forget what was counted, as the next window does: flows that came first keep their entries no longer."""
        self.meter.finish(self.meter.flip(now_ms()))


@contextlib.contextmanager
def accepting() -> Iterator[int]:
    """Attach the yardstick, a program that only accepts, and give its file descriptor."""
    program = sys_bpf.prog_load(sys_bpf.PROG_TYPE_NETFILTER, sys_bpf.BPF_NETFILTER, _ACCEPT, "zm_yardstick")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, program)
        with namespaces.enter(crossing.NODE):
            link = sys_bpf.netfilter_link_create(program, _IPV4, _POST_ROUTING, _FIRST)
        stack.callback(os.close, link)
        yield program


@contextlib.contextmanager
def variant(name: str, *, altered: str | None = None, **changes: Any) -> Iterator[Variant]:
    """Attach the hook as the collector does, settings changed; `altered`: as `bench.node.altered_loader` does."""
    root = _BPFFS / f"{crossing.PREFIX}-{name}"
    fields = {"pin_dir": str(root), "cluster": "bench", "node": name, "boot_id": "0123456789ab"}
    sizes = {"map_memory": 64 << 20, "ports": "service", "service_ports": []}
    wanted = Request(**{**fields, **sizes, **changes})
    meter = Meter(root, dict, now_ms)
    loader = ["bench.node.altered_loader", altered] if altered else ["collector.kernel.loader"]
    enter = ["nsenter", f"--net={namespaces.DIRECTORY / crossing.NODE}", sys.executable, "-m", *loader]
    try:
        done = subprocess.run(enter, input=msgspec.json.encode(wanted), stdout=subprocess.PIPE, cwd=PROJECT, check=True)
        answer = msgspec.json.decode(done.stdout, type=Answer)
        with namespaces.enter(crossing.NODE):
            meter.start(answer, Devices({socket.if_nametoindex("eth0"): "eth0"}, {}))
        pins.deactivate(root, wanted.hook)
        with pins.closing_fd(sys_bpf.obj_get(str(root / pins.DISPATCHER[wanted.hook]))) as dispatcher:
            yield Variant(meter, root, wanted, answer.generation, dispatcher)
    finally:
        meter.close()
        pins.detach(root)


def timed(out: socket.socket, packets: Sequence[bytes], ours: Variant, yardstick: int) -> tuple[float, float]:
    """Return ns per packet of both: the medians of slices, so that an interrupt in one does not count."""
    costs: list[tuple[float, float]] = []
    ours.begin_window()
    with ours.counting():
        crossing.send(out, packets, max(len(packets), 1000))  # every flow has its entry, every cache what it can hold
        for _ in range(_SLICES):
            before = run_stats.cost(ours.dispatcher), run_stats.cost(yardstick)
            crossing.send(out, packets, _PACKETS)
            after = run_stats.cost(ours.dispatcher), run_stats.cost(yardstick)
            costs.append((after[0].since(before[0]), after[1].since(before[1])))
    return median(cost for cost, _ in costs), median(cost for _, cost in costs)
