# SPDX-License-Identifier: Apache-2.0
"""Finds the rollups of days and weeks that stand in the place of hours' rollups."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import compress
from typing import NamedTuple

from history.model.rollups import LENGTHS_MS, Hours, Length
from history.model.time_range import TimeRange, timestamp
from history.read.archive.hours import hour_start_ms
from history.read.archive.opened import FlowArchive
from sinks.flowlog.archive.compaction import long_rollup_path


class LongRollup(NamedTuple):
    """The rollup of a day or a week, whether it is there or not. `parts`: the hours' rollups that it is of.

    `day`: the day, or the week's first, such as `date=2026-11-23`.
    """

    length: Length
    day: str
    parts: Sequence[str] = ()

    @property
    def path(self) -> str:
        """Its path; without parts nobody's."""
        return long_rollup_path(self.length, self.day, self.parts)

    @property
    def span(self) -> TimeRange:
        """Its time."""
        begin_ms = hour_start_ms(f"{self.day}/hour=00") or 0
        return TimeRange(begin_ms, begin_ms + LENGTHS_MS[self.length])


def long_rollups(length: Length, rollups: Iterable[str]) -> list[LongRollup]:
    """Return those of each day, or week, that has any of these hours' rollups."""
    parts: dict[str, list[str]] = defaultdict(list)
    first = cache(lambda day: first_day(length, hour_start_ms(f"{day}/hour=00") or 0))
    for path in rollups:
        parts[first(path.split("/")[-3])].append(path)
    return [LongRollup(length, day, paths) for day, paths in parts.items()]


def find_long_rollups(archive: FlowArchive, hours: Hours, rollups: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the rollups of weeks and days that are there in the place of hours', and the hours' that are left."""
    left, found = dict.fromkeys(rollups), list[str]()
    for length in hours.lengths:
        # Of a part of a day's rollups, or a week's, there is none.
        made = [each for each in long_rollups(length, left) if hours.holds(each.span)]
        for each in compress(made, archive.in_threads(archive.has, [each.path for each in made])):
            found.append(each.path)
            for path in each.parts:
                del left[path]
    return found, [*left]


def first_day(length: Length, at_ms: int) -> str:
    """Return the day, or the first one of the week, that a time lies in, such as `date=2026-11-23`."""
    return f"date={timestamp(at_ms // LENGTHS_MS[length] * LENGTHS_MS[length])[:10]}"
