# SPDX-License-Identifier: Apache-2.0
"""What a flow costs in a sink, and a series in a scrape, does not depend on how many there are. Counted in calls."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from sinks.flowlog.rows.columns import flatten_values
from sinks.intake import Intake, Lane
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.ends import Ends
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import WORKLOAD_BYTES, Sample
from tests.support.counted import calls
from tests.support.sinks.flows import END_MS, encoded, pod, records, window

NOW_MS = END_MS + 1_000


def flows(count: int) -> list[bytes]:
    """Return flows of one window, each between two pods of their own."""
    numbered = enumerate(window(1, count))
    return [encoded(replace(flow, source=pod(f"a{n}", "a"), destination=pod(f"b{n}", "b"))) for n, flow in numbered]


def metrics_calls(count: int) -> int:
    """Count what it takes to take flows, each of a series of its own, and to serve them."""
    lane, aggregate, intake = Lane(0), Aggregate(10 * count, None), Intake(Ends().make)
    taken = records(flows(count))

    def work() -> None:
        aggregate.add(intake.take(lane, taken, NOW_MS).rows, lane.books)
        aggregate.fold(NOW_MS)

    return calls(work)


def flowlog_calls(count: int) -> int:
    lane, intake = Lane(0), Intake(flatten_values)
    taken = records(flows(count))
    return calls(lambda: intake.take(lane, taken, NOW_MS))


def scrape_calls(count: int) -> int:
    shown = Exposition([WORKLOAD_BYTES], 30_000)
    labels = [(*map(str, range(9)), f"scope-{number}") for number in range(count)]

    def work() -> None:
        shown.apply([Sample(number, WORKLOAD_BYTES.name, each, number) for number, each in enumerate(labels)], [])
        shown.render(NOW_MS)

    return calls(work)


@pytest.mark.parametrize(("counted", "most"), [(metrics_calls, 145), (flowlog_calls, 92), (scrape_calls, 50)])
def test_twice_as_many_are_twice_the_work(counted: Callable[[int], int], most: int) -> None:
    once, twice = counted(400), counted(800)
    assert twice <= 2.2 * once
    assert once / 400 <= most
