# SPDX-License-Identifier: Apache-2.0
"""What a Parquet file may hold to be read, known from its footer before anything of it is unpacked.

A file may have any number of rows: they are read in slices. But a row group may have to be held whole. A flow log
writes a million rows in one at most, and a compaction less. A file that says it holds far more was made by somebody who
means no good, or is not of an archive: a few kilobytes may unpack to gigabytes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from common.errors import Refusal
from history.read.archive.opened import FlowArchive
from history.read.batch import ROLLUP_SCHEMA, SCHEMA
from sinks.flowlog.archive.compaction import ROLLUPS

# What is raised of a damaged file: the last two by pyarrow and by DuckDB where a footer has a column whose name is not
# UTF-8.
DAMAGED = (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError, RuntimeError)

# Of a compaction it is a hundredth of the file: some 4 kB for each row group.
MAX_FOOTER_BYTES = 64 * 1024 * 1024
MAX_COLUMNS = 1_000
MAX_GROUP_ROWS = 10_000_000
MAX_GROUP_BYTES = 4 * 1024 * 1024 * 1024

_END = b"PAR1"
_END_BYTES = 8
# What every row has. Of the first two the footer must say so, and of flows' scope: a range would leave rows without
# them out, and nobody would know. Compaction's footers do not tell of bytes and packets: a sum of them fails instead.
_ALWAYS_TOLD = ("window_start", "window_end")
_IN_EVERY_ROW = (*_ALWAYS_TOLD, "bytes", "packets")
# What is read of an object, in which most footers are; and of a file that has none, for the reader to say so.
_TAIL_BYTES = 64 * 1024
_PAGES_ROWS = 10_000
# How pyarrow reads objects: what of `checked_batches` it does by itself.
CHECKED = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


def check_files(
    archive: FlowArchive, paths: Sequence[str], listed: Mapping[str, int] | None = None, *, whole: bool = False
) -> None:
    """Raise `Refusal` for a file of an archive that is not read; one of `DAMAGED` for a damaged one.

    `listed`: the sizes that manifests and compactions say. A directory's file of just that size is taken for what they
    say was written, and left to DuckDB: to parse footers twice is a fourth of a report over many small files.
    An object is not: nothing else limits how much pyarrow unpacks.
    `whole`: something is to be written out of them that stands in their place. So all pages are checked, and a file is
    refused that has more than this version knows: that would be lost.
    """

    def check(path: str) -> None:
        with archive.open(path) as source:
            footer = checked_footer(archive, path, source)
        if whole and (other := _unknown(pq.ParquetSchema(footer).names, _columns(path))):
            raise Refusal(f"archive {archive.location}: {path} has a column {other!r}; run a version that knows it")

    archive.in_threads(check, _other_than(archive, paths, listed) if listed and archive.is_local else paths)
    if whole:
        check_pages(archive, paths)


def check_pages(archive: FlowArchive, paths: Sequence[str]) -> None:
    """Read files whole, and raise one of `DAMAGED` where a page is not what was written.

    DuckDB does not look at the checksums of pages. For a report that is left to `audit --deep`; but what is made of
    files to stand in their place would keep what was read wrong.
    """

    def check(path: str) -> None:
        with archive.open(path) as source:
            try:
                for _ in checked_batches(source, _PAGES_ROWS):
                    pass
            except (pa.ArrowException, OSError) as error:
                raise pa.ArrowInvalid(f"{path}: {error}") from error

    archive.in_threads(check, paths)


def checked_batches(
    source: pa.NativeFile, rows: int, footer: pq.FileMetaData | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield all of a file that is open, so many rows at a time; raise one of `DAMAGED` if it is not what was written.

    Pages are compared with their checksums, where they have any. Their headers are not: a column may come out shorter.
    """
    file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True)
    left = file.metadata.num_rows
    for batch in file.iter_batches(rows):
        batch.validate()
        left -= batch.num_rows
        yield batch
    if left:
        raise pa.ArrowInvalid(f"{left:,} rows are missing in its pages")


def _other_than(archive: FlowArchive, paths: Sequence[str], listed: Mapping[str, int]) -> list[str]:
    """Return the files of a directory that do not have the listed size."""
    found = archive.filesystem.get_file_info([f"{archive.root}/{path}" for path in paths])
    return [path for path, info in zip(paths, found, strict=True) if not info.is_file or info.size != listed[path]]


def checked_footer(archive: FlowArchive, path: str, source: pa.NativeFile) -> pq.FileMetaData:
    """Return the footer of a file of an archive that is open; raise `Refusal` where it is not read, else as above."""
    # Of a rollup, rows that say who counted have no scope.
    scope = () if _is_rollup(path) else ("scope",)
    try:
        why, metadata = _footer_of(path, source)
        if metadata is not None:
            why = why or _why_incomplete(metadata, (*_IN_EVERY_ROW, *scope), (*_ALWAYS_TOLD, *scope))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise pa.ArrowInvalid(f"{path}: {error}") from error
    if why:
        raise Refusal(f"archive {archive.location}: {path} {why}; no flow log wrote it so: restore it")
    return metadata


def why_too_large(source: pa.NativeFile) -> str | None:
    """Say why a file is not read; None if it may be. Raises one of `DAMAGED` for a damaged footer."""
    return _read_footer(source)[0]


def why_not_read(path: str, source: pa.NativeFile) -> str | None:
    """Say why a file of an archive is not read, by its size and the names of its columns; else as above."""
    return _footer_of(path, source)[0]


def _footer_of(path: str, source: pa.NativeFile) -> tuple[str | None, pq.FileMetaData | None]:
    why, metadata = _read_footer(source)
    if metadata is not None:
        why = why or _why_renamed(metadata, _columns(path))
    return why, metadata


def _columns(path: str) -> list[str]:
    """Return the columns that this version writes to such a file."""
    names: list[str] = (ROLLUP_SCHEMA if _is_rollup(path) else SCHEMA).names
    return names


def _is_rollup(path: str) -> bool:
    return path.startswith(f"{ROLLUPS}/")


def _read_footer(source: pa.NativeFile) -> tuple[str | None, pq.FileMetaData | None]:
    # Of an object by one request, of a file no more than the footer.
    tail = _tail(source, _TAIL_BYTES if isinstance(source, pa.PythonFile) else _END_BYTES)
    if (found := _footer_bytes(tail)) > MAX_FOOTER_BYTES:
        return _more(found, MAX_FOOTER_BYTES, "bytes of footer"), None
    wanted = (found or _TAIL_BYTES) + _END_BYTES
    if wanted > len(tail):
        tail = _tail(source, wanted)
    # Of what has been read: an object store is asked once.
    metadata = pq.read_metadata(pa.BufferReader(tail))
    return _why_too_large(metadata), metadata


def _why_too_large(metadata: pq.FileMetaData) -> str | None:
    if metadata.num_columns > MAX_COLUMNS:
        return _more(metadata.num_columns, MAX_COLUMNS, "columns")
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if group.num_rows > MAX_GROUP_ROWS:
            return _more(group.num_rows, MAX_GROUP_ROWS, "rows in a row group")
        if group.total_byte_size > MAX_GROUP_BYTES:
            return _more(group.total_byte_size, MAX_GROUP_BYTES, "bytes unpacked in a row group")
    return None


def footer_bytes(source: BinaryIO | pa.NativeFile) -> int:
    """Return how large the footer says it is; 0 where there is none, as the reader will say. Raises `OSError`."""
    return _footer_bytes(_tail(source, _END_BYTES))


def _tail(source: BinaryIO | pa.NativeFile, length: int) -> bytes:
    source.seek(max(source.seek(0, 2) - length, 0))
    read: bytes = source.read(length)
    return read


def _footer_bytes(tail: bytes) -> int:
    end = tail[-_END_BYTES:]
    return int.from_bytes(end[:4], "little") if end[4:] == _END else 0


def _why_renamed(metadata: pq.FileMetaData, known: Sequence[str]) -> str | None:
    """Say which column has another's place: its name is damaged, and a reader would take the other for absent.

    An earlier version's files lack columns, a later one's have more; none's do both.
    """
    # Not `metadata.schema`: the two hold each other, as below.
    names = pq.ParquetSchema(metadata).names
    if len({*names}) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        return f"has a column {twice!r} twice"
    other, lacking = _unknown(names, known), _unknown(known, names)
    return f"has a column {other!r} and no column {lacking}" if other and lacking else None


def _unknown(names: Sequence[str], known: Sequence[str]) -> str:
    """Return the first of the names that is not known; "" if all are."""
    return next((name for name in names if name not in known), "")


def _why_incomplete(metadata: pq.FileMetaData, wanted: Collection[str], told: Collection[str]) -> str | None:
    """Say which of the columns some row lacks, by the footer, or of which of `told` the footer does not say it."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        places = _places(group, wanted)
        if lacking := [name for name in wanted if name not in places]:
            return f"has no column {lacking[0]}"
        for name, place in places.items():
            found = group.column(place).statistics
            is_told = found is not None and found.has_null_count
            if is_told and found.null_count:
                return f"has rows without {name}"
            if not is_told and name in told and group.num_rows:
                return f"does not say whether rows have no {name}"
    return None


def _places(group: pq.RowGroupMetaData, wanted: Collection[str]) -> dict[str, int]:
    """Return where these columns are, of those that are there.

    Not by the footer's schema: the two hold each other, and so many kilobytes of each file stay in memory.
    """
    usual = {name: SCHEMA.get_field_index(name) for name in wanted}
    if max(usual.values()) < group.num_columns and all(
        group.column(place).path_in_schema == name for name, place in usual.items()
    ):
        return usual
    names = (group.column(place).path_in_schema for place in range(group.num_columns))
    return {name: place for place, name in enumerate(names) if name in wanted}


def _more(found: int, most: int, what: str) -> str:
    return f"holds {found:,} {what}, more than the {most:,} that are read"
