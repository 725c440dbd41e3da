# SPDX-License-Identifier: Apache-2.0
"""The rollup of a day or a week stands for its hours' while these are what it was made of, and for nothing else."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.audit.deep.rollups import check_rollups
from history.model.rollups import Length
from history.model.states.labels import LabelTime
from history.model.time_range import TimeRange, rfc3339
from history.read.archive.opened import FlowArchive
from history.report.command import main as report_main
from history.upkeep import days
from history.upkeep.command import erase as erase_main
from history.upkeep.command import main as compact_main
from history.upkeep.compact import Rule
from history.upkeep.days import rollups_to_write, weeks_with_rollups
from history.upkeep.expire import expire, stored_hours
from history.upkeep.rollups import write_rollup
from tests.history.conftest import Command
from tests.support.history.long_rollups import (
    BEGIN_DAY_MS,
    DAY,
    DAY_MS,
    HOURS,
    LENGTHS,
    SPAN,
    asked,
    cut,
    long_files,
    roll_up,
)
from tests.support.history.written import BEGIN_MS, HOUR_MS, Dying, Killed, Written, compact, compact_all


def test_they_say_what_the_hours_say(root: Path, tmp_path: Path) -> None:
    wanted, *read = asked(root)
    assert read == [3, ""]
    assert roll_up(root, tmp_path, "day") == ["day"]
    assert asked(root) == (wanted, 3, "day")
    assert roll_up(root, tmp_path) == ["week"]
    assert asked(root) == (wanted, 3, "week")
    assert asked(root, lengths=("day",)) == (wanted, 3, "day")
    assert asked(root, lengths=()) == (wanted, 3, "")
    assert asked(root, by="day", lengths=("day",))[0] == asked(root, by="day", lengths=())[0]
    assert roll_up(root, tmp_path) == []
    rows = [[row for row in pq.ParquetFile(path).read().to_pylist() if row["scope"]] for path in long_files(root)]
    assert [[(row["flows"], row["bytes"]) for row in each] for each in rows] == [[(6, 6_000)] * 3, [(4, 4_000)] * 3]
    assert list(check_rollups(str(root), SPAN)) == []


def test_a_report_says_the_same_but_for_what_it_read(
    root: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.clock.now_ms", lambda: SPAN.to_ms)
    span = ("--from", rfc3339(SPAN.from_ms), "--to", rfc3339(SPAN.to_ms))
    asked_for = ("--archive", str(root), *span, "--kafka-bootstrap", "127.0.0.1:1", "-o", "json")

    def said(*more: str) -> dict[str, Any]:
        status, out, _ = command(report_main, *asked_for, *more)
        assert status == 0
        found: dict[str, Any] = orjson.loads(out)
        return {name: value for name, value in found.items() if name != "sources"}

    wanted = said("--no-rollups")
    assert wanted["flows"] == 18
    assert said() == wanted
    for length in reversed(LENGTHS):
        assert roll_up(root, tmp_path, length) == [length]
        assert said() == wanted


def test_a_week_out_of_hours_says_the_same_as_out_of_days(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    week, day = long_files(root)
    rows = in_order(week)
    for path in (week, day):
        path.unlink()
    assert roll_up(root, tmp_path, "week") == ["week"]
    assert long_files(root) == [week]
    assert in_order(week) == rows


def in_order(path: Path) -> pa.Table:
    """Return a file's rows; those that are alike in what they are sorted by stand in no order of their own."""
    table = pq.ParquetFile(path).read()
    return table.sort_by([(name, "ascending") for name in table.column_names])


def test_a_month_is_told_apart_from_the_next(root: Path, tmp_path: Path) -> None:
    """The week of 2026-11-26 has days of two months."""
    written = Written(root)
    written._sequence = {1: 6}
    for sequence, day in enumerate((4, 4, 5, 9)):
        cut(written, 50 + sequence, day * 24 + sequence)
    compact_all(root)
    wanted, hours, _ = asked(root, per="month", by="workload")
    assert len({traffic.period_ms for traffic in wanted["traffic"]}) == 2
    roll_up(root, tmp_path)
    assert asked(root, per="month", by="workload") == (wanted, hours, "week day")
    assert asked(root)[2] == "week week"


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "expected"),
    [
        (SPAN.from_ms, SPAN.to_ms, ["day 22", "day 23", "week 19"]),
        (SPAN.from_ms, SPAN.from_ms + 7 * DAY_MS - 1, ["day 22", "day 23"]),
        (BEGIN_DAY_MS, BEGIN_DAY_MS + DAY_MS, ["day 22"]),
        (BEGIN_DAY_MS + 1, BEGIN_DAY_MS + 30 * DAY_MS, ["day 23"]),
    ],
)
def test_those_that_lie_in_a_range_whole(root: Path, from_ms: int, to_ms: int, expected: list[str]) -> None:
    archive, span = FlowArchive(str(root)), TimeRange(from_ms, to_ms)
    found = [each for hours in weeks_with_rollups(archive, span) for each in rollups_to_write(archive, hours, span)]
    assert [f"{each.length} {each.day[-2:]}" for each in found] == expected


def test_a_label_that_changes_within_the_day_is_asked_of_hours(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    noon = BEGIN_DAY_MS + DAY_MS // 2
    labels = LabelTime("shop", 0, noon, "web"), LabelTime("shop", noon, SPAN.to_ms, "core")
    found, *read = asked(root, by="label", labels=labels)
    assert read == [3, ""]
    assert {group for traffic in found["traffic"] for group in traffic.groups} == {"=core", ""}
    day_before = LabelTime("shop", 0, BEGIN_DAY_MS - DAY_MS, "web"), LabelTime("shop", BEGIN_DAY_MS, SPAN.to_ms, "core")
    assert asked(root, by="label", labels=day_before)[1:] == (3, "day")
    assert asked(root, by="label", labels=(LabelTime("shop", 0, SPAN.to_ms, "web"),))[1:] == (3, "week")


def test_of_an_hour_that_is_compacted_again_they_are_made_again(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    before = long_files(root)
    written = Written(root)
    written._sequence = {1: 6}
    cut(written, 50, HOURS[0])
    wanted, *read = asked(root)
    assert (wanted["flows"], read) == (21, [3, "week"])
    compact_all(root)
    assert asked(root)[1:] == (3, "")
    assert long_files(root) == []
    assert roll_up(root, tmp_path) == ["day", "week"]
    assert not {*long_files(root)} & {*before}
    assert asked(root) == (wanted, 3, "week")


def test_where_an_hour_is_compacted_they_are_made_again_however_old(
    root: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: (BEGIN_DAY_MS + 60 * DAY_MS) * 1_000_000)
    roll_up(root, tmp_path)
    assert command(erase_main, "--archive", str(root), "--older-than", "1d")[::2] == (0, "")
    assert asked(root)[1:] == (3, "week")
    assert len(long_files(root)) == 2
    written = Written(root)
    written._sequence = {1: 6}
    cut(written, 50, HOURS[2])
    # From the middle of their week on.
    compacting = ("--archive", str(root), "--max-files", "0", "--since", "59d")
    assert command(compact_main, *compacting)[::2] == (0, "")
    wanted, *read = asked(root)
    assert (wanted["flows"], read) == (21, [3, "week"])


def test_killed_at_any_step_each_is_there_or_not(root: Path, tmp_path: Path) -> None:
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
        assert asked(copy) == (wanted, 3, "week")
        assert len(long_files(copy)) == 2
    assert at > 2


def erased(root: Path, store: Dying) -> None:
    compact(root, Rule(0, 1 << 30, "all"), store, f"{DAY}/hour=20")


def expired(root: Path, store: Dying) -> None:
    archive = FlowArchive(str(root))
    archive.store = store
    expire(archive, stored_hours(archive)[0])


@pytest.mark.parametrize("change", [erased, expired])
def test_of_an_hour_that_changes_they_say_at_any_step_what_hours_say(
    root: Path, tmp_path: Path, change: Callable[[Path, Dying], None]
) -> None:
    roll_up(root, tmp_path)
    wanted, *_ = asked(root, lengths=())
    at, over = 0, False
    while not over:
        at += 1
        copy = Path(shutil.copytree(root, tmp_path / f"copy-{at}"))
        store = Dying(FlowArchive(str(copy)).store, at, late=True)
        with contextlib.suppress(Killed):
            change(copy, store)
            over = store.calls < at
        assert asked(copy)[0] == asked(copy, lengths=())[0] == wanted
    assert at > 2


@pytest.mark.parametrize("length", LENGTHS)
def test_one_that_is_damaged_or_differs_is_named(root: Path, tmp_path: Path, length: Length) -> None:
    roll_up(root, tmp_path, length)
    (path,) = long_files(root)
    pq.write_table(pq.ParquetFile(path).read().slice(1), path)
    (fault,) = check_rollups(str(root), SPAN)
    assert f"{path.relative_to(root)} is not what" in fault.what
    assert "1 rows differ" in fault.what
    path.write_bytes(b"PAR1")
    with pytest.raises(Refusal, match=str(path.relative_to(root))):
        asked(root)


def test_the_command_rolls_up_days_and_weeks_that_are_over(
    root: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: (BEGIN_MS + 4 * HOUR_MS) * 1_000_000)
    status, out, err = command(compact_main, "--archive", str(root))
    assert (status, err) == (0, "")
    assert "1 day rolled up" in out
    assert [path.parent.name for path in long_files(root)] == [DAY]
    monkeypatch.setattr("time.time_ns", lambda: (BEGIN_MS + 6 * DAY_MS) * 1_000_000)
    assert "1 week rolled up" in command(compact_main, "--archive", str(root))[1]
    assert command(compact_main, "--archive", str(root)) == (0, "nothing to do\n", "")


@pytest.mark.parametrize("length", LENGTHS)
def test_one_that_was_written_wrong_is_never_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: Length
) -> None:
    """From the moment that it stands there it is read."""
    right = write_rollup
    monkeypatch.setattr(days, "write_rollup", lambda rollup, path: right(rollup.limit(2), path))
    store = FlowArchive(str(root)).store
    puts: list[str] = []
    monkeypatch.setattr(store, "put", lambda path, _: puts.append(path))
    with pytest.raises(Refusal, match="is not what its rollups come to"):
        roll_up(root, tmp_path, length, store=store)
    assert puts == []
