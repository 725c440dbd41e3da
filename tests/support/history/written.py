# SPDX-License-Identifier: Apache-2.0
"""An archive that the flow log's own code wrote, out of flows made by hand; and a store that fails when told to."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET

from history.model.time_range import TimeRange
from history.read.archive.files import find_chapter
from history.read.archive.opened import FlowArchive
from history.read.batch import SCHEMA
from history.upkeep.compact import Compactor, Done, Rule
from schemas.flow import Flow, RawPosition
from schemas.ids import parse_flow_id
from sinks.flowlog.archive.archive import Archive, ArchiveCut
from sinks.flowlog.archive.manifest import Manifest, Marked
from sinks.flowlog.rows.parquet import SUFFIX, ParquetRows
from sinks.flowlog.stores.store import LocalStore, Parts, Store
from sinks.intake import FlowMark
from tests.support.history.rows import rows_of

TOPIC = "zonemeter.flows.enriched.v1"
HOUR_MS = 3_600_000
# 2026-11-22 22:00 UTC.
BEGIN_MS = 1_795_384_800_000
HOUR = "date=2026-11-22/hour=22"
FEW = Rule(files=2, file_bytes=1 << 30)
DAY = TimeRange(BEGIN_MS - 12 * HOUR_MS, BEGIN_MS + 12 * HOUR_MS)


class Written:
    """The archive, of flows of one attribution. Each partition's flows go on where the last cut ended."""

    def __init__(self, root: Path, attribution_version: int = 0) -> None:
        root.mkdir(exist_ok=True)
        self._attribution = attribution_version
        self.move(root)
        self._sequence: dict[int, int] = {}
        self._offset: dict[int, int] = {}
        self._marks: dict[int, dict[Any, FlowMark]] = {}

    def move(self, root: Path) -> None:
        """Go on in a copy of it."""
        self.root = root
        self._archive = Archive(LocalStore(root), TOPIC, SUFFIX, self._attribution)

    def cut(self, partition: int, flows: Sequence[Flow], taken_ms: int | None = None) -> Manifest:
        """Write flows as one cut of a partition, taken when they ended if at no other time."""
        sequence = self._sequence[partition] = self._sequence.get(partition, 0) + 1
        first = self._offset.get(partition, 0)
        self._offset[partition] = first + len(flows)
        marks = self._marks.setdefault(partition, {})
        hours: dict[int, ParquetRows] = {}
        for flow in flows:
            placed = msgspec.structs.replace(
                flow, raw=RawPosition(partition, flow.raw.offset), attribution_version=self._attribution or UNSET
            )
            hours.setdefault(flow.start_ms // HOUR_MS * HOUR_MS, ParquetRows()).add(rows_of([placed]))
            origin, place = parse_flow_id(flow.id)
            marks[origin] = FlowMark(*place, flow.end_ms, flow.end_ms if taken_ms is None else taken_ms)
        manifest = Manifest(
            topic=TOPIC,
            partition=partition,
            sequence=sequence,
            writer="",
            first_offset=first,
            next_offset=first + len(flows),
            marks=[Marked(origin.cluster, origin.node, origin.boot_id, mark) for origin, mark in marks.items()],
        )
        return self._archive.write(ArchiveCut(manifest, hours))

    def rows(self, span: TimeRange = DAY) -> list[dict[str, Any]]:
        """Return all rows as a reader sees them, in order of their ids."""
        return rows(str(self.root), span)

    def files(self) -> list[str]:
        """Return the paths of the files of flows that are there."""
        found = (str(path.relative_to(self.root)) for path in self.root.glob("**/hour=*/*.parquet*"))
        return sorted(path for path in found if not path.startswith("rollups/"))


def rows(location: str, span: TimeRange = DAY) -> list[dict[str, Any]]:
    """Return the rows of the files that count, in order of their ids; without DuckDB, which takes its time to start."""
    archive = FlowArchive(location)
    tables = [pq.ParquetFile(f"{archive.root}/{path}").read() for path in find_chapter(archive, span).paths]
    found = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="permissive").to_pylist()
    return sorted(found, key=lambda row: row["id"])


def compact(root: Path, rule: Rule = FEW, store: Store | None = None, hour: str = HOUR) -> Done | None:
    """Clear up and compact an hour, as the command does; return what was done, None if nothing was to be."""
    archive = FlowArchive(str(root))
    archive.store = store or archive.store
    compactor = Compactor(archive)
    compactor.clear_up(hour)
    with tempfile.TemporaryDirectory(dir=root.parent) as spill:
        return compactor.compact(hour, rule, Path(spill))


def compact_all(root: Path) -> list[Done]:
    """Compact every hour of an archive to few files; return what was done."""
    hours = sorted({f"{path.parent.name}/{path.name}" for path in root.glob("flows/date=*/hour=*")})
    return [done for hour in hours if (done := compact(root, Rule(0, 1 << 30), hour=hour))]


class Killed(BaseException):
    """What a store raises in the place of the call at which its process dies."""


class Dying:
    """A store that raises at the `at`-th call that changes something, and does all others.

    `late`: once it is done, as if the answer had been lost.
    """

    def __init__(self, store: Store, at: int, error: type[BaseException] = Killed, *, late: bool = False) -> None:
        self._store = store
        self._at = at
        self._error = error
        self._late = late
        self.calls = 0

    def put(self, path: str, parts: Parts) -> int:
        """Write a file."""
        return self._change(self._store.put, path, parts)  # type: ignore[no-any-return]

    def create(self, path: str, parts: Parts) -> bool:
        """Write a file unless it exists."""
        return self._change(self._store.create, path, parts)  # type: ignore[no-any-return]

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self._store.read(path)

    def exists(self, path: str) -> bool:
        """Return whether there is such a file."""
        return self._store.exists(path)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory."""
        return self._store.names(directory)

    def names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        """Return the names in each of these directories of a directory."""
        return [self.names(f"{directory}/{name}") for name in below]

    def delete(self, path: str) -> None:
        """Delete a file."""
        self._change(self._store.delete, path)

    def _change(self, call: Any, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self._at and not self._late:
            raise self._error("at this call")
        answer = call(*arguments)
        if self.calls == self._at:
            raise self._error("after this call")
        return answer
