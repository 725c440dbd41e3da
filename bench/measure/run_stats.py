# SPDX-License-Identifier: Apache-2.0
"""What the kernel says a BPF program has cost: nanoseconds and runs, while somebody asks for the statistics."""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel.bpf_syscall import BpfCommand


class Cost(NamedTuple):
    """Since the program was loaded, as far as statistics were on."""

    ns: int
    runs: int

    def since(self, before: "Cost") -> float:
        """Return ns per run between two readings."""
        return (self.ns - before.ns) / (self.runs - before.runs)


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Let the kernel measure all programs, as kernel.bpf_stats_enabled does, for the length of a block."""
    fd = sys_bpf.bpf(BpfCommand.ENABLE_STATS, struct.pack("<I", 0))  # BPF_STATS_RUN_TIME
    try:
        yield
    finally:
        os.close(fd)


def cost(program: int) -> Cost:
    """Return what a program, given by its file descriptor, has cost, with all that it tail-calls."""
    found = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{program}").read_text().splitlines())
    return Cost(int(found["run_time_ns"]), int(found["run_cnt"]))
