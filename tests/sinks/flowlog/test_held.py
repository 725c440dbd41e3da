# SPDX-License-Identifier: Apache-2.0
"""What a flow log holds in memory is bounded by what it counts, whatever the flows are made of; so are its files."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.flow import Cloud, Cluster, Endpoint, Named, Network, Observer
from sinks.flowlog.archive.archive import Archive
from sinks.flowlog.archive.pending import HOUR_MS
from sinks.flowlog.rows.columns import flatten, flatten_values
from sinks.flowlog.rows.parquet import ParquetRows
from sinks.flowlog.settings import FlowlogSettings
from sinks.flowlog.sink import MAX_HOURS, ArchiveSink
from sinks.flowlog.stores.store import LocalStore
from sinks.intake import MAX_KNOWN_BYTES, MAX_KNOWN_ENDS, Intake, Lane
from sinks.metrics.ends import Ends
from tests.support.sinks.flows import END_MS, START_MS, encoded, flow, flow_id, other, pod, records

HELD = 256 * 1024
LONG = "n" * 240


def new_sink(root: Path) -> ArchiveSink:
    settings = FlowlogSettings(output=str(root))
    return ArchiveSink(settings, Archive(LocalStore(root), "t", ".parquet"), ParquetRows)


def pods(name: str) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"source": pod(f"{name}{n}", "a"), "destination": pod(f"{name}{n}", "b")}


MADE_OF = [
    pytest.param(lambda n: {}, id="the same ends"),
    pytest.param(lambda n: {"source": other("external", address=f"203.0.{n // 250}.{n % 250}")}, id="the internet"),
    pytest.param(pods("api"), id="pods"),
    pytest.param(pods(LONG), id="long names"),
    pytest.param(pods("\N{PILE OF POO}" * 50), id="names of four bytes a letter"),
    pytest.param(lambda n: {"id": flow_id(1 + n, 0)}, id="a chunk each"),
    pytest.param(lambda n: {"id": flow_id(1 + n, 0, LONG)}, id="a chunk each of a long name"),
    pytest.param(lambda n: {"observer": Observer(f"{LONG}{n}", Cloud(f"{LONG}{n}"))}, id="observers"),
    pytest.param(lambda n: {"k8s": Cluster(Named(f"{LONG}{n}"))}, id="clusters"),
    pytest.param(lambda n: {"network": Network(f"{n}", "ipv6"), "encapsulation": f"{LONG}{n}"}, id="protocols"),
]


@pytest.mark.parametrize("fields", MADE_OF)
def test_what_is_held_back_stays_within_what_is_counted(
    fields: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.intake.MAX_KNOWN_BYTES", HELD)
    monkeypatch.setattr("sinks.flowlog.settings.MAX_HELD_BYTES", HELD)
    sink, intake = new_sink(tmp_path), Intake(flatten_values)
    (lane,), _ = sink.recover([0])
    most = cuts = 0
    tracemalloc.start()
    for first in range(0, 3_000, 25):
        values = [encoded(flow(**{"id": flow_id(1, n)} | fields(n))) for n in range(first, first + 25)]
        batch = intake.take(lane, records(values, offset=first), END_MS)
        assert len(batch.rows) == 25
        sink.add(lane, batch)
        del batch, values
        most = max(most, tracemalloc.get_traced_memory()[0])
        if due := sink.due([lane], 0.0):
            assert due == [lane]
            sink.cut(due, END_MS)
            cuts += 1
    tracemalloc.stop()
    assert cuts >= 2
    assert 0.5 * HELD < most < 2.2 * HELD


@pytest.mark.parametrize("make", [flatten, flatten_values, Ends().make], ids=["json", "parquet", "metrics"])
@pytest.mark.parametrize("name", ["api", LONG, "\N{PILE OF POO}" * 50], ids=["usual", "long", "four bytes a letter"])
def test_known_ends_take_no_more_than_is_counted(
    make: Callable[[Endpoint], object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.intake.MAX_KNOWN_BYTES", HELD)
    lane, intake = Lane(0), Intake(make)
    most = 0
    tracemalloc.start()
    for first in range(0, 500, 5):
        values = [encoded(flow(id=flow_id(1, n), **pods(name)(n))) for n in range(first, first + 5)]
        intake.take(lane, records(values, offset=first), END_MS)
        most = max(most, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert 0.5 * HELD < most < 1.1 * HELD


def test_200_000_usual_ends_are_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown by a tenth of them, in a tenth of the room."""
    monkeypatch.setattr("sinks.intake.MAX_KNOWN_BYTES", MAX_KNOWN_BYTES // 10)
    lane, intake = Lane(0), Intake(flatten_values, max_known=MAX_KNOWN_ENDS // 10)
    forgot = False
    for first in range(0, 10_000, 1_000):
        values = [
            encoded(flow(id=flow_id(1, n), **pods("catalogue-7d4b9c6f5-")(n))) for n in range(first, first + 1_000)
        ]
        forgot |= intake.take(lane, records(values, offset=first), END_MS).forgot
        if first + 1_000 < 10_000:
            assert not forgot


def test_hours_are_cut_before_they_are_many(tmp_path: Path) -> None:
    """A node whose clock jumps, or that makes up times, brings a file with each window."""
    sink, intake = new_sink(tmp_path), Intake(flatten_values)
    (crowded, usual), _ = sink.recover([0, 1])
    values = [encoded(flow(id=flow_id(1, row))) for row in range(3 * MAX_HOURS)]
    sink.add(usual, intake.take(usual, records(values), END_MS))
    for n in range(MAX_HOURS):
        assert not sink.due([crowded, usual], 0.0)
        start = START_MS + (n - 2 * MAX_HOURS) * HOUR_MS
        value = encoded(flow(id=flow_id(1 + n), start_ms=start, end_ms=start + 10_000))
        sink.add(crowded, intake.take(crowded, records([value], offset=n), END_MS))
    assert sink.due([crowded, usual], 0.0) == [crowded]
    (cut,) = sink.cut([crowded], END_MS)
    assert len(cut.content.rows) == MAX_HOURS
    assert not sink.due([crowded, usual], 0.0)


def test_hours_that_are_many_hold_up_no_other_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.flowlog.settings.MAX_HELD_BYTES", 100_000)
    sink, intake = new_sink(tmp_path), Intake(flatten_values)
    (crowded, usual), _ = sink.recover([0, 1])
    values = [encoded(flow(id=flow_id(1, row))) for row in range(1_000)]
    sink.add(usual, intake.take(usual, records(values), END_MS))
    starts = [START_MS + (n - MAX_HOURS) * HOUR_MS for n in range(MAX_HOURS)]
    values = [encoded(flow(id=flow_id(1 + n), start_ms=start, end_ms=start + 10_000)) for n, start in enumerate(starts)]
    sink.add(crowded, intake.take(crowded, records(values), END_MS))
    assert sink.due([crowded, usual], 0.0) == [crowded, usual]


def test_ends_that_were_forgotten_go_with_the_next_cut_of_their_partition(tmp_path: Path) -> None:
    """A partition whose last cut is not through is not cut with the others."""
    sink, intake = new_sink(tmp_path), Intake(flatten_values, max_known=300)
    (waiting, other_lane), _ = sink.recover([0, 1])
    for number, lane in enumerate((waiting, other_lane)):
        values = [
            encoded(flow(id=flow_id(1 + number, n), destination=other("external", address=f"198.51.{number}.{n}")))
            for n in range(200)
        ]
        sink.add(lane, intake.take(lane, records(values), END_MS))
    assert sink.due([other_lane], 0.0) == [other_lane]
    sink.cut([other_lane], END_MS)
    assert sink.due([waiting, other_lane], 0.0) == [waiting]
    sink.cut([waiting], END_MS)
    assert not sink.due([waiting, other_lane], 0.0)
