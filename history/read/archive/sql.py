# SPDX-License-Identifier: Apache-2.0
"""Opens the files of an archive with DuckDB, for the questions of history/read/flow_sql.py, and reads their rows.

A report over a day asks for sums: DuckDB makes them from the columns it needs, several files at a time, in a
hundredth of the time that Python would take for the rows.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from common.errors import Refusal
from common.terminal import command
from history.model.filters import Selection
from history.model.rollups import Hours
from history.model.time_range import TimeRange
from history.read.archive.files import find_chapter
from history.read.archive.hours import hour_of, hour_range
from history.read.archive.limits import CHECKED, DAMAGED, check_files, checked_batches, checked_footer
from history.read.archive.long_rollups import find_long_rollups
from history.read.archive.narrowed import Narrowed, known_columns, narrowing
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.rollup_sql import ELSEWHERE, SUMMED, begun_in, there, view_rollups, why_not_rows
from history.read.batch import ROLLUP_SCHEMA, SCHEMA
from history.read.database import literal, open_database
from history.read.flow_sql import FLOWS, FlowQuery
from sinks.flowlog.archive.compaction import ROLLUPS, rollup_path
from sinks.flowlog.rows.parquet import MILLISECONDS

BATCH_ROWS = 50_000
# Files of hours that lie in the range whole, and of others.
_WHOLE_HOURS, _CUT_HOURS = "whole_hours", "cut_hours"


def view_rows(database: duckdb.DuckDBPyConnection, archive: FlowArchive, paths: Sequence[str], name: str) -> None:
    """Make a view of files of an archive with the flow log's columns: those that an earlier version lacked are null."""
    files = [f"{archive.root}/{path}" for path in paths]
    if not archive.is_local:
        # Every store that pyarrow knows, with no extension of DuckDB's to fetch.
        dataset = ds.dataset(files, SCHEMA, filesystem=archive.filesystem, format=CHECKED)
        database.from_arrow(dataset).create_view(name, replace=True)
        return
    rows = database.read_parquet([*map(literal, files)], hive_partitioning=False, union_by_name=True)
    rows.project(known_columns(rows)).create_view(name, replace=True)


class ArchiveQuery(FlowQuery):
    """The flows of one archive in one time range.

    Whatever reads it raises `ArchiveChanged` where a file went because a compaction replaced it: then what was read so
    far is to be read again, with an archive opened again. `AnswerCut` likewise, where an object store's answer was cut.
    """

    def __init__(
        self, archive: FlowArchive, span: TimeRange, hours: Hours | None = None, *, only_left: bool = False
    ) -> None:
        """`hours`: those whose rollups are read in the place of their flows, and perhaps their days' and weeks'.

        `only_left`: of these, only where the flows are gone.
        """
        super().__init__(open_database(), span)
        self.archive = archive
        self.chapter = find_chapter(archive, span)
        rollups = self.chapter.left if only_left else self.chapter.rollups
        self.rollups = [path for path in rollups if hours and hours.holds(hour_range(hour_of(path)))]
        long, left = find_long_rollups(archive, hours, self.rollups) if hours else ([], [])
        self._rollup_files = [*long, *left]
        stand_in = set(self.rollups)
        self.flows = [path for path in self.chapter.paths if rollup_path(path) not in stand_in]
        self._sizes = {file.path: file.size_bytes for file in self.chapter.files}
        self._is_open = False

    def _open(self) -> None:
        """Open all files, if that was not done: a filtered reading may need few."""
        if self._is_open:
            return
        check_files(self.archive, self.flows, self._sizes)
        if self.rollups:
            view_rollups(self._database, self.archive, self._rollup_files, ROLLUPS)
        files: dict[str, list[str]] = {_WHOLE_HOURS: [], _CUT_HOURS: []}
        for path in self.flows:
            files[_WHOLE_HOURS if self._is_whole(path) else _CUT_HOURS].append(path)
        self._view(FLOWS, {name: self._files(name, paths) for name, paths in files.items() if paths})
        self._is_open = True

    def _stream(self, query: str, parameters: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        with self._reading():
            self._open()
        yield from super()._stream(query, parameters)

    def _is_whole(self, path: str) -> bool:
        """Return whether all windows of a file are in the range, by its name: then none need be looked at to pick."""
        hour = hour_range(hour_of(path))
        return self.span.ended_by_ms is None and self.span.from_ms <= hour.from_ms and hour.to_ms <= self.span.to_ms

    def _files(self, name: str, paths: Sequence[str]) -> str:
        """Return files as SQL that can be selected from."""
        files = [f"{self.archive.root}/{path}" for path in paths]
        if not self.archive.is_local:
            # Every store that pyarrow knows, with no extension of DuckDB's to fetch.
            dataset = ds.dataset(files, SCHEMA, filesystem=self.archive.filesystem, format=CHECKED)
            self._database.from_arrow(dataset).create_view(name)
            return name
        # A view of the relation would look for each file again, and each view of that.
        self._database.execute(f"SET VARIABLE {name} = ?", [[*map(literal, files)]])
        return f"read_parquet(getvariable('{name}'), hive_partitioning = false)"

    def _view(self, name: str, files: Mapping[str, str]) -> None:
        """Make a view of the flows in the range, and of the rollups that stand for others.

        `files`: as SQL, by which of the two they are. Without a condition on each window a report over small files
        takes an eighth less; a window in another hour's directory then fails as a row without bytes does.
        """
        summed = ", ".join(f"{there(each)} AS {each}" for each in SUMMED)
        parts = []
        for which, rows in files.items():
            is_whole = which == _WHOLE_HOURS
            columns = f"{summed}, {begun_in(self.span)} AS window_start" if is_whole else summed
            picked = "" if is_whole else f" WHERE {self._in_span}"
            parts.append(f"SELECT * REPLACE ({columns}), 1::BIGINT AS flows FROM {rows}{picked}")  # noqa: S608
        if self.rollups:
            parts.append(f"FROM {ROLLUPS}")
        if not parts:
            self._database.register(_CUT_HOURS, SCHEMA.empty_table())
            parts.append(f"SELECT *, 1::BIGINT AS flows FROM {_CUT_HOURS}")  # noqa: S608
        self._database.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}")

    @property
    def _in_range(self) -> str:
        """All that its views hold is."""
        return "true"

    def __enter__(self) -> "ArchiveQuery":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @property
    def read(self) -> list[str]:
        """The files that are read."""
        return [*self.flows, *self._rollup_files]

    @property
    def deleted(self) -> str:
        """The newest hour of the range that is gone and that no rollup stands for; empty if none is."""
        rolled_up = set(map(hour_of, self.rollups))
        return max((hour for hour in self.chapter.gone if hour_of(f"{hour}/") not in rolled_up), default="")

    def tables(self, selection: Selection, held: Iterable[tuple[str, str]] | None = None) -> Iterator[pa.Table]:
        """Yield the rows that are wanted, with the flow log's columns."""
        narrowed = set() if narrowing(selection).is_any else {*self.chapter.paths[: self.chapter.compacted]}
        for path in filter(narrowed.__contains__, self.flows):
            yield from self._narrowed(path, selection)
        if whole := [path for path in self.flows if path not in narrowed]:
            with self._reading(), open_database() as database:
                check_files(self.archive, whole)
                view_rows(database, self.archive, whole, FLOWS)
                yield from FlowQuery(database, self.span).tables(selection, held)

    def _narrowed(self, path: str, selection: Selection) -> Iterator[pa.Table]:
        """Yield the rows of a compacted file that are wanted, without opening all of it."""
        with self._reading(), open_database() as database:
            found = Narrowed(self.archive, path, selection)
            if len(found.rows):
                found.view(database, FLOWS)
                yield from FlowQuery(database, self.span).tables(selection, found.held)

    def rolled_up(self, selection: Selection) -> Iterator[pa.Table]:
        """Yield the rows with traffic of the rollups that are read, with a rollup's columns."""
        if not self.rollups:
            return
        with self._reading():
            self._open()
            traffic = f"(SELECT * FROM {ROLLUPS} WHERE scope IS NOT NULL)"  # noqa: S608 - ours
            yield from self._rows(ROLLUP_SCHEMA.names, traffic, selection)

    def _rows_view(self) -> str:
        """Return the view that has all columns of rows, and the rollups that stand for others.

        Not for sums: they want few of these, and all files would be looked into before the first is read.
        """
        with self._reading():
            self._open()
        if not self.archive.is_local or not self.flows:
            return FLOWS  # by `SCHEMA`
        with self._reading():
            # A column under a damaged name would be nulls here, where sums fail.
            check_files(self.archive, self.flows)
        view_rows(self._database, self.archive, self.flows, "flow_files")
        self._view("rows_of_flows", {_CUT_HOURS: "flow_files"})
        return "rows_of_flows"

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what is said of a damaged file into one line that names the file."""
        try:
            yield
        except DAMAGED as error:
            self.archive.check_answers(next(iter(self.read), ""), error)
            if self._is_changed():
                raise ArchiveChanged(self.archive.location) from error
            damaged = next(filter(None, map(self._damage, self.read)), "") or " ".join(str(error).split())[:300]
            raise Refusal(
                f"archive {self.archive.location}: {damaged}; restore what is damaged: {command('audit --deep')} "
                f"--archive {self.archive.location} names all of it"
            ) from error

    def _is_changed(self) -> bool:
        """Return whether a file that counted when this was made does not count any more."""
        now = find_chapter(FlowArchive(self.archive.location), self.span)
        if not {*self.flows, *self.rollups} <= {*now.paths, *now.rollups}:
            return True
        return not all(map(self.archive.has, {*self._rollup_files} - {*self.rollups}))

    def _damage(self, path: str) -> str:
        """Read a file to its end; return what is wrong with it, if anything, or raise `Refusal`."""
        try:
            with self.archive.open(path) as source:
                footer = checked_footer(self.archive, path, source)
                for batch in checked_batches(source, BATCH_ROWS, footer):
                    rollup = path in self._rollup_files
                    if why := why_not_rows(batch, rollup=rollup) or ("" if rollup else _why_elsewhere(batch, path)):
                        return f"{path}: {why}"
            if self.archive.is_local:
                # Of a footer it refuses more than pyarrow does, and names no file.
                self._database.read_parquet(literal(f"{self.archive.root}/{path}"))
        except DAMAGED as error:
            self.archive.check_answers(path, error)
            return f"{path}: {' '.join(str(error).split()).removeprefix(f'{path}: ')[:200]}"
        return ""


def _why_elsewhere(batch: pa.RecordBatch, path: str) -> str:
    """Say why rows cannot be of a file of flows by when their windows begin; "" if they may be."""
    hour, extremes = hour_range(hour_of(path)), pc.min_max(batch.column("window_start").cast(MILLISECONDS, safe=False))
    found = (extremes["min"].value, extremes["max"].value)
    return "" if all(at_ms is None or hour.holds(at_ms) for at_ms in found) else ELSEWHERE
