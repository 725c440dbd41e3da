# SPDX-License-Identifier: Apache-2.0
"""Writes the rollups of days: one file that says what a day's rollups say, which a report over months reads instead.

Its name is a digest of theirs. So it stands for exactly these, needs no record to say so, and once one of them is
made again or goes it stands for nothing any more, and is deleted. Killed anywhere, it is there or it is not.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from common.errors import Refusal
from history.model.time_range import TimeRange
from history.read.archive.files import day_range
from history.read.archive.opened import FlowArchive
from history.read.archive.rollup_sql import roll_up, view_rollups
from history.read.flow_sql import FLOWS, bounded_database, literal
from history.upkeep.rollups import sums_in_view, write_rollup
from sinks.flowlog.archive.compaction import DAY_ROLLUP, HOUR, ROLLUPS, day_rollup_path
from sinks.flowlog.stores.store import TEMPORARY

_DAY = "day"


def days_with_rollups(archive: FlowArchive, span: TimeRange) -> Iterator[str]:
    """Yield the days that lie in a range whole and have rollups, such as `date=2026-11-23`; oldest first."""
    for name in sorted(archive.names(ROLLUPS)):
        day = day_range(name)
        if day.to_ms and span.from_ms <= day.from_ms and day.to_ms <= span.to_ms:
            yield name


def roll_up_day(archive: FlowArchive, day: str, spill: Path) -> bool:
    """Write the rollup of a day, unless it is there; return whether it was written. Raises `Refusal` and `OSError`.

    `spill`: an empty directory of this machine.
    """
    names = archive.names(f"{ROLLUPS}/{day}")
    hours = sorted(f"{day}/{name}" for name in names if HOUR.fullmatch(f"{day}/{name}"))
    rollups = [path for hour in hours for path in archive.chain(hour).rollups]
    path = day_rollup_path(day, rollups)
    forget_day(archive, day, but=path)
    if path in {f"{ROLLUPS}/{day}/{name}" for name in names} or len(rollups) < 2:
        return False
    span = day_range(day)
    with bounded_database(spill) as database:
        view_rollups(database, archive, rollups, FLOWS)
        made = write_rollup(roll_up(database, FLOWS, span), spill / "day.parquet")
        database.read_parquet(literal(str(made.path)), hive_partitioning=False).create_view(_DAY)
        # Before it is put there: from then on it is read.
        if sums_in_view(database, _DAY) != sums_in_view(database, FLOWS):
            raise Refusal(f"archive {archive.location}: what was written of {day} is not what its rollups come to")
    archive.store.put(path, [pa.memory_map(str(made.path)).read_buffer()])
    return True


def forget_day(archive: FlowArchive, day: str, but: str = "") -> None:
    """Delete the rollups of a day, but for one: before any of its hours' is made again or goes."""
    for name in archive.names(f"{ROLLUPS}/{day}"):
        path = f"{ROLLUPS}/{day}/{name.removesuffix(TEMPORARY)}"
        if DAY_ROLLUP.fullmatch(name.removesuffix(TEMPORARY)) and (path != but or name.endswith(TEMPORARY)):
            archive.store.delete(path)
