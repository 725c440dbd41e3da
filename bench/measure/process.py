# SPDX-License-Identifier: Apache-2.0
"""What a process has used, as /proc says (proc(5))."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and the children it has waited for; resolution 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """Return what a process holds in memory now, or at most since it began or its peak was reset."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")
