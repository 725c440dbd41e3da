# SPDX-License-Identifier: Apache-2.0
"""Time ranges as people say them: `--since 1h`, `--since yesterday`, `--from 2026-11-22T09:00Z --to now-5m`. Pure.

Own code and no library for dates in words: those guess the order of day and month and the zone, and a guess would be
sold as a fact. What is not one of the few forms here is refused, and a time without a zone is UTC and said to be.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from common.input.checked import checked
from common.input.durations import parse_duration

_EXPECTED = "expected now-1h, 2 hours ago, yesterday, or a time such as 2026-11-22T09:00:00Z"
# Slots are as long as they have to be for a range to have no more than so many.
MAX_SLOTS = 100
SLOTS_MS = tuple(seconds * 1000 for seconds in (10, 60, 600, 3_600, 7_200, 6 * 3_600, 86_400, 7 * 86_400, 28 * 86_400))
_AGO = re.compile(r"(.*[^ ]) +ago")
_DAYS = {"today": 0, "yesterday": 1}


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Unix milliseconds, `[from_ms, to_ms)`. A window belongs to the range that holds its start.

    `ended_by_ms`: of these, only the windows that had ended by then; None: all of them.
    """

    from_ms: int
    to_ms: int
    ended_by_ms: int | None = None

    def holds(self, window_start_ms: int) -> bool:
        """Return whether a window that starts then belongs here."""
        return self.from_ms <= window_start_ms < self.to_ms

    def meets(self, from_ms: int, to_ms: int | None) -> bool:
        """Return whether what held from then until then, or holds still (None), did so at any time of this range."""
        return from_ms < self.to_ms and (to_ms is None or to_ms > self.from_ms)

    @property
    def slot_ms(self) -> int:
        """How long a slot of this range is, in ms: what is shown over time is added up by slot."""
        length = self.to_ms - self.from_ms
        return next((slot for slot in SLOTS_MS if length <= slot * MAX_SLOTS), SLOTS_MS[-1])

    def slot_at(self, at_ms: int) -> tuple[int, int]:
        """Return the part of the range that the slot covers which begins then, [from, to)."""
        return max(at_ms, self.from_ms), min(at_ms + self.slot_ms, self.to_ms)

    def earlier(self, milliseconds: int) -> "TimeRange":
        """Return the same range so much before, with the same windows left out at its end."""
        by = None if self.ended_by_ms is None else self.ended_by_ms - milliseconds
        return TimeRange(self.from_ms - milliseconds, self.to_ms - milliseconds, by)

    def __str__(self) -> str:
        return f"{timestamp(self.from_ms)} - {timestamp(self.to_ms)} UTC"


def timestamp(at_ms: int) -> str:
    """Return a time as people read it, UTC, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def rfc3339(at_ms: int) -> str:
    """Return a time as programs read it, UTC, to the second."""
    return timestamp(at_ms).replace(" ", "T") + "Z"


def parse_instant(text: str, now_ms: int) -> int:
    """Return Unix milliseconds for `now`, `now-1h`, `2 hours ago`, `yesterday` (its 00:00 UTC) or an RFC 3339 time.

    A time that names no zone is UTC. Raises ValueError, also for times before 1970 and after 9999.
    """
    at_ms = _instant(text, now_ms)
    if not 0 <= at_ms < 253_402_300_800_000:
        raise ValueError(f"{text!r} lies before 1970 or after 9999; {_EXPECTED}")
    return at_ms


def _instant(text: str, now_ms: int) -> int:
    if text == "now":
        return now_ms
    if text in _DAYS:
        today = datetime.fromtimestamp(now_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return int((today - timedelta(days=_DAYS[text])).timestamp() * 1000)
    ago = text.removeprefix("now-") if text.startswith("now-") else (found := _AGO.fullmatch(text)) and found[1]
    if ago:
        return now_ms - parse_duration(ago)
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time; {_EXPECTED}") from None


def parse_since(text: str, now_ms: int) -> int:
    """Return when a range begins that goes back so far (`1h`), or to a time (`yesterday`); raises ValueError."""
    try:
        return parse_instant(f"now-{text}", now_ms)
    except ValueError:
        pass
    try:
        return parse_instant(text, now_ms)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration such as 90s, 1h30m or 7d, nor a time; {_EXPECTED}") from None


def names_no_zone(text: str) -> bool:
    """Return whether a time is read as UTC only because it does not say in which zone it is."""
    if text in _DAYS:
        return True
    try:
        return datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


def parse_range(since: str | None, from_time: str | None, to_time: str | None, now_ms: int) -> TimeRange:
    """Return the range that the three flags name together; raise ValueError where they contradict each other."""
    if since is not None and from_time is not None:
        raise ValueError("--since and --from both name the start; give one")
    to_ms = parse_instant(to_time or "now", now_ms)
    from_ms = parse_instant(from_time, now_ms) if from_time else parse_since(since or "1h", now_ms)
    if from_ms > now_ms:
        raise ValueError(f"the range lies in the future: --since or --from is {timestamp(from_ms)} UTC")
    if from_ms >= to_ms:
        start = f"--since or --from is {timestamp(from_ms)}"
        raise ValueError(f"the range is empty: {start}, --to is {timestamp(to_ms)} UTC")
    return TimeRange(from_ms, to_ms)


# What `now` stands for while a setting is only checked: any time does, and this one is not before what is asked for.
_SOME_TIME_MS = 4_102_444_800_000
# As settings, kept as they were written: the time is counted from when the command runs.
Since = Annotated[str, checked(lambda text: parse_since(text, _SOME_TIME_MS))]
Instant = Annotated[str, checked(lambda text: parse_instant(text, _SOME_TIME_MS))]
