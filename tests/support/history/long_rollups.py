# SPDX-License-Identifier: Apache-2.0
"""An archive of three hours with the rollups of their day and week, and what is read of it."""

import shutil
from pathlib import Path
from typing import Any

from history.model.filters import Selection
from history.model.grouping import By, Per
from history.model.party import Parties
from history.model.rollups import Hours, Length
from history.model.states.labels import LabelTime
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.days import rollups_to_write, weeks_with_rollups, write_long_rollup
from tests.support.history.written import BEGIN_MS, HOUR_MS, Written
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id

DAY_MS = 24 * HOUR_MS
DAY = "date=2026-11-22"
# 2026-11-22 20:00 UTC, a Sunday; two hours of that day, and one of the next. Their week begins on Thursday.
HOURS = (-2, -1, 3)
BEGIN_DAY_MS = BEGIN_MS - 22 * HOUR_MS
# A Thursday.
MONTHS_MS = BEGIN_DAY_MS - 3 * DAY_MS
SPAN = TimeRange(MONTHS_MS, BEGIN_DAY_MS + 147 * DAY_MS)
LENGTHS: tuple[Length, ...] = ("week", "day")
PARTIES = Parties()


def cut(written: Written, sequence: int, hour: int) -> None:
    start = BEGIN_MS + hour * HOUR_MS + sequence * 10_000
    ends = [(API, POSTGRES), (POSTGRES, API), (API, EXTERNAL)]
    flows = [
        flow(id=flow_id(sequence, row), start_ms=start, end_ms=start + 10_000, source=source, destination=to)
        for row, (source, to) in enumerate(ends)
    ]
    written.cut(1, flows)


def roll_up(root: Path, tmp_path: Path, *lengths: Length, **overrides: Any) -> list[str]:
    """Write the rollups of days and weeks, or of one of these; return which were written."""
    archive = FlowArchive(str(root))
    archive.store = overrides.get("store", archive.store)
    written: list[str] = []
    for hours in weeks_with_rollups(archive, SPAN):
        for each in rollups_to_write(archive, hours, SPAN):
            if each.length in (lengths or LENGTHS):
                spill = tmp_path / "spill"
                shutil.rmtree(spill, ignore_errors=True)
                spill.mkdir()
                if write_long_rollup(archive, each, spill):
                    written.append(each.length)
    return written


def asked(
    root: Path,
    *,
    lengths: tuple[Length, ...] = LENGTHS,
    by: By | None = None,
    per: Per | None = None,
    labels: tuple[LabelTime, ...] = (),
) -> tuple[dict[str, Any], int, str]:
    """Return the sums, how many hours' rollups they are of, and which were read in the place of these."""
    summary = Summary()
    with ArchiveQuery(FlowArchive(str(root)), SPAN, Hours(SPAN, labels, lengths=lengths, per=per)) as query:
        query.summarise(PARTIES, summary, Selection(), by, per, labels)
        sums = {
            "traffic": dict(summary.traffic),
            "slots": dict(summary.slots),
            "flows": summary.flows,
            "metered": summary.metered_ms,
            "observers": summary.observers,
        }
        return sums, len(query.rollups), " ".join(name(path) for path in query.read if len(path.split("/")) == 3)


def name(path: str) -> str:
    return path.rpartition("/")[2].partition("-")[0]


def long_files(root: Path) -> list[Path]:
    return sorted(root.glob("rollups/*/*-*.parquet"))
