# SPDX-License-Identifier: Apache-2.0
"""`make bench-advise`: a day of 100 million flows is advised on.

200 nodes in three zones, 200 workloads of ten pods, each behind a Service; 5,787 pairs of pods that talk all day, their
requests and replies a flow each in every window of ten seconds. The archive has the flow log's columns but for the ids,
which nobody reads here. *Ours* is what `zonemeter advise` does from opening the archive to the findings, without Kafka.
The yardstick is DuckDB with its defaults, which adds up the bytes of all pairs of workloads and zones from the same
files. How it grows is counted in operations by tests/history/advise/test_growth.py: a shorter range has shorter slots.
"""

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from bench.commands.readers.advise import BEGIN_MS, HOURS, NODES, PODS, PODS_OF_EACH
from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.reading import Readings
from bench.measure.report import Table
from sinks.flowlog.archive.manifest import DataFile, Manifest, encode

_FLOWS, _WINDOW_MS = 100_000_000, 10_000
_WINDOWS = HOURS * 3_600_000 // _WINDOW_MS
_PER_WINDOW = _FLOWS // _WINDOWS // 2 * 2
_WINDOWS_OF_A_FILE = 360
_MOST_SECONDS, _MOST_MB = 60.0, 2000.0

# What stays the same from window to window: the pairs of pods, each with its request and its reply.
_PAIRS = f"""
    SELECT place, place // 2 AS pair, place % 2 = 0 AS asks,
        (hash(pair, 1) % {PODS})::INT AS client, (hash(pair, 2) % {PODS})::INT AS server,
        if(asks, client, server) AS source, if(asks, server, client) AS sink
    FROM range({_PER_WINDOW}) AS flows(place)
"""


def _end(side: str, pod: str, *, serves: str) -> str:
    """Return an end's columns; `pod`: the SQL of its number."""
    zone = f"'eu-west-1' || ['a', 'b', 'c'][1 + {pod} % {NODES} % 3]"
    return f"""
        'pod' AS {side}_kind, printf('10.%d.%d.9', {pod} // 250, {pod} % 250) AS {side}_address,
        if({serves}, 8080, NULL)::INT AS {side}_port, 'shop' AS {side}_namespace,
        'w' || ({pod} // {PODS_OF_EACH}) || '-' || {pod} AS {side}_pod, 'Deployment' AS {side}_workload_kind,
        'w' || ({pod} // {PODS_OF_EACH}) AS {side}_workload,
        if({serves}, 's' || ({pod} // {PODS_OF_EACH}), NULL) AS {side}_service,
        'node-' || ({pod} % {NODES}) AS {side}_node, {zone} AS {side}_zone, 'eu-west-1' AS {side}_region,
        NULL::VARCHAR AS {side}_zone_id, NULL::VARCHAR AS {side}_name, NULL::VARCHAR AS {side}_reason
    """


_KINDS = f"""
    SELECT place, pair, asks,
        CASE WHEN source % {NODES} = sink % {NODES} THEN 'same_node'
            WHEN source % {NODES} % 3 = sink % {NODES} % 3 THEN 'same_zone' ELSE 'cross_zone' END AS scope,
        'egress' AS direction, asks AS dnat, NULL::VARCHAR AS encapsulation, 'tcp' AS transport,
        'ipv4' AS network_type, {_end("src", "source", serves="NOT asks")}, {_end("dst", "sink", serves="asks")},
        'node-' || (source % {NODES}) AS observer_node, src_zone AS observer_zone, 'bench' AS cluster,
        if(asks, 'destination', 'source') AS server
    FROM ({_PAIRS})
"""
_FLOWS_OF_WINDOWS = f"""
    SELECT kinds.* EXCLUDE (place, pair, asks),
        make_timestamptz((number * {_WINDOW_MS} + {BEGIN_MS}) * 1000) AS window_start,
        make_timestamptz((number * {_WINDOW_MS} + {BEGIN_MS + _WINDOW_MS}) * 1000) AS window_end,
        (hash(pair, number) % if(asks, 2000, 60000))::BIGINT AS bytes, 9::BIGINT AS packets,
        0::INT AS raw_partition, number * {_PER_WINDOW} + place AS raw_offset
    FROM range({{first}}, {{beyond}}) AS windows(number), kinds
"""


def make(directory: Path) -> None:
    """Write the archive: a file an hour, and the manifest that lists them."""
    files = []
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
        database.execute(f"CREATE TABLE kinds AS {_KINDS}")
        for number, first in enumerate(range(0, _WINDOWS, _WINDOWS_OF_A_FILE)):
            hour = datetime.fromtimestamp((BEGIN_MS + first * _WINDOW_MS) / 1000, UTC)
            path = f"flows/date={hour:%Y-%m-%d}/hour={hour:%H}/flows-p0-000000000001-{number:06x}.parquet"
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            flows = _FLOWS_OF_WINDOWS.format(first=first, beyond=first + _WINDOWS_OF_A_FILE)
            database.execute(f"COPY ({flows}) TO '{directory / path}' (FORMAT parquet, COMPRESSION zstd)")
            size = (directory / path).stat().st_size
            files.append(DataFile(path, _WINDOWS_OF_A_FILE * _PER_WINDOW, size))
    manifest = Manifest(
        topic="zonemeter.flows.enriched.v1",
        partition=0,
        sequence=1,
        writer="bench",
        first_offset=0,
        next_offset=_WINDOWS * _PER_WINDOW,
        files=files,
    )
    listed = directory / "_manifests/p=0"
    listed.mkdir(parents=True)
    (listed / "000000000001.json").write_bytes(encode(manifest))


def measure(rounds: int) -> Sequence[Table]:
    """Return the table."""
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory))
        readings = Readings("bench.commands.readers.advise", directory)
        ours, yardstick = in_turn(rounds, readings.ours, readings.yardstick)
    seconds, peaks, cells = ([took[what] for took in readings.taken] for what in ("seconds", "peak_mb", "cells"))
    figures = [
        Figure("a day beside adding it up", "CPU s", ours, yardstick),
        Figure("from start to end", "s", seconds, target=Target(_MOST_SECONDS)),
        Figure("resident at most", "MB", peaks, target=Target(_MOST_MB)),
        Figure("cells of evidence", "", cells),
    ]
    return [Table("A day of 100 million flows", (__doc__ or "").partition("\n\n")[2], figures)]


if __name__ == "__main__":
    sys.exit(report.main("advise", "Advice", measure))
