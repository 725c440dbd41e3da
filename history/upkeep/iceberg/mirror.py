# SPDX-License-Identifier: Apache-2.0
"""Brings an Iceberg table to what counts in an archive: in one snapshot, or not at all.

What is published is what the table's newest snapshot lists, and nothing else remembers it. So a killed run leaves the
table as it was or as it should be, and the next one goes on from there. The table is read before the archive is: of
two runs at once the later commit is refused, and what it was of is worked out again.

Files come in as they are, by path and footer; they have no Iceberg field ids, so the table maps them by name.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitFailedException, ValidationError, ValidationException
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException
from pyiceberg.manifest import DataFile as TableFile
from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.snapshots import Snapshot

from common.errors import Refusal
from history.model.time_range import TimeRange
from history.read.archive.files import find_chapter
from history.read.archive.limits import checked_footer
from history.read.archive.opened import ATTEMPTS, ArchiveChanged, FlowArchive, ReadAgain
from history.read.batch import SCHEMA
from history.upkeep.iceberg.catalog import answered
from history.upkeep.iceberg.exchange import Exchange
from history.upkeep.iceberg.footers import Describer
from sinks.flowlog.archive.manifest import DataFile

T = TypeVar("T")

# Of a snapshot: a digest of the paths of all its files.
DIGEST = "zonemeter.digest"
# What is raised for a file that a table cannot hold.
_BAD_FILE = (
    *(OSError, KeyError, ValueError, TypeError),
    *(ValidationError, UnsupportedPyArrowTypeException, pa.ArrowException),
)
_READERS = 16
_AT_ONCE = 256
_NEVER_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class Change:
    """What a run did, or would do: files of the archive that came into the table, and paths of files that went.

    `files`, `rows`, `size_bytes`: what the table holds then.
    """

    added: Sequence[DataFile]
    gone: Sequence[str]
    files: int
    rows: int
    size_bytes: int


def publish(table: Table, location: str, prefix: str, since_ms: int = 0, *, dry_run: bool = False) -> Change:
    """Bring the table to what the archive holds. `prefix`: what stands before the archive's paths in the table.

    `since_ms`: without the hours that had ended by then.

    Raises `Refusal`, and what pyiceberg and its catalogs raise.
    """
    for _ in range(ATTEMPTS):
        try:
            return _Run(table, FlowArchive(location), prefix, since_ms).publish(dry_run=dry_run)
        except (CommitFailedException, ValidationException, ReadAgain):
            # The second, where the other process has also forgotten the snapshot that this one began with.
            answered(table.refresh)
        except FileNotFoundError:
            # So here, and its files are deleted; or the table is damaged.
            began = table.metadata_location
            if answered(table.refresh).metadata_location == began:
                raise
    raise Refusal(f"archive {location}: it or the table was changed {ATTEMPTS} times meanwhile; run the command again")


class _Run:
    """One attempt. The table was read before the archive was opened."""

    def __init__(self, table: Table, archive: FlowArchive, prefix: str, since_ms: int) -> None:
        self._table = table
        self._archive = archive
        self._prefix = prefix
        self._span = TimeRange(since_ms, _NEVER_MS)

    def publish(self, *, dry_run: bool) -> Change:
        counting = {self._prefix + file.path: file for file in find_chapter(self._archive, self._span).files}
        digest = hashlib.sha256("\n".join(sorted(counting)).encode()).hexdigest()
        snapshot = self._table.current_snapshot()
        is_same = snapshot is not None and snapshot.summary is not None and snapshot.summary.get(DIGEST) == digest
        held = {} if snapshot is None or is_same else self._held(snapshot)
        new = {} if is_same else {path: file for path, file in counting.items() if path not in held}
        gone = [file for path, file in held.items() if path not in counting]
        if (new or gone) and not dry_run:
            self._exchange(new, gone, digest)
        files = counting.values()
        rows, size_bytes = sum(file.rows for file in files), sum(file.size_bytes for file in files)
        return Change(list(new.values()), [file.file_path for file in gone], len(files), rows, size_bytes)

    def _held(self, snapshot: Snapshot) -> dict[str, TableFile]:
        """Return the table's files by path; raise `Refusal` where somebody else wrote to it."""
        held: dict[str, TableFile] = {}
        for manifest in snapshot.manifests(self._table.io):
            if manifest.content == ManifestContent.DELETES:
                raise self._not_alone("it has rows deleted")
            for entry in manifest.fetch_manifest_entry(self._table.io, discard_deleted=True):
                held[entry.data_file.file_path] = entry.data_file
        if other := next((path for path in held if not path.startswith(self._prefix)), None):
            raise self._not_alone(f"it holds {other!r}, which is not of the archive {self._prefix}")
        return held

    def _not_alone(self, why: str) -> Refusal:
        return Refusal(
            f"table {'.'.join(self._table.name())}: {why}: another program writes to it; drop it (without purging) and "
            "run the command again"
        )

    def _exchange(self, new: Mapping[str, DataFile], gone: Iterable[TableFile], digest: str) -> None:
        transaction = self._table.transaction()
        added = list(self._described(transaction, new))
        mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
        if transaction.table_metadata.properties.get(TableProperties.DEFAULT_NAME_MAPPING) != mapping:
            transaction.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})
        Exchange(transaction, added, gone, {DIGEST: digest}).commit()
        answered(transaction.commit_transaction)

    def _described(self, transaction: Transaction, new: Mapping[str, DataFile]) -> Iterator[TableFile]:
        """Yield files as a table knows them, and add the columns to the table that it lacks."""
        known: set[pa.Schema] = set()
        describer = Describer(transaction.table_metadata)
        paths = iter(new)
        with ThreadPoolExecutor(_READERS) as pool:
            while some := list(islice(paths, _AT_ONCE)):
                footers = pool.map(self._footer, [new[path] for path in some])
                for path, (footer, size_bytes) in zip(some, footers, strict=True):
                    columns = footer.schema.to_arrow_schema()
                    if columns not in known:
                        self._widen(transaction, new[path], columns)
                        known.add(columns)
                        describer = Describer(transaction.table_metadata)
                    yield self._asked(new[path], partial(describer.describe, path, footer, size_bytes))

    def _widen(self, transaction: Transaction, file: DataFile, columns: pa.Schema) -> None:
        """Add a file's columns to the table; raise `Refusal` where one of the flow log's has another type."""
        for column in columns:
            if column.name in SCHEMA.names and column.type != (expected := SCHEMA.field(column.name).type):
                why = f"its column {column.name} is {column.type}, not {expected}"
                raise self._refusal(file, f"cannot be published: {why}; restore it, or begin after its hour (--since)")
        # Also those of the flow log's that came after the version by which the table was made.
        there = set(transaction.table_metadata.schema().column_names)
        others = [column.with_nullable(True) for column in columns if column.name not in there]
        if not others:
            return

        def add() -> None:
            with transaction.update_schema() as update:
                update.union_by_name(pa.schema(others))

        self._asked(file, add)

    def _footer(self, file: DataFile) -> tuple[pq.FileMetaData, int]:
        """Return a file's footer and size; raise `Refusal` where it is not what its manifest says."""

        def read() -> tuple[pq.FileMetaData, int]:
            with self._archive.open(file.path) as source:
                return checked_footer(self._archive, file.path, source), source.size()

        footer, size_bytes = self._asked(file, read)
        if footer.num_rows != file.rows:
            raise self._refusal(file, f"holds {footer.num_rows:,} flows, {file.rows:,} are listed")
        return footer, size_bytes

    def _asked(self, file: DataFile, call: Callable[[], T]) -> T:
        """Return what a question about a file returns; raise `Refusal` or `ReadAgain` for what is wrong with it."""
        try:
            return call()
        except FileNotFoundError as error:
            # A compaction replaced it. If it is missing, the next attempt says so.
            raise ArchiveChanged(self._archive.location) from error
        except _BAD_FILE as error:
            self._archive.check_answers(file.path, error)
            said = " ".join(str(error).removeprefix(f"{file.path}: ").split())[:300]
            raise self._refusal(file, f"cannot be published: {said}") from error

    def _refusal(self, file: DataFile, why: str) -> Refusal:
        return Refusal(f"archive {self._archive.location}: {file.path} {why}")


def expire_snapshots(table: Table, before_ms: int) -> int:
    """Forget the snapshots of before a time, but for the newest, and delete what only they name; return how many.

    Files of the archive stay: these are not the table's.
    """
    old = [each for each in table.metadata.snapshots if each.timestamp_ms < before_ms]
    old = [each for each in old if each.snapshot_id not in {ref.snapshot_id for ref in table.metadata.refs.values()}]
    if not old:
        return 0
    try:
        named = _named(table, old)
        expiry = table.maintenance.expire_snapshots().older_than(datetime.fromtimestamp(before_ms / 1000, UTC))
        answered(expiry.commit)
        left = _named(answered(table.refresh), table.metadata.snapshots)
    except (CommitFailedException, FileNotFoundError, ValueError):
        return 0  # another process does the same: a snapshot, or what it names, is gone already
    for path in named - left:
        table.io.delete(path)
    return len(old)


def _named(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Return the files of metadata that snapshots name."""
    named: set[str] = set()
    for snapshot in snapshots:
        named |= {snapshot.manifest_list, *(each.manifest_path for each in snapshot.manifests(table.io))}
    return named
