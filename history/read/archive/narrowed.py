# SPDX-License-Identifier: Apache-2.0
"""Reads of a compacted file what certain ends have to do with, and leaves most of the other bytes unopened.

A compaction keeps a workload's flows together, but least and greatest values do not show it: next to its own stand
those of all that it talks to. So the few columns that the filter is about are read, which take next to nothing. They
tell which rows are wanted; DuckDB reads the pages with these of a file on this machine, pyarrow the row groups of an
object.
"""

import re
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from history.model.filters import Selection
from history.read.archive.limits import CHECKED, checked_footer
from history.read.archive.opened import FlowArchive
from history.read.batch import SCHEMA
from history.read.database import literal, open_database
from history.read.flow_sql import WANTED_ADDRESSES, wanted_addresses
from sinks.flowlog.rows.columns import COLUMNS

# Of which the filters' columns are held at once.
_GROUPS_AT_ONCE = 16
# Rows that are read at once, as ranges: nearer ones are in the same pages, and each row is compared with each range.
_NEAR_ROWS, _MOST_RANGES = 1_024, 100
_ADDRESSES = ("src_address", "dst_address")


def narrowing(selection: Selection) -> Selection:
    """Return what of a selection a compaction's order helps with; it wants no less, and perhaps more."""
    return Selection(
        namespaces=selection.namespaces,
        workloads=selection.workloads,
        # Few namespaces share a pod's name, and its namespace is a column more to read.
        pods=[text.rpartition("/")[2] for text in selection.pods],
        addresses=selection.addresses,
        sources=selection.sources,
        destinations=selection.destinations,
    )


class Narrowed:
    """What of a compacted file may hold flows that are wanted. Raises `Refusal`, and what damaged files raise.

    `rows`: the numbers of the rows that the filters on ends want, ascending. `held`: which of the file's addresses are
    wanted, as `Selection.held` says.
    """

    def __init__(self, archive: FlowArchive, path: str, selection: Selection) -> None:
        self._archive, self._path = archive, path
        self.held: set[tuple[str, str]] = set()
        with archive.open(path) as source, open_database() as database:
            # The footer is read once, to be checked and to find the rows.
            self._footer = checked_footer(archive, path, source)
            found = [*self._find(database, source, narrowing(selection))]
        self.rows = np.concatenate([np.empty(0, np.int64), *found])

    def _find(
        self, database: duckdb.DuckDBPyConnection, source: pa.NativeFile, ends: Selection
    ) -> Iterator[np.ndarray[Any, Any]]:
        condition, parameters = ends.sql(WANTED_ADDRESSES)
        columns = [name for name in COLUMNS if re.search(rf"\b{name}\b", condition)]
        # An object store's requests take longer than what lies between two columns.
        ahead = not self._archive.is_local
        file = pq.ParquetFile(
            source,
            metadata=self._footer,
            read_dictionary=columns,
            pre_buffer=ahead,
            page_checksum_verification=True,
        )
        first = 0
        for begin in range(0, file.num_row_groups, _GROUPS_AT_ONCE):
            groups = range(begin, min(begin + _GROUPS_AT_ONCE, file.num_row_groups))
            table = file.read_row_groups(list(groups), columns=columns)
            if ends.on_addresses:
                self.held |= set(ends.held(_distinct(table)))
            database.register(WANTED_ADDRESSES, wanted_addresses(self.held))
            database.register("ends", table.append_column("row", pa.array(np.arange(first, first + len(table)))))
            query = f"SELECT row FROM ends WHERE {condition} ORDER BY row"  # noqa: S608 - ours
            yield database.execute(query, parameters).fetchnumpy()["row"]
            first += len(table)

    def view(self, database: duckdb.DuckDBPyConnection, name: str) -> None:
        """Make a view with the flow log's columns of all rows that are wanted, and not of all others."""
        whole = f"{self._archive.root}/{self._path}"
        if not self._archive.is_local:
            fragment = CHECKED.make_fragment(whole, self._archive.filesystem, row_groups=self._groups())
            dataset = ds.FileSystemDataset([fragment], SCHEMA, CHECKED, self._archive.filesystem)
            database.from_arrow(dataset).create_view(name, replace=True)
            return
        # It would fetch whole row groups ahead; without, it passes over the pages of rows that are filtered out.
        database.execute("SET disable_parquet_prefetching = true")
        # Else it reads the footer for each view and each query.
        database.execute("SET parquet_metadata_cache = true")
        rows = database.read_parquet(literal(whole), hive_partitioning=False, file_row_number=True)
        ranges = " OR ".join(f"file_row_number BETWEEN {first} AND {last}" for first, last in _ranges(self.rows))
        rows.filter(ranges).project(known_columns(rows)).create_view(name, replace=True)

    def _groups(self) -> list[int]:
        """Return the numbers of the row groups with rows that are wanted."""
        sizes = [self._footer.row_group(number).num_rows for number in range(self._footer.num_row_groups)]
        found: list[int] = np.unique(np.searchsorted(np.cumsum(sizes), self.rows, side="right")).tolist()
        return found


def known_columns(rows: duckdb.DuckDBPyRelation) -> str:
    """Return the flow log's columns as expressions over a file's: nulls for those that an earlier version lacked."""
    there = set(rows.columns)
    return ", ".join(name if name in there else f"NULL AS {name}" for name in COLUMNS)


def _distinct(table: pa.Table) -> list[str]:
    """Return the addresses in a table, each once."""
    there = [table[name] for name in _ADDRESSES if name in table.column_names]
    return sorted({value for column in there for value in pc.unique(column).to_pylist() if value})


def _ranges(rows: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Return ranges, first and last, which hold all of these numbers."""
    near = _NEAR_ROWS
    while True:
        ends = np.flatnonzero(np.diff(rows) > near)
        if len(ends) < _MOST_RANGES:
            return [*zip(rows[[0, *(ends + 1)]].tolist(), rows[[*ends, -1]].tolist(), strict=True)]
        near *= 2
