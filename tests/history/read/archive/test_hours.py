# SPDX-License-Identifier: Apache-2.0
"""Ranges that cut hours, and ranges that do not; and windows in another hour's files."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from tests.support.history.written import BEGIN_MS, DAY, HOUR, HOUR_MS, Written, compact
from tests.support.sinks.flows import flow, flow_id

# Of each of four hours one every ten minutes, the last of which ends in the next hour.
STARTS = range(BEGIN_MS + HOUR_MS // 6 - 5_000, BEGIN_MS + 4 * HOUR_MS, HOUR_MS // 6)
ELSEWHERE = "a window is not of the hour that the file is of"


@pytest.fixture
def written(tmp_path: Path) -> Written:
    made = Written(tmp_path / "archive")
    for number, start in enumerate(STARTS):
        made.cut(1, [flow(id=flow_id(number + 1, 0), start_ms=start, end_ms=start + 10_000, bytes=2**number)])
    return made


def asked(root: Path, span: TimeRange, selection: Selection | None = None) -> Summary:
    summary = Summary()
    with ArchiveQuery(FlowArchive(str(root)), span) as query:
        query.summarise(Parties(), summary, selection or Selection())
    return summary


@pytest.mark.parametrize("cut_by_ms", [(0, 0), (5_000, 0), (0, -5_000), (HOUR_MS // 2, HOUR_MS // 3)])
@pytest.mark.parametrize("ended_by_ms", [None, BEGIN_MS + 3 * HOUR_MS])
@pytest.mark.parametrize("selection", [Selection(), Selection(scopes=["cross_zone"])], ids=["all", "some"])
def test_a_range_holds_the_windows_that_begin_in_it_wherever_it_cuts_hours(
    written: Written, cut_by_ms: tuple[int, int], ended_by_ms: int | None, selection: Selection
) -> None:
    first, last = cut_by_ms
    span = TimeRange(BEGIN_MS + HOUR_MS + first, BEGIN_MS + 3 * HOUR_MS + last, ended_by_ms)
    wanted = {
        number: start
        for number, start in enumerate(STARTS)
        if span.holds(start) and (ended_by_ms is None or start + 10_000 <= ended_by_ms)
    }
    found = asked(written.root, span, selection)
    assert sum(found.traffic.values()) == sum(2**number for number in wanted)
    assert found.windows == {(start, start + 10_000) for start in wanted.values()}


@pytest.fixture
def misfiled(written: Written) -> str:
    """Put a window of the next hour into a file; return its path."""
    path = written.files()[0]
    table = pq.read_table(written.root / path)
    later = pa.array([table["window_start"][0].value + HOUR_MS * 1_000], table.schema.field("window_start").type)
    place = table.column_names.index("window_start")
    pq.write_table(table.set_column(place, table.schema.field(place), later), written.root / path)
    return path


def test_a_window_in_another_hours_file_is_not_counted_in_that_hour(written: Written, misfiled: str) -> None:
    with pytest.raises(Refusal, match=rf"^archive {written.root}: {re.escape(misfiled)}: {ELSEWHERE}; restore .*$"):
        asked(written.root, TimeRange(BEGIN_MS, BEGIN_MS + HOUR_MS))
    # In a range with both hours it counts as of its own time.
    later = (STARTS[0] + HOUR_MS, STARTS[0] + 10_000)
    assert later in asked(written.root, DAY).windows


def test_a_window_in_another_hours_file_is_not_compacted_into_that_hour(written: Written, misfiled: str) -> None:
    files = written.files()
    with pytest.raises(Refusal, match=ELSEWHERE):
        compact(written.root, hour=HOUR)
    assert written.files() == files
