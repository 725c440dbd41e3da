# SPDX-License-Identifier: Apache-2.0
"""An archive's hours, such as `date=2026-11-23/hour=02`, below flows/ or not: when they are, and of what file. Pure."""

import re
from datetime import datetime
from functools import lru_cache

from history.model.time_range import TimeRange
from sinks.flowlog.archive.archive import FLOWS

HOUR_MS = 3_600_000
_HOUR = re.compile(r"date=(\d{4}-\d\d-\d\d)/hour=(\d\d)", re.ASCII)


@lru_cache(maxsize=100_000)
def hour_start_ms(directory: str) -> int | None:
    """Return when an hour begins, in Unix milliseconds; None if the directory is not an hour's."""
    found = _HOUR.fullmatch(directory.removeprefix(f"{FLOWS}/"))
    try:
        return int(datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00").timestamp()) * 1000 if found else None
    except ValueError:
        return None


def hour_end_ms(directory: str) -> int:
    """Return when an hour ends, in Unix milliseconds; 0 if the directory is not an hour's."""
    start_ms = hour_start_ms(directory)
    return 0 if start_ms is None else start_ms + HOUR_MS


def hour_range(hour: str) -> TimeRange:
    """Return the time of an hour such as `date=2026-11-23/hour=02`, which is one."""
    end_ms = hour_end_ms(hour)
    return TimeRange(end_ms - HOUR_MS, end_ms)


def touches(hour: str, span: TimeRange) -> bool:
    """Return whether an hour, such as `flows/date=2026-11-23/hour=02`, has any of the range."""
    start_ms = hour_start_ms(hour)
    return start_ms is not None and start_ms < span.to_ms and span.from_ms < start_ms + HOUR_MS


def hour_of(path: str) -> str:
    """Return the hour of a file of flows or of a rollup, such as `date=2026-11-23/hour=02`."""
    return "/".join(path.split("/")[-3:-1])
