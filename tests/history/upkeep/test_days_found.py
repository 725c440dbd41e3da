# SPDX-License-Identifier: Apache-2.0
"""Finding an archive's files where rollups of days and weeks stand for hours: nothing twice, nothing missed unsaid."""

from pathlib import Path

import pytest

from common.errors import Refusal
from history.model.filters import Selection
from history.model.rollups import Hours
from history.model.summary import Summary
from history.model.time_range import TimeRange, rfc3339
from history.read.archive.long_rollups import long_rollups
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.compact import Rule
from history.upkeep.expire import expire, rolled_up_hours, stored_hours
from sinks.flowlog.archive.compaction import Compaction, compacted_path, record_path, rollup_path
from sinks.flowlog.archive.manifest import DataFile, Manifest, encode
from sinks.flowlog.stores.store import LocalStore
from tests.support.history.long_rollups import (
    DAY,
    DAY_MS,
    HOURS,
    LENGTHS,
    MONTHS_MS,
    PARTIES,
    SPAN,
    asked,
    cut,
    long_files,
    roll_up,
)
from tests.support.history.written import BEGIN_MS, HOUR_MS, Dying, Written, compact, compact_all


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
