# SPDX-License-Identifier: Apache-2.0
"""The pinned record of an epoch: everything that a published window holds besides its rows. Pure.

A collector may be killed between any two steps. What the next one finds is two records and the epoch that counts;
`recover` says from these alone what is left to do. The phases of an epoch go round:

    idle      its map is empty, its counters are zero
    counting  the kernel adds to it, or did until a moment ago
    frozen    nobody adds to it any more; the record is final and the window is being published
    acked     published, or on disk; its map may be cleared

A window may be published in part by one version and again, whole, by the next. Both give every row the same id: rows
stand in the order of their keys' bytes, in the layout of the generation that counted them, and are cut by
`rows_per_chunk`. How a chunk is written out is free to change, as long as `schemas/raw.py` can read it.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from collector.errors import RecordError
from collector.kernel.layout import COUNTER_ROOM, COUNTERS, TALLY
from schemas.codec import MAX_INTEGER

LAYOUT_VERSION = 1
ROWS_PER_CHUNK = 3000  # at most 155 bytes a row: 465 kB, under schemas.raw.MAX_ENCODED_BYTES with the ledger
MAX_UPLINKS = 64  # whose own counters a record holds, for the coverage; nodes with 15 interfaces and more are sold
_SHORT, _DEADMAN, _DETACHED = 1, 2, 4
# A clock that was set by less is not noticed: a flip may be so late, and a reading of two clocks so far apart.
_STEP_MS = 1000

_UPLINK = np.dtype([("name", "S16"), ("start", "<u8", 4), ("end", "<u8", 4)])
RECORD = np.dtype(
    [
        ("layout_version", "<u4"),
        ("phase", "<u4"),
        ("sequence", "<u8"),
        ("start_ms", "<i8"),
        ("end_ms", "<i8"),
        ("rows_per_chunk", "<u4"),
        ("flags", "<u4"),
        ("uplink_count", "<u4"),
        ("counters", TALLY, COUNTER_ROOM),
        ("uplinks", _UPLINK, MAX_UPLINKS),
        ("start_boot_ms", "<i8"),
        ("clock_step_ms", "<i8"),
    ]
)
RECORD_BYTES = RECORD.itemsize


class Phase(IntEnum):
    """See the module's text."""

    IDLE = 0
    COUNTING = 1
    FROZEN = 2
    ACKED = 3


# tx_bytes, tx_packets, rx_bytes, rx_packets as the device counts them (IFLA_STATS64)
DeviceCounters = tuple[int, int, int, int]
Tally = tuple[int, int]  # bytes, packets


@dataclass(frozen=True, slots=True)
class Uplink:
    """A device's own counters when the window began and when it ended."""

    name: str
    start: DeviceCounters
    end: DeviceCounters = (0, 0, 0, 0)

    def during(self) -> DeviceCounters:
        """Return what it counted in the window; all of `end` if the device was recreated meanwhile."""
        if any(end < start for start, end in zip(self.start, self.end, strict=True)):
            return self.end
        tx_bytes, tx_packets, rx_bytes, rx_packets = (e - s for s, e in zip(self.start, self.end, strict=True))
        return tx_bytes, tx_packets, rx_bytes, rx_packets


class Moment(NamedTuple):
    """One moment by two clocks: in Unix milliseconds, and in milliseconds since boot, which nobody sets."""

    wall_ms: int
    boot_ms: int

    def at(self, wall_ms: int) -> "Moment":
        """Return the moment that the first clock, set as it is now, shows as `wall_ms`."""
        return Moment(wall_ms, self.boot_ms + wall_ms - self.wall_ms)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch's record. Times are Unix milliseconds; `end_ms` is 0 until it is known.

    `start_boot_ms` is when it began in milliseconds since boot; 0: its version did not say. `clock_step_ms` is how far
    the clock was set meanwhile, forward or back (negative); `start_ms` is by the clock as it was set at the end.
    """

    phase: Phase = Phase.IDLE
    sequence: int = 0
    start_ms: int = 0
    end_ms: int = 0
    rows_per_chunk: int = ROWS_PER_CHUNK
    short: bool = False
    deadman: bool = False  # counting stopped at its end, because no collector had been there for long
    detached: bool = False  # of some of it nothing was counted: somebody had detached the program
    counters: tuple[Tally, ...] = ((0, 0),) * COUNTERS
    uplinks: tuple[Uplink, ...] = field(default=())
    start_boot_ms: int = 0
    clock_step_ms: int = 0


# What a version may not have known yet: a record in its layout goes without.
_LATER = ("start_boot_ms", "clock_step_ms")


def encode(record: EpochRecord, layout: np.dtype[Any] = RECORD) -> bytes:
    """Return a record as it is pinned, in the layout of the version that pinned it."""
    raw = np.zeros((), layout)
    raw["layout_version"] = LAYOUT_VERSION
    for name in ("phase", "sequence", "start_ms", "end_ms", "rows_per_chunk"):
        raw[name] = getattr(record, name)
    for name in _known(layout):
        raw[name] = getattr(record, name)
    raw["flags"] = _SHORT * record.short | _DEADMAN * record.deadman | _DETACHED * record.detached
    raw["counters"][: len(record.counters)] = np.array(list(record.counters), TALLY)
    uplinks = record.uplinks[: len(raw["uplinks"])]
    raw["uplink_count"] = len(uplinks)
    for index, uplink in enumerate(uplinks):
        raw["uplinks"][index] = (uplink.name.encode(), uplink.start, uplink.end)
    return raw.tobytes()


def decode(pinned: bytes, layout: np.dtype[Any] = RECORD) -> EpochRecord:
    """Return what `encode` wrote; an element never written is an idle record. Raises `RecordError` for rubbish."""
    if len(pinned) != layout.itemsize:
        raise RecordError(f"a pinned record has {len(pinned)} bytes, expected {layout.itemsize}: not zonemeter's")
    raw = np.frombuffer(pinned, layout)[0]
    if raw["layout_version"] == 0 and not any(pinned):
        return EpochRecord()
    if (
        raw["layout_version"] != LAYOUT_VERSION
        or raw["phase"] not in list(Phase)
        or raw["uplink_count"] > len(raw["uplinks"])
        or raw["sequence"] > MAX_INTEGER
        or not raw["rows_per_chunk"]
    ):
        raise RecordError(f"a pinned record has layout {raw['layout_version']}, phase {raw['phase']}: not zonemeter's")
    uplinks = tuple(
        Uplink(entry["name"].decode("utf-8", "replace"), tuple(entry["start"].tolist()), tuple(entry["end"].tolist()))
        for entry in raw["uplinks"][: raw["uplink_count"]]
    )
    return EpochRecord(
        phase=Phase(raw["phase"]),
        sequence=int(raw["sequence"]),
        start_ms=int(raw["start_ms"]),
        end_ms=int(raw["end_ms"]),
        rows_per_chunk=int(raw["rows_per_chunk"]),
        short=bool(raw["flags"] & _SHORT),
        deadman=bool(raw["flags"] & _DEADMAN),
        detached=bool(raw["flags"] & _DETACHED),
        counters=tuple(raw["counters"][:COUNTERS].tolist()),
        uplinks=uplinks,
        **{name: int(raw[name]) for name in _known(layout)},
    )


def _known(layout: np.dtype[Any]) -> list[str]:
    return [name for name in _LATER if name in (layout.names or ())]


class Step(IntEnum):
    """What is left to do with one epoch before it is idle, or nothing."""

    NOTHING = 0
    CLEAR = 1  # safe, not cleared
    PUBLISH = 2  # frozen, published perhaps
    FREEZE = 3  # nobody adds to it any more, but its record is not final


def recover(records: tuple[EpochRecord, EpochRecord], epoch: int, *, active: bool) -> list[tuple[int, Step]]:
    """Say what is left to do: (epoch, first step) in the order of their windows.

    `epoch` is the one that the generation's program adds to, or added to last if the generation is not `active` any
    more. An epoch that was prepared for a flip that never came is idle in all but name: it is counting, and its
    sequence is beyond that of `epoch`.
    """
    first_steps = {Phase.IDLE: Step.NOTHING, Phase.ACKED: Step.CLEAR, Phase.FROZEN: Step.PUBLISH}
    todo: list[tuple[int, int, Step]] = []
    for number, record in enumerate(records):
        step = first_steps.get(record.phase, Step.FREEZE)
        if step is Step.FREEZE and ((number == epoch and active) or record.sequence > records[epoch].sequence):
            continue
        if step is not Step.NOTHING:
            todo.append((record.sequence, number, step))
    return [(number, step) for _, number, step in sorted(todo)]


def prepared(
    record: EpochRecord, end_ms: int, uplinks: dict[str, DeviceCounters], *, short: bool, stopped_ms: int | None = None
) -> EpochRecord:
    """Return the counting record with what is known at the flip: its end and the uplinks' counters then.

    A device without a reading at either end is left out: what it counted in this window is not known. So is what all
    of them counted until the dead-man stopped the program at `stopped_ms`, which is when the window ended.
    """
    if stopped_ms is not None:
        end_ms = max(min(stopped_ms, end_ms), record.start_ms + 1)
        return replace(record, end_ms=end_ms, uplinks=(), short=short, deadman=True)
    ends = tuple(replace(uplink, end=uplinks[uplink.name]) for uplink in record.uplinks if uplink.name in uplinks)
    return replace(record, end_ms=end_ms, uplinks=ends, short=short)


def ending(record: EpochRecord, end: Moment) -> tuple[EpochRecord, Moment]:
    """Return the counting record as it is by the clock at its end, and its end, so that it ends after it began.

    Where the clock was set meanwhile, forward or back, the window began as long before its end as it has lasted: its
    length is true, and of its times those of the clock as somebody set it. What came before it keeps the times of the
    clock as it was. Within a second windows do not go back: two flips may fall into one millisecond.
    """
    step_ms = _stepped(record, end)
    if abs(step_ms) > _STEP_MS:
        return replace(record, start_ms=record.start_ms + step_ms, clock_step_ms=record.clock_step_ms + step_ms), end
    return record, end.at(max(end.wall_ms, record.start_ms + 1))


def _stepped(record: EpochRecord, end: Moment) -> int:
    """Return how much longer the window has lasted by the clock that can be set than by the one that cannot."""
    by_wall_ms = end.wall_ms - record.start_ms
    if record.start_boot_ms:
        return by_wall_ms - max(end.boot_ms - record.start_boot_ms, 1)
    return min(by_wall_ms - 1, 0)


def following(sequence: int, start: Moment, uplinks: dict[str, DeviceCounters]) -> EpochRecord:
    """Return the record of a window that begins."""
    begins = tuple(Uplink(name, counters) for name, counters in list(uplinks.items())[:MAX_UPLINKS])
    return EpochRecord(Phase.COUNTING, sequence, start.wall_ms, uplinks=begins, start_boot_ms=start.boot_ms)
