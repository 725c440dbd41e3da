# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them: `90s`, `15m`, `1h30m`. Pure."""

import re

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def parse_duration(text: str) -> int:
    """Return milliseconds for `90s`, `1h`, `1h30m`, `7d`; raise ValueError for anything else or for nothing."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; expected such as 90s, 15m, 1h30m, 7d")
    milliseconds = sum(int(number) * _UNITS_MS[unit] for number, unit in parts)
    if milliseconds == 0:
        raise ValueError(f"{text!r} is no time at all; expected such as 90s, 15m, 1h30m, 7d")
    return milliseconds
