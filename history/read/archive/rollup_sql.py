# SPDX-License-Identifier: Apache-2.0
"""Rollups as SQL: how one is made of an hour's flows, and how some are opened beside flows.

A rollup has the flow log's columns, so what is asked of flows is asked of rollups in the same words, and `flows`, how
many of these a row stands for. It has two kinds of rows. Those with a scope are traffic, summed up by what a report
tells apart. Those without one have no bytes: they say which node counted, from when to when.
"""

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from history.model.end_names import reads_as_network
from history.model.rollups import SLACK_MS
from history.model.time_range import TimeRange
from history.read.archive.limits import CHECKED, check_files
from history.read.archive.opened import FlowArchive
from history.read.batch import ROLLUP_SCHEMA
from history.read.database import literal
from sinks.flowlog.rows.columns import END_COLUMNS

SUMMED = ("bytes", "packets")
ELSEWHERE = "a window is not of the hour that the file is of"
_FLOWS = "flows"
_NETWORKS = "rollup_networks"
_SIDES = (("src_", "dst_"), ("dst_", "src_"))

# Of what repeats: what a report tells apart, and no more. A report names an end by its pod where it has no workload; a
# node by its name. It tells the meter's own traffic by the brokers' addresses, where the other end is a node. The outer
# packets of an overlay go from each node to each: of these it tells the sum.
_END = {
    "address": "CASE WHEN encapsulation IS NULL AND {1}kind = 'node' AND {0}port IS NOT NULL THEN {0}address END",
    "pod": "CASE WHEN {0}workload IS NULL THEN {0}pod END",
    "node": "CASE WHEN encapsulation IS NULL AND {0}kind = 'node' THEN {0}node END",
    # A prefix that stands for folded addresses of the internet is not an end's name.
    "name": f"CASE WHEN {{0}}kind <> 'external' OR {{0}}name NOT IN (SELECT name FROM {_NETWORKS}) THEN {{0}}name END",  # noqa: S608
}
# Which node counted when: windows that adjoin each other as one stretch.
_METERED = """
    SELECT cluster, observer_node, min(window_start) AS window_start, max(window_end) AS window_end,
        0 AS bytes, 0 AS packets, 0 AS flows
    FROM (
        SELECT *, count_if(is_first) OVER (PARTITION BY cluster, observer_node ORDER BY window_start) AS stretch
        FROM (
            SELECT *, coalesce(window_start > max(window_end) OVER (
                PARTITION BY cluster, observer_node ORDER BY window_start
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), true) AS is_first
            FROM (
                SELECT cluster, observer_node, window_start, max(window_end) AS window_end
                FROM {0} WHERE observer_node IS NOT NULL GROUP BY ALL
            )
        )
    )
    GROUP BY cluster, observer_node, stretch
"""


def roll_up(database: duckdb.DuckDBPyConnection, flows: str, span: TimeRange) -> duckdb.DuckDBPyRelation:
    """Return the rollup of a view of an hour's flows, or a day's rollups, with the column `flows`."""
    names = " UNION ".join(f"SELECT {side}name FROM {flows} WHERE {side}kind = 'external'" for side, _ in _SIDES)  # noqa: S608
    networks = [name for (name,) in database.execute(names).fetchall() if name and reads_as_network(name)]
    database.register(_NETWORKS, pa.table({"name": pa.array(networks, pa.string())}))
    special = {
        f"{side}{name}": _END[name].format(side, other)
        for side, other in _SIDES
        for name in END_COLUMNS
        if name in _END
    } | {
        "window_start": f"if({begun_in(span)} IS NULL, NULL, {_moment(span.from_ms)})",
        # Of a window that ends later than any should, as where a collector could not publish, the end is kept.
        "window_end": f"if(epoch_ms(window_end) > {span.to_ms + SLACK_MS}, window_end, {_moment(span.to_ms)})",
        "observer_node": "NULL",
        **{each: f"sum({there(each)})::BIGINT" for each in SUMMED},
        _FLOWS: "sum(flows)::BIGINT",
    }
    columns = ", ".join(f"{special.get(name, name)} AS {name}" for name in ROLLUP_SCHEMA.names)
    return database.sql(
        f"""
        SELECT {columns} FROM {flows} WHERE scope IS NOT NULL GROUP BY ALL UNION ALL BY NAME {_METERED.format(flows)}
        ORDER BY src_namespace, src_workload, src_kind, src_node, dst_namespace, dst_workload, dst_kind, dst_node
        """  # noqa: S608 - names that are ours, and numbers
    )


def _moment(at_ms: int) -> str:
    return f"make_timestamptz({at_ms * 1000})"


def view_rollups(
    database: duckdb.DuckDBPyConnection, archive: FlowArchive, paths: Sequence[str], name: str, *, whole: bool = False
) -> None:
    """Make a view of rollups of an archive; raise `duckdb.Error` where the first has other columns.

    `whole`: something is to be written out of them that stands in their place.
    """
    check_files(archive, paths, whole=whole)
    files = [f"{archive.root}/{path}" for path in paths]
    if archive.is_local:
        rows = database.read_parquet([*map(literal, files)], hive_partitioning=False)
    else:
        rows = database.from_arrow(ds.dataset(files, ROLLUP_SCHEMA, filesystem=archive.filesystem, format=CHECKED))
    columns = (column for column in ROLLUP_SCHEMA.names if column not in (*SUMMED, _FLOWS))
    summed = (f"{_of_traffic(each)} AS {each}" for each in (*SUMMED, _FLOWS))
    rows.project(", ".join([*columns, *summed])).create_view(name, replace=True)


def there(column: str) -> str:
    """Return a column as SQL that fails where a row has none: a sum would leave such a row out without a word."""
    return f"coalesce({column}, error('a row has no {column}'))"


def begun_in(span: TimeRange) -> str:
    """Return when a window began as SQL that fails where that is not in a time: it would count in the wrong one."""
    from_, to = map(_moment, (span.from_ms, span.to_ms))
    within = f"window_start >= {from_} AND window_start < {to}"
    return f"CASE WHEN {within} THEN window_start ELSE error('{ELSEWHERE}') END"


def _of_traffic(column: str) -> str:
    """Return the same of a rollup's column: a row without a scope, which says who counted, stands for no flows."""
    return f"if(scope IS NULL AND {column} <> 0, error('a row without scope has {column}'), {there(column)})"


def why_not_rows(batch: pa.RecordBatch, *, rollup: bool) -> str:
    """Say why some rows cannot be flows, or a rollup's; "" if they may be."""
    summed = (*SUMMED, _FLOWS) if rollup else SUMMED
    # Of flows, earlier versions lacked some.
    wanted = ROLLUP_SCHEMA.names if rollup else summed
    missing = [name for name in wanted if name not in batch.schema.names]
    if missing:
        return f"it has no column {missing[0]}"
    if found := next((name for name in summed if batch.column(name).null_count), ""):
        return f"a row has no {found}"
    metered = batch.filter(pc.is_null(batch.column("scope"))) if rollup else batch.slice(0, 0)
    found = next((name for name in summed if pc.any(pc.not_equal(metered.column(name), 0)).as_py()), "")
    return f"a row without scope has {found}" if found else ""
