# SPDX-License-Identifier: Apache-2.0
"""Pairs recorded flows with those of a new join, by the raw rows that they are of, and adds up what differs.

A flow's id names its chunk and its number there. Of a flow written late the number is so many times the chunk's rows
more, and one that sums up rows names them (enricher/join/join.py). The new join is of single rows, so rows are what is
paired: those of a recorded flow are if all of them are there, come to its bytes and packets, and are in no other flow.
All else is of one side alone. DuckDB does it, within a bound of memory.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from msgspec import UNSET

from history.read.batch import FlowBatch
from history.read.database import bounded_database
from history.read.flow_sql import FETCH_ROWS
from history.replay.diff.reasons import CHUNK_NOT_READ, CHUNK_NOT_RECORDED, FACTS, SENDER_METERED, UNKNOWN, Facts
from schemas.ids import split_flow_id
from sinks.flowlog.rows.columns import FlatEnd, text
from sinks.intake import Row

Side = Literal["recorded", "rejoined"]
Kind = Literal["changed", "same", "only_recorded", "only_rejoined"]

_NAMED = pa.schema(
    [
        ("chunk", pa.string()),
        ("number", pa.int64()),
        ("rows", pa.list_(pa.int64())),
        ("is_wanted", pa.bool_()),
        ("observer_region", pa.string()),
    ]
)
_CHUNKS = pa.schema([("chunk", pa.string()), ("rows", pa.int64()), ("is_aside", pa.bool_())])
_FROM_FLOWS = ("bytes", "packets", *(name for name in FACTS if name not in _NAMED.names))
_COLUMNS = (*_NAMED.names, *_FROM_FLOWS)
_SIDES = ("src_", "dst_")

_THEN = [f"recorded.{name} AS then_{name}" for name in FACTS]
# What a flow that sums up rows leaves out of an end, it does not contradict.
_SUMMED = "recorded.rows IS NOT NULL AND recorded.{0}kind = 'pod' AND recorded.{0}pod IS NULL"
_LEFT_OUT = {f"{side}{name}": _SUMMED.format(side) for side in _SIDES for name in ("pod", "node")}
_NOW = [
    f"CASE WHEN {_LEFT_OUT[name]} THEN NULL ELSE rejoined.{name} END AS now_{name}"
    if name in _LEFT_OUT
    else f"rejoined.{name} AS now_{name}"
    for name in FACTS
]
_PAIR = f"""
    CREATE TABLE read_chunks AS SELECT chunk, max(rows) AS rows, bool_or(is_aside) AS is_aside FROM chunks GROUP BY 1;
    CREATE TABLE claims AS
        SELECT chunk, number, unnest(coalesce(recorded.rows, [number])) % read_chunks.rows AS place
        FROM recorded JOIN read_chunks USING (chunk);
    CREATE TABLE whole AS
        WITH members AS (FROM claims QUALIFY count(*) OVER (PARTITION BY chunk, place) = 1)
        SELECT members.chunk, members.number
        FROM members JOIN recorded USING (chunk, number)
            JOIN rejoined ON rejoined.chunk = members.chunk AND rejoined.number = place
        GROUP BY ALL
        HAVING count(*) = any_value(coalesce(len(recorded.rows), 1))
            AND sum(rejoined.bytes) = any_value(recorded.bytes)
            AND sum(rejoined.packets) = any_value(recorded.packets);
    CREATE TABLE pairs AS SELECT claims.* FROM claims JOIN whole USING (chunk, number);
    CREATE VIEW paired AS
        SELECT recorded.rows IS NOT NULL AS is_sum, rejoined.bytes, {", ".join((*_THEN, *_NOW))}
        FROM pairs JOIN recorded USING (chunk, number)
            JOIN rejoined ON rejoined.chunk = pairs.chunk AND rejoined.number = place
        WHERE recorded.is_wanted OR rejoined.is_wanted;
"""  # noqa: S608 - names that are ours, here and below
_DIFFERS = " OR ".join(f"then_{name} IS DISTINCT FROM now_{name}" for name in FACTS)
_CHANGED = f"""
    SELECT is_sum, '', count(*), sum(bytes), {", ".join(f"{time}_{name}" for time in ("then", "now") for name in FACTS)}
    FROM paired WHERE {_DIFFERS} GROUP BY ALL
"""  # noqa: S608
# Of what is the same only what an end is called by, and what a price depends on.
_COARSE = {
    f"{side}{name}": how.format(side)
    for side in _SIDES
    for name, how in {
        "pod": "CASE WHEN then_{0}workload IS NULL THEN then_{0}pod END",
        "node": "CASE WHEN then_{0}kind = 'node' THEN then_{0}node END",
        "zone_id": "NULL",
        "reason": "NULL",
    }.items()
}
_SAME = f"""
    SELECT false, '', count(*), sum(bytes), {", ".join(_COARSE.get(name, f"then_{name}") for name in FACTS)}
    FROM paired WHERE NOT ({_DIFFERS}) GROUP BY ALL
"""  # noqa: S608
_ONLY_RECORDED = f"""
    SELECT rows IS NOT NULL, CASE
            WHEN chunk NOT IN (SELECT chunk FROM read_chunks) THEN '{CHUNK_NOT_READ}'
            WHEN chunk IN (SELECT chunk FROM read_chunks WHERE is_aside) AND (chunk, number) NOT IN (
                SELECT (claims.chunk, claims.number) FROM claims
                    JOIN rejoined ON rejoined.chunk = claims.chunk AND rejoined.number = place
            ) THEN '{SENDER_METERED}'
            ELSE '{UNKNOWN}' END,
        count(*), sum(bytes), {", ".join(FACTS)}
    FROM recorded ANTI JOIN whole USING (chunk, number) WHERE is_wanted GROUP BY ALL
"""  # noqa: S608
_ONLY_REJOINED = f"""
    SELECT false,
        if(chunk IN (SELECT chunk FROM recorded), '{UNKNOWN}', '{CHUNK_NOT_RECORDED}'),
        count(*), sum(bytes), {", ".join(FACTS)}
    FROM rejoined ANTI JOIN pairs ON pairs.chunk = rejoined.chunk AND pairs.place = rejoined.number
    WHERE is_wanted GROUP BY ALL
"""  # noqa: S608
# What a row says after its sums: `FACTS` of then, of now, or where both are the same or one is missing, once.
_QUERIES: dict[Kind, str] = {
    "changed": _CHANGED,
    "same": _SAME,
    "only_recorded": _ONLY_RECORDED,
    "only_rejoined": _ONLY_REJOINED,
}


class Found(NamedTuple):
    """Flows that are alike. `then`, `now`: what is said of them, by `FACTS`; None on the side that lacks them.

    `is_sum`: recorded as sums of rows. `why`: of what one side alone has. `flows`: rows of chunks, but for what is
    recorded only.
    """

    kind: Kind
    is_sum: bool
    why: str
    flows: int
    bytes: int
    then: Facts | None
    now: Facts | None


class Pairs:
    """The flows of both sides. `directory`: for what does not fit memory."""

    def __init__(self, directory: Path) -> None:
        self._database = bounded_database(directory)
        columns = ", ".join(_COLUMNS)
        empty = _table([], set())
        chunks = _CHUNKS.empty_table()
        for side in ("recorded", "rejoined"):
            self._insert(f"CREATE TABLE {side} AS SELECT {columns} FROM batch", empty)  # noqa: S608
        self._insert("CREATE TABLE chunks AS FROM batch", chunks)

    def add(self, side: Side, rows: list[Row[FlatEnd]], wanted: Collection[str]) -> None:
        """Take flows; `wanted`: the ids of those that the filters want."""
        self._insert(f"INSERT INTO {side} SELECT {', '.join(_COLUMNS)} FROM batch", _table(rows, wanted))  # noqa: S608

    def add_chunks(self, chunks: Sequence[tuple[str, int, bool]]) -> None:
        """Take note of chunks that were joined: id, number of rows, whether some were put aside."""
        columns = zip(*chunks, strict=True) if chunks else ([], [], [])
        arrays = [pa.array(list(each), kind) for each, kind in zip(columns, _CHUNKS.types, strict=True)]
        self._insert("INSERT INTO chunks FROM batch", pa.table(arrays, schema=_CHUNKS))

    def found(self) -> Iterator[Found]:
        """Pair all that was taken, once, and yield what comes of it: each byte of either side is in there once."""
        self._database.execute(_PAIR)
        for kind, query in _QUERIES.items():
            for is_sum, why, flows, size, *values in self._stream(query):
                then = None if kind == "only_rejoined" else dict(zip(FACTS, values, strict=False))
                now = None if kind == "only_recorded" else dict(zip(FACTS, values[-len(FACTS) :], strict=True))
                yield Found(kind, is_sum, why, flows, int(size), then, now)

    def close(self) -> None:
        """Give the memory back."""
        self._database.close()

    def _insert(self, statement: str, batch: pa.Table) -> None:
        self._database.register("batch", batch)
        self._database.execute(statement)
        self._database.unregister("batch")

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        result = self._database.execute(query)
        while rows := result.fetchmany(FETCH_ROWS):
            yield from rows


def _table(rows: list[Row[FlatEnd]], wanted: Collection[str]) -> pa.Table:
    places = [split_flow_id(row.flow.id) for row in rows]
    named = {
        "chunk": [chunk for chunk, _ in places],
        "number": [number for _, number in places],
        "rows": [None if row.flow.rows is UNSET else row.flow.rows for row in rows],
        "is_wanted": [row.flow.id in wanted for row in rows],
        "observer_region": [None if row.observer.cloud is UNSET else text(row.observer.cloud.region) for row in rows],
    }
    table = FlowBatch(rows).table().select(_FROM_FLOWS)
    for field in _NAMED:
        table = table.append_column(field, pa.array(named[field.name], field.type))
    return table
