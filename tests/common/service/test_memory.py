# SPDX-License-Identifier: Apache-2.0
"""What glibc keeps for itself, each case in a process of its own: with and without common.service.memory."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

LARGE = """
import sys
from pathlib import Path
from common.service import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "asked":
    memory.map_large_blocks()
first = bytearray(30 << 20)
del first  # from now on glibc maps none of up to 30 MiB
before = resident()
blocks, kept = [], []
for _ in range(24):
    blocks.append(bytearray(1 << 20))
    kept.append(bytearray(10_000))
del blocks
print(resident() - before - sum(map(len, kept)))
"""

HOLES = """
import sys
from pathlib import Path
from common.service import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
blocks = [bytearray(20_000) for _ in range(2_000)]
kept = blocks[::10]  # the last one among them
blocks = blocks[-1:]
if sys.argv[1] == "asked":
    memory.trim()
print(resident() - before - sum(map(len, kept)))
"""

THREADS = """
import ctypes, sys, threading
from common.service import memory

if sys.argv[1] == "asked":
    memory.use_one_arena()
met = threading.Barrier(4)

def work():
    kept = [bytearray(1000) for _ in range(100)]
    met.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def run(script: str, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, how]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)


def test_large_blocks_leave_nothing_behind() -> None:
    left = {how: int(run(LARGE, how).stdout) for how in ("asked", "as-usual")}
    assert left["asked"] < 2 << 20 < 20 << 20 < left["as-usual"]


def test_what_is_free_between_blocks_goes_back() -> None:
    left = {how: int(run(HOLES, how).stdout) for how in ("asked", "as-usual")}
    assert left["asked"] < 10 << 20 < 30 << 20 < left["as-usual"]


def test_threads_share_one_heap() -> None:
    heaps = {how: run(THREADS, how).stderr.count("Arena ") for how in ("asked", "as-usual")}
    assert heaps["asked"] == 1 < heaps["as-usual"]
