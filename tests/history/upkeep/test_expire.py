# SPDX-License-Identifier: Apache-2.0
"""Hours that are too old are deleted whole and read as deleted; so are manifests that nobody needs any more."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from history.model.filters import Selection
from history.model.party import Parties
from history.model.rollups import Hours
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.files import find_chapter
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.command import expire as expire_main
from history.upkeep.command import main as compact_main
from history.upkeep.compact import Compactor, Taken
from history.upkeep.expire import WRITTEN_MS, StoredHour, chosen, expire, rolled_up_hours, stored_hours
from sinks.flowlog.archive.archive import Archive
from sinks.flowlog.archive.manifest import Intent, encode
from sinks.flowlog.stores.store import LocalStore
from tests.docs.printed.commands import ROOT
from tests.history.upkeep.conftest import Run
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, DAY, HOUR, HOUR_MS, TOPIC, Dying, Killed, Written, compact, rows

NEXT = "date=2026-11-22/hour=23"


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Two partitions with three cuts in each of three hours."""
    made = Written(tmp_path / "archive")
    for number in range(18):
        made.cut(number % 2, flows(number % 2, number + 1, start_ms=BEGIN_MS + number // 6 * HOUR_MS))
    return made


def hour(number: int, size: int = 10) -> StoredHour:
    return StoredHour(f"date=2026-11-22/hour={number:02}", [], size)


@pytest.mark.parametrize(
    ("hours_ago", "keep_hours", "max_bytes", "expected"),
    [
        pytest.param(98, 99, None, [], id="all young enough"),
        pytest.param(100, 97, None, [0, 1, 2, 3], id="too old"),
        pytest.param(98, 99, 35, [0], id="too much"),
        pytest.param(100, 98, 35, [0, 1, 2], id="both"),
        pytest.param(98, 99, 40, [], id="just enough room"),
        pytest.param(26, 1, 1, [0, 1, 2], id="the last day stays"),
    ],
)
def test_which_hours_go(hours_ago: int, keep_hours: int, max_bytes: int | None, expected: list[int]) -> None:
    hours = [hour(number) for number in range(4)]
    now_ms = hours[0].end_ms + hours_ago * HOUR_MS
    found = chosen(hours, now_ms, keep_hours * HOUR_MS, max_bytes)
    assert [hours.index(each) for each in found] == expected
    assert all(each.end_ms <= now_ms - WRITTEN_MS for each in found)


@pytest.mark.parametrize("compacted", [True, False], ids=["compacted", "as written"])
def test_killed_at_any_step_an_hour_is_whole_or_deleted(written: Written, tmp_path: Path, compacted: bool) -> None:
    if compacted:
        compact(written.root)
    whole = written.rows()
    rest = [row for row in whole if row["window_start"].hour != 22]
    assert len(rest) == len(whole) - 24
    at, over, deleted = 0, False, False
    while not over:
        at += 1
        root = Path(shutil.copytree(written.root, tmp_path / f"copy-{at}"))
        archive = FlowArchive(str(root))
        store = archive.store = Dying(archive.store, at)
        (first, *_) = stored_hours(archive)
        with contextlib.suppress(Killed):
            expire(archive, first)
            over = store.calls < at
        found = rows(str(root))
        assert found == rest if deleted else found in (whole, rest), at
        deleted |= found == rest
        chapter = find_chapter(FlowArchive(str(root)), DAY)
        assert chapter.deleted == (f"flows/{HOUR}" if found == rest else "")
        archive = FlowArchive(str(root))
        if stored_hours(archive)[0].name == HOUR:
            expire(archive, stored_hours(archive)[0])
        assert rows(str(root)) == rest
        assert not (root / f"flows/{HOUR}").exists()
        assert len(list(root.glob(f"_compactions/{HOUR}/*"))) == 1
        shutil.rmtree(root)
    assert deleted


def test_flows_that_come_after_their_hour_expired_are_there_and_expire_too(written: Written) -> None:
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    left = len(written.rows())
    written.cut(1, flows(1, 40))
    assert len(written.rows()) == left + 4
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    assert len(written.rows()) == left
    assert not list(written.root.glob(f"flows/{HOUR}"))


@pytest.mark.parametrize("compacted", [[], [HOUR], [HOUR, NEXT]], ids=["as written", "one compacted", "two compacted"])
@pytest.mark.parametrize("expired", [1, 2, 3])
def test_the_documented_list_of_files_names_none_that_expired(
    written: Written, at: Run, compacted: list[str], expired: int
) -> None:
    for each in compacted:
        compact(written.root, hour=each)
    assert at(expired + 48, expire_main, "--newest-too", "--archive", str(written.root), "--keep", "2d")[0] == 0
    page = (ROOT / "docs/archive.md").read_text()
    [query] = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    query = query.replace("/var/lib/zonemeter/flowlog", str(written.root))
    for _ in range(2):
        found = duckdb.connect().execute(query).fetchall()
        assert sorted(path for (path,) in found) == written.files()
        assert sorted(find_chapter(FlowArchive(str(written.root)), DAY).paths) == written.files()
        # What comes late counts, until the hour expires again.
        [late] = written.cut(1, flows(1, 40)).files
        assert late.path in written.files()


def sums(root: Path) -> tuple[int, int]:
    """Return how many flows and bytes an archive comes to, by its rollups where they may stand."""
    with ArchiveQuery(FlowArchive(str(root)), DAY, Hours(DAY)) as query:
        query.summarise(Parties(), summary := Summary(), Selection())
    return summary.flows, summary.bytes


@pytest.mark.parametrize("expired", [True, False], ids=["after it had expired", "before it expires"])
def test_flows_that_come_after_the_rollups_of_their_hour_go_into_them(written: Written, at: Run, expired: bool) -> None:
    run = ["--archive", str(written.root), "--keep", "718h"]
    compact(written.root)
    if expired:
        assert at(719, expire_main, "--newest-too", *run)[0] == 0
    flows_before, bytes_before = sums(written.root)
    written.cut(1, flows(1, 40))
    status, _, err = at(719, expire_main, "--newest-too", *run)
    assert (status, err) == (0, "")
    assert not list(written.root.glob(f"flows/{HOUR}"))
    assert sums(written.root) == (flows_before + 4, bytes_before + 4 * 40_000 + 6)
    assert at(719, expire_main, "--newest-too", *run)[1].startswith("nothing to delete")


def test_late_flows_that_cannot_be_read_keep_no_hour(written: Written, at: Run) -> None:
    run = ["--archive", str(written.root), "--keep", "718h"]
    compact(written.root)
    assert at(719, expire_main, "--newest-too", *run)[0] == 0
    written.cut(1, flows(1, 40))
    (late,) = written.root.glob(f"flows/{HOUR}/*")
    late.write_bytes(b"PAR1")
    status, out, err = at(719, expire_main, "--newest-too", *run)
    assert (status, out.partition(",")[0], len(err.splitlines())) == (0, "deleted 1 hour", 1)
    assert f"the rollups of {HOUR} go with it" in err
    assert not list(written.root.glob(f"*/{HOUR}/*.parquet"))


def test_what_a_killed_flow_log_left_unlisted_expires_with_its_hour(written: Written) -> None:
    # Of a number that no manifest has yet: nobody may take it for flows of manifests that came since.
    left = written.root / f"flows/{HOUR}/flows-p1-000000000010-abcdef.parquet"
    shutil.copy(next(left.parent.glob("flows-p1-*")), left)
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    assert not left.exists()
    assert {row["window_start"].hour for row in written.rows()} == {23, 0}


@pytest.mark.parametrize("number", [9, 10], ids=["withdrawn", "perhaps still written"])
def test_what_a_killed_flow_log_left_unlisted_takes_no_rollups_without_a_word(
    written: Written, at: Run, number: int
) -> None:
    before = sums(written.root)
    compact(written.root)
    left = written.root / f"flows/{HOUR}/flows-p1-{number:012}-abcdef.parquet"
    shutil.copy(next(written.root.glob(f"flows/{NEXT}/flows-p1-*")), left)
    status, _, err = at(719, expire_main, "--newest-too", "--archive", str(written.root), "--keep", "718h")
    assert status == 0
    assert not left.exists()
    if number == 9:  # of a manifest that is there, and does not list it
        assert (err, sums(written.root)) == ("", before)
    else:
        assert f"{left.name} is in no rollup, and no manifest lists it yet; the rollups of {HOUR} go with it" in err


def test_a_file_whose_manifest_is_seconds_away_takes_no_rollups_with_it(written: Written, at: Run) -> None:
    run = ["--newest-too", "--archive", str(written.root), "--keep", "718h"]
    compact(written.root)
    assert at(719, expire_main, *run)[0] == 0
    before = sums(written.root)
    (file,) = written.cut(1, flows(1, 40)).files
    manifest = max((written.root / "_manifests/p=1").iterdir())
    listing = manifest.read_bytes()
    manifest.unlink()
    now_seconds = (BEGIN_MS + 719 * HOUR_MS) // 1_000
    os.utime(written.root / file.path, (now_seconds - 1, now_seconds - 1))
    status, out, err = at(719, expire_main, *run)
    assert (status, out.startswith("nothing to delete")) == (0, True)
    assert (
        f"{file.path} is in no rollup, and no manifest lists it yet; {HOUR} stays for now: the next run looks again"
        in err
    )
    manifest.write_bytes(listing)
    status, out, err = at(719, expire_main, *run)
    assert (status, out.partition(",")[0], err) == (0, "deleted 1 hour", "")
    assert sums(written.root) == (before[0] + 4, before[1] + 4 * 40_000 + 6)


def test_of_two_that_expire_an_hour_the_slower_keeps_the_rollups_too(
    written: Written, at: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["--archive", str(written.root), "--keep", "718h"]
    compact(written.root)
    written.cut(1, flows(1, 40))
    before, compacting = sums(written.root), Compactor.compact

    def overtaken(self: Compactor, *args: Any) -> Any:
        done = compacting(self, *args)
        monkeypatch.undo()
        archive = FlowArchive(str(written.root))
        expire(archive, stored_hours(archive)[0])
        return done

    monkeypatch.setattr(Compactor, "compact", overtaken)
    assert at(719, expire_main, "--newest-too", *run)[::2] == (0, "")
    assert sums(written.root) == before


def test_of_two_that_expire_an_hour_one_is_told_so(written: Written) -> None:
    archive = FlowArchive(str(written.root))
    (first, *_) = stored_hours(archive)

    class Overtaken(Dying):
        def create(self, path: str, parts: object) -> bool:
            compact(written.root)
            return super().create(path, parts)  # type: ignore[arg-type]

    archive.store = Overtaken(archive.store, -1)
    before = written.rows()
    with pytest.raises(Taken):
        expire(archive, first)
    assert written.rows() == before


def test_a_clock_that_is_years_ahead_deletes_nothing(written: Written, at: Run) -> None:
    before, location = written.rows(), ["--archive", str(written.root)]
    two_years = 730 * 24
    for flags in ([], ["--dry-run"], ["--max-size", "1"], ["--keep-rollups", "1d"]):
        status, out, err = at(two_years, expire_main, *location, *flags)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert "the newest flows are of 2026-11-23 00:" in err
        assert err.endswith("if that is right, and no flow log writes there any more, say --newest-too\n")
    # By less: what is newest stays.
    written.cut(0, flows(0, 60, start_ms=BEGIN_MS + 40 * HOUR_MS))
    assert at(300 * 24, expire_main, *location, "--keep", "299d")[1].startswith(f"deleted 3 hours, {HOUR} to ")
    assert len(written.rows(TimeRange(0, BEGIN_MS + 50 * HOUR_MS))) == 4
    assert at(300 * 24, expire_main, *location, "--max-size", "1")[1].startswith("nothing to delete: 1 hour of ")
    assert len(before) > 4
    assert at(two_years, expire_main, *location, "--newest-too")[1].startswith("deleted 1 hour, ")
    assert written.rows(TimeRange(0, BEGIN_MS + 50 * HOUR_MS)) == []
    assert at(two_years, expire_main, *location)[1].startswith("nothing to delete"), "nothing is there to lose"


def test_the_command_says_what_it_deleted_and_what_stays(written: Written, at: Run) -> None:
    before, location = written.rows(), ["--archive", str(written.root)]
    status, out, err = at(720, expire_main, "--newest-too", *location)
    assert (status, err) == (0, "")
    assert out.startswith("nothing to delete: 3 hours of ")
    status, out, err = at(720, expire_main, "--newest-too", *location, "--keep", "718h", "--dry-run")
    assert (status, err) == (0, "")
    assert out.startswith(f"would delete 2 hours, {HOUR} to {NEXT}, ")
    assert written.rows() == before
    status, out, err = at(720, expire_main, "--newest-too", *location, "--keep", "718h")
    assert (status, err) == (0, "")
    assert out.startswith(f"deleted 2 hours, {HOUR} to {NEXT}, ")
    assert written.rows() == [row for row in before if row["window_start"].hour == 0]
    status, out, err = at(720, expire_main, "--newest-too", *location, "--max-size", "1")
    assert (status, err) == (0, "")
    assert out.startswith("deleted 1 hour, ")
    assert written.rows() == []
    status, out, err = at(720, expire_main, "--newest-too", *location, "--max-size", "0")
    assert (status, out, len(err.splitlines())) == (2, "", 1)


def test_manifests_go_once_all_that_they_list_was_compacted_or_has_expired(written: Written, at: Run) -> None:
    before = written.rows()
    location = ["--archive", str(written.root)]
    archive = FlowArchive(str(written.root))
    newest = {partition: archive.manifest(partition, archive.numbers(partition)[-1]) for partition in (0, 1)}
    status, out, err = at(48, compact_main, *location)
    assert (status, err) == (0, "")
    assert "manifest" not in out
    status, out, err = at(192, compact_main, *location, "--dry-run")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "16 manifests of compacted files would be deleted"
    status, out, err = at(192, compact_main, *location)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "16 manifests of compacted files deleted"
    for partition in (0, 1):
        assert FlowArchive(str(written.root)).numbers(partition) == [9]
        # The flow log goes on where it was.
        assert Archive(LocalStore(written.root), TOPIC, ".parquet").recover(partition) == newest[partition]
    assert written.rows() == before
    expire(FlowArchive(str(written.root)), stored_hours(FlowArchive(str(written.root)))[0])
    assert written.rows() == [row for row in before if row["window_start"].hour != 22]
    written.cut(1, flows(1, 70))
    assert len(written.rows()) == 48 + 4


def test_a_manifest_stays_while_flows_that_came_after_their_hour_expired_are_there(written: Written, at: Run) -> None:
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    written.cut(1, flows(1, 40))
    written.cut(1, flows(1, 800))
    before = written.rows()
    assert sum(row["window_start"].hour == 22 for row in before) == 4
    # Of before `since` is the late file's hour, and its manifest, too.
    assert at(200, compact_main, "--archive", str(written.root), "--since", "197h")[0] == 0
    assert written.rows() == before


@pytest.mark.parametrize("begin_ms", [0, BEGIN_MS - 30 * 24 * HOUR_MS, 4_000_000_000_000], ids=["1970", "late", "2096"])
def test_flows_of_a_time_that_nobody_looks_at_keep_no_manifests(written: Written, at: Run, begin_ms: int) -> None:
    taken_ms = BEGIN_MS + 3 * HOUR_MS
    written.cut(0, flows(0, 30, start_ms=begin_ms), taken_ms)
    written.cut(0, flows(0, 31, start_ms=begin_ms + 2 * HOUR_MS), taken_ms)
    for sequence in (800, 801):
        written.cut(0, flows(0, sequence))
    span = TimeRange(0, 5_000_000_000_000)
    before, location = written.rows(span), ["--archive", str(written.root)]
    assert at(20, compact_main, *location)[0] == 0
    status, out, err = at(192, compact_main, *location)
    assert (status, err) == (0, "")
    assert "manifests of compacted files deleted" in out
    assert {partition: FlowArchive(str(written.root)).numbers(partition) for partition in (0, 1)} == {0: [13], 1: [9]}
    assert written.rows(span) == before
    assert at(192, compact_main, *location) == (0, "nothing to do\n", "")


def test_an_hour_that_is_still_written_is_not_compacted_for_a_manifest(written: Written, at: Run) -> None:
    assert at(2.5, compact_main, "--archive", str(written.root), "--keep-manifests", "1m", "--min-age", "2h")[0] == 0
    assert not list(written.root.glob("flows/*/*/flows-c*"))


def test_a_manifest_stays_while_anything_needs_it(written: Written, at: Run) -> None:
    location = ["--archive", str(written.root), "--max-files", "6", "--keep-manifests", "7d"]
    intent = written.root / "_manifests/p=0/000000000005-abcdef.intent"
    intent.write_bytes(encode(Intent(5, [])))
    status, out, err = at(72, compact_main, *location)
    assert (status, out, err) == (0, "nothing to do\n", "")
    # Once it is old, an hour keeps no file of the flow log, however few there are.
    status, out, err = at(169.44, compact_main, *location)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "6 manifests of compacted files deleted"
    archive = FlowArchive(str(written.root))
    assert {partition: archive.numbers(partition)[0] for partition in (0, 1)} == {0: 4, 1: 4}
    status, out, err = at(216, compact_main, *location)
    assert out.splitlines()[-1] == "6 manifests of compacted files deleted"
    archive = FlowArchive(str(written.root))
    assert {partition: archive.numbers(partition) for partition in (0, 1)} == {0: [5, 6, 7, 8, 9], 1: [9]}


def test_the_rollups_of_an_hour_stay_if_they_are_of_all_its_flows(written: Written) -> None:
    compact(written.root)
    kept = {str(path.relative_to(written.root)) for path in written.root.glob(f"rollups/{HOUR}/*")}
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    assert archive.chain(HOUR).rollups.keys() == kept != set()
    assert {str(path.relative_to(written.root)) for path in written.root.glob("rollups/*/*/*")} == kept
    # What comes later is in no rollup, until it is compacted.
    for number in range(40, 43):
        written.cut(1, flows(1, number))
    compact(written.root)
    expire(archive, stored_hours(archive)[0])
    assert len(archive.chain(HOUR).rollups) == 2
    written.cut(1, flows(1, 50))
    expire(archive, stored_hours(archive)[0])
    assert archive.chain(HOUR).rollups == {}
    assert list(written.root.glob("rollups/*/*/*")) == []


def test_killed_at_any_step_rollups_are_there_or_not(written: Written, tmp_path: Path) -> None:
    compact(written.root)
    archive = FlowArchive(str(written.root))
    expire(archive, stored_hours(archive)[0])
    at, over = 0, False
    while not over:
        at += 1
        root = Path(shutil.copytree(written.root, tmp_path / f"copy-{at}"))
        archive = FlowArchive(str(root))
        store = archive.store = Dying(archive.store, at)
        (first,) = rolled_up_hours(archive, BEGIN_MS + HOUR_MS)
        with contextlib.suppress(Killed):
            expire(archive, first, rollups=False)
            over = store.calls < at
        archive = FlowArchive(str(root))
        counting = archive.chain(HOUR).rollups
        assert {str(path.relative_to(root)) for path in root.glob("rollups/*/*/*")} >= counting.keys(), at
        for hour in rolled_up_hours(archive, BEGIN_MS + HOUR_MS):
            expire(archive, hour, rollups=False)
        assert archive.chain(HOUR).rollups == {}
        assert list(root.glob("rollups/*/*/*")) == []
        assert len(list(root.glob(f"_compactions/{HOUR}/*"))) == 1
    assert at > 2


def test_rollups_have_a_retention_of_their_own(written: Written, at: Run) -> None:
    location = ("--archive", str(written.root))
    compact(written.root)
    compact(written.root, hour=NEXT)
    ran = at(300 * 24, expire_main, "--newest-too", *location, "--keep", "299d", "--keep-rollups", "10d")
    assert ran[1].splitlines()[1:] == [f"deleted the rollups of 2 hours, {HOUR} to {NEXT}"]
    assert list(written.root.glob("rollups/*/*/*")) == []


def test_rollups_of_hours_whose_flows_stay_stay_too(written: Written, at: Run) -> None:
    compact(written.root)
    status, out, _ = at(300 * 24, expire_main, "--newest-too", "--archive", str(written.root), "--keep-rollups", "10d")
    assert (status, "rollups" in out) == (0, False)
    assert len(list(written.root.glob("rollups/*/*/*"))) == 1


def test_what_would_stay_anyway_is_not_refused_for_its_age(written: Written, at: Run) -> None:
    location = ("--archive", str(written.root), "--keep", "1h")
    assert at(12, expire_main, *location)[:2] == (0, at(12, expire_main, *location, "--dry-run")[1])
    assert at(48, expire_main, *location)[0] == 2


def test_a_clock_that_is_years_ahead_deletes_no_rollups_that_are_left(written: Written, at: Run) -> None:
    compact(written.root)
    compact(written.root, hour=NEXT)
    location = ("--archive", str(written.root))
    assert at(400 * 24, expire_main, *location, "--newest-too")[0] == 0
    rollups = list(written.root.glob("rollups/*/*/*"))
    assert len(rollups) == 2
    status, _, err = at(6 * 366 * 24, expire_main, *location)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "all rollups are older than --keep-rollups: the newest flows are of 2026-11-23 00:" in err
    assert list(written.root.glob("rollups/*/*/*")) == rollups
    assert at(6 * 366 * 24, expire_main, *location, "--newest-too")[0] == 0
    assert list(written.root.glob("rollups/*/*/*")) == []
