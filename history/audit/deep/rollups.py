# SPDX-License-Identifier: Apache-2.0
"""Makes the rollups of an archive's hours again, out of their flows, and names those that differ from what is there."""

from collections.abc import Iterator, Sequence

from common.errors import Refusal
from history.audit.deep.facts import Discrepancy
from history.model.rollups import LENGTHS_MS
from history.model.time_range import TimeRange
from history.read.archive.files import compacted_hours
from history.read.archive.hours import hour_of, hour_range
from history.read.archive.limits import DAMAGED, check_pages
from history.read.archive.long_rollups import long_rollups
from history.read.archive.opened import ArchiveChanged, FlowArchive, ReadAgain, StoreAway
from history.read.archive.rollup_sql import roll_up, view_rollups
from history.read.archive.sql import view_rows
from history.read.batch import ROLLUP_SCHEMA
from history.read.database import open_database
from history.read.flow_sql import FLOWS
from sinks.flowlog.archive.compaction import ROLLUPS, rollup_path

_AGAIN, _FILES = "made_again", "files_of_flows"


def check_rollups(location: str, span: TimeRange) -> Iterator[Discrepancy]:
    """Yield what is wrong with the rollups of a range: hours', days', weeks'.

    Of expired hours' nobody can say more than that they are as they were written.
    """
    archive = FlowArchive(location)
    rollups: list[str] = []
    for hour, names in compacted_hours(archive, span).items():
        chain = archive.chain(hour, names)
        rollups += chain.rollups
        files = {rollup_path(path): [path] for path in chain.files}
        for rollup in sorted(chain.rollups):
            if why := _why(archive, rollup, files.get(rollup, []), hour_range(hour)):
                yield Discrepancy("archive", why)
    for length in LENGTHS_MS:
        for each in long_rollups(length, rollups):
            # Of a part of a day's rollups, or a week's, there is none.
            if archive.has(each.path) and (why := _why(archive, each.path, each.parts, each.span)):
                yield Discrepancy("archive", why)


def _why(archive: FlowArchive, rollup: str, parts: Sequence[str], span: TimeRange) -> str:
    """Say what is wrong with a rollup of these files; "" where nothing is, or it does not count any more.

    Without any of these, as where they have expired, that is whether it is as it was written.
    """
    try:
        check_pages(archive, [rollup])
        if not parts or not (differing := _differing(archive, rollup, parts, span)):
            return ""
        why = f"{rollup} is not what {', '.join(parts[:1])} sums up to: {differing:,} rows differ"
    except (ReadAgain, StoreAway):
        raise
    except (Refusal, *DAMAGED) as error:
        archive.check_answers(rollup, error)
        cannot = "compared with its flows" if parts else "read"
        why = f"{rollup} cannot be {cannot}: {' '.join(str(error).split())[:300]}"
    return why if _counts(archive, rollup, parts or [rollup]) else ""


def _counts(archive: FlowArchive, rollup: str, parts: Sequence[str]) -> bool:
    """Return whether a rollup still is what is read of these."""
    try:
        chains = [archive.chain(hour) for hour in {hour_of(path) for path in parts}]
    except ArchiveChanged:
        return False
    return all(any(path in chain.files or path in chain.rollups for chain in chains) for path in parts)


def _differing(archive: FlowArchive, rollup: str, parts: Sequence[str], span: TimeRange) -> int:
    columns = ", ".join(ROLLUP_SCHEMA.names)
    with open_database() as database:
        if parts[0].startswith(f"{ROLLUPS}/"):
            view_rollups(database, archive, parts, FLOWS)
        else:
            view_rows(database, archive, parts, _FILES)
            database.execute(f"CREATE VIEW {FLOWS} AS SELECT *, 1 AS flows FROM {_FILES}")  # noqa: S608
        view_rollups(database, archive, [rollup], ROLLUPS)
        roll_up(database, FLOWS, span).create_view(_AGAIN)
        sides = ((_AGAIN, ROLLUPS), (ROLLUPS, _AGAIN))
        queries = (f"(SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {two})" for one, two in sides)  # noqa: S608
        [(count,)] = database.execute(f"SELECT count(*) FROM ({' UNION ALL '.join(queries)})").fetchall()  # noqa: S608
    return int(count)
