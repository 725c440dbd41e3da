# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive compact` as it is run, and the commands that read what it leaves."""

import errno
import shutil
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from history.read.archive import files as archive_files
from history.read.archive import sql as archive_sql
from history.read.archive.files import find_chapter
from history.read.archive.opened import FlowArchive
from history.replay import command as replay
from history.report import command as report
from history.upkeep import command as upkeep
from sinks.flowlog.stores.store import LocalStore, Parts
from tests.history.conftest import Command
from tests.history.upkeep.conftest import Run
from tests.support.history.lived import Lived
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, DAY, HOUR, HOUR_MS, Dying, Written, compact, compact_all


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Six files in each of three hours."""
    made = Written(tmp_path / "archive")
    for number in range(18):
        made.cut(number % 3, flows(number % 3, number + 1, start_ms=BEGIN_MS + number // 6 * HOUR_MS))
    return made


def test_hours_that_are_over_are_compacted_and_others_left_alone(written: Written, at: Run) -> None:
    before, files = written.rows(), written.files()
    location = str(written.root)
    status, out, err = at(2.9, upkeep.main, "--archive", location)
    assert (status, out, err) == (0, "nothing to do\n", "")
    status, out, err = at(4.0, upkeep.main, "--archive", location, "--dry-run")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith(f"{HOUR}: would rewrite 6 files of ")
    assert written.files() == files
    status, out, err = at(4.0, upkeep.main, "--archive", location)
    assert (status, err) == (0, "")
    said = [line.partition(":")[0] for line in out.splitlines()]
    assert said == [HOUR, "date=2026-11-22/hour=23", "2 hours", "1 day rolled up"]
    assert out.splitlines()[0].endswith(", 24 flows")
    assert len(written.files()) == 1 + 1 + 6
    assert at(4.0, upkeep.main, "--archive", location)[1] == "nothing to do\n"
    assert at(100.0, upkeep.main, "--archive", location, "--since", "12h")[1] == "nothing to do\n"
    assert at(5.0, upkeep.main, "--archive", location, "--max-files", "6")[1] == "nothing to do\n"
    assert at(5.0, upkeep.main, "--archive", location, "--min-age", "1h")[0] == 0
    assert len(written.files()) == 3
    assert written.rows() == before


def test_what_was_replaced_is_deleted_after_a_minute_and_the_run_ends_then(
    written: Written, at: Run, waited: list[float]
) -> None:
    assert at(4.0, upkeep.main, "--archive", str(written.root))[0] == 0
    assert 50 < max(waited) <= 60
    assert len(written.files()) == 1 + 1 + 6
    assert at(5.0, upkeep.main, "--archive", str(written.root), "--delete-after", "1ms", "--min-age", "1h")[0] == 0
    assert waited[-1] < 1


def test_of_a_year_only_the_days_of_the_range_are_listed(written: Written) -> None:
    compact(written.root)
    for directory in ("flows", "_compactions"):
        for day in range(1, 29):
            (written.root / f"{directory}/date=2026-02-{day:02}/hour=00").mkdir(parents=True)

    class Listing(Dying):
        listed: ClassVar[list[str]] = []

        def names(self, directory: str) -> list[str]:
            self.listed.append(directory)
            return super().names(directory)

    archive = FlowArchive(str(written.root))
    archive.store = Listing(archive.store, -1)
    assert len(find_chapter(archive, DAY).files) == 1 + 12
    assert not any("2026-02" in directory for directory in Listing.listed)
    assert any("2026-11" in directory for directory in Listing.listed)


def test_a_record_whose_answer_was_lost_is_not_said_to_be_missing(
    written: Written, at: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, create = written.rows(), LocalStore.create

    def lost(self: LocalStore, path: str, parts: Parts) -> bool:
        create(self, path, parts)
        raise OSError(errno.EIO, "the connection was cut")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "create", lost)
        status, _, err = at(3.5, upkeep.main, "--archive", str(written.root))
    known = "the connection was cut; whether " + HOUR + " was rewritten is not known: the next run finds out"
    assert (status, err) == (2, f"zonemeter archive compact: {known}\n")
    assert written.rows() == before
    assert at(3.5, upkeep.main, "--archive", str(written.root))[::2] == (0, "")
    assert written.rows() == before


def test_an_hour_that_cannot_be_compacted_holds_up_no_other(written: Written, at: Run) -> None:
    lost = written.root / written.files()[0]
    lost.unlink()
    status, out, err = at(9.0, upkeep.main, "--archive", str(written.root))
    assert status == 2
    assert len(err.splitlines()) == 1
    assert f"{lost.name} is missing" in err
    assert err.rstrip().endswith(f"; {HOUR} stays as it is")
    assert [line.partition(":")[0] for line in out.splitlines()][-1] == "2 hours"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param([], "archive is not set (--archive or ZONEMETER_ARCHIVE)", id="no archive"),
        pytest.param(["--archive", "/does/not/exist"], "'/does/not/exist' does not exist", id="not there"),
        pytest.param(["--archive", "{}", "--min-age", "soon"], "'soon' is not a duration", id="min-age"),
        pytest.param(["--archive", "{}", "--since", "soon"], "'soon' is neither a duration", id="since"),
        pytest.param(["--archive", "{}", "--file-size", "1kB"], "greater than or equal to 1048576", id="file-size"),
        pytest.param(["--archive", "{}", "--max-files", "-1"], "greater than or equal to 0", id="max-files"),
        pytest.param(
            ["--archive", "{}", "--spill-directory", "/does/not/exist"],
            "'/does/not/exist' is not a directory",
            id="spill",
        ),
    ],
)
def test_wrong_use_is_one_line(written: Written, at: Run, flags: list[str], says: str) -> None:
    status, out, err = at(9.0, upkeep.main, *(flag.format(written.root) for flag in flags))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def test_a_report_and_a_replay_are_the_same_before_and_after(history: Lived, command: Command, tmp_path: Path) -> None:
    archive = Path(shutil.copytree(history.archive, tmp_path / "flows"))

    def asked() -> list[Any]:
        flags = [*history.flags, *history.span, "--archive", str(archive)]
        status, out, err = command(report.main, *flags, "-o", "json")
        assert (status, err) == (0, "")
        found = [orjson.loads(out)]
        for filters in ([], ["-n", "shop", "--scope", "cross_zone"], ["--pod", "web-1"], ["--address", "10.42.2.0/24"]):
            status, out, err = command(replay.main, *flags, *filters, "-o", "jsonl")
            assert (status, err) == (0, "")
            found.append(sorted(out.splitlines()))
        return found

    before = asked()
    assert [len(done.after) for done in compact_all(archive)] == [1, 1]
    assert asked() == before


def test_a_report_that_meets_a_compaction_reads_again_whole(
    history: Lived, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Path(shutil.copytree(history.archive, tmp_path / "flows"))
    flags = [*history.flags, *history.span, "--archive", str(archive)]
    expected = command(report.main, *flags, "-o", "json")
    rows = sorted(command(replay.main, *flags, "-o", "jsonl")[1].splitlines())
    find, met = archive_files.find_chapter, 0

    def compacted_meanwhile(*where: Any) -> Any:
        nonlocal met
        found = find(*where)
        met += bool(compact_all(archive))
        return found

    monkeypatch.setattr(archive_sql, "find_chapter", compacted_meanwhile)
    assert command(report.main, *flags, "-o", "json") == expected
    assert met == 1
    shutil.rmtree(archive)
    shutil.copytree(history.archive, archive)
    status, out, err = command(replay.main, *flags, "-o", "jsonl")
    assert (status, sorted(out.splitlines()), err) == (0, rows, "")
    assert met == 2


def test_a_replay_that_has_written_rows_says_so_rather_than_write_them_twice(
    written: Written, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = archive_sql.ArchiveQuery.tables

    def one_then_compacted(self: Any, selection: Any) -> Any:
        tables = read(self, selection)
        yield next(tables)
        compact(written.root)
        with self._reading():
            raise OSError("what DuckDB says of a file that is gone")

    monkeypatch.setattr(archive_sql.ArchiveQuery, "tables", one_then_compacted)
    flags = ["--archive", str(written.root), "--from", "2026-11-22T22:00Z", "--to", "2026-11-23T02:00Z", "-o", "jsonl"]
    status, _, err = command(replay.main, *flags)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "it was compacted while it was read; run the command again" in err
