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
from history.model.filters import Selection
from history.model.grouping import By, Per
from history.model.labels import LabelTime
from history.model.party import Parties
from history.model.rollups import Hours, Length
from history.model.summary import Summary
from history.model.time_range import TimeRange, rfc3339
from history.read.archive.files import long_rollups
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.report.command import main as report_main
from history.upkeep import days
from history.upkeep.command import erase as erase_main
from history.upkeep.command import main as compact_main
from history.upkeep.compact import Rule
from history.upkeep.days import rollups_to_write, weeks_with_rollups, write_long_rollup
from history.upkeep.expire import expire, rolled_up_hours, stored_hours
from history.upkeep.rollups import write_rollup
from sinks.flowlog.archive.compaction import Compaction, compacted_path, record_path, rollup_path
from sinks.flowlog.archive.manifest import DataFile, Manifest, encode
from sinks.flowlog.stores.store import LocalStore
from tests.history.conftest import Command
from tests.support.history.written import BEGIN_MS, HOUR_MS, Dying, Killed, Written, compact, compact_all
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id

DAY_MS = 24 * HOUR_MS
DAY = "date=2026-11-22"
# 2026-11-22 20:00 UTC, a Sunday; two hours of that day, and one of the next. Their week begins on Thursday.
HOURS = (-2, -1, 3)
BEGIN_DAY_MS = BEGIN_MS - 22 * HOUR_MS
# A Thursday.
MONTHS_MS = BEGIN_DAY_MS - 3 * DAY_MS
SPAN = TimeRange(MONTHS_MS, BEGIN_DAY_MS + 147 * DAY_MS)
LENGTHS: tuple[Length, ...] = ("week", "day")
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


def roll_up(root: Path, tmp_path: Path, *lengths: Length, **overrides: Any) -> list[str]:
    """Write the rollups of days and weeks, or of one of these; return which were written."""
    archive = FlowArchive(str(root))
    archive.store = overrides.get("store", archive.store)
    written: list[str] = []
    for hours in weeks_with_rollups(archive, SPAN):
        for each in rollups_to_write(archive, hours, SPAN):
            if each.length in (lengths or LENGTHS):
                spill = tmp_path / "spill"
                shutil.rmtree(spill, ignore_errors=True)
                spill.mkdir()
                if write_long_rollup(archive, each, spill):
                    written.append(each.length)
    return written


def asked(
    root: Path,
    *,
    lengths: tuple[Length, ...] = LENGTHS,
    by: By | None = None,
    per: Per | None = None,
    labels: tuple[LabelTime, ...] = (),
) -> tuple[dict[str, Any], int, str]:
    """Return the sums, how many hours' rollups they are of, and which were read in the place of these."""
    summary = Summary()
    with ArchiveQuery(FlowArchive(str(root)), SPAN, Hours(SPAN, labels, lengths=lengths, per=per)) as query:
        query.summarise(PARTIES, summary, Selection(), by, per, labels)
        sums = {
            "traffic": dict(summary.traffic),
            "slots": dict(summary.slots),
            "flows": summary.flows,
            "metered": summary.metered_ms,
            "observers": summary.observers,
        }
        return sums, len(query.rollups), " ".join(name(path) for path in query.read if len(path.split("/")) == 3)


def name(path: str) -> str:
    return path.rpartition("/")[2].partition("-")[0]


def make_months(root: Path, days: int) -> None:
    """Write an archive of so many days of one empty file an hour, with the rollups of weeks."""
    rollups = []
    for at_ms in range(MONTHS_MS, MONTHS_MS + days * DAY_MS, HOUR_MS):
        hour = f"date={rfc3339(at_ms)[:10]}/hour={rfc3339(at_ms)[11:13]}"
        path = compacted_path(hour, 1, "be4c40", 0)
        files, summed_up = [DataFile(path, 1, 0)], [DataFile(rollup_path(path), 1, 0)]
        record = Compaction(hour=hour, sequence=1, writer="be4c40", files=files, rollups=summed_up)
        for name, content in ((path, b""), (rollup_path(path), b""), (record_path(hour, 1), encode(record))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        rollups.append(rollup_path(path))
    for each in long_rollups("week", rollups):
        (root / each.path).write_bytes(b"")
    manifest = Manifest(topic="", partition=0, sequence=1, writer="", first_offset=0, next_offset=0)
    LocalStore(root).put("_manifests/p=0/000000000001.json", [encode(manifest)])


def long_files(root: Path) -> list[Path]:
    return sorted(root.glob("rollups/*/*-*.parquet"))


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
    """Its directory holds no file of the flow log, so that only names tell whether they still stand for it."""
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


def test_they_go_with_the_rollups_of_their_hours_and_not_with_their_flows(root: Path, tmp_path: Path) -> None:
    wanted, *_ = asked(root)
    roll_up(root, tmp_path)
    archive = FlowArchive(str(root))
    for hour in stored_hours(archive):
        expire(archive, hour)
    assert asked(root) == (wanted, 3, "week")
    expire(archive, rolled_up_hours(archive, BEGIN_MS)[0], rollups=False)
    assert long_files(root) == []
    assert asked(root)[1:] == (2, "")
    for hour in rolled_up_hours(archive, BEGIN_MS + DAY_MS):
        expire(archive, hour, rollups=False)
    assert [*(root / "rollups").iterdir()] == []


def test_one_that_goes_while_it_is_read_makes_a_reader_begin_again(root: Path, tmp_path: Path) -> None:
    roll_up(root, tmp_path)
    with ArchiveQuery(FlowArchive(str(root)), SPAN, Hours(SPAN, lengths=LENGTHS)) as query:
        long_files(root)[0].unlink()
        with pytest.raises(ArchiveChanged):
            query.summarise(PARTIES, Summary(), Selection())


class Asked(Dying):
    """A store that notes what it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(FlowArchive(str(root)).store, -1)
        self.asked: list[str] = []

    def names(self, directory: str) -> list[str]:
        self.asked.append(f"{directory}/")
        return super().names(directory)

    def read(self, path: str) -> bytes:
        self.asked.append(path)
        return super().read(path)

    def exists(self, path: str) -> bool:
        self.asked.append(path)
        return super().exists(path)


def found(root: Path, span: TimeRange) -> tuple[list[str], int]:
    """Return what the archive was asked for to find the files of a range, and how many hours have a rollup."""
    archive, store = FlowArchive(str(root)), Asked(root)
    archive.store = store
    with ArchiveQuery(archive, span, Hours(span, lengths=LENGTHS)) as query:
        return store.asked, len(query.rollups)


def test_finding_the_files_of_twice_the_hours_takes_twice_the_work(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    make_months(root, days=35)
    fewer, hours = found(root, TimeRange(MONTHS_MS, MONTHS_MS + 14 * DAY_MS))
    asked_for, more = found(root, TimeRange(MONTHS_MS, MONTHS_MS + 28 * DAY_MS))
    assert (hours, more) == (14 * 24, 28 * 24)
    assert len(fewer) < len(asked_for) <= 2.2 * len(fewer)


def test_what_a_rollup_has_of_later_manifests_is_not_taken_from_the_topic_as_well(root: Path, tmp_path: Path) -> None:
    """A reader goes on in the topic where the newest manifest ends that it knows."""
    opened = FlowArchive(str(root))
    written = Written(root)
    written._sequence = {1: 6}
    cut(written, 50, HOURS[0])
    compact_all(root)
    roll_up(root, tmp_path)
    hours = Hours(SPAN, lengths=LENGTHS)
    with pytest.raises(ArchiveChanged):
        ArchiveQuery(opened, SPAN, hours)
    assert asked(root)[1:] == (3, "week")
    newest = root / "_manifests/p=1/000000000007.json"
    newest.unlink()
    with pytest.raises(Refusal, match=f"{newest.relative_to(root)} is missing"):
        ArchiveQuery(FlowArchive(str(root)), SPAN, hours)


def test_an_hour_without_a_rollup_that_expired_is_said_to_be_deleted(tmp_path: Path) -> None:
    """Also once nothing of it is left but the record, beside a rollup of the other hours of its week."""
    written = Written(tmp_path / "archive")
    for sequence in range(6):
        cut(written, sequence + 1, HOURS[sequence // 2])
    first, *rest = sorted(f"{each.parent.name}/{each.name}" for each in written.root.glob("flows/*/*"))
    for hour in rest:
        compact(written.root, Rule(0, 1 << 30), hour=hour)
    roll_up(written.root, tmp_path)
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    for number in (1, 2):
        (written.root / f"_manifests/p=1/{number:012}.json").unlink()
    with ArchiveQuery(FlowArchive(str(written.root)), SPAN, Hours(SPAN, lengths=LENGTHS)) as query:
        assert query.deleted == f"flows/{first}"


def test_a_file_that_is_missing_is_missed_whatever_rollup_stands_for_it(root: Path, tmp_path: Path) -> None:
    """Of an hour with two files, each with rows of its own."""
    written = Written(root)
    written._sequence = {1: 6}
    cut(written, 50, HOURS[0])
    compact(root, Rule(0, 2), hour=f"{DAY}/hour=20")
    files = sorted((root / "flows" / DAY / "hour=20").iterdir())
    assert len(files) == 2
    roll_up(root, tmp_path)
    assert asked(root)[1:] == (4, "week")
    files[0].unlink()
    with pytest.raises(Refusal, match=f"{files[0].relative_to(root)} is missing, a compaction wrote it"):
        asked(root)


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
