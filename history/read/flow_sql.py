# SPDX-License-Identifier: Apache-2.0
"""What is asked of flows, as SQL over the flow log's columns: sums for a report, rows for a replay, values for a hint.

Files of an archive and batches of a topic are asked alike, so a filter and a sum mean the same of both.
Blocking: a command line has nothing else to do meanwhile.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from common.errors import Refusal
from history.model.evidence import MAX_CELLS, Cell, Evidence
from history.model.filters import Selection
from history.model.grouping import LABEL_COLUMNS, LABEL_TIMES, By, Per, groups_sql, joins_sql, period_sql
from history.model.hints import Present
from history.model.labels import LabelTime, by_slot
from history.model.party import FIELDS, Parties, Party
from history.model.summary import Summary, Traffic
from history.model.time_range import MAX_SLOTS, TimeRange
from sinks.flowlog.rows.columns import COLUMNS

FETCH_ROWS = 5_000
_BATCH_ROWS = 50_000
# Of sums by period: with its cost one takes some 450 bytes, and its lines as much again.
MAX_KINDS = 500_000
FLOWS = "flows"
WANTED_ADDRESSES = "wanted_addresses"
# Of a database that spills.
_MEMORY, _THREADS = "512MB", 2
_IN_RANGE = "epoch_ms(window_start) >= ? AND epoch_ms(window_start) < ? AND epoch_ms(window_end) <= ?"
# Each flow is both. Of a rollup, rows with traffic name no observer, and rows that name one carry no traffic.
_COUNTED = "encapsulation IS NULL AND scope IS NOT NULL"
_BY_NODE = "observer_node IS NOT NULL"
# Of what a row of facts is: a bit for each column that it is not of.
_OF_SLOTS, _OF_WINDOWS, _OF_NODES, _ALL = 0b01111, 0b10111, 0b11011, 0b11111
_EVER_MS = 2**63 - 1
ALWAYS = TimeRange(0, _EVER_MS)
_SIDES = ("src_", "dst_")
# What is suggested in the place of a filter's value that no flow has.
_VALUES = {
    "cluster": "cluster",
    "namespace": "{}namespace",
    "workload": "{0}namespace || '/' || {0}workload_kind || '/' || {0}workload",
    "pod": "{0}namespace || '/' || {0}pod",
    "zone": "{}zone",
    "scope": "scope",
    "port": "{}port::VARCHAR",
}
# Which end serves: as connection tracking said, else the end that kept its port.
_SERVES = """coalesce(server, CASE WHEN src_port IS NULL AND dst_port IS NOT NULL THEN 'destination'
    WHEN dst_port IS NULL AND src_port IS NOT NULL THEN 'source' END)"""


def literal(path: str) -> str:
    """Return the path of a file as DuckDB takes it: else the names of directories would be patterns."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def open_database() -> duckdb.DuckDBPyConnection:
    """Return an empty database in memory."""
    database = duckdb.connect()
    database.execute("SET enable_progress_bar = false")
    database.execute("SET TimeZone = 'UTC'")
    return database


def bounded_database(directory: Path) -> duckdb.DuckDBPyConnection:
    """Return an empty database that takes so much memory and no more; the rest goes to a directory."""
    database = open_database()
    database.execute(f"SET memory_limit = '{_MEMORY}'")
    database.execute(f"SET threads = {_THREADS}")
    database.execute("SET preserve_insertion_order = false")
    database.execute("SET temp_directory = ?", [str(directory / "spilled")])
    return database


class FlowQuery:
    """The flows of a database's view `flows`, in one time range. `regions`: of the observers' zones, where known."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, span: TimeRange, regions: dict[str, str] | None = None
    ) -> None:
        self.span = span
        self._database = database
        self._regions = regions

    def summarise(
        self,
        ends: Parties,
        summary: Summary,
        selection: Selection,
        by: By | None = None,
        per: Per | None = None,
        labels: Sequence[LabelTime] = (),
    ) -> None:
        """Add the sums of the flows that are wanted to a summary, told apart by what they are to be summed up by.

        `labels`: where it is the label. Raises `Refusal` where periods make more of them than fit memory.
        """
        where, parameters = self._where(selection)
        sides, pairs = _both_ends(ends)
        slot_ms = max(self.span.slot_ms, (self.span.to_ms - self.span.from_ms) // MAX_SLOTS)
        query = f"""
            SELECT scope, direction, CASE WHEN direction = 'relay' THEN observer_zone END, sum(bytes), sum(flows),
                {", ".join((period_sql(per), *groups_sql(by), *sides))}
            FROM flows {joins_sql(by, slot_ms)} WHERE {_COUNTED} AND {where} GROUP BY ALL
        """  # noqa: S608 - every name in it is ours, every value a parameter
        if by == "label":
            self._database.register(LABEL_TIMES, _label_table(labels, self.span, slot_ms))
        self._add_facts(summary, where, parameters, selection)
        regions = self.regions()
        for row in self._stream(query, [*pairs, *parameters]):
            scope, direction, relayed_in, size, flows, period_ms, from_group, to_group, *values = row
            source, destination = _ends(ends, values)
            if direction == "relay":
                source = ends.at(source, relayed_in or "", regions.get(relayed_in, ""))
            summary.flows += int(flows)
            traffic = Traffic(scope, source, destination, direction == "ingress", (from_group, to_group), period_ms)
            summary.traffic[traffic] += int(size)
            if per is not None and len(summary.traffic) > MAX_KINDS:
                raise Refusal(
                    f"per = {per}: more than {MAX_KINDS:,} kinds of traffic are in this range; ask for longer periods, "
                    "-n NAMESPACE, --scope cross_zone, or a shorter --since"
                )

    def sums(self, columns: Sequence[str], selection: Selection) -> Iterator[tuple[Any, ...]]:
        """Yield what flows that are wanted are told apart by, expressions over the columns, and at last their bytes.

        Outer packets of an overlay are left out.
        """
        where, parameters = self._where(selection)
        told_apart = ", ".join(columns)
        query = f"SELECT {told_apart}, sum(bytes) FROM flows WHERE {_COUNTED} AND {where} GROUP BY ALL"  # noqa: S608
        for *values, size in self._stream(query, parameters):
            yield *values, int(size)

    def regions(self) -> dict[str, str]:
        """Return the regions of the zones: of an observer the log holds the zone alone."""
        if self._regions is None:
            query = " UNION ".join(f"SELECT {side}zone, {side}region FROM flows" for side in _SIDES)  # noqa: S608
            self._regions = {zone: region for zone, region in self._fetch(query, []) if zone and region}
        return self._regions

    def _add_facts(self, summary: Summary, where: str, parameters: list[object], selection: Selection) -> None:
        """Add all that is not of two ends, and learn the zones' regions.

        In one reading: of many small files, to open them is what takes the time.
        """
        # Who counted, and when, does not depend on which flows are wanted.
        by_whom, clusters = self._where(Selection(clusters=selection.clusters))
        slot = self.span.slot_ms
        # The statement is made of names that are ours; what a user said is a parameter.
        query = f"""
            WITH each AS (
                SELECT *, epoch_ms(window_start) // ? * ? AS slot_ms, epoch_ms(window_start) AS from_ms,
                    epoch_ms(window_end) AS to_ms, {_BY_NODE} AND {by_whom} AS is_known, {where} AS is_wanted,
                    {_COUNTED} AS is_counted
                FROM flows
            )
            SELECT grouping_id(slot_ms, from_ms, observer_node, src_zone, dst_zone), slot_ms, scope, from_ms, to_ms,
                cluster, observer_node, coalesce(src_zone, dst_zone), coalesce(src_region, dst_region),
                coalesce(sum(bytes) FILTER (is_wanted AND is_counted), 0) AS size,
                coalesce(sum(bytes) FILTER (is_wanted AND encapsulation IS NOT NULL), 0), bool_or(is_known),
                bool_or(is_wanted AND is_counted)
            FROM each GROUP BY GROUPING SETS (
                (slot_ms, scope), (from_ms, to_ms), (cluster, observer_node), (src_zone, src_region),
                (dst_zone, dst_region), ()
            )
        """  # noqa: S608
        regions: dict[str, str] = {}
        for (
            which,
            at_ms,
            scope,
            from_ms,
            to_ms,
            cluster,
            node,
            zone,
            region,
            size,
            outer,
            known,
            counted,
        ) in self._stream(query, [slot, slot, *clusters, *parameters]):
            if which == _ALL:
                summary.outer_bytes += int(outer)
            elif which == _OF_SLOTS and counted:
                summary.slots[at_ms, scope] += int(size)
            elif which == _OF_WINDOWS and known:
                summary.windows.add((from_ms, to_ms))
            elif which == _OF_NODES and known:
                summary.clusters.add(cluster)
                summary.observers.add(node)
            elif zone and region:
                regions[zone] = region
        if self._regions is None:
            self._regions = regions

    def gather(self, ends: Parties, evidence: Evidence, summary: Summary, selection: Selection) -> None:
        """Add the flows that are wanted to the evidence for advice, and to a summary."""
        where, parameters = self._where(selection)
        sides, pairs = _both_ends(ends)
        query = f"""
            WITH told AS (
                SELECT *, {_SERVES} AS serves FROM {self._rows_view()} WHERE {_COUNTED} AND {where}
            )
            SELECT scope, direction, CASE WHEN direction = 'relay' THEN observer_zone END, sum(bytes), sum(flows),
                epoch_ms(window_start) // ? * ?, serves, coalesce(dnat, false),
                CASE serves WHEN 'source' THEN src_port WHEN 'destination' THEN dst_port END,
                CASE serves WHEN 'source' THEN src_service WHEN 'destination' THEN dst_service END,
                {", ".join(sides)}
            FROM told GROUP BY ALL
        """  # noqa: S608 - every name in it is ours, every value a parameter
        self._add_facts(summary, where, parameters, selection)
        regions = self.regions()
        slot = evidence.slot_ms
        for row in self._stream(query, [*parameters, slot, slot, *pairs]):
            scope, direction, relayed_in, size, flows, at_ms, serves, dnat, port, service, *values = row
            source, destination = _ends(ends, values)
            if direction == "relay":
                source = ends.at(source, relayed_in or "", regions.get(relayed_in, ""))
            summary.flows += int(flows)
            traffic = Traffic(scope, source, destination, direction == "ingress")
            summary.traffic[traffic] += int(size)
            if not size:
                continue  # nothing has no parts
            cell = Cell(traffic, at_ms, serves, port or 0, service or "", dnat, direction == "relay")
            evidence.cells[cell] += int(size)
            if len(evidence.cells) > MAX_CELLS:
                raise Refusal(
                    f"more than {MAX_CELLS:,} kinds of conversations are in this range; ask for less of it: "
                    "-n NAMESPACE, --port PORT, or a shorter --since"
                )

    def tables(self, selection: Selection, held: Iterable[tuple[str, str]] | None = None) -> Iterator[pa.Table]:
        """Yield the rows that are wanted, with the flow log's columns.

        `held`: what `Selection.held` says of the addresses in them, where that is known.
        """
        yield from self._rows(COLUMNS, FLOWS, selection, held)

    def _rows(
        self,
        columns: Sequence[str],
        view: str,
        selection: Selection,
        held: Iterable[tuple[str, str]] | None = None,
    ) -> Iterator[pa.Table]:
        where, parameters = self._where(selection, held)
        query = f"SELECT {', '.join(columns)} FROM {view} WHERE {where}"  # noqa: S608 - names that are ours
        reader: pa.RecordBatchReader = self._database.sql(query, params=parameters).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            yield pa.Table.from_batches([batch])

    def places(self, selection: Selection) -> list[int]:
        """Return which rows are wanted, by the view's column `place`."""
        where, parameters = self._where(selection)
        return [place for (place,) in self._fetch(f"SELECT place FROM flows WHERE {where} ORDER BY 1", parameters)]  # noqa: S608

    def present(self, selection: Selection) -> Present:
        """Return what the time range holds, by which it shows why nothing is wanted."""
        [(flows, largest)] = self._fetch(f"SELECT count(*), max(bytes) FROM flows WHERE {_IN_RANGE}", self._bounds)  # noqa: S608
        found = Present(flows, int(largest or 0))
        for name, text, alone in selection.alone():
            where, parameters = self._where(alone)
            if self._fetch(f"SELECT 1 FROM flows WHERE {where} LIMIT 1", parameters):  # noqa: S608
                found.met.add((name, text))
            elif name in _VALUES and name not in found.values:
                found.values[name] = self._values(_VALUES[name])
        return found

    def _values(self, of_side: str) -> set[str]:
        """Return the values of an expression, on either side of a flow."""
        sides = (f"SELECT {of_side.format(side)} FROM flows WHERE {_IN_RANGE}" for side in _SIDES)  # noqa: S608
        found = self._fetch(" UNION ".join(sides), [*self._bounds, *self._bounds])
        return {value for (value,) in found if value is not None}

    def _where(self, selection: Selection, held: Iterable[tuple[str, str]] | None = None) -> tuple[str, list[object]]:
        if selection.on_addresses:
            found = self._held(selection) if held is None else held
            self._database.register(WANTED_ADDRESSES, wanted_addresses(found))
        condition, parameters = selection.sql(WANTED_ADDRESSES)
        return f"{_IN_RANGE} AND {condition}", [*self._bounds, *parameters]

    @property
    def _bounds(self) -> list[int]:
        by_ms = self.span.ended_by_ms
        return [self.span.from_ms, self.span.to_ms, _EVER_MS if by_ms is None else by_ms]

    def _held(self, selection: Selection) -> list[tuple[str, str]]:
        """Return the flows' own addresses that filters on addresses want, with the filter's name."""
        if not selection.on_addresses:
            return []
        query = "SELECT src_address FROM flows UNION SELECT dst_address FROM flows"
        return selection.held([address for (address,) in self._fetch(query, []) if address])

    def _stream(self, query: str, parameters: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        with self._reading():
            result = self._database.execute(query, parameters)
            while rows := result.fetchmany(FETCH_ROWS):
                yield from rows

    def _fetch(self, query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        return list(self._stream(query, parameters))

    def _rows_view(self) -> str:
        """Return the view whose rows have every column."""
        return FLOWS

    def _reading(self) -> AbstractContextManager[None]:
        """Return what turns an error in reading into words."""
        return nullcontext()


def wanted_addresses(held: Iterable[tuple[str, str]]) -> pa.Table:
    """Return the table that `Selection.sql` looks addresses up in."""
    pairs = list(held)
    names, addresses = ([pair[place] for pair in pairs] for place in (0, 1))
    return pa.table({"filter": pa.array(names, pa.string()), "address": pa.array(addresses, pa.string())})


def _label_table(times: Sequence[LabelTime], span: TimeRange, slot_ms: int) -> pa.Table:
    rows = list(by_slot(times, span, slot_ms))
    types = (pa.int64(), pa.string(), pa.int64(), pa.int64(), pa.string())
    columns = zip(LABEL_COLUMNS, types, strict=True)
    return pa.table({name: pa.array([row[at] for row in rows], of) for at, (name, of) in enumerate(columns)})


def _end_columns(side: str) -> str:
    """Return the columns that a report's end is made of; a node only of what is a node, a pod of what has gone."""
    special = {
        "node": f"CASE WHEN {side}kind = 'node' THEN {side}node END",
        "pod": f"CASE WHEN {side}workload IS NULL THEN {side}pod END",
    }
    return ", ".join(special.get(name, f"{side}{name}") for name in FIELDS)


def _both_ends(parties: Parties) -> tuple[list[str], list[str | int]]:
    """Return the columns that `_ends` makes parties of, and their parameters."""
    brokers = " OR ".join(["(%saddress = ? AND %sport = ?)"] * len(parties.brokers)) or "false"
    pairs = [value for address in sorted(parties.brokers) for value in address]
    # Which end is a broker tells what of a node's traffic is the meter's own, and nothing else.
    sides = zip(_SIDES, reversed(_SIDES), strict=True)
    tests = {side: f"{other}kind = 'node' AND ({brokers.replace('%s', side)})" for side, other in sides}
    return [f"{_end_columns(side)}, {test}" for side, test in tests.items()], [*pairs, *pairs]


def _ends(parties: Parties, values: list[object]) -> tuple[Party, Party]:
    width = len(FIELDS) + 1
    source, destination = (
        parties.of([None if value is None else str(value) for value in facts], broker=bool(broker))
        for *facts, broker in (values[:width], values[width:])
    )
    return source, destination
