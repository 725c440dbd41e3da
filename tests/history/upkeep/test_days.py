# SPDX-License-Identifier: Apache-2.0
"""The rollup of a day stands for its hours' while these are what it was made of, and for nothing else."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.audit.deep.rollups import check_rollups
from history.model.filters import Selection
from history.model.grouping import By
from history.model.labels import LabelTime
from history.model.party import Parties
from history.model.rollups import Hours
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep import days
from history.upkeep.command import main as compact_main
from history.upkeep.days import days_with_rollups, roll_up_day
from history.upkeep.expire import expire, rolled_up_hours, stored_hours
from history.upkeep.rollups import write_rollup
from tests.history.conftest import Command
from tests.support.history.written import BEGIN_MS, HOUR_MS, Dying, Killed, Written, compact_all
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id

DAY_MS = 24 * HOUR_MS
DAY = "date=2026-11-22"
# 2026-11-22 20:00 UTC; two hours of that day, and one of the next.
HOURS = (-2, -1, 3)
SPAN = TimeRange(BEGIN_MS - 22 * HOUR_MS, BEGIN_MS - 22 * HOUR_MS + 40 * DAY_MS)
PARTIES = Parties()


def cut(written: Written, sequence: int, hour: int) -> None:
    start = BEGIN_MS + hour * HOUR_MS + sequence * 10_000
    ends = [(API, POSTGRES), (POSTGRES, API), (API, EXTERNAL)]
    flows = [
        flow(id=flow_id(sequence, row), start_ms=start, end_ms=start + 10_000, source=source, destination=to)
        for row, (source, to) in enumerate(ends)
    ]
    written.cut(1, flows)


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


def roll_up(root: Path, tmp_path: Path, **overrides: Any) -> bool:
    archive = FlowArchive(str(root))
    archive.store = overrides.get("store", archive.store)
    spill = tmp_path / "spill"
    shutil.rmtree(spill, ignore_errors=True)
    spill.mkdir()
    return roll_up_day(archive, DAY, spill)


def asked(
    root: Path, *, days: bool = True, by: By | None = None, labels: tuple[LabelTime, ...] = ()
) -> tuple[dict[str, Any], int, bool]:
    """Return the sums, how many hours' rollups they are of, and whether a day's was read in their place."""
    summary = Summary()
    with ArchiveQuery(FlowArchive(str(root)), SPAN, Hours(SPAN, labels, days=days)) as query:
        query.summarise(PARTIES, summary, Selection(), by, None, labels)
        sums = {
            "traffic": dict(summary.traffic),
            "slots": dict(summary.slots),
            "flows": summary.flows,
            "metered": summary.metered_ms,
            "observers": summary.observers,
        }
        return sums, len(query.rollups), any("/day-" in path for path in query.read)


def day_files(root: Path) -> list[Path]:
    return sorted(root.glob("rollups/*/day-*"))


def test_it_says_what_the_hours_say(root: Path, tmp_path: Path) -> None:
    wanted = asked(root)
    assert wanted[1:] == (3, False)
    assert roll_up(root, tmp_path)
    assert asked(root) == (wanted[0], 3, True)
    assert asked(root, by="day")[0] == asked(root, by="day", days=False)[0]
    assert asked(root, days=False) == wanted
    assert not roll_up(root, tmp_path)
    (path,) = day_files(root)
    rows = [row for row in pq.ParquetFile(path).read().to_pylist() if row["scope"]]
    assert [(row["flows"], row["bytes"]) for row in rows] == [(4, 4_000)] * 3
    assert list(check_rollups(str(root), SPAN)) == []


def test_days_that_lie_in_a_range_whole(root: Path) -> None:
    archive = FlowArchive(str(root))
    assert list(days_with_rollups(archive, SPAN)) == [DAY, "date=2026-11-23"]
    assert list(days_with_rollups(archive, TimeRange(SPAN.from_ms + 1, SPAN.from_ms + 2 * DAY_MS))) == [
        "date=2026-11-23"
    ]
    assert list(days_with_rollups(archive, TimeRange(SPAN.from_ms, SPAN.from_ms + DAY_MS))) == [DAY]


def test_a_label_that_changes_within_the_day_is_asked_of_hours(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    noon = SPAN.from_ms + DAY_MS // 2
    labels = LabelTime("shop", 0, noon, "web"), LabelTime("shop", noon, SPAN.to_ms, "core")
    found, hours, by_day = asked(root, by="label", labels=labels)
    assert (hours, by_day) == (3, False)
    assert {group for traffic in found["traffic"] for group in traffic.groups} == {"=core", ""}
    assert asked(root, by="label", labels=(LabelTime("shop", 0, SPAN.to_ms, "web"),))[2]


def test_a_day_whose_hour_is_compacted_again_is_rolled_up_again(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    before = day_files(root)
    written = Written(root)
    written._sequence = {1: 6}
    cut(written, 50, HOURS[0])
    wanted, hours, by_day = asked(root)
    assert (wanted["flows"], hours, by_day) == (21, 3, True)
    compact_all(root)
    assert asked(root)[1:] == (3, False)
    assert day_files(root) == []
    assert roll_up(root, tmp_path)
    assert day_files(root) != before
    assert asked(root) == (wanted, 3, True)


def test_killed_at_any_step_it_is_there_or_not(root: Path, tmp_path: Path) -> None:
    wanted, *_ = asked(root)
    at, over = 0, False
    while not over:
        at += 1
        copy = Path(shutil.copytree(root, tmp_path / f"copy-{at}"))
        store = Dying(FlowArchive(str(copy)).store, at, late=True)
        with contextlib.suppress(Killed):
            roll_up(copy, tmp_path, store=store)
            over = store.calls < at
        assert asked(copy)[0] == wanted
        roll_up(copy, tmp_path)
        assert asked(copy) == (wanted, 3, True)
        assert len(day_files(copy)) == 1
    assert at > 1


def test_it_goes_with_the_rollups_of_its_hours_and_not_with_their_flows(root: Path, tmp_path: Path) -> None:
    wanted, *_ = asked(root)
    roll_up(root, tmp_path)
    archive = FlowArchive(str(root))
    for hour in stored_hours(archive):
        expire(archive, hour)
    assert asked(root) == (wanted, 3, True)
    expire(archive, rolled_up_hours(archive, BEGIN_MS)[0], rollups=False)
    assert day_files(root) == []
    assert asked(root)[1:] == (2, False)


def test_one_that_goes_while_it_is_read_makes_a_reader_begin_again(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    with ArchiveQuery(FlowArchive(str(root)), SPAN, Hours(SPAN, days=True)) as query:
        day_files(root)[0].unlink()
        with pytest.raises(ArchiveChanged):
            query.summarise(PARTIES, Summary(), Selection())


def test_one_that_is_damaged_or_differs_is_named(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    (path,) = day_files(root)
    pq.write_table(pq.ParquetFile(path).read().slice(1), path)
    (fault,) = check_rollups(str(root), SPAN)
    assert f"{path.relative_to(root)} is not what" in fault.what
    assert "1 rows differ" in fault.what
    path.write_bytes(b"PAR1")
    with pytest.raises(Refusal, match=str(path.relative_to(root))):
        asked(root)


def test_the_command_rolls_up_days_that_are_over(root: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: (BEGIN_MS + 4 * HOUR_MS) * 1_000_000)
    status, out, err = command(compact_main, "--archive", str(root))
    assert (status, err) == (0, "")
    assert "1 day rolled up" in out
    assert [path.parent.name for path in day_files(root)] == [DAY]


def test_a_day_that_was_written_wrong_is_never_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment that it stands there it is read."""
    right = write_rollup
    monkeypatch.setattr(days, "write_rollup", lambda rollup, path: right(rollup.limit(2), path))
    store = FlowArchive(str(root)).store
    puts: list[str] = []
    monkeypatch.setattr(store, "put", lambda path, _: puts.append(path))
    with pytest.raises(Refusal, match="is not what its rollups come to"):
        roll_up(root, tmp_path, store=store)
    assert puts == []
