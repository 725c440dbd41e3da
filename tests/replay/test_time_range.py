# SPDX-License-Identifier: Apache-2.0
import pytest

from common.durations import parse_duration
from replay.time_range import TimeRange, parse_instant, parse_range

NOW = 1_795_384_000_000


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("90s", 90_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("250ms", 250)]
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "1", "h", "1h 30m", "-1h", "1.5h", "0s", "1y"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="expected such as"):
        parse_duration(text)


def test_instants() -> None:
    assert parse_instant("now", NOW) == NOW
    assert parse_instant("now-1h", NOW) == NOW - 3_600_000
    assert parse_instant("1970-01-01T00:00:10Z", NOW) == 10_000
    assert parse_instant("1970-01-01T00:00:10", NOW) == 10_000
    assert parse_instant("1970-01-01T02:00:10+02:00", NOW) == 10_000


def test_ranges() -> None:
    assert parse_range(None, None, None, NOW) == TimeRange(NOW - 3_600_000, NOW)
    assert parse_range("15m", None, None, NOW) == TimeRange(NOW - 900_000, NOW)
    assert parse_range(None, "now-2h", "now-1h", NOW) == TimeRange(NOW - 7_200_000, NOW - 3_600_000)
    assert TimeRange(0, 10).holds(0)
    assert not TimeRange(0, 10).holds(10)


@pytest.mark.parametrize(
    ("since", "start", "end", "says"),
    [
        ("1h", "now-1h", None, "give one"),
        (None, "now", "now-1h", "empty"),
        (None, "2199-01-01", "2199-01-02", "future"),
        (None, "2199-01-01", None, "future"),
        (None, "yesterday", None, "RFC 3339"),
    ],
)
def test_ranges_that_make_no_sense(since: str | None, start: str | None, end: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_range(since, start, end, NOW)
