# SPDX-License-Identifier: Apache-2.0
"""Sorts the flows of many files into few, in bounded memory: DuckDB sorts, and what is too much goes to a directory.

The files have the flow log's columns, types and encodings. Neighbours share nearly everything: that is what makes a
flow take a tenth of the bytes, and what lets a filtered reading leave most row groups out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from history.read.archive import FlowArchive
from history.read.archive_sql import view_rows
from history.read.batch import SCHEMA
from history.read.flow_sql import FLOWS, open_database
from history.read.parquet_limits import check_files
from sinks.flowlog.columns import COLUMNS
from sinks.flowlog.parquet import COMPRESSION_LEVEL, ENCODINGS, NEVER_REPEATING

# By who talks to whom, then when: of two ends that talk all hour long, the rows differ in little but bytes and ids.
ORDER = (
    *("src_namespace", "src_workload_kind", "src_workload", "dst_namespace", "dst_workload_kind", "dst_workload"),
    *(
        "src_pod",
        "dst_pod",
        "src_address",
        "dst_address",
        "src_port",
        "dst_port",
        "observer_node",
        "window_start",
        "id",
    ),
)
GROUP_ROWS = 64 * 1024
SORT_MEMORY, SORT_THREADS = "512MB", 2

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

    def content(self, paths: Sequence[str]) -> Content:
        """Read files of the archive whole, and return what is in them: equal rows, in whatever order, are equal."""
        with self._database(paths) as database:
            query = f"""
                SELECT scope, direction, count(*), sum(bytes), sum(packets), sum(hash({", ".join(COLUMNS)})::HUGEINT)
                FROM {FLOWS} GROUP BY ALL
            """  # noqa: S608 - names that are ours
            found = database.execute(query).fetchall()
        return {
            (scope, direction): (int(rows), int(size), int(packets), int(hashes))
            for scope, direction, rows, size, packets, hashes in found
        }

    def sort(self, paths: Sequence[str], file_bytes: int) -> list[SortedFile]:
        """Write the rows of files of the archive to files of about `file_bytes` at most, sorted."""
        made: list[SortedFile] = []
        with self._database(paths) as database:
            query = f"SELECT {', '.join(COLUMNS)} FROM {FLOWS} ORDER BY {', '.join(ORDER)}"  # noqa: S608
            groups = (batch.cast(SCHEMA) for batch in database.sql(query).to_arrow_reader(GROUP_ROWS))
            while (first := next(groups, None)) is not None:
                made.append(self._write(len(made), first, groups, file_bytes))
        return made

    def _write(self, number: int, first: pa.RecordBatch, rest: Iterator[pa.RecordBatch], file_bytes: int) -> SortedFile:
        path, rows = self._directory / f"{number}.parquet", 0
        with path.open("wb") as stream, _writer(stream) as writer:
            batch: pa.RecordBatch | None = first
            while batch is not None:
                writer.write_batch(batch, row_group_size=GROUP_ROWS)
                rows += batch.num_rows
                batch = next(rest, None) if stream.tell() < file_bytes else None
        return SortedFile(path, rows)

    def _database(self, paths: Sequence[str]) -> duckdb.DuckDBPyConnection:
        check_files(self._archive, paths)
        database = open_database()
        database.execute(f"SET memory_limit = '{SORT_MEMORY}'")
        database.execute(f"SET threads = {SORT_THREADS}")
        database.execute("SET preserve_insertion_order = false")
        database.execute("SET temp_directory = ?", [str(self._directory / "spilled")])
        view_rows(database, self._archive, paths, FLOWS)
        return database


def _writer(stream: object) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        stream,
        SCHEMA,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=[name for name in COLUMNS if name not in NEVER_REPEATING],
        column_encoding=ENCODINGS,
        store_schema=False,
    )
