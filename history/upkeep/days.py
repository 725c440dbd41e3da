# SPDX-License-Identifier: Apache-2.0
"""Writes the rollups of days and weeks: one file that says what hours' rollups say, for reports over months to read.

Its name is a digest of theirs. So it stands for exactly these, needs no record to say so, and once one of them is
made again or goes it stands for nothing any more, and is deleted. Killed anywhere, it is there or it is not.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from common.errors import Refusal
from history.model.rollups import LENGTHS_MS
from history.model.time_range import TimeRange
from history.read.archive.files import hours_with_rollups
from history.read.archive.hours import hour_end_ms
from history.read.archive.limits import DAMAGED
from history.read.archive.long_rollups import LongRollup, first_day, long_rollups
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.rollup_sql import roll_up, view_rollups
from history.read.database import bounded_database, literal
from history.read.flow_sql import FLOWS
from history.upkeep.rollups import sums_in_view, write_rollup
from sinks.flowlog.archive.compaction import LONG_ROLLUP, ROLLUPS
from sinks.flowlog.stores.store import TEMPORARY

_WRITTEN = "written"


def weeks_with_rollups(archive: FlowArchive, span: TimeRange) -> Iterator[list[str]]:
    """Yield the hours of a range that have rollups, week by week; oldest first."""
    for _, hours in groupby(
        hours_with_rollups(archive, span), key=lambda hour: first_day("week", hour_end_ms(hour) - 1)
    ):
        yield [*hours]


def rollups_to_write(archive: FlowArchive, hours: Sequence[str], span: TimeRange) -> list[LongRollup]:
    """Return the rollups of days, then weeks, that lie in a range whole; `hours`: all of these that have rollups."""
    rollups = [path for chain in archive.in_threads(archive.chain, hours) for path in chain.rollups]
    found = (each for length in reversed(LENGTHS_MS) for each in long_rollups(length, rollups))
    return [each for each in found if span.from_ms <= each.span.from_ms and each.span.to_ms <= span.to_ms]


def write_long_rollup(archive: FlowArchive, wanted: LongRollup, spill: Path) -> bool:
    """Write the rollup of a day or a week, unless it is there; return whether it was written.

    `spill`: an empty directory of this machine. Raises `Refusal` and `OSError`.
    """
    _forget(archive, wanted)
    parts = wanted.parts
    if archive.has(wanted.path):
        return False
    if wanted.length == "week":
        days = ([day.path] if archive.has(day.path) else day.parts for day in long_rollups("day", parts))
        parts = [path for paths in days for path in paths]
    if len(parts) < 2:
        return False
    try:
        with bounded_database(spill) as database:
            view_rollups(database, archive, parts, FLOWS, whole=True)
            made = write_rollup(roll_up(database, FLOWS, wanted.span), spill / "long.parquet")
            database.read_parquet(literal(str(made.path)), hive_partitioning=False).create_view(_WRITTEN)
            # Before it is put there: from then on it is read.
            if sums_in_view(database, _WRITTEN) != sums_in_view(database, FLOWS):
                raise Refusal(
                    f"archive {archive.location}: what was written of {wanted.path} is not what its rollups come to"
                )
    except DAMAGED as error:
        if not all(map(archive.has, parts)):
            raise ArchiveChanged(archive.location) from error
        raise
    archive.store.put(wanted.path, [pa.memory_map(str(made.path)).read_buffer()])
    return True


def forget_long_rollups(archive: FlowArchive, hour: str) -> None:
    """Delete those of the day and the week of an hour: before one of its rollups is made again or goes."""
    for length in LENGTHS_MS:
        _forget(archive, LongRollup(length, first_day(length, hour_end_ms(hour) - 1)))


def _forget(archive: FlowArchive, but: LongRollup) -> None:
    """Delete the rollups of a day, or a week, but for one."""
    directory = f"{ROLLUPS}/{but.day}"
    for name in archive.names(directory):
        path = f"{directory}/{name.removesuffix(TEMPORARY)}"
        found = LONG_ROLLUP.fullmatch(name.removesuffix(TEMPORARY))
        if found and found[1] == but.length and (path != but.path or name.endswith(TEMPORARY)):
            archive.store.delete(path)
