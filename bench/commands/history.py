# SPDX-License-Identifier: Apache-2.0
"""`make bench-history`: a report over thirteen months, from the rollups of weeks and days; and reports over flows.

A made-up cluster of 1,000 nodes in three zones: 300 workloads, each of which calls six others, all of them with pods in
every zone, requests and replies apart; and each node talks to ten workloads. That is 52,400 kinds of traffic, all of
which go on each day for 395 days. The files of flows and the hours' rollups are empty, since nobody opens them: their
names and the records of their 9,480 hours are there, and the rollup of each day; those of weeks are made as `zonemeter
archive compact` makes them. *Ours* is what `zonemeter report` does from opening the archive to the sums, without Kafka,
in a process of its own; the yardstick is DuckDB with its defaults, which adds up the bytes of all pairs of workloads
and zones from the rollups of days.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import duckdb
import pyarrow.parquet as pq

from bench.commands import engines
from bench.commands.readers.history import BEGIN_MS, DAY_MS, DAYS, HOUR_MS, NODES, SPAN
from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.reading import Readings
from bench.measure.report import Table
from history.read.archive.opened import FlowArchive
from history.read.batch import ROLLUP_SCHEMA
from history.read.database import open_database
from history.upkeep.days import rollups_to_write, weeks_with_rollups, write_long_rollup
from sinks.flowlog.archive.compaction import Compaction, compacted_path, long_rollup_path, record_path, rollup_path
from sinks.flowlog.archive.manifest import DataFile, Manifest, encode
from sinks.flowlog.rows.parquet import WRITTEN

_WORKLOADS, _CALLS, _OF_A_NODE = 300, 6, 10


def _end(side: str, *, serves: str, workload: str, node: str, zone: str) -> str:
    """Return an end's columns. `node`: its number where it is one, else null."""
    return f"""
        if({node} IS NULL, 'pod', 'node') AS {side}_kind, if({serves}, 8080, NULL) AS {side}_port,
        if({node} IS NULL, 'team-' || {workload} % 40, NULL) AS {side}_namespace,
        if({node} IS NULL, 'Deployment', NULL) AS {side}_workload_kind,
        if({node} IS NULL, 'w' || {workload}, NULL) AS {side}_workload,
        if({serves}, 's' || {workload}, NULL) AS {side}_service,
        if({node} IS NULL, NULL, 'node-' || {node}) AS {side}_node,
        'eu-west-1' || ['a', 'b', 'c'][1 + {zone}] AS {side}_zone, 'eu-west-1' AS {side}_region
    """


# A client, perhaps a node, its zone, and what it calls in which zone.
_PAIRS = f"""
    SELECT c AS client, NULL AS node, from_zone, (c + 1 + n * 7) % {_WORKLOADS} AS server, to_zone
    FROM range({_WORKLOADS}) AS clients(c), range({_CALLS}) AS calls(n), range(3) AS froms(from_zone),
        range(3) AS tos(to_zone)
    UNION ALL
    SELECT NULL, c, c % 3, n, (c + n) % 3 FROM range({NODES}) AS clients(c), range({_OF_A_NODE}) AS calls(n)
"""
_FROM = _end("src", serves="NOT asks", workload="if(asks, client, server)", node="if(asks, node, NULL)",
             zone="if(asks, from_zone, to_zone)")  # fmt: skip
_TO = _end("dst", serves="asks", workload="if(asks, server, client)", node="if(asks, NULL, node)",
           zone="if(asks, to_zone, from_zone)")  # fmt: skip
_KINDS = f"""
    SELECT if(from_zone = to_zone, 'same_zone', 'cross_zone') AS scope, 'egress' AS direction, 1_000_000 AS packets,
        8_640 AS flows, asks AS dnat, 'tcp' AS transport, 'ipv4' AS network_type, {_FROM}, {_TO},
        src_zone AS observer_zone, 'prod-eu' AS cluster, if(asks, 'destination', 'source') AS server
    FROM ({_PAIRS}), (SELECT unnest([true, false]) AS asks)
    ORDER BY src_namespace, src_workload, src_node, dst_namespace, dst_workload
"""
_DAY = f"""
    SELECT *, make_timestamptz({{begin_ms}} * 1000) AS window_start, make_timestamptz({{end_ms}} * 1000) AS window_end
    FROM (
        SELECT *, (hash(rowid, {{begin_ms}}) % 10_000_000_000)::BIGINT AS bytes FROM kinds
        UNION ALL BY NAME
        SELECT 'node-' || n AS observer_node, 'prod-eu' AS cluster, 0 AS bytes, 0 AS packets, 0 AS flows
        FROM range({NODES}) AS nodes(n)
    )
"""


def make(root: Path) -> None:
    """Write the archive."""
    with open_database() as database:
        database.execute(f"CREATE TABLE kinds AS {_KINDS}")
        for day in range(DAYS):
            _day(database, root, BEGIN_MS + day * DAY_MS)
    manifest = Manifest(
        topic="zonemeter.flows.enriched.v1", partition=0, sequence=1, writer="bench", first_offset=0, next_offset=0
    )
    _write(root / "_manifests/p=0/000000000001.json", encode(manifest))


def _day(database: duckdb.DuckDBPyConnection, root: Path, begin_ms: int) -> None:
    rollups = []
    for hour_ms in range(begin_ms, begin_ms + DAY_MS, HOUR_MS):
        hour = f"{datetime.fromtimestamp(hour_ms / 1000, UTC):date=%Y-%m-%d/hour=%H}"
        path = compacted_path(hour, 1, "be4c40", 0)
        files = [DataFile(path, 1, 0)], [DataFile(rollup_path(path), 1, 0)]
        record = Compaction(hour=hour, sequence=1, writer="be4c40", files=files[0], rollups=files[1])
        _write(root / record_path(hour, 1), encode(record))
        for each in (path, rollup_path(path)):
            _write(root / each, b"")
        rollups.append(rollup_path(path))
    rows = database.sql(_DAY.format(begin_ms=begin_ms, end_ms=begin_ms + DAY_MS))
    missing = [f"NULL AS {name}" for name in ROLLUP_SCHEMA.names if name not in rows.columns]
    table = rows.project(", ".join(["*", *missing])).select(*ROLLUP_SCHEMA.names).to_arrow_table()
    path = long_rollup_path("day", hour.partition("/")[0], rollups)
    pq.write_table(table.cast(ROLLUP_SCHEMA), root / path, row_group_size=65_536, **WRITTEN)


def make_weeks(root: Path) -> list[float]:
    """Write the rollups of weeks; return how many CPU seconds each took."""
    archive, took = FlowArchive(str(root)), []
    for hours in weeks_with_rollups(archive, SPAN):
        for each in rollups_to_write(archive, hours, SPAN):
            began = time.process_time()
            with tempfile.TemporaryDirectory() as spill:
                if write_long_rollup(archive, each, Path(spill)):
                    took.append(time.process_time() - began)
    return took


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def measure(rounds: int) -> Sequence[Table]:
    """Return the tables."""
    return [_months(rounds), engines.large(rounds), engines.small(rounds)]


def _months(rounds: int) -> Table:
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory))
        weeks = make_weeks(Path(directory))
        sizes = [
            sum(path.stat().st_size for path in Path(directory).glob(f"rollups/*/{length}-*"))
            for length in ("day", "week")
        ]
        readings = Readings("bench.commands.readers.history", directory)
        ours, yardstick = in_turn(rounds, readings.ours, readings.yardstick)
    names = ("seconds", "finding_seconds", "peak_mb", "flows")
    seconds, finding, peaks, flows = ([took[name] for took in readings.taken] for name in names)
    figures = [
        Figure("a report beside adding it up", "CPU s", ours, yardstick, target=Target(3)),
        Figure("from start to end", "s", seconds, [took["seconds"] for took in readings.beside]),
        Figure("of which finding the files", "s", finding),
        Figure("resident at most", "MB", peaks),
        Figure("flows that the rollups stand for", "", flows),
        Figure("rollups of days", "MB", [sizes[0] / 1e6]),
        Figure("rollups of weeks", "MB", [sizes[1] / 1e6]),
        Figure("making a week's", "CPU s", [median(weeks)]),
    ]
    return Table("Thirteen months of 1,000 nodes", (__doc__ or "").partition("\n\n")[2], figures)


if __name__ == "__main__":
    sys.exit(report.main("history", "History", measure))
