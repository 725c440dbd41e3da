# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: all or nothing, across reopening, a full disk, and files that are none of ours."""

import sqlite3
from pathlib import Path

import pytest

from common.errors import Refusal
from schemas.ids import Origin
from sinks.intake import Mark
from sinks.metrics.checkpoint import FILE_NAME, Checkpoint, State
from tests.builders import sink_entry
from tests.sinks.disk import small_disk

TOPIC = "zonemeter.flows.enriched.v1"
ORIGIN = Origin("lab", 'no"de', "5be6c2f0a91d")
LABELS = ("lab", 'a"\\\n', "é", "")


def full_checkpoint() -> Checkpoint:
    return Checkpoint(
        7,
        series=[(1, "zone", LABELS, 2**70), (2, "zone", ("x",), 5)],
        positions={0: 12, 4: 9},
        marks=[(4, ORIGIN, Mark(1, 2, 3, 4, 5, 6))],
        ledger=[sink_entry("metrics", 7, {1: 100})],
    )


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    life = state.load().life
    state.commit(full_checkpoint())
    state.commit(Checkpoint(8, series=[(2, "zone", ("x",), 6)], positions={0: 13}, ledger=[]))
    state.close()
    state = State(tmp_path, TOPIC)
    restored = state.load()
    state.close()
    assert (restored.life, restored.sequence) == (life, 8)
    assert restored.series == [(1, "zone", LABELS, 2**70), (2, "zone", ("x",), 6)]
    assert {partition: lane.position for partition, lane in restored.lanes.items()} == {0: 13, 4: 9}
    assert restored.lanes[4].marks == {ORIGIN: Mark(1, 2, 3, 4, 5, 6)}
    assert restored.ledger == []


def test_ledger_records_wait_for_the_next_checkpoint(tmp_path: Path) -> None:
    state = State(tmp_path, TOPIC)
    state.commit(full_checkpoint())
    assert state.load().ledger == [sink_entry("metrics", 7, {1: 100})]
    state.close()


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
        large = Checkpoint(8, series=[(number, "zone", ("y" * 100, str(number)), 1) for number in range(3, 5_000)])
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
