# SPDX-License-Identifier: Apache-2.0
"""Processes that are measured: run for the length of a block, asked how far they are, and what they have used."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 300.0
_POLL_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(*module: str, before: Sequence[str] = ()) -> Iterator[int]:
    """Run a module with its arguments, by a command `before` it if there is one; give the process id."""
    with subprocess.Popen([*before, sys.executable, "-m", *module], cwd=PROJECT) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def output_of(*module: str) -> bytes:
    """Run a module with its arguments to its end; return what it printed."""
    return subprocess.run([sys.executable, "-m", *module], cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; `what` is waited for."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {DEADLINE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def page(url: str) -> bytes | None:
    """Return what a GET is answered with; None while there is no answer, or it is a failure."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content: bytes = answer.read()
    except OSError:
        return None
    return content


def metric(url: str, name: str) -> float:
    """Return a metric of a page, all its labels together; 0 while there is none."""
    lines = (page(url) or b"").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and the children it has waited for; resolution 10 ms (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """Return what a process holds in memory now, or at most since it began or its peak was reset (proc(5))."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")
