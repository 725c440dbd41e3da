# SPDX-License-Identifier: Apache-2.0
"""What a flow map takes of the kernel's memory, by the number of possible CPUs.

A machine has one such number. `scripts/other-kernels map-memory` starts emulated ones with others, runs this in each,
and has what they printed written to docs/benchmarks.md.
"""

import argparse
import re
import statistics
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.measure import report
from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import pins
from collector.kernel.bpf_syscall import MapType
from collector.kernel.generation import possible_cpus_here
from collector.kernel.layout import KEY, TALLY, entries_for, map_bytes

ENTRIES = entries_for(64 << 20)
_TRIES, _FREED_SECONDS = 5, 0.5
_TEXT = """## What the map takes

`scripts/other-kernels map-memory`, {today}, Linux {kernel}, emulated.

One map of n = {entries:,} entries (`--map-memory 64MiB` has two); C possible CPUs, B = 16 x the next power of two from
n. The formula is the kernel's own (htab_map_mem_usage(), Linux 6.18). *Measured* is what VmallocUsed and Percpu of
/proc/meminfo grow by when such a map is made: whole pages, median of {tries}. What a value per CPU takes more than the
formula says, the allocator keeps for books of its own.

| possible CPUs | shared: B + 104 x (n + C) + 40 x C | measured | per CPU: B + (96 + 16 x C) x (n + C) | measured |
|---|---|---|---|---|
{rows}

Shared is what is used: it takes the same on any number of CPUs, and a drain reads one value an entry, not C. What its
atomic additions cost where CPUs meet on one flow is in *The map: shared, or a value per CPU*.
"""


class Taken(NamedTuple):
    """Bytes of one map, shared or with a value per CPU."""

    shared: int
    per_cpu: int


def measured() -> Taken:
    """Measure on this machine, with its number of possible CPUs."""
    return Taken(_grown(MapType.HASH), _grown(MapType.PERCPU_HASH))


def calculated(cpus: int) -> Taken:
    """Return what the formulas say."""
    buckets = 16 * (1 << (ENTRIES - 1).bit_length())
    return Taken(map_bytes(ENTRIES, cpus), buckets + (96 + 16 * cpus) * (ENTRIES + cpus))


def section(found: Mapping[int, Taken], kernel: str) -> str:
    """Return the section of docs/benchmarks.md; `found` by possible CPUs."""
    rows = []
    for cpus, seen in sorted(found.items()):
        said = calculated(cpus)
        sizes = (said.shared, seen.shared, said.per_cpu, seen.per_cpu)
        rows.append(" | ".join([f"| {cpus}", *(f"{size / 1e6:,.2f} MB" for size in sizes)]) + " |")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    return _TEXT.format(today=today, kernel=kernel, entries=ENTRIES, tries=_TRIES, rows="\n".join(rows))


def _grown(kind: MapType) -> int:
    """Return what the kernel's memory grows by with such a map."""
    grown = []
    for _ in range(_TRIES):
        before = _kernel_bytes()
        with pins.closing_fd(sys_bpf.map_create(kind, KEY.itemsize, TALLY.itemsize, ENTRIES, "zm_bench")):
            grown.append(_kernel_bytes() - before)
        time.sleep(_FREED_SECONDS)  # the kernel frees a map some time after its last descriptor is closed
    return int(statistics.median(grown))


def _kernel_bytes() -> int:
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(found[name].split()[0]) * 1024 for name in ("VmallocUsed", "Percpu"))


def main() -> int:
    """Print what this machine's map takes as one line, or write the section from such lines."""
    parser = argparse.ArgumentParser(prog="map-memory", description=__doc__)
    parser.add_argument("--write", metavar="KERNEL", help="read the lines of several machines from standard input")
    wanted = parser.parse_args()
    if wanted.write is None:
        cpus = possible_cpus_here()
        print("map-memory", cpus, *measured())
        return 0
    lines = re.findall(r"^map-memory (\d+) (\d+) (\d+)\s*$", sys.stdin.read(), re.MULTILINE)
    if not lines:
        print("map-memory: no line of a measurement on standard input", file=sys.stderr)
        return 2
    found = {int(cpus): Taken(int(shared), int(per_cpu)) for cpus, shared, per_cpu in lines}
    report.PAGE.write_text(report.replaced(report.PAGE.read_text(), "map-memory", section(found, wanted.write)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
