# SPDX-License-Identifier: Apache-2.0
"""Nemeses of the flow log's archive: compactions that are killed while the flow log writes and others read."""

import subprocess
import sys
from collections import Counter

import duckdb

from history.model.time_range import TimeRange
from history.read.archive.files import find_chapter
from history.read.archive.opened import FlowArchive
from tests.support.services import ROOT, eventually
from tests.torture.world import World

_ALL = TimeRange(0, 2**53)
_WHILE_IT_STARTS = 0.5, 4.0


def kill_compaction(world: World, times: int) -> None:
    """SIGKILL a compaction at a random moment, at times while another is under way; then let one come to its end.

    Whenever one is killed, every flow that was there is there, once.
    """
    eventually(world.rows)
    seen: set[str] = set()
    for _ in range(times):
        started = [_compaction(world) for _ in range(world.rng.choice((1, 1, 2)))]
        if world.rng.random() < 0.3:
            world.nap(*_WHILE_IT_STARTS)
        else:
            eventually(lambda: _is_writing(world) or all(each.poll() is not None for each in started))  # noqa: B023
            world.nap(0.0, 0.4)
        for process in started:
            process.kill()
            process.wait()
        found = _ids(world)
        assert seen <= found, f"{len(seen - found)} flows went with a compaction"
        seen = found
        world.recover()
    world.settle()
    before = _ids(world)
    last = _compaction(world)
    assert last.wait(timeout=120) == 0
    assert _ids(world) == before
    assert not list(world.output.glob("**/*.intent"))
    assert not list(world.output.glob("flows/**/flows-p*"))


def _compaction(world: World) -> "subprocess.Popen[bytes]":
    where = ("--archive", str(world.output), "--min-age", "1ms", "--max-files", "0", "--delete-after", "1ms")
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "archive", "compact", *where], cwd=ROOT, stdout=subprocess.DEVNULL
    )


def _is_writing(world: World) -> bool:
    return any(world.output.glob("_compactions/*/*/*.intent"))


def _ids(world: World) -> set[str]:
    """Return the ids that a reader finds by manifests and compactions, none of them twice."""
    archive = FlowArchive(str(world.output))
    files = [f"{archive.root}/{path}" for path in find_chapter(archive, _ALL).paths]
    with duckdb.connect() as connection:
        found = connection.execute("SELECT id FROM read_parquet(?)", [files]).fetchall()
    twice = [id_ for (id_,), count in Counter(found).items() if count > 1]
    assert not twice, f"{len(twice)} flows twice in the archive, such as {twice[:3]}"
    return {id_ for (id_,) in found}
