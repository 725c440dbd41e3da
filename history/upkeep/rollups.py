# SPDX-License-Identifier: Apache-2.0
"""Writes the rollups of an hour's new files, and reads back what was written of them."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from history.model.time_range import TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.rollup_sql import roll_up, view_rollups
from history.read.batch import ROLLUP_SCHEMA
from history.read.database import bounded_database, literal
from history.read.flow_sql import FLOWS
from history.upkeep.addresses import Erasure, erased
from history.upkeep.sorting import Content, SortedFile
from sinks.flowlog.rows.parquet import WRITTEN

_GROUP_ROWS = 64 * 1024
_READ = "as_read"

# By scope and direction: flows, bytes and packets.
Sums = dict[tuple[str, str], tuple[int, int, int]]


def write_rollups(files: Sequence[SortedFile], hour: TimeRange, directory: Path) -> list[SortedFile]:
    """Write the rollup of each file of an hour to a directory of this machine."""
    made = []
    for file in files:
        with bounded_database(directory) as database:
            flows = database.read_parquet(literal(str(file.path)), hive_partitioning=False)
            flows.project("*, 1 AS flows").create_view(FLOWS)
            made.append(write_rollup(roll_up(database, FLOWS, hour), file.path.with_suffix(".rollup")))
    return made


def write_rollup(rollup: duckdb.DuckDBPyRelation, path: Path) -> SortedFile:
    """Write a rollup to a file of this machine."""
    rows = 0
    with pq.ParquetWriter(path, ROLLUP_SCHEMA, **WRITTEN) as writer:
        for batch in rollup.to_arrow_reader(_GROUP_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).cast(ROLLUP_SCHEMA), row_group_size=_GROUP_ROWS)
            rows += batch.num_rows
    return SortedFile(path, rows)


def write_erased_rollup(
    archive: FlowArchive, paths: Sequence[str], hour: TimeRange, how: Erasure, directory: Path
) -> SortedFile:
    """Write what rollups of an hour come to without such addresses, as one, to a directory of this machine."""
    with bounded_database(directory) as database:
        view_rollups(database, archive, paths, _READ, whole=True)
        database.execute(f"CREATE VIEW {FLOWS} AS {erased(database, _READ, how)}")
        return write_rollup(roll_up(database, FLOWS, hour), directory / "erased.rollup")


def sums_of(archive: FlowArchive, paths: Sequence[str], directory: Path) -> Sums:
    """Return what rollups of an archive come to."""
    with bounded_database(directory) as database:
        view_rollups(database, archive, paths, FLOWS)
        return sums_in_view(database, FLOWS)


def sums_in_view(database: duckdb.DuckDBPyConnection, name: str) -> Sums:
    """Return what a view of rollups comes to."""
    query = f"""
        SELECT scope, direction, sum(flows), sum(bytes), sum(packets) FROM {name}
        WHERE scope IS NOT NULL GROUP BY ALL
    """  # noqa: S608 - names that are ours
    found = database.execute(query).fetchall()
    return {(scope, direction): tuple(map(int, sums)) for scope, direction, *sums in found}  # type: ignore[misc]


def sums_in(content: Content) -> Sums:
    """Return the same of what files of flows hold."""
    return {kind: (rows, size, packets) for kind, (rows, size, packets, _) in content.items()}
