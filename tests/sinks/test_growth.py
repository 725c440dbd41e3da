# SPDX-License-Identifier: Apache-2.0
"""What a flow costs in a sink, and a series in a scrape, does not depend on how many there are. Counted in calls."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.service.running import Service
from schemas.flow import Endpoint
from sinks.flowlog.archive.archive import Archive
from sinks.flowlog.rows import parquet
from sinks.flowlog.rows.columns import flatten_values
from sinks.flowlog.settings import FlowlogSettings
from sinks.flowlog.sink import ArchiveSink
from sinks.flowlog.stores.opening import open_store
from sinks.intake import Intake, Lane
from sinks.metrics.aggregate import SWEEP_MS, Aggregate
from sinks.metrics.checkpoint import State
from sinks.metrics.ends import Ends
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import WORKLOAD_BYTES, Sample
from sinks.metrics.family import HEAVY_BYTES
from sinks.metrics.settings import MetricsSettings
from sinks.metrics.sink import MetricsSink
from sinks.sink import Sink
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


FLOWS = 24


def window_of(nodes: int, sequence: int, offset: int) -> list[Any]:
    """Return a window of so many nodes, each with pods of its own."""
    found = []
    for node in range(nodes):
        flows = enumerate(window(sequence, FLOWS, f"node-{node}"))
        ends = [(pod(f"a{node}-{n}", "a"), pod(f"b{node}-{n}", "b")) for n in range(FLOWS)]
        found += [encoded(replace(flow, source=ends[n][0], destination=ends[n][1])) for n, flow in flows]
    return records(found, offset)


def a_checkpoint_each(nodes: int, windows: int, sink: Sink[Any, Any], make_end: Callable[[Endpoint], Any]) -> int:
    """Count what windows take, each of which is cut by itself, of nodes whose first one was taken before."""
    (lane,), _ = sink.recover([0])
    intake = Intake(make_end)
    size = nodes * FLOWS
    of = [window_of(nodes, number, number * size) for number in range(windows + 1)]

    def take(numbers: range) -> None:
        for number in numbers:
            now_ms = END_MS + number * 10_000
            sink.add(lane, intake.take(lane, of[number], now_ms))
            for cut in sink.cut([lane], now_ms):
                sink.write(cut.content)

    take(range(1))
    return calls(lambda: take(range(1, windows + 1)))


def metrics_sink_calls(nodes: int, windows: int, directory: Path) -> int:
    settings = MetricsSettings(kafka_bootstrap="localhost:9092", state_dir=directory)
    state = State(directory, "flows")
    sink = MetricsSink(Service("metrics"), settings, state)
    try:
        return a_checkpoint_each(nodes, windows, sink, Ends().make)
    finally:
        state.close()


def flowlog_sink_calls(nodes: int, windows: int, directory: Path) -> int:
    settings = FlowlogSettings(kafka_bootstrap="localhost:9092", output=str(directory))
    archive = Archive(open_store(settings.output), "flows", parquet.SUFFIX)
    return a_checkpoint_each(nodes, windows, ArchiveSink(settings, archive, parquet.ParquetRows), flatten_values)


@pytest.mark.parametrize("counted", [metrics_sink_calls, flowlog_sink_calls])
def test_as_many_flows_are_the_same_work_whether_few_nodes_sent_them_or_many(
    counted: Callable[[int, int, Path], int], tmp_path: Path
) -> None:
    few, many = counted(10, 4, tmp_path / "few"), counted(40, 1, tmp_path / "many")
    assert many <= 1.1 * few


def test_a_name_that_changes_hands_leaves_all_other_pairs_as_they_are() -> None:
    aggregate, intake, lane = Aggregate(300, None), Intake(Ends().make), Lane(0)

    def window_calls(sequence: int, heaviest: int = 0) -> int:
        values = [encoded(replace(flow, source=pod(f"a{n}", "a"))) for n, flow in enumerate(window(sequence, 400))]
        heavy = replace([*window(sequence, 401)][-1], source=pod("a399", "a"), bytes=heaviest)
        rows = intake.take(lane, records([*values, encoded(heavy)], 401 * sequence), NOW_MS + SWEEP_MS).rows
        return calls(partial(aggregate.add, rows, lane.books))

    named = aggregate.families[WORKLOAD_BYTES.name].series
    window_calls(0)
    aggregate.fold(NOW_MS)
    usual = window_calls(1, heaviest=10 * HEAVY_BYTES)
    before = set(named)
    aggregate.fold(NOW_MS + SWEEP_MS)
    closing = [series for series in named.values() if series.closing]
    assert set(named) == before
    assert len(closing) == 1
    assert window_calls(2) <= 1.2 * usual
