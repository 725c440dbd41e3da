# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: all or nothing, across reopening, a full disk, and files that are none of ours."""

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Refusal
from schemas.ids import Origin
from schemas.ledger import encode_ledger
from sinks.intake import FlowMark
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.checkpoint import FILE_NAME, Checkpoint, State
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import UNKNOWN_BYTES, ZONE_BYTES, Sample
from tests.support.builders import sink_entry
from tests.support.hostile import EXAMPLES, TEXTS
from tests.support.sinks.disk import small_disk

TOPIC = "zonemeter.flows.enriched.v1"
ORIGIN = Origin("lab", 'no"de', "5be6c2f0a91d")
ZONE, UNKNOWN = ZONE_BYTES.name, UNKNOWN_BYTES.name
LABELS = ("lab", 'a"\\\n', "é", "")


ENTRY_OF_FLOWLOG = encode_ledger(sink_entry("flowlog", 7, {1: 100}))


def full_checkpoint() -> Checkpoint:
    return Checkpoint(
        7,
        series=[Sample(1, ZONE, LABELS, 2**70, 7), Sample(2, UNKNOWN, ("lab", "x"), 5, 8)],
        positions={0: 12, 4: 9},
        marks=[(4, ORIGIN, FlowMark(1, 2, 3, 4, 5, 6))],
        ledger=[sink_entry("metrics", 7, {1: 100})],
    )


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    life = state.load().life
    state.commit(full_checkpoint())
    state.commit(
        Checkpoint(8, series=[Sample(2, UNKNOWN, ("lab", "x"), 6, 9, served=False)], positions={0: 13}, ledger=[])
    )
    state.close()
    state = State(tmp_path, TOPIC)
    restored = state.load()
    state.close()
    assert (restored.life, restored.sequence) == (life, 8)
    assert restored.series == [
        Sample(1, ZONE, LABELS, 2**70, 7),
        Sample(2, UNKNOWN, ("lab", "x"), 6, 9, served=False),
    ]
    assert {partition: lane.position for partition, lane in restored.lanes.items()} == {0: 13, 4: 9}
    assert restored.lanes[4].marks == {ORIGIN: FlowMark(1, 2, 3, 4, 5, 6)}
    assert restored.ledger == []


def test_ledger_records_wait_for_the_next_checkpoint(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    state.commit(full_checkpoint())
    assert state.load().ledger == [sink_entry("metrics", 7, {1: 100})]
    state.close()


def test_series_that_are_no_more_are_gone(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    state.commit(full_checkpoint())
    state.commit(Checkpoint(8, series=[Sample(3, UNKNOWN, ("lab", "y"), 1)], removed=[2]))
    state.commit(Checkpoint(9, series=[Sample(4, UNKNOWN, ("lab", "z"), 1)], removed=[3]))
    assert [sample.number for sample in state.load().series] == [1, 4]
    state.close()


def test_a_file_of_the_version_before_is_taken_over_and_nothing_in_it_is_idle(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    state.commit(full_checkpoint())
    state.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db, db:
        for column in ("changed_ms", "served"):
            db.execute(f"ALTER TABLE series DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    before_ms = time.time_ns() // 1_000_000
    state = State(tmp_path, TOPIC)
    series = state.load().series
    state.close()
    assert [sample[:4] for sample in series] == [sample[:4] for sample in full_checkpoint().series]
    assert all(sample.served and sample.changed_ms >= before_ms for sample in series)


def test_forgotten_marks_are_gone(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    state.commit(full_checkpoint())
    state.commit(Checkpoint(8, dropped=[(4, ORIGIN)]))
    assert state.load().lanes[4].marks == {}
    state.close()


def test_a_full_disk_changes_nothing_and_the_same_checkpoint_goes_in_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        state = State(disk / "state", TOPIC)
        state.commit(full_checkpoint())
        before = state.load()
        filler = disk / "filler"
        filler.write_bytes(b"x" * 400_000)
        large = Checkpoint(
            8, series=[Sample(number, UNKNOWN, ("y" * 100, str(number)), 1) for number in range(3, 5_000)]
        )
        with pytest.raises(sqlite3.Error):
            state.commit(large)
        assert state.load() == before
        filler.unlink()
        fitting = Checkpoint(8, series=large.series[:500])
        state.commit(fitting)
        assert len(state.load().series) == 502
        state.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    with pytest.raises(Refusal, match="in use by another process"):
        State(tmp_path, TOPIC)
    state.close()
    State(tmp_path, TOPIC).close()


def test_counters_of_another_topic_are_refused(tmp_path: Path) -> None:
    State(tmp_path, TOPIC).close()
    with pytest.raises(Refusal, match=r"holds the counters of topic zonemeter\.flows\.enriched\.v1, not other"):
        State(tmp_path, "other")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        pytest.param(lambda path: path.write_text("x"), "expected a directory", id="a-file"),
        pytest.param(lambda path: path.symlink_to("/proc/1/none"), "expected a directory", id="nowhere"),
    ],
)
def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path, prepare, expected: str) -> None:  # type: ignore[no-untyped-def]
    prepare(tmp_path / "state")
    with pytest.raises(Refusal, match=expected):
        State(tmp_path / "state", TOPIC)


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 100)
    with pytest.raises(Refusal, match=r"metrics\.sqlite3: file is not a database; move it away"):
        State(tmp_path, TOPIC)


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-journal"])
@pytest.mark.parametrize("kind", ["another user's", "a link"])
def test_a_file_that_another_user_put_there_is_not_read(
    tmp_path: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory, theirs = tmp_path / "state", tmp_path / "theirs"
    directory.mkdir()
    directory.chmod(0o777)
    State(tmp_path / "made", TOPIC).close()
    shutil.copy(tmp_path / "made" / FILE_NAME, theirs)
    os.chown(theirs, 1000, -1)
    before = theirs.read_bytes()
    if kind == "a link":
        (directory / name).symlink_to(theirs)
    else:
        theirs.rename(directory / name)
    says = "belongs to uid 1000, not to uid 0 or root" if kind != "a link" else "is a symbolic link"
    with pytest.raises(Refusal, match=rf"^state_dir: {directory / name} {says}: it is not read; [^\n]*$"):
        State(directory, TOPIC)
    assert (directory / name).read_bytes() == before, "nor written"
    (directory / name).unlink()
    caplog.clear()
    State(directory, TOPIC).close()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1, "the directory serves all the same"


# The tables without a row id have one row of that kind, or one that is changed.
FIRST = {
    "about": "WHERE name = 'life'",
    "lanes": "WHERE partition = 4",
    "marks": "",
    "series": "WHERE number = 1",
    "ledger": "",
}


def rows_of(path: Path) -> dict[str, list[str]]:
    """Return the columns of each table."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}


def is_taken(directory: Path) -> bool:
    """Return whether a state can be taken back and served; if not, one line that names the file refuses it."""
    try:
        state = State(directory, TOPIC)
    except Refusal as refusal:
        check_line(refusal)
        return False
    try:
        restored = state.load()
    except Refusal as refusal:
        check_line(refusal)
        return False
    finally:
        state.close()
    aggregate = Aggregate(100, 100)
    exposition = Exposition([family.spec for family in aggregate.families.values()], 30_000)
    for sample in restored.series:
        aggregate.restore(sample)
    exposition.apply(restored.series, [item for lane in restored.lanes.values() for item in lane.marks.items()])
    exposition.render(1_000).decode()
    return True


def check_line(refusal: Refusal) -> None:
    assert str(refusal).startswith("state_dir: /")
    assert FILE_NAME in str(refusal)
    assert len(str(refusal).splitlines()) == 1


def spoilt(whole: Path, directory: Path, table: str, column: str, value: object) -> Path:
    """Return a directory with a copy in which one field is another, if SQLite takes it there."""
    copy = Path(shutil.copy(whole, directory))
    with closing(sqlite3.connect(copy)) as db, suppress(sqlite3.IntegrityError, UnicodeEncodeError), db:
        db.execute(f"UPDATE {table} SET {column} = ? {FIRST[table]}", (value,))
    return copy.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a row in every table."""
    directory = tmp_path_factory.mktemp("whole")
    state = State(directory, TOPIC)
    state.commit(full_checkpoint())
    state.close()
    return directory / FILE_NAME


def test_what_no_checkpoint_holds_is_refused_in_one_line_and_never_a_crash(whole: Path, tmp_path: Path) -> None:
    columns = [(table, column) for table, each in rows_of(whole).items() for column in each]
    assert len(columns) == 2 + 6 + 2 + 10 + 2
    values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=40), TEXTS)
    assert is_taken(whole.parent)

    @EXAMPLES
    @given(st.sampled_from(columns), values)
    def check(place: tuple[str, str], value: object) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            is_taken(spoilt(whole, Path(directory), *place, value))

    check()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("series", "value", "-5"),
        ("series", "value", "9" * 5_000),
        ("series", "value", b"5"),
        ("series", "labels", "[]"),
        ("series", "labels", "[" * 100_000),
        ("series", "changed_ms", -1),
        ("series", "served", 2),
        ("lanes", "position", "far"),
        ("lanes", "position", -1),
        ("marks", "sequence", 2.5),
        ("marks", "node", b"\xff"),
        ("about", "name", "what"),
        ("about", "value", "?"),
        ("marks", "sequence", 10**16),
        ("marks", "end_ms", 2**53),
        ("ledger", "record", b"{}"),
        ("ledger", "record", ENTRY_OF_FLOWLOG),
    ],
)
def test_rubbish_in_a_row_is_refused(whole: Path, tmp_path: Path, table: str, column: str, value: object) -> None:
    assert not is_taken(spoilt(whole, tmp_path, table, column, value))


def test_a_family_of_a_newer_version_is_kept_for_it(whole: Path, tmp_path: Path) -> None:
    assert is_taken(spoilt(whole, tmp_path, "series", "family", "zonemeter_of_tomorrow_total"))


@EXAMPLES
@given(data=st.data())
def test_a_file_that_rots_is_refused_or_taken_and_never_a_crash(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[place] = byte
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, FILE_NAME).write_bytes(content[: data.draw(st.integers(1, len(content)))])
        is_taken(Path(directory))


def test_what_a_newer_version_wrote_is_kept_for_that_version(whole: Path, tmp_path: Path) -> None:
    newer = encode_ledger(sink_entry("metrics", 7, {1: 100})).replace(b"{", b'{"schema_version":2,', 1)
    state = State(spoilt(whole, tmp_path, "ledger", "record", newer), TOPIC)
    with closing(state), pytest.raises(Refusal, match="run the version of zonemeter that wrote it") as refused:
        state.load()
    check_line(refused.value)
