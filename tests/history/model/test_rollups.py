# SPDX-License-Identifier: Apache-2.0
"""Which questions rollups answer, and for which hours."""

from typing import Any

import pytest

from history.model.filters import Selection
from history.model.grouping import By, Per
from history.model.rollups import SLACK_MS, Hours, lengths_that_tell, only_flows_tell
from history.model.states.labels import LabelTime
from history.model.time_range import TimeRange

HOUR_MS = 3_600_000
BEGIN_MS = 1_795_384_800_000
WEEK = TimeRange(BEGIN_MS, BEGIN_MS + 168 * HOUR_MS)


@pytest.mark.parametrize(
    ("asked", "by", "what"),
    [
        ({}, "pod", "--by pod"),
        ({}, "node", "--by node"),
        ({"pods": ["web-0"]}, None, "--pod"),
        ({"addresses": ["10.0.0.0/8"]}, None, "--address"),
        ({"min_bytes": 1}, None, "--min-bytes"),
        ({"workloads": ["api", "node/node-a"]}, None, "one node, pod or prefix"),
        ({"workloads": ["shop/Pod/web-0"]}, None, "one node, pod or prefix"),
        ({"workloads": ["external/203.0.113.0/24"]}, None, "one node, pod or prefix"),
        ({"sources": ["web"]}, None, "a source or destination"),
        ({"destinations": ["shop/web"]}, None, "a source or destination"),
        ({"destinations": ["10.0.0.1"]}, None, "a source or destination"),
    ],
)
def test_what_a_rollup_has_summed_up_is_asked_of_flows(asked: dict[str, Any], by: By | None, what: str) -> None:
    assert only_flows_tell(Selection(**asked), WEEK, by).startswith(what)


def test_of_a_short_range_what_happened_when_is_asked_of_flows() -> None:
    assert only_flows_tell(Selection(), TimeRange(BEGIN_MS, BEGIN_MS + 16 * HOUR_MS), None).startswith("time in less")
    assert only_flows_tell(Selection(), TimeRange(BEGIN_MS, BEGIN_MS + 17 * HOUR_MS), None) == ""


@pytest.mark.parametrize(
    ("days", "by", "per", "expected"),
    [
        (25, None, None, []),
        (26, None, None, ["day"]),
        (100, "workload", "month", ["day"]),
        (101, None, None, ["week", "day"]),
        (395, "workload", "month", ["week", "day"]),
        (395, "workload", "day", ["day"]),
        (395, "day", None, ["day"]),
        (395, "hour", None, []),
        (395, "workload", "hour", []),
        (1830, None, None, ["week", "day"]),
    ],
)
def test_what_longer_rollups_tell(days: int, by: By | None, per: Per | None, expected: list[str]) -> None:
    assert lengths_that_tell(TimeRange(BEGIN_MS, BEGIN_MS + days * 24 * HOUR_MS), by, per) == expected


def hours(span: TimeRange, *labels: LabelTime) -> list[int]:
    """Return which hours, by number, are held of those around two."""
    held = Hours(span, labels)
    each = {n: TimeRange(BEGIN_MS + n * HOUR_MS, BEGIN_MS + (n + 1) * HOUR_MS) for n in range(-1, 5)}
    return [number for number, hour in each.items() if held.holds(hour)]


def test_hours_lie_in_the_range_whole() -> None:
    assert hours(TimeRange(BEGIN_MS, BEGIN_MS + 2 * HOUR_MS)) == [0, 1]
    assert hours(TimeRange(BEGIN_MS + 1, BEGIN_MS + 3 * HOUR_MS - 1)) == [1]


def test_where_windows_are_left_out_at_the_end_an_hours_last_ones_must_have_ended() -> None:
    end_ms = BEGIN_MS + 2 * HOUR_MS
    assert hours(TimeRange(BEGIN_MS, end_ms, ended_by_ms=end_ms + SLACK_MS)) == [0, 1]
    assert hours(TimeRange(BEGIN_MS, end_ms, ended_by_ms=end_ms + SLACK_MS - 1)) == [0]


@pytest.mark.parametrize(
    ("at_ms", "expected"),
    [(0, [0, 1, 2]), (1, [1, 2]), (HOUR_MS, [1, 2]), (HOUR_MS + SLACK_MS, [2]), (HOUR_MS + SLACK_MS + 1, [0, 2])],
)
def test_no_label_changes_while_an_hours_windows_last(at_ms: int, expected: list[int]) -> None:
    labels = LabelTime("shop", 0, BEGIN_MS + at_ms, "a"), LabelTime("shop", BEGIN_MS + at_ms, 2**50, "b")
    assert hours(TimeRange(BEGIN_MS, BEGIN_MS + 3 * HOUR_MS), *labels) == expected
