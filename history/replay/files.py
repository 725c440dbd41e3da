# SPDX-License-Identifier: Apache-2.0
"""Where replayed flows go, as bytes: JSON lines, CSV or Parquet, to stdout or to a file that appears when it is whole.

The columns are the flow log's own (sinks/flowlog/rows/columns.py), in all three. Where rollups are read as well,
there is one more, `flows`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from common.errors import Refusal
from common.terminal import FORMULA, data
from history.read.batch import ArchiveParties, FlowBatch
from sinks.flowlog.rows.jsonl import JsonLines
from sinks.flowlog.rows.parquet import COMPRESSION_LEVEL, MILLISECONDS

# Rows of a Parquet row group, about.
GROUP_ROWS = 200_000


class Writer(Protocol):
    """Takes batches, then an end."""

    async def write(self, batch: FlowBatch) -> None:
        """Take some flows."""

    async def finish(self) -> None:
        """Write what is held back."""


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._known = ArchiveParties()

    async def write(self, batch: FlowBatch) -> None:
        """Write some flows."""
        if batch.is_rollup:
            self._stream.write(b"".join(_json_lines(batch.counted())))
            return
        lines = JsonLines()
        lines.add(batch.rows(self._known))
        for part in lines.encode():
            self._stream.write(part)

    async def finish(self) -> None:
        """Nothing is held back."""
        self._stream.flush()


class CsvWriter:
    """CSV (RFC 4180) with a header; times as RFC 3339, what is not known empty, no text that is a formula."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        """Begin one; `schema`: `SCHEMA` or `COUNTED_SCHEMA`."""
        self._stream = stream
        self._names = schema.names
        schema = pa.schema([(field.name, _csv_type(field.type)) for field in schema])
        self._writer = pa_csv.CSVWriter(stream, schema, write_options=pa_csv.WriteOptions(quoting_style="needed"))

    async def write(self, batch: FlowBatch) -> None:
        """Write some flows."""
        table = batch.counted()
        columns = [_as_text(table.column(name)) for name in self._names]
        self._writer.write_table(pa.table(columns, names=self._names))

    async def finish(self) -> None:
        """End the file."""
        self._writer.close()
        self._stream.flush()


class _Unclosed(pq.ParquetWriter):  # type: ignore[misc] # pyarrow has no types
    """Ends a file when it is told to, and not when it is forgotten: an interrupted run's stream is closed by then."""

    def __del__(self) -> None:
        """Do nothing."""


class ParquetWriter:
    """A Parquet file, compressed like the flow log's."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        """Begin one; `schema`: `SCHEMA` or `COUNTED_SCHEMA`."""
        self._stream = stream
        self._names = schema.names
        self._writer = _Unclosed(stream, schema, compression="zstd", compression_level=COMPRESSION_LEVEL)
        self._held: list[pa.Table] = []
        self._rows = 0

    async def write(self, batch: FlowBatch) -> None:
        """Hold flows back until they make a row group."""
        self._held.append(batch.counted().select(self._names))
        self._rows += len(batch)
        if self._rows >= GROUP_ROWS:
            self._write()

    async def finish(self) -> None:
        """Write the rest and the footer."""
        self._write()
        self._writer.close()
        self._stream.flush()

    def _write(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=GROUP_ROWS)
        self._held, self._rows = [], 0


@contextlib.contextmanager
def stream_to(path: Path | None) -> Iterator[BinaryIO]:
    """Give a stream to a file, which gets its name when the block ends well and is gone if not; None: stdout.

    Raises `Refusal` where there is such a file, or none can be made.
    """
    if path is None:
        yield data()
        return
    if path.exists():
        raise Refusal(f"file = '{path}' exists; delete it or name another")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _name(partial, path)
    except FileExistsError as error:
        raise Refusal(f"file = '{path}' exists: it was written meanwhile; delete it or name another") from error
    except OSError as error:
        raise Refusal(f"file = '{path}': {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # as of a read-only file system, which says so of what is not there, too
            partial.unlink(missing_ok=True)


def _name(partial: Path, path: Path) -> None:
    """Give a file its name; raise `FileExistsError` where another run has written one meanwhile."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has hard links, and what was read may have taken an hour.
        if path.exists():
            raise FileExistsError from None
        partial.rename(path)


def _json_lines(table: pa.Table) -> Iterator[bytes]:
    """Yield rows of rollups as the flow log writes flows, but for what only a flow has."""
    times = [name for name in table.column_names if pa.types.is_timestamp(table.schema.field(name).type)]
    for name in times:
        table = table.set_column(table.column_names.index(name), name, _as_text(table[name]))
    for row in table.to_pylist():
        yield orjson.dumps({name: value for name, value in row.items() if value is not None}) + b"\n"


def _csv_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_timestamp(kind) or pa.types.is_boolean(kind) else kind


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(MILLISECONDS, safe=False), format="%Y-%m-%dT%H:%M:%SZ")
    if not pa.types.is_string(column.type):
        return column.cast(pa.string()) if pa.types.is_boolean(column.type) else column
    formula = pc.match_substring_regex(column, f"^[{FORMULA}]")
    return (
        pc.if_else(formula, pc.binary_join_element_wise("'", column, ""), column) if pc.any(formula).as_py() else column
    )
