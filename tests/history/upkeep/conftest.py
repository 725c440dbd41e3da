# SPDX-License-Identifier: Apache-2.0
"""An archive of one hour, and a command that is run at a time of the test's own."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from history.upkeep import compact
from tests.history.conftest import Command, Ran
from tests.support.history.long_rollups import HOURS, cut
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, HOUR_MS, Written, compact_all

Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how many seconds each, what was replaced would have stayed: no command waits for that."""
    seconds: list[float] = []
    monkeypatch.setattr(compact, "sleep", seconds.append)
    return seconds


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three partitions with three cuts each in one hour, the last of which reaches into the next."""
    made = Written(tmp_path / "archive")
    for sequence in range(1, 4):
        for partition in range(3):
            later = flows(partition, sequence + 360, 2) if sequence == 3 else []
            made.cut(partition, [*flows(partition, sequence), *later])
    return made


@pytest.fixture
def at(command: Command, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command at a time, in hours after the first hour of a written archive began."""

    def run(hours: float, main: Callable[[list[str]], int], *argv: str) -> Ran:
        now_ns = int((BEGIN_MS + hours * HOUR_MS) * 1_000_000)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns)
        return command(main, *argv)

    return run


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Written:
    made = Written(tmp_path_factory.mktemp("days") / "archive")
    for sequence in range(6):
        cut(made, sequence + 1, HOURS[sequence // 2])
    compact_all(made.root)
    return made


@pytest.fixture
def root(made_once: Any, tmp_path: Path) -> Path:
    """Three compacted hours, two of them of one day."""
    return Path(shutil.copytree(made_once.root, tmp_path / "archive"))
