# SPDX-License-Identifier: Apache-2.0
"""Pinned records: what is written is read back, rubbish is refused, and what a crash left is put in order."""

from dataclasses import replace

import numpy as np
import pytest

from collector.errors import RecordError
from collector.kernel import epoch_record
from collector.kernel.epoch_record import EpochRecord, Moment, Phase, Step, Uplink, ending, following, recover
from collector.kernel.layout import COUNTERS


def record(phase: Phase = Phase.COUNTING, sequence: int = 7) -> EpochRecord:
    return EpochRecord(phase, sequence)


def test_a_record_is_read_back_as_it_was_written() -> None:
    whole = EpochRecord(
        phase=Phase.FROZEN,
        sequence=2**40,
        start_ms=1_795_384_000_000,
        end_ms=1_795_384_010_000,
        rows_per_chunk=3000,
        short=True,
        counters=tuple((number, number + 1) for number in range(COUNTERS)),
        uplinks=(Uplink("eth0", (1, 2, 3, 4), (5, 6, 7, 2**63)), Uplink("a-name-of-15-by", (0, 0, 0, 0), (9, 9, 9, 9))),
        start_boot_ms=86_400_123,
        clock_step_ms=-3_600_000,
    )
    pinned = epoch_record.encode(whole)
    assert len(pinned) == epoch_record.RECORD_BYTES
    assert epoch_record.decode(pinned) == whole


def test_an_element_never_written_is_idle() -> None:
    assert epoch_record.decode(bytes(epoch_record.RECORD_BYTES)) == EpochRecord()


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\xff" * epoch_record.RECORD_BYTES, id="noise"),
        pytest.param(b"\2\0\0\0" + epoch_record.encode(record())[4:], id="layout-of-another-version"),
        pytest.param(b"\1\0\0\0\x09" + epoch_record.encode(record())[5:], id="phase-unknown"),
        pytest.param(epoch_record.encode(replace(record(), rows_per_chunk=0)), id="no-rows-in-a-chunk"),
        pytest.param(epoch_record.encode(record(sequence=2**53)), id="a-sequence-that-no-reader-takes"),
    ],
)
def test_rubbish_is_refused(rubbish: bytes) -> None:
    with pytest.raises(RecordError, match="not zonemeter's"):
        epoch_record.decode(rubbish)


def test_an_uplink_with_any_name_is_read() -> None:
    pinned = epoch_record.encode(replace(record(), uplinks=(Uplink("eth0", (0, 0, 0, 0)),)))
    found = epoch_record.decode(pinned.replace(b"eth0", b"et\xff0"))
    assert found.uplinks[0].name == "et\ufffd0"


IDLE = EpochRecord()


@pytest.mark.parametrize(
    ("found", "epoch", "active", "expected"),
    [
        pytest.param((record(), IDLE), 0, True, [], id="counting"),
        pytest.param((record(), record(sequence=8)), 0, True, [], id="prepared-not-flipped"),
        pytest.param((record(), record(sequence=8)), 1, True, [(0, Step.FREEZE)], id="flipped-not-frozen"),
        pytest.param((record(Phase.FROZEN), record(sequence=8)), 1, True, [(0, Step.PUBLISH)], id="frozen"),
        pytest.param((record(Phase.ACKED), record(sequence=8)), 1, True, [(0, Step.CLEAR)], id="acked"),
        pytest.param((record(), IDLE), 0, False, [(0, Step.FREEZE)], id="old-generation"),
        pytest.param((record(), record(sequence=8)), 0, False, [(0, Step.FREEZE)], id="old-generation-prepared"),
        pytest.param(
            (record(sequence=8), record(Phase.FROZEN)), 0, False, [(1, Step.PUBLISH), (0, Step.FREEZE)], id="old-two"
        ),
        pytest.param((IDLE, IDLE), 0, False, [], id="nothing-left"),
    ],
)
def test_recovery(
    found: tuple[EpochRecord, EpochRecord], epoch: int, active: bool, expected: list[tuple[int, Step]]
) -> None:
    assert recover(found, epoch, active=active) == expected


def test_uplinks_count_the_window_only() -> None:
    begun = epoch_record.following(
        3, Moment(1000, 10), {"eth0": (100, 1, 50, 1), "gone": (1, 1, 1, 1), "anew": (500, 5, 5, 5)}
    )
    ended = epoch_record.prepared(
        begun, 2000, {"eth0": (160, 3, 50, 1), "anew": (10, 1, 7, 7), "late": (9, 9, 9, 9)}, short=True
    )
    assert {uplink.name: uplink.during() for uplink in ended.uplinks} == {"eth0": (60, 2, 0, 0), "anew": (10, 1, 7, 7)}
    assert (ended.end_ms, ended.short, ended.phase) == (2000, True, Phase.COUNTING)


def test_uplinks_are_bounded() -> None:
    begun = epoch_record.following(
        1, Moment(0, 10), {f"eth{number}": (0, 0, 0, 0) for number in range(epoch_record.MAX_UPLINKS + 9)}
    )
    assert len(begun.uplinks) == epoch_record.MAX_UPLINKS
    assert epoch_record.decode(epoch_record.encode(begun)) == begun


@pytest.mark.parametrize(
    ("start_boot_ms", "end_ms", "expected", "step_ms"),
    [
        pytest.param(5_000, 1_010_500, (1_000_000, 1_010_500), 0, id="as-usual"),
        pytest.param(5_000, 4_610_500, (4_600_000, 4_610_500), 3_600_000, id="clock-set-forward"),
        pytest.param(5_000, 1_016_500, (1_006_000, 1_016_500), 6_000, id="set-forward-within-the-window"),
        pytest.param(5_000, 900_000, (889_500, 900_000), -110_500, id="clock-set-back"),
        pytest.param(5_000, 1_004_500, (994_000, 1_004_500), -6_000, id="set-back-within-the-window"),
        pytest.param(5_000, 1_011_500, (1_000_000, 1_011_500), 0, id="set-forward-a-little"),
        pytest.param(15_500, 1_000_000, (1_000_000, 1_000_001), 0, id="two-flips-in-a-millisecond"),
        pytest.param(15_300, 999_500, (1_000_000, 1_000_001), 0, id="set-back-a-little"),
        pytest.param(0, 900_000, (899_999, 900_000), -100_001, id="set-back-and-nobody-knows-how-long-it-lasted"),
        pytest.param(0, 4_600_000, (1_000_000, 4_600_000), 0, id="nobody-knows-how-long-it-lasted"),
    ],
)
def test_a_window_is_as_long_as_it_lasted_whatever_becomes_of_the_clock(
    start_boot_ms: int, end_ms: int, expected: tuple[int, int], step_ms: int
) -> None:
    begun = following(7, Moment(1_000_000, start_boot_ms), {})
    ended, end = ending(begun, Moment(end_ms, 15_500))
    assert (ended.start_ms, end.wall_ms) == expected
    assert ended.clock_step_ms == step_ms
    assert end.boot_ms - 15_500 == end.wall_ms - end_ms, "the next window begins at the same moment by both clocks"


def test_a_clock_that_was_set_twice_in_a_window() -> None:
    """Its collector died after it had noted the first time, and before the flip."""
    begun = following(7, Moment(1_000_000, 5_000), {})
    noted, _ = ending(begun, Moment(1_070_000, 15_000))
    ended, end = ending(noted, Moment(1_055_000, 20_000))
    assert (ended.start_ms, end.wall_ms, ended.clock_step_ms) == (1_040_000, 1_055_000, 40_000)


def test_a_version_that_knew_nothing_of_the_clock_keeps_none_of_it() -> None:
    earlier = np.dtype(
        [field for field in epoch_record.RECORD.descr if field[0] not in ("start_boot_ms", "clock_step_ms")]
    )
    pinned = epoch_record.encode(replace(record(), start_boot_ms=5, clock_step_ms=7), earlier)
    assert len(pinned) == earlier.itemsize
    assert epoch_record.decode(pinned, earlier) == record()
