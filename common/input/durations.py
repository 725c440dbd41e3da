# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them: `90s`, `15m`, `1h30m`, `2 hours`. Pure."""

import re
from typing import Annotated

from common.input.checked import checked

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_WORDS = {"second": "s", "minute": "m", "hour": "h", "day": "d", "week": "w"}
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d|w)")
_SPELT = re.compile(r"([0-9]{1,15}) *(second|minute|hour|day|week)s?")


def parse_duration(text: str) -> int:
    """Return milliseconds for `90s`, `1h30m`, `7d`, `2 hours`; raise ValueError for anything else or for nothing."""
    spelt = _SPELT.fullmatch(text)
    parts = [(spelt[1], _WORDS[spelt[2]])] if spelt else _DURATION.findall(text)
    if not parts or (not spelt and "".join(number + unit for number, unit in parts) != text):
        raise ValueError(f"{text!r} is not a duration; expected, for example, 90s, 15m, 1h30m, 7d")
    milliseconds = sum(int(number) * _UNITS_MS[unit] for number, unit in parts)
    if milliseconds == 0:
        raise ValueError(f"{text!r} is not longer than zero; expected, for example, 90s, 15m, 1h30m, 7d")
    return milliseconds


# A duration as a setting, kept as it was written.
Duration = Annotated[str, checked(parse_duration)]
