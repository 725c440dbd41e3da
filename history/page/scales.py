# SPDX-License-Identifier: Apache-2.0
"""Where things stand in a drawing: ticks of an axis, times, and steps of a colour. Pure."""

from datetime import UTC, datetime

# Steps of the heat map's colour; the style sheet has a class for each.
LEVELS = 7
_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
_TICKS_MS = (
    10_000,
    30_000,
    *(minutes * _MINUTE for minutes in (1, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 7, 14, 30, 90, 365)),
)
MOST_TICKS = 9


def ticks(largest: float, most: int = 4) -> list[float]:
    """Return round numbers from 0 on, the last at or above the largest."""
    if largest <= 0:
        return [0, 1]
    power = 10.0 ** (len(str(int(largest))) - 1) if largest >= 1 else 0.1
    step = next(
        step for step in (power * part for part in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10)) if largest <= step * most
    )
    count = -int(-largest // step)
    return [step * number for number in range(count + 1)]


def time_ticks(from_ms: int, to_ms: int) -> list[tuple[int, str]]:
    """Return times on the clock within a range, UTC, with what they are called: an hour, or a day where one begins."""
    step = next((step for step in _TICKS_MS if to_ms - from_ms <= step * MOST_TICKS), _TICKS_MS[-1])
    first = -(-from_ms // step) * step
    return [(at, _called(at)) for at in range(first, to_ms + 1, step)]


def level(value: int, largest: int) -> int:
    """Return the step of the colour for a value: 0 for nothing, else 1 to `LEVELS`, in equal parts of the largest."""
    return 0 if value <= 0 or largest <= 0 else min(LEVELS, 1 + (value * LEVELS - 1) // largest)


def _called(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if at_ms % _MINUTE:
        return f"{at:%H:%M:%S}"
    return f"{at:%H:%M}" if at_ms % _DAY else f"{at.day} {at:%b}"
