# SPDX-License-Identifier: Apache-2.0
"""Makes the rollups of an archive's hours again, out of their flows, and names those that differ from what is there."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from common.errors import Refusal
from history.audit.deep.facts import Discrepancy
from history.model.time_range import TimeRange
from history.read.archive import ArchiveChanged, FlowArchive, ReadAgain, StoreAway
from history.read.archive_files import hour_range, touches
from history.read.archive_sql import view_rows
from history.read.flow_sql import FLOWS, open_database
from history.read.rollup_sql import ROLLUP_SCHEMA, roll_up, view_rollups
from sinks.flowlog.compaction import ROLLUPS, rollup_path

_AGAIN = "made_again"


def check_rollups(location: str, span: TimeRange) -> Iterator[Discrepancy]:
    """Yield what is wrong with the rollups of the range's hours; of hours that have expired nobody can say."""
    archive = FlowArchive(location)
    for hour in archive.compacted_hours():
        if touches(hour, span):
            chain = archive.chain(hour)
            for path in sorted(chain.files):
                rollup = rollup_path(path)
                if rollup in chain.rollups and (why := _why(archive, hour, path, rollup)):
                    yield Discrepancy("archive", why)


def _why(archive: FlowArchive, hour: str, path: str, rollup: str) -> str:
    """Say what is wrong with a rollup; "" where nothing is, or it does not count any more."""
    try:
        if not (differing := _differing(archive, hour, path, rollup)):
            return ""
        why = f"{rollup} is not what {path} sums up to: {differing:,} rows differ"
    except (ReadAgain, StoreAway):
        raise
    except (Refusal, duckdb.Error, pa.ArrowException, OSError) as error:
        archive.check_answers(rollup, error)
        why = f"{rollup} cannot be compared with its flows: {' '.join(str(error).split())[:300]}"
    try:
        return why if rollup in archive.chain(hour).rollups else ""
    except ArchiveChanged:
        return ""


def _differing(archive: FlowArchive, hour: str, path: str, rollup: str) -> int:
    span = hour_range(hour)
    columns = ", ".join(ROLLUP_SCHEMA.names)
    with open_database() as database:
        view_rows(database, archive, [path], FLOWS)
        view_rollups(database, archive, [rollup], ROLLUPS)
        roll_up(database, FLOWS, span).create_view(_AGAIN)
        sides = ((_AGAIN, ROLLUPS), (ROLLUPS, _AGAIN))
        parts = (f"(SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {two})" for one, two in sides)  # noqa: S608
        [(count,)] = database.execute(f"SELECT count(*) FROM ({' UNION ALL '.join(parts)})").fetchall()  # noqa: S608
    return int(count)
