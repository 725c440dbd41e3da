# SPDX-License-Identifier: Apache-2.0
"""What is asked of flows, as SQL over the flow log's columns: sums for a report, rows for a replay, values for a hint.

Files of an archive and batches of a topic are asked alike, so a filter and a sum mean the same of both.
Blocking: a command line has nothing else to do meanwhile.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import duckdb
import pyarrow as pa

from common.errors import Refusal
from history.model.evidence import MAX_CELLS, Cell, Evidence
from history.model.filters import Selection
from history.model.grouping import LABEL_COLUMNS, LABEL_TIMES, By, Per, groups_sql, joins_sql, period_sql
from history.model.hints import Present
from history.model.party import Parties, Party
from history.model.states.labels import LabelTime, by_slot
from history.model.summary import Summary, Traffic
from history.model.time_range import MAX_SLOTS, TimeRange
from history.read.ends_sql import ENDS_WIDTH, SIDES, both_ends, parties_of
from sinks.flowlog.rows.columns import COLUMNS, Value

FETCH_ROWS = 5_000
_BATCH_ROWS = 50_000
# Of sums by period: with its cost one takes some 450 bytes, and its lines as much again.
MAX_KINDS = 500_000
FLOWS = "flows"
WANTED_ADDRESSES = "wanted_addresses"
# Each flow is both. Of a rollup, rows with traffic name no observer, and rows that name one carry no traffic.
_COUNTED = "encapsulation IS NULL AND scope IS NOT NULL"
# Null of outer packets of an overlay, and of a rollup's rows without traffic, which have no bytes.
_COUNTED_SCOPE = "CASE WHEN encapsulation IS NULL THEN scope END"
_BY_NODE = "observer_node IS NOT NULL"
# What does not depend on the ends, and which set a row is of: a bit for each column that it is not of. Clusters stand
# with kinds of traffic where these are asked for: they are few, and a set of their own takes longer.
_WINDOW = ("window_start", "window_end", "counted_scope", "is_known", "is_wanted")
_FACT_COLUMNS = """grouping_id(window_start, known_node), epoch_ms(window_start), epoch_ms(window_end),
    known_node, known_cluster, is_known"""
_OF_WINDOW, _OF_NODE = 0b01, 0b10
_NO_FACT = "NULL, NULL, NULL, NULL, NULL, NULL, NULL"
_RELAYED_IN = "CASE WHEN direction = 'relay' THEN observer_zone END"
# What flows are told apart by where nobody asked for more.
_CONSTANTS = ("0", "''", "false", "true")
_EVER_MS = 2**63 - 1
ALWAYS = TimeRange(0, _EVER_MS)
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
        slot_ms = max(self.span.slot_ms, (self.span.to_ms - self.span.from_ms) // MAX_SLOTS)
        if by == "label":
            self._database.register(LABEL_TIMES, _label_table(labels, self.span, slot_ms))
        sides, pairs = both_ends(ends)
        told = ("direction", _RELAYED_IN, period_sql(per), *groups_sql(by), *sides)
        if not selection.is_any:
            # What nobody wants need not be told apart, and row groups without what is wanted not be read.
            self._add_facts(summary, selection)
        joins = joins_sql(by, slot_ms)
        rows = self._grouped(summary, selection, told, pairs, joins, facts=selection.is_any)
        for source, destination, row in self._between(ends, rows):
            scope, size, flows, direction, _, period_ms, from_group, to_group = row
            summary.flows += int(flows)
            traffic = Traffic(scope, source, destination, direction == "ingress", (from_group, to_group), period_ms)
            summary.traffic[traffic] += int(size)
            if per is not None and len(summary.traffic) > MAX_KINDS:
                raise Refusal(
                    f"per = {per}: more than {MAX_KINDS:,} kinds of traffic are in this range; ask for longer periods, "
                    "-n NAMESPACE, --scope cross_zone, or a shorter --since"
                )

    def _between(
        self, ends: Parties, rows: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[Party, Party, tuple[Any, ...]]]:
        """Yield source and destination of rows that end in both, and the rest of each row.

        That begins with scope, bytes, flows, direction, and the zone that it was relayed in.
        A relayed leg begins in the observer's zone. Of that the log holds the name alone; the ends tell its region.
        """
        regions: dict[str, str] = self._regions or {}
        waiting: list[tuple[Party, Party, tuple[Any, ...]]] = []
        for row in rows:
            source, destination = parties_of(ends, row[-ENDS_WIDTH:])
            if self._regions is None:
                regions |= {end.zone: end.region for end in (source, destination) if end.zone and end.region}
            _, _, _, direction, relayed_in, *_ = row
            if direction == "relay" and relayed_in not in regions:
                waiting.append((source, destination, row[:-ENDS_WIDTH]))
                continue
            if direction == "relay":
                source = ends.at(source, relayed_in, regions[relayed_in])
            yield source, destination, row[:-ENDS_WIDTH]
        # Perhaps flows that are not wanted tell it.
        for source, destination, row in waiting:
            yield ends.at(source, row[4] or "", self.regions().get(row[4], "")), destination, row

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
            query = "SELECT DISTINCT src_zone, src_region, dst_zone, dst_region FROM flows"
            found = [pair for row in self._fetch(query, []) for pair in (row[:2], row[2:])]
            self._regions = {zone: region for zone, region in found if zone and region}
        return self._regions

    def _add_facts(self, summary: Summary, selection: Selection) -> None:
        """Add all that is not of two ends."""
        for _ in self._grouped(summary, selection, facts=True):
            pass

    def _grouped(
        self,
        summary: Summary,
        selection: Selection,
        told: Sequence[str] = (),
        parameters: Sequence[object] = (),
        joins: str = "",
        *,
        facts: bool,
    ) -> Iterator[tuple[Any, ...]]:
        """Add the facts, and yield kinds of traffic: scope, bytes, flows, and `told`, if any.

        Whatever is asked for is read at once: of many small files, to open them is what takes the time. Without facts
        only what is wanted is read.
        """
        wanted, values = self._condition(selection)
        # Who counted, and when, does not depend on which flows are wanted.
        by_whom, clusters = self._condition(Selection(clusters=selection.clusters))
        only = "" if facts else f" AND {_COUNTED} AND {wanted}"
        names = [f"told_{number}" for number in range(len(told))]
        kinds = (*(["known_cluster"] if facts else []), *(["counted_scope", *names] if told else []))
        sets = (_WINDOW, ["known_node"], kinds) if facts else (kinds,)
        known = "{0}" if by_whom == "true" else "CASE WHEN is_known THEN {0} END"
        each = {
            "is_known": f"{_BY_NODE} AND {by_whom}",
            "counted_scope": _COUNTED_SCOPE,
            "known_node": known.format("observer_node"),
            "known_cluster": known.format("cluster"),
            "is_wanted": wanted,
            **dict(zip(names, told, strict=True)),
        }
        # What is the same of all need not tell them apart: each column of a set takes its time.
        same = {name: value for name, value in each.items() if value in _CONSTANTS}
        by = (", ".join(name for name in one if name not in same) for one in sets)
        # The statement is made of names that are ours; what a user said is a parameter.
        query = f"""
            WITH each AS (
                SELECT *, {", ".join(f"{value} AS {name}" for name, value in each.items())}
                FROM flows {joins} WHERE {self._in_range}{only}
            )
            SELECT {f"{_FACT_COLUMNS}, {same.get('is_wanted', 'is_wanted')}" if facts else _NO_FACT},
                counted_scope, sum(bytes), sum(flows) {"".join(f", {same.get(name, name)}" for name in names)}
            FROM each GROUP BY GROUPING SETS ({", ".join(f"({one})" for one in by)})
        """  # noqa: S608
        slot = self.span.slot_ms
        given = [*clusters, *values, *parameters, *(() if facts else values)]
        for which, from_ms, to_ms, node, cluster, is_known, is_wanted, *row in self._stream(query, given):
            scope, size, *_ = row
            if which == _OF_NODE:
                summary.observers |= {node} - {None}
            elif which == _OF_WINDOW:
                if is_known:
                    summary.windows.add((from_ms, to_ms))
                if is_wanted and scope is None:
                    summary.outer_bytes += int(size or 0)
                elif is_wanted:
                    summary.slots[from_ms // slot * slot, scope] += int(size or 0)
            else:
                summary.clusters |= {cluster} - {None}
                if scope is not None:
                    yield tuple(row)

    def gather(self, ends: Parties, evidence: Evidence, summary: Summary, selection: Selection) -> None:
        """Add the flows that are wanted to the evidence for advice, and to a summary."""
        where, parameters = self._where(selection)
        sides, pairs = both_ends(ends)
        query = f"""
            WITH told AS (
                SELECT *, {_SERVES} AS serves FROM {self._rows_view()} WHERE {_COUNTED} AND {where}
            )
            SELECT scope, sum(bytes), sum(flows), direction, {_RELAYED_IN},
                epoch_ms(window_start) // ? * ?, serves, coalesce(dnat, false),
                CASE serves WHEN 'source' THEN src_port WHEN 'destination' THEN dst_port END,
                CASE serves WHEN 'source' THEN src_service WHEN 'destination' THEN dst_service END,
                {", ".join(sides)}
            FROM told GROUP BY ALL
        """  # noqa: S608 - every name in it is ours, every value a parameter
        self._add_facts(summary, selection)
        slot = evidence.slot_ms
        rows = self._stream(query, [*parameters, slot, slot, *pairs])
        for source, destination, row in self._between(ends, rows):
            scope, size, flows, direction, _, at_ms, serves, dnat, port, service = row
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
        [(flows, largest)] = self._fetch(f"SELECT count(*), max(bytes) FROM flows WHERE {self._in_range}", [])  # noqa: S608
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
        sides = (f"SELECT {of_side.format(side)} FROM flows WHERE {self._in_range}" for side in SIDES)  # noqa: S608
        found = self._fetch(" UNION ".join(sides), [])
        return {value for (value,) in found if value is not None}

    def _condition(
        self, selection: Selection, held: Iterable[tuple[str, str]] | None = None
    ) -> tuple[str, list[Value]]:
        if selection.on_addresses:
            found = self._held(selection) if held is None else held
            self._database.register(WANTED_ADDRESSES, wanted_addresses(found))
        return selection.sql(WANTED_ADDRESSES)

    def _where(self, selection: Selection, held: Iterable[tuple[str, str]] | None = None) -> tuple[str, list[object]]:
        condition, parameters = self._condition(selection, held)
        return f"{self._in_range} AND {condition}", [*parameters]

    @property
    def _in_range(self) -> str:
        """The condition that a row of the view is in the range."""
        return self._in_span

    @property
    def _in_span(self) -> str:
        """The condition that a window is in the range: of times as they are stored, which a row group's least tell."""
        by_ms = _EVER_MS if self.span.ended_by_ms is None else self.span.ended_by_ms
        from_, to, beyond = map(_moment, (self.span.from_ms, self.span.to_ms, by_ms + 1))
        return f"window_start >= {from_} AND window_start < {to} AND window_end < {beyond}"

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


def _moment(at_ms: int) -> str:
    return f"make_timestamptz({min(at_ms * 1000, _EVER_MS - 1)})"
