# SPDX-License-Identifier: Apache-2.0
"""Reads the files of an archive with DuckDB: sums for a report, rows for a replay, values for a hint.

A report over a day asks for sums: DuckDB makes them from the columns it needs, several files at a time, in a
hundredth of the time that Python would take for the rows. Blocking: a command line has nothing else to do meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from common.errors import Refusal
from common.terminal import command
from history.model.filters import Selection
from history.model.grouping import By, groups_sql
from history.model.hints import Present
from history.model.party import FIELDS, Parties, Party
from history.model.summary import Summary, Traffic
from history.model.time_range import TimeRange
from history.read.archive import FlowArchive
from history.read.archive_files import Chapter, find_chapter
from history.read.batch import SCHEMA
from sinks.flowlog.columns import COLUMNS

BATCH_ROWS = 50_000
FETCH_ROWS = 5_000
WANTED_ADDRESSES = "wanted_addresses"
_IN_RANGE = "epoch_ms(window_start) >= ? AND epoch_ms(window_start) < ? AND epoch_ms(window_end) <= ?"
_EVER_MS = 2**63 - 1
_SIDES = ("src_", "dst_")


@dataclass(slots=True)
class ArchiveQuery:
    """The flows of one archive in one time range."""

    archive: FlowArchive
    span: TimeRange
    chapter: Chapter = field(init=False)
    _database: duckdb.DuckDBPyConnection = field(init=False)

    def __post_init__(self) -> None:
        self.chapter = find_chapter(self.archive, self.span)
        self._database = duckdb.connect()
        self._database.execute("SET enable_progress_bar = false")
        self._database.execute("SET TimeZone = 'UTC'")
        paths = [f"{self.archive.root}/{path}" for path in self.chapter.paths]
        if not paths:
            return
        with _refusing(self.archive, self.chapter.paths):
            if self.archive.is_local:
                files = self._database.read_parquet(paths, hive_partitioning=False)
            else:
                # Every store that pyarrow knows, with no extension of DuckDB's to fetch.
                files = self._database.from_arrow(
                    ds.dataset(paths, SCHEMA, filesystem=self.archive.filesystem, format="parquet")
                )
            files.create_view("flows")

    def __enter__(self) -> "ArchiveQuery":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def summarise(self, ends: Parties, summary: Summary, selection: Selection, by: By | None = None) -> None:
        """Add the sums of the flows that are wanted to a summary, told apart by what they are to be summed up by."""
        if not self.chapter.paths:
            return
        where, parameters = self._where(selection)
        brokers = " OR ".join(["(%saddress = ? AND %sport = ?)"] * len(ends.brokers)) or "false"
        pairs = [value for address in sorted(ends.brokers) for value in address]
        sides = [f"{_end_columns(side)}, ({brokers.replace('%s', side)})" for side in _SIDES]
        query = f"""
            SELECT scope, direction, observer_zone, sum(bytes), count(*), {", ".join((*groups_sql(by), *sides))}
            FROM flows WHERE encapsulation IS NULL AND {where} GROUP BY ALL
        """  # noqa: S608 - every name in it is ours, every value a parameter
        regions = self._regions()
        for row in self._stream(query, [*pairs, *pairs, *parameters]):
            scope, direction, observer_zone, size, rows, from_group, to_group, *values = row
            width = len(FIELDS) + 1
            source, destination = _end(ends, values[:width]), _end(ends, values[width:])
            if direction == "relay":
                source = ends.at(source, observer_zone or "", regions.get(observer_zone, ""))
            summary.flows += rows
            traffic = Traffic(scope, source, destination, direction == "ingress", (from_group, to_group))
            summary.traffic[traffic] += int(size)
        self._add_facts(summary, where, parameters, selection)

    def _regions(self) -> dict[str, str]:
        """Return the regions of the zones: of an observer the log holds the zone alone."""
        query = " UNION ".join(f"SELECT {side}zone, {side}region FROM flows" for side in _SIDES)  # noqa: S608
        return {zone: region for zone, region in self._fetch(query, []) if zone and region}

    def _add_facts(self, summary: Summary, where: str, parameters: list[object], selection: Selection) -> None:
        # The statements are made of names that are ours; what a user said is a parameter.
        outer = f"SELECT coalesce(sum(bytes), 0) FROM flows WHERE encapsulation IS NOT NULL AND {where}"  # noqa: S608
        summary.outer_bytes += int(self._fetch(outer, parameters)[0][0])
        # Who counted, and when, does not depend on which flows are wanted.
        where, parameters = self._where(Selection(clusters=selection.clusters))
        windows = f"SELECT DISTINCT epoch_ms(window_start), epoch_ms(window_end) FROM flows WHERE {where}"  # noqa: S608
        summary.windows.update((start, end) for start, end in self._fetch(windows, parameters))
        nodes = f"SELECT DISTINCT cluster, observer_node FROM flows WHERE {where}"  # noqa: S608
        for cluster, node in self._fetch(nodes, parameters):
            summary.clusters.add(cluster)
            summary.observers.add(node)

    def tables(self, selection: Selection) -> Iterator[pa.Table]:
        """Yield the rows that are wanted, with the flow log's columns."""
        if not self.chapter.paths:
            return
        where, parameters = self._where(selection)
        with _refusing(self.archive, self.chapter.paths):
            query = f"SELECT {self._columns()} WHERE {where}"
            reader: pa.RecordBatchReader = self._database.sql(query, params=parameters).to_arrow_reader(BATCH_ROWS)
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def _columns(self) -> str:
        """Return the columns of rows and the view that has them: an earlier version's files lack some, which are null.

        Not of sums: they want none of these, and all files would be looked into before the first is read.
        """
        if not self.archive.is_local:
            return f"{', '.join(COLUMNS)} FROM flows"  # by `SCHEMA`
        paths = [f"{self.archive.root}/{path}" for path in self.chapter.paths]
        files = self._database.read_parquet(paths, hive_partitioning=False, union_by_name=True)
        files.create_view("rows_of_flows")
        there = set(files.columns)
        return f"{', '.join(name if name in there else f'NULL AS {name}' for name in COLUMNS)} FROM rows_of_flows"

    def present(self, selection: Selection) -> Present:
        """Return what values there are in the time range."""
        found = Present()
        if not self.chapter.paths:
            return found
        bounds = self._bounds
        for side in _SIDES:
            names = ("namespace", "pod", "workload_kind", "workload", "zone", "port")
            columns = ", ".join(f"{side}{name}" for name in names)
            query = f"SELECT DISTINCT {columns} FROM flows WHERE {_IN_RANGE}"  # noqa: S608
            for values in self._fetch(query, bounds):
                found.add_end(dict(zip(names, values, strict=True)))
        for column, known in (("scope", found.scopes), ("cluster", found.clusters)):
            query = f"SELECT DISTINCT {column} FROM flows WHERE {_IN_RANGE}"  # noqa: S608
            known.update(value for (value,) in self._fetch(query, bounds))
        found.addressed = any(name == "address" for name, _ in self._held(selection))
        for name, text, alone in selection.one_sided():
            where, parameters = self._where(alone)
            if self._fetch(f"SELECT 1 FROM flows WHERE {where} LIMIT 1", parameters):  # noqa: S608
                found.met.add((name, text))
        query = f"SELECT coalesce(max(bytes), 0) FROM flows WHERE {_IN_RANGE}"  # noqa: S608
        found.largest = int(self._fetch(query, bounds)[0][0])
        return found

    def _where(self, selection: Selection) -> tuple[str, list[object]]:
        if selection.on_addresses:
            self._database.register(WANTED_ADDRESSES, wanted_addresses(self._held(selection)))
        condition, parameters = selection.sql(WANTED_ADDRESSES)
        return f"{_IN_RANGE} AND {condition}", [*self._bounds, *parameters]

    @property
    def _bounds(self) -> list[int]:
        by_ms = self.span.ended_by_ms
        return [self.span.from_ms, self.span.to_ms, _EVER_MS if by_ms is None else by_ms]

    def _held(self, selection: Selection) -> list[tuple[str, str]]:
        """Return the log's own addresses that filters on addresses want, with the filter's name."""
        if not selection.on_addresses:
            return []
        query = "SELECT src_address FROM flows UNION SELECT dst_address FROM flows"
        return selection.held([address for (address,) in self._fetch(query, []) if address])

    def _stream(self, query: str, parameters: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        with _refusing(self.archive, self.chapter.paths):
            result = self._database.execute(query, parameters)
            while rows := result.fetchmany(FETCH_ROWS):
                yield from rows

    def _fetch(self, query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        with _refusing(self.archive, self.chapter.paths):
            rows: list[tuple[Any, ...]] = self._database.execute(query, parameters).fetchall()
            return rows


class _refusing:  # noqa: N801 - it reads as what it is, a context
    """Turns what DuckDB says of a damaged file into one line that names the file."""

    def __init__(self, archive: FlowArchive, paths: Sequence[str]) -> None:
        self._archive = archive
        self._paths = paths

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, duckdb.Error | pa.ArrowException | OSError):
            damaged = next(filter(None, map(self._damage, self._paths)), "") or " ".join(str(error).split())[:300]
            raise Refusal(
                f"archive {self._archive.location}: {damaged}; restore what is damaged: {command('audit --deep')} "
                f"--archive {self._archive.location} names all of it"
            ) from error

    def _damage(self, path: str) -> str:
        """Read a file whole; return what is wrong with it, if anything."""
        try:
            pq.read_table(f"{self._archive.root}/{path}", filesystem=self._archive.filesystem)
        except (pa.ArrowException, OSError) as error:
            return f"{path}: {' '.join(str(error).split())[:200]}"
        return ""


def wanted_addresses(held: Sequence[tuple[str, str]]) -> pa.Table:
    """Return the table that `Selection.sql` looks addresses up in."""
    names, addresses = ([pair[place] for pair in held] for place in (0, 1))
    return pa.table({"filter": pa.array(names, pa.string()), "address": pa.array(addresses, pa.string())})


def _end_columns(side: str) -> str:
    """Return the columns that a report's end is made of; a node only of what is a node, a pod of what has gone."""
    special = {
        "node": f"CASE WHEN {side}kind = 'node' THEN {side}node END",
        "pod": f"CASE WHEN {side}workload IS NULL THEN {side}pod END",
    }
    return ", ".join(special.get(name, f"{side}{name}") for name in FIELDS)


def _end(ends: Parties, values: list[object]) -> Party:
    *facts, broker = values
    return ends.of([None if value is None else str(value) for value in facts], broker=bool(broker))
