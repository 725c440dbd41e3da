# SPDX-License-Identifier: Apache-2.0
"""Finds the row groups of compacted files that hold any flow of certain ends, so that the others are not opened.

A compaction keeps a namespace's flows together, but least and greatest values do not show it: next to a namespace's own
stand those of all that it talks to. So the few columns that the filter is about are read, which take next to nothing.
"""

import re
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from history.model.filters import Selection
from history.read.archive.opened import FlowArchive
from history.read.batch import SCHEMA
from sinks.flowlog.rows.columns import COLUMNS

# Of which the filters' columns are held at once.
_GROUPS_AT_ONCE = 16


def narrowing(selection: Selection) -> Selection:
    """Return what of a selection a compaction's order helps with."""
    return Selection(namespaces=selection.namespaces, workloads=selection.workloads, pods=selection.pods)


def narrowed(
    database: duckdb.DuckDBPyConnection, archive: FlowArchive, paths: Sequence[str], selection: Selection
) -> ds.Dataset:
    """Return what of compacted files may hold flows that are wanted. Raises what pyarrow raises for damaged files."""
    file_format = ds.ParquetFileFormat()
    fragments = []
    for path in paths:
        if groups := list(_groups(database, archive, path, selection)):
            whole = f"{archive.root}/{path}"
            fragments.append(file_format.make_fragment(whole, archive.filesystem, row_groups=groups))
    return ds.FileSystemDataset(fragments, SCHEMA, file_format, archive.filesystem)


def _groups(
    database: duckdb.DuckDBPyConnection, archive: FlowArchive, path: str, selection: Selection
) -> Iterator[int]:
    """Yield the numbers of a file's row groups that hold any flow that is wanted."""
    condition, parameters = narrowing(selection).sql("")
    columns = [name for name in COLUMNS if re.search(rf"\b{name}\b", condition)]
    with archive.open(path) as source:
        file = pq.ParquetFile(source, read_dictionary=columns)
        numbers = range(file.num_row_groups)
        for begin in range(0, len(numbers), _GROUPS_AT_ONCE):
            some = numbers[begin : begin + _GROUPS_AT_ONCE]
            rows = np.repeat(some, [file.metadata.row_group(number).num_rows for number in some])
            table = file.read_row_groups(list(some), columns=columns).append_column("row_group", pa.array(rows))
            database.register("row_groups", table)
            query = f"SELECT DISTINCT row_group FROM row_groups WHERE {condition} ORDER BY 1"  # noqa: S608 - ours
            yield from (number for (number,) in database.execute(query, parameters).fetchall())
    database.unregister("row_groups")
