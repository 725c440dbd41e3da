# SPDX-License-Identifier: Apache-2.0
"""Sorts the flows of many files into few, in bounded memory: DuckDB sorts, and what is too much goes to a directory.

The files have the flow log's columns, types and encodings. Neighbours share nearly everything: that is what makes a
flow take a tenth of the bytes, and what lets a filtered reading leave most row groups out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from history.read.archive.limits import check_files
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import view_rows
from history.read.batch import SCHEMA
from history.read.database import bounded_database
from history.read.flow_sql import FLOWS
from history.upkeep.addresses import Erasure, erased
from sinks.flowlog.rows.columns import COLUMNS
from sinks.flowlog.rows.parquet import WRITTEN

# A row stands with the workload, of its two ends', that has fewer flows: so nearly all of a small one stands in one
# place, also what it has to do with those that everybody talks to. There, by whom it talks to, then by its pods; so
# what somebody else's pod has to do with it stands in one place too. Then when: of two ends that talk all hour long,
# the rows differ in little but bytes and ids.
_WORKLOAD, _POD = ("namespace", "workload_kind", "workload"), ("pod", "address", "port")
_HOME = "(dst.flows IS NULL OR src.flows < dst.flows OR (src.flows = dst.flows AND src_workload <= dst_workload))"


def _of(home: bool, columns: Sequence[str]) -> str:
    """Return these columns of the end that a row stands with, or of the other."""
    there, else_there = ("src_", "dst_") if home else ("dst_", "src_")
    return ", ".join(f"if(is_home, {there}{name}, {else_there}{name})" for name in columns)


def _workloads(side: str) -> str:
    return f"SELECT {', '.join(f'{side}{name} AS {name}' for name in _WORKLOAD)} FROM {FLOWS}"  # noqa: S608 - ours


def _same(side: str) -> str:
    return " AND ".join(f"{side}.{name} IS NOT DISTINCT FROM {side}_{name}" for name in _WORKLOAD)


_SORTED = f"""
    WITH sizes AS (
        SELECT *, count(*) AS flows FROM ({_workloads("src_")} UNION ALL {_workloads("dst_")})
        WHERE workload IS NOT NULL GROUP BY ALL
    ), placed AS (
        SELECT {FLOWS}.*, {_HOME} AS is_home FROM {FLOWS}
            LEFT JOIN sizes AS src ON {_same("src")} LEFT JOIN sizes AS dst ON {_same("dst")}
    )
    SELECT {", ".join(COLUMNS)} FROM placed
    ORDER BY {_of(True, _WORKLOAD)}, {_of(False, _WORKLOAD)}, {_of(True, _POD)}, {_of(False, _POD)},
        is_home, observer_node, window_start, id
"""  # noqa: S608 - names that are ours
# Of few row groups the footer is small, which every reader reads whole; of many a filtered reading opens less of the
# columns that have one page in a group. Of an hour of 150,000 flows it opens 2 % more bytes with half as large groups,
# and a flow takes 3 % more.
_GROUP_ROWS = 65_536
# What takes the bytes (ids, bytes, packets, times) has pages of some thousand rows: DuckDB passes over pages without a
# row that is wanted. Out of 1,500,000 flows it opens 4 % for a namespace; with pages of 8 KiB no less, of 32 KiB 5 %. A
# flow takes 8.5 bytes so, 9.4 with 8 KiB, 7.9 with one page a column. Least and greatest values only of what they may
# leave out: of all columns they are a quarter of the footer.
_WRITTEN: dict[str, Any] = {
    **WRITTEN,
    "data_page_size": 16 * 1024,
    "write_statistics": ["window_start", "window_end", "scope", "src_namespace", "dst_namespace"],
}
_READ = "as_read"

# By scope and direction: rows, bytes, packets, and the sum of the rows' hashes over all columns.
Content = dict[tuple[str, str], tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class SortedFile:
    """A file on this machine, and how many rows it has."""

    path: Path
    rows: int


def rows_of(content: Content) -> int:
    """Return how many rows there are."""
    return sum(rows for rows, *_ in content.values())


class Sorter:
    """Sorts in a directory of this machine, which is somebody else's to delete."""

    def __init__(self, archive: FlowArchive, directory: Path) -> None:
        self._archive = archive
        self._directory = directory

    def content(self, paths: Sequence[str], erasure: Erasure | None = None) -> Content:
        """Read files of the archive whole, and return what is in them: equal rows, in whatever order, are equal.

        `erasure`: with these addresses taken out.
        """
        with self._database(paths, erasure) as database:
            query = f"""
                SELECT scope, direction, count(*), sum(bytes), sum(packets), sum(hash({", ".join(COLUMNS)})::HUGEINT)
                FROM {FLOWS} GROUP BY ALL
            """  # noqa: S608 - names that are ours
            found = database.execute(query).fetchall()
        return {
            (scope, direction): (int(rows), int(size), int(packets), int(hashes))
            for scope, direction, rows, size, packets, hashes in found
        }

    def sort(self, paths: Sequence[str], file_bytes: int, erasure: Erasure | None = None) -> list[SortedFile]:
        """Write the rows of files of the archive to files of about `file_bytes` at most, sorted."""
        made: list[SortedFile] = []
        with self._database(paths, erasure) as database:
            reader = database.sql(_SORTED).to_arrow_reader(_GROUP_ROWS)
            groups = _groups(reader)
            while (first := next(groups, None)) is not None:
                made.append(self._write(len(made), first, groups, file_bytes))
        return made

    def _write(self, number: int, first: pa.Table, rest: Iterator[pa.Table], file_bytes: int) -> SortedFile:
        path, rows = self._directory / f"{number}.parquet", 0
        with path.open("wb") as stream, pq.ParquetWriter(stream, SCHEMA, **_WRITTEN) as writer:
            group: pa.Table | None = first
            while group is not None:
                writer.write_table(group, row_group_size=len(group))
                rows += len(group)
                group = next(rest, None) if stream.tell() < file_bytes else None
        return SortedFile(path, rows)

    def _database(self, paths: Sequence[str], erasure: Erasure | None) -> duckdb.DuckDBPyConnection:
        check_files(self._archive, paths, whole=True)
        database = bounded_database(self._directory)
        view_rows(database, self._archive, paths, _READ)
        query = f"SELECT * FROM {_READ}" if erasure is None else erased(database, _READ, erasure)  # noqa: S608
        database.execute(f"CREATE VIEW {FLOWS} AS {query}")
        return database


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield what is read in tables of a row group each."""
    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if sum(len(each) for each in held) >= _GROUP_ROWS:
            table = pa.Table.from_batches(held)
            yield table.slice(0, _GROUP_ROWS).cast(SCHEMA)
            held = table.slice(_GROUP_ROWS).to_batches()
    if held and (table := pa.Table.from_batches(held)):
        yield table.cast(SCHEMA)
