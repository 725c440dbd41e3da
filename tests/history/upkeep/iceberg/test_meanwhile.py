# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: killed, overtaken, or with an answer lost, the table is as it was or as it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException

from history.read.archive.files import find_chapter
from history.upkeep.iceberg import mirror
from history.upkeep.iceberg.command import main
from tests.history.conftest import Command
from tests.history.upkeep.iceberg.conftest import files_of, rows_of
from tests.support.history.windows import flows
from tests.support.history.written import Killed, Written, compact_all


@pytest.mark.parametrize("late", [False, True], ids=["before the commit", "after it"])
@pytest.mark.parametrize("compacted", [False, True], ids=["new files", "replaced files"])
def test_a_killed_run_leaves_the_table_as_it_was_or_as_it_should_be(
    written: Written,
    publish: Callable[..., str],
    table: Any,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    compacted: bool,
) -> None:
    publish()
    before = written.rows()
    if compacted:
        compact_all(written.root)
    written.cut(2, flows(2, 600))
    commit = SqlCatalog.commit_table

    def dies(*arguments: Any) -> Any:
        if late:
            commit(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", dies)
        with pytest.raises(Killed):
            publish()
    if late:
        assert rows_of(table()) == written.rows()
    elif not compacted:
        assert rows_of(table()) == before
    assert ("nothing new" in publish()) == late
    assert rows_of(table()) == written.rows()
    assert files_of(table()) == written.files()


@pytest.mark.parametrize("keep", ["1d", "1ms"])
def test_of_two_at_once_the_later_one_looks_again(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    publish()
    written.cut(0, flows(0, 700))
    commit = SqlCatalog.commit_table
    others: list[bool] = []

    def overtaken(*arguments: Any) -> Any:
        if not others:
            others.append(True)
            written.cut(1, flows(1, 701))
            compact_all(written.root)
            assert main(["--archive", str(written.root), "--keep-snapshots", keep]) == 0
        return commit(*arguments)

    monkeypatch.setattr(SqlCatalog, "commit_table", overtaken)
    said = publish()
    assert said.count("zonemeter.flows: added") == 1
    assert "nothing new" in said
    assert files_of(table()) == written.files()
    assert rows_of(table()) == written.rows()


def test_a_table_whose_metadata_went_is_read_again_or_told(
    written: Written, command: Command, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    written.cut(0, flows(0, 700))
    held, others = mirror._Run._held, [written.cut]

    def forgotten(*arguments: Any) -> Any:
        if others:
            others.pop()(1, flows(1, 701))
            compact_all(written.root)
            assert main(["--archive", str(written.root), "--keep-snapshots", "1ms"]) == 0
        return held(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mirror._Run, "_held", forgotten)
        assert "nothing new" in publish()
    assert rows_of(table()) == written.rows()
    written.cut(0, flows(0, 702))
    lost = Path(table().current_snapshot().manifest_list.removeprefix("file://"))
    lost.unlink()
    status, _, err = command(main, "--archive", str(written.root))
    assert (status, str(lost) in err, err.count("\n")) == (2, True, 1)


def test_a_table_that_always_changes_is_told(
    written: Written, command: Command, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    written.cut(0, flows(0, 700))

    def refused(*_: Any) -> Any:
        raise CommitFailedException("taken")

    monkeypatch.setattr(SqlCatalog, "commit_table", refused)
    monkeypatch.setattr("time.sleep", lambda _: None)
    status, out, err = command(main, "--archive", str(written.root))
    assert (status, out) == (2, "")
    assert err.endswith("it or the table was changed 5 times meanwhile; run the command again\n")


def test_a_commit_whose_answer_was_lost_is_not_undone(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks again by itself is told that another commit came first: its own."""
    publish()
    written.cut(0, flows(0, 700))
    commit = SqlCatalog.commit_table

    def lost(*arguments: Any) -> Any:
        commit(*arguments)
        raise CommitFailedException("another commit came first")

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", lost)
        patch.setattr("time.sleep", lambda _: None)
        assert "added 1 file" in publish()
    assert rows_of(table()) == written.rows()
    assert "nothing new" in publish()


def test_what_a_compaction_replaced_meanwhile_is_looked_for_again(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = find_chapter

    def then_compacted(*arguments: Any) -> Any:
        found = find(*arguments)
        compact_all(written.root)
        return found

    monkeypatch.setattr(mirror, "find_chapter", then_compacted)
    assert publish().startswith("zonemeter.flows: added 2 files")
    assert rows_of(table()) == written.rows()
