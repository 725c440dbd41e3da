# SPDX-License-Identifier: Apache-2.0
"""Time ranges as people say them: `--since 1h`, `--from 2026-11-22T09:00:00Z --to now-5m`. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from common.durations import parse_duration


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Unix milliseconds, `[from_ms, to_ms)`. A window belongs to the range that holds its start."""

    from_ms: int
    to_ms: int

    def holds(self, window_start_ms: int) -> bool:
        """Tell whether a window that starts then belongs here."""
        return self.from_ms <= window_start_ms < self.to_ms

    def __str__(self) -> str:
        return f"{timestamp(self.from_ms)} - {timestamp(self.to_ms)} UTC"


def timestamp(at_ms: int) -> str:
    """Return a time as people read it, UTC, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def parse_instant(text: str, now_ms: int) -> int:
    """Return Unix milliseconds for `now`, `now-1h` or an RFC 3339 time (UTC where it names no zone)."""
    if text == "now":
        return now_ms
    if text.startswith("now-"):
        return now_ms - parse_duration(text.removeprefix("now-"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; expected RFC 3339 such as 2026-11-22T09:00:00Z, or now-1h") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def parse_range(since: str | None, from_time: str | None, to_time: str | None, now_ms: int) -> TimeRange:
    """Return the range that the three flags name together; raise ValueError where they contradict each other."""
    if since is not None and from_time is not None:
        raise ValueError("--since and --from both name the start; give one")
    to_ms = parse_instant(to_time or "now", now_ms)
    from_ms = parse_instant(from_time, now_ms) if from_time else now_ms - parse_duration(since or "1h")
    if from_ms > now_ms:
        raise ValueError(f"the range lies in the future: it starts {timestamp(from_ms)} UTC")
    if from_ms >= to_ms:
        raise ValueError(f"the range is empty: it starts {timestamp(from_ms)} and ends {timestamp(to_ms)} UTC")
    return TimeRange(from_ms, to_ms)
