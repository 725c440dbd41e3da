# SPDX-License-Identifier: Apache-2.0
import pytest

from common.input.durations import parse_duration
from history.model.time_range import TimeRange, parse_instant, parse_range, parse_since
from history.range_settings import SpanSettings

NOW = 1_795_384_000_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        ("250ms", 250),
        ("2 hours", 7_200_000),
        ("1day", 86_400_000),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1h 30m", "-1h", "1.5h", "0s", "1y", "\uff11h", "2 fortnights", "0 hours"]
)
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="expected, for example,"):
        parse_duration(text)


def test_instants() -> None:
    assert parse_instant("now", NOW) == NOW
    assert parse_instant("now-1h", NOW) == NOW - 3_600_000
    assert parse_instant("1970-01-01T00:00:10Z", NOW) == 10_000
    assert parse_instant("1970-01-01T00:00:10", NOW) == 10_000
    assert parse_instant("1970-01-01T02:00:10+02:00", NOW) == 10_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2 hours ago", NOW - 7_200_000),
        ("2h ago", NOW - 7_200_000),
        ("today", 1_795_305_600_000),
        ("yesterday", 1_795_219_200_000),
        ("2026-11-22", 1_795_305_600_000),
    ],
)
def test_instants_in_words(text: str, ms: int) -> None:
    assert parse_instant(text, NOW) == parse_since(text, NOW) == ms


@pytest.mark.parametrize(
    "text", ["", "now-", "ago", " ago", "tomorrow", "last week", "22/11/2026", "now-99999w", "0001-01-01"]
)
def test_a_time_is_never_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="now-1h, 2 hours ago, yesterday, or a time such as"):
        parse_instant(text, NOW)


def test_since_is_a_duration_or_a_time() -> None:
    assert parse_since("90s", NOW) == parse_since("now-90s", NOW) == NOW - 90_000
    assert parse_since("2026-11-22T09:00+01:00", NOW) == 1_795_334_400_000
    with pytest.raises(ValueError, match=r"neither a duration such as .* nor a time"):
        parse_since("soon", NOW)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        *(("2026-11-22T09:00", True), ("2026-11-22", True), ("yesterday", True), ("today", True)),
        *(("2026-11-22T09:00Z", False), ("2026-11-22T09:00+01:00", False), ("now-1h", False), ("2 hours ago", False)),
    ],
)
def test_a_time_without_a_zone_is_read_as_utc_and_said_to_be(
    text: str, bare: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SpanSettings(from_time=text)
    span = settings.span("zonemeter x", NOW)
    said = f"zonemeter x: --from {text} names no zone and is read as UTC; the range is {span}\n"
    assert capsys.readouterr().err == (said if bare else "")


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
        (None, "last week", None, "not a time"),
        ("now", None, None, "empty"),
    ],
)
def test_ranges_that_make_no_sense(since: str | None, start: str | None, end: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_range(since, start, end, NOW)
