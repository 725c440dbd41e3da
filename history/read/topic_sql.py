# SPDX-License-Identifier: Apache-2.0
"""A topic's flows as tables in DuckDB, for the questions of history/read/flow_sql.py.

Of a row some numbers are kept. What they stand for repeats and is written once: writing every column of every row
would take longer than summing up.
"""

from array import array
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import duckdb
import pyarrow as pa
from msgspec import UNSET, UnsetType

from history.model.filters import Selection
from history.model.hints import Present, why_nothing
from history.model.time_range import TimeRange
from history.read.database import open_database
from history.read.flow_sql import ALWAYS, FLOWS, FlowQuery
from schemas.flow import Cloud, Observer
from sinks.flowlog.rows.columns import END_COLUMNS, FlatEnd, Value, text
from sinks.flowlog.rows.parquet import MILLISECONDS, TIME
from sinks.intake import Row

# What is held at most: a row takes some 60 bytes; an end, an observer or a kind 1 KiB.
MAX_ROWS, MAX_ENDS = 100_000, 100_000

K = TypeVar("K", bound=Hashable)

_NUMBERS = ("window_start", "window_end", "bytes", "kind", "observer", "source", "destination")
_KIND = ("scope", "direction", "encapsulation", "cluster", "dnat", "server")
_Kind = tuple[str, str, str | UnsetType, str, bool, str | UnsetType]
_OBSERVER = ("observer_node", "observer_zone")
_TYPES = {"port": pa.int32(), "dnat": pa.bool_()}
_ENDS = [f"{side}.{name} AS {side}_{name}" for side in ("src", "dst") for name in END_COLUMNS]
_VIEW = f"""
    CREATE OR REPLACE VIEW {FLOWS} AS
    SELECT place, window_start, window_end, bytes, 1 AS flows, {", ".join((*_KIND, *_OBSERVER, *_ENDS))}
    FROM numbers JOIN kinds ON kind = kinds.id JOIN observers ON observer = observers.id
        JOIN ends src ON source = src.id JOIN ends dst ON destination = dst.id
"""  # noqa: S608 - every name in it is ours


class TopicRows:
    """Rows that are asked about together."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget them, and what they stand for."""
        self.clear_rows()
        self._kinds: dict[_Kind, int] = {}
        # By identity: the intake makes one object of what repeats.
        self._observers: dict[int, int] = {}
        self._by_name: dict[int, Observer] = {}
        self._ends: dict[FlatEnd, int] = {}
        self._end_tables: list[pa.Table] = []

    def clear_rows(self) -> None:
        """Forget them, and keep what they stand for: most of it comes again."""
        self._numbers = {name: array("q") for name in _NUMBERS}

    def __len__(self) -> int:
        return len(self._numbers["bytes"])

    @property
    def is_full(self) -> bool:
        """Whether it is time to ask, and to forget them."""
        known = max(len(self._ends), len(self._by_name), len(self._kinds))
        return len(self) >= MAX_ROWS or known >= MAX_ENDS

    def add(self, rows: Sequence[Row[FlatEnd]]) -> None:
        """Take rows."""
        flows, observers = [row[0] for row in rows], [row[3] for row in rows]
        names = list(map(id, observers))
        self._by_name.update(zip(names, observers, strict=True))
        kinds = [
            (flow.scope, flow.direction, flow.encapsulation, flow.k8s.cluster.name, flow.dnat is True, flow.server)
            for flow in flows
        ]
        numbers = self._numbers
        numbers["window_start"].extend([flow.start_ms for flow in flows])
        numbers["window_end"].extend([flow.end_ms for flow in flows])
        numbers["bytes"].extend([flow.bytes for flow in flows])
        numbers["kind"].extend(_number(kinds, self._kinds))
        numbers["observer"].extend(_number(names, self._observers))
        numbers["source"].extend(_number([row[1] for row in rows], self._ends))
        numbers["destination"].extend(_number([row[2] for row in rows], self._ends))

    def query(self, database: duckdb.DuckDBPyConnection, span: TimeRange = ALWAYS) -> FlowQuery:
        """Return what answers questions about them, until the database is used for others. Row n has `place` n."""
        numbers = {name: pa.array(memoryview(values), pa.int64()) for name, values in self._numbers.items()}
        for name in ("window_start", "window_end"):
            numbers[name] = numbers[name].cast(MILLISECONDS).cast(TIME)
        observers = [self._by_name[name] for name in self._observers]
        places = [(each.node, Cloud() if each.cloud is UNSET else each.cloud) for each in observers]
        kinds = [
            (scope, direction, text(outer), cluster, translated, text(server))
            for scope, direction, outer, cluster, translated, server in self._kinds
        ]
        database.register("numbers", pa.table({**numbers, "place": pa.array(range(len(self)), pa.int64())}))
        database.register("kinds", _numbered(_KIND, kinds))
        zones = [(node, text(cloud.availability_zone)) for node, cloud in places]
        database.register("observers", _numbered(_OBSERVER, zones))
        database.register("ends", self._end_table())
        database.execute(_VIEW)
        regions = {text(cloud.availability_zone): text(cloud.region) for _, cloud in places}
        return FlowQuery(database, span, {zone: region for zone, region in regions.items() if zone and region})

    def _end_table(self) -> pa.Table:
        told = sum(len(table) for table in self._end_tables)
        new = [end.values for end in islice(self._ends, told, None)]
        if new or not self._end_tables:
            self._end_tables.append(_numbered(END_COLUMNS, new, told))
        return pa.concat_tables(self._end_tables)


class Sieve:
    """Lets the rows through that are wanted; knows what the others had, for the hint if none is ever wanted."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._database = open_database()
        self._asked = TopicRows()
        self._present = Present()
        self._found = False

    def wanted(self, rows: list[Row[FlatEnd]]) -> list[Row[FlatEnd]]:
        """Return those that are wanted. It takes some milliseconds: give it many."""
        if rows and not self._selection.is_any:
            if self._asked.is_full:
                self._asked.clear()
            self._asked.clear_rows()
            self._asked.add(rows)
            query = self._asked.query(self._database)
            rows = [rows[place] for place in query.places(self._selection)]
            if not self._found and not rows:
                self._present.merge(query.present(self._selection))
        self._found |= bool(rows)
        return rows

    def why_nothing(self, where: str = "in this range") -> str:
        """Say why no row was wanted; "" if one was, or none came."""
        return why_nothing(self._selection, self._present, where) if self._present.flows and not self._found else ""


def _number(values: Sequence[K], known: dict[K, int]) -> Iterable[int]:
    """Return a number for each value: the one it has, or the next."""
    for value in dict.fromkeys(values):
        known.setdefault(value, len(known))
    return map(known.__getitem__, values)


def _numbered(names: Sequence[str], rows: Sequence[Sequence[Value]], first: int = 0) -> pa.Table:
    """Return a table of these columns, in which row n has `id` `first` + n."""
    columns = {
        name: pa.array([row[place] for row in rows], _TYPES.get(name, pa.string())) for place, name in enumerate(names)
    }
    return pa.table({"id": pa.array(range(first, first + len(rows)), pa.int64()), **columns})
