# SPDX-License-Identifier: Apache-2.0
"""Compaction: whatever comes in between, and killed at any step, nothing is doubled or lost."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history.model.filters import Selection
from history.read.archive.files import find_chapter
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.compact import Compactor, Rule, Taken
from schemas.flow import Flow
from sinks.flowlog.archive.compaction import COMPACTED, rollup_path
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, DAY, FEW, HOUR, HOUR_MS, Dying, Killed, Written, compact, rows


@pytest.mark.parametrize(("error", "late"), [(Killed, False), (OSError, True)], ids=["killed", "no answer"])
def test_stopped_at_any_step_nothing_is_doubled_or_lost(tmp_path: Path, error: type[BaseException], late: bool) -> None:
    written = Written(tmp_path / "archive")
    for sequence in range(1, 4):
        written.cut(1, flows(1, sequence))
    before, at, over = written.rows(), 0, False
    while not over:
        at += 1
        root = Path(shutil.copytree(written.root, tmp_path / f"copy-{at}"))
        dying = Dying(FlowArchive(str(root)).store, at, error, late=late)
        try:
            compact(root, store=dying)
            over = dying.calls < at
        except error:
            pass
        assert rows(str(root)) == before, at
        late_flows = flows(1, 70)
        again = _resumed(root, late_flows)
        # Whoever was killed, the next run leaves what counts and nothing else.
        compact(root)
        assert rows(str(root)) == again, at
        counting = {file.path for file in find_chapter(FlowArchive(str(root)), DAY).files}
        assert {str(path.relative_to(root)) for path in root.glob("flows/*/*/*")} == counting, at
        rollups = set(FlowArchive(str(root)).chain(HOUR).rollups)
        assert {str(path.relative_to(root)) for path in root.glob("rollups/*/*/*")} == rollups, at
        assert rollups == {rollup_path(path) for path in counting if COMPACTED.fullmatch(Path(path).name)}, at
        assert not list(root.glob("**/*.intent")), at
        assert not list(root.glob("**/*.tmp")), at
        shutil.rmtree(root)
    assert at > 6


def _resumed(root: Path, more: list[Flow]) -> list[dict[str, Any]]:
    """Let the flow log write on in that hour; return the rows."""
    writer = Written(root)
    writer._sequence = {1: 3}
    writer.cut(1, more)
    return rows(str(root))


def test_a_flow_log_that_writes_meanwhile_is_not_in_the_way(written: Written) -> None:
    class Busy(Dying):
        """Each time that something changes, the flow log adds a file to the hour."""

        def _change(self, call: Any, *arguments: Any) -> Any:
            self.calls += 1
            written.cut(self.calls % 3, flows(self.calls % 3, 100 + self.calls))
            return super()._change(call, *arguments)

    busy = Busy(FlowArchive(str(written.root)).store, -1)
    assert compact(written.root, store=busy)
    assert busy.calls > 10
    found = written.rows()
    assert len(found) == len({row["id"] for row in found}) == 36 + 6 + 4 * busy.calls // 2


def test_of_two_compactors_one_is_told_so_and_nothing_of_it_is_left(written: Written, tmp_path: Path) -> None:
    before = written.rows()

    class Overtaken(Dying):
        """Another process compacts just before this one's record."""

        def create(self, path: str, parts: Any) -> bool:
            assert compact(written.root)
            return super().create(path, parts)

    archive = FlowArchive(str(written.root))
    archive.store = Overtaken(archive.store, -1)
    spill = tmp_path / "other"
    spill.mkdir()
    with pytest.raises(Taken):
        Compactor(archive).compact(HOUR, FEW, spill)
    assert written.rows() == before
    assert not list(written.root.glob("**/*.intent"))
    counting = {file.path for file in find_chapter(FlowArchive(str(written.root)), DAY).files}
    assert set(written.files()) == counting


@pytest.mark.parametrize("after", ["plan", "_put"])
def test_files_that_another_compactor_deleted_are_not_damaged(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    before, call = written.rows(), getattr(Compactor, after)

    def overtaken(*arguments: Any) -> Any:
        found = call(*arguments)
        with monkeypatch.context() as patched:
            patched.setattr(Compactor, after, call)
            compact(written.root)
        return found

    spill = tmp_path / "other"
    spill.mkdir()
    compactor = Compactor(FlowArchive(str(written.root)))
    monkeypatch.setattr(Compactor, after, overtaken)
    with pytest.raises(Taken):
        compactor.compact(HOUR, FEW, spill)
    monkeypatch.undo()
    assert written.rows() == before
    assert compact(written.root) is None
    assert len([path for path in written.files() if HOUR in path]) == 1
    assert not list(written.root.glob("_compactions/*/*/*.intent"))


def test_a_compaction_between_listing_and_reading_makes_a_reader_begin_again(written: Written) -> None:
    before = written.rows()
    archive = FlowArchive(str(written.root))
    with ArchiveQuery(archive, DAY) as query:
        compact(written.root)
        with pytest.raises(ArchiveChanged, match="compacted while it was read"):
            list(query.tables(Selection()))
    assert written.rows() == before


def test_a_reader_goes_on_with_what_was_replaced_a_moment_ago(
    written: Written, tmp_path: Path, waited: list[float]
) -> None:
    before = written.rows()
    compactor = Compactor(FlowArchive(str(written.root)), keep_seconds=3600)
    with ArchiveQuery(FlowArchive(str(written.root)), DAY) as query:
        compactor.compact(HOUR, FEW, tmp_path)
        compactor.delete_replaced()
        read = [row for table in query.tables(Selection()) for row in table.to_pylist()]
        assert sorted(read, key=lambda row: row["id"]) == before
    assert written.rows() == before
    many = len(written.files())
    compactor.delete_replaced(wait=True)
    assert 3_500 < waited[-1] <= 3_600
    assert len(written.files()) < many
    assert not list(written.root.glob("_compactions/*/*/*.intent"))
    assert written.rows() == before


def test_a_compaction_of_flows_newer_than_the_archive_was_opened_makes_a_reader_begin_again(written: Written) -> None:
    archive = FlowArchive(str(written.root))
    written.cut(1, flows(1, 50))
    compact(written.root)
    # These flows are behind the newest manifest that the reader knows: it would take them from the topic once more.
    with pytest.raises(ArchiveChanged):
        find_chapter(archive, DAY)


def test_a_compaction_while_files_are_listed_is_seen_whole_or_not_at_all(written: Written) -> None:
    before = written.rows()
    archive = FlowArchive(str(written.root))
    done = False

    class Listing(Dying):
        def names(self, directory: str) -> list[str]:
            nonlocal done
            if directory == "_compactions" and not done:
                done = True
                compact(written.root)
            return super().names(directory)

    archive.store = Listing(archive.store, -1)
    chapter = find_chapter(archive, DAY)
    assert done
    assert (sum(file.rows for file in chapter.files), chapter.unlisted) == (len(before), 0)
    chain = archive.chain(HOUR)
    assert chain.files.keys() <= {*chapter.paths}
    assert chain.replaced.isdisjoint(chapter.paths)
    assert written.rows() == before


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "cut", "compact", "killed"]),
            st.integers(0, 2),
            st.integers(1, 5),
            st.integers(0, 2),
            st.integers(1, 14),
        ),
        min_size=2,
        max_size=14,
    )
)
def test_whatever_the_order_of_cuts_and_compactions_every_flow_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int, int]]
) -> None:
    made = Written(tmp_path_factory.mktemp("random") / "archive")
    expected: dict[str, int] = {}
    for number, (step, partition, count, hour, at) in enumerate([("cut", 0, 1, 0, 1), *steps], start=1):
        if step == "cut":
            some = flows(partition, number, count, BEGIN_MS + hour * HOUR_MS)
            expected |= {each.id: each.bytes for each in some}
            made.cut(partition, some)
            continue
        name = ("date=2026-11-22/hour=22", "date=2026-11-22/hour=23", "date=2026-11-23/hour=00")[hour]
        store = Dying(FlowArchive(str(made.root)).store, at if step == "killed" else -1)
        with contextlib.suppress(Killed):
            compact(made.root, Rule(files=at % 4, file_bytes=at % 2 * 2000 + 1), store, name)
    found = made.rows()
    assert {row["id"]: row["bytes"] for row in found} == expected
    assert len(found) == len(expected)
