# SPDX-License-Identifier: Apache-2.0
"""Hours of a made-up small cluster, as the flow log writes them: a file for each partition and each five minutes.

Namespaces of two workloads of two pods each, on twelve nodes in three zones. Pods talk to others of their namespace,
most of all; an ingress calls one workload of each, all ask a DNS server, monitoring asks all, some talk to the
internet.
An eighth of the conversations goes on in a window, each as a flow there and one back.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from history.read.batch import SCHEMA
from sinks.flowlog.archive.archive import Archive, ArchiveCut
from sinks.flowlog.archive.manifest import Manifest
from sinks.flowlog.rows.columns import COLUMNS
from sinks.flowlog.rows.parquet import SUFFIX, WRITTEN
from sinks.flowlog.stores.store import LocalStore

BEGIN_MS = 1_795_392_000_000  # on the hour
HOUR_MS, _WINDOW_MS, _CUT_MS = 3_600_000, 10_000, 300_000
CUTS_AN_HOUR = HOUR_MS // _CUT_MS
NODES, PARTITIONS = 12, 12
TOPIC = "zonemeter.flows.enriched.v1"

# A pod's number says all of it. The first namespace, kube-system, has ingress, DNS and monitoring.
_POD = f"""
    SELECT pod, pod // 4 AS place, if(pod // 4 = 0, 'kube-system', printf('team-%03d', pod // 4)) AS namespace,
        if(pod // 4 = 0, ['ingress', 'ingress', 'dns', 'monitoring'][1 + pod % 4], ['web', 'api'][1 + pod % 4 // 2])
            AS workload,
        workload || '-' || substr(md5('set' || pod // 2), 1, 9) || '-' || substr(md5('pod' || pod), 1, 5) AS name,
        printf('10.42.%d.%d', pod % {NODES}, 1 + pod // {NODES}) AS address, pod % {NODES} AS node
    FROM range({{pods}}) AS pods(pod)
"""
# Client, server, port; a server without a number is an address on the internet.
_TALKS = """
    SELECT client.pod AS client, server.pod AS server, port FROM pod AS client, pod AS server,
        (SELECT unnest([8080, 5432]) AS port)
    WHERE client.pod <> server.pod AND (
        client.place > 0 AND client.place = server.place
        OR port = 8080 AND client.workload = 'ingress' AND server.workload = 'web'
        OR port = 5432 AND client.workload = 'monitoring' AND server.place > 0
        OR port = 8080 AND client.place > 0 AND server.workload = 'dns')
    UNION ALL SELECT pod, -(1 + hash(pod, n) % 200)::INT, 443 FROM pod, range(3) AS places(n) WHERE workload = 'api'
"""


def _end(side: str, pod: str, *, serves: str) -> str:
    zone = f"'eu-west-1' || ['a', 'b', 'c'][1 + {pod}.node % 3]"
    return f"""
        if({pod}.pod IS NULL, 'external', 'pod') AS {side}_kind,
        coalesce({pod}.address, printf('203.0.113.%d', -flow.server)) AS {side}_address,
        if({serves}, port, NULL)::INT AS {side}_port, {pod}.namespace AS {side}_namespace, {pod}.name AS {side}_pod,
        if({pod}.pod IS NULL, NULL, 'Deployment') AS {side}_workload_kind, {pod}.workload AS {side}_workload,
        if({serves}, {pod}.workload, NULL) AS {side}_service, 'node-' || {pod}.node AS {side}_node,
        {zone} AS {side}_zone,
        if({pod}.pod IS NULL, NULL, 'eu-west-1') AS {side}_region, NULL::VARCHAR AS {side}_zone_id,
        NULL::VARCHAR AS {side}_name, NULL::VARCHAR AS {side}_reason
    """


_FLOWS = f"""
    WITH flow AS (
        SELECT client, server, port, asks, number, if(asks, client, server) AS source, if(asks, server, client) AS sink,
            if(source < 0, sink, source) % {NODES} AS counted
        FROM talk, range({{first}}, {{beyond}}) AS windows(number), (SELECT unnest([true, false]) AS asks)
        WHERE hash(client, server, port, number) % 8 = 0
    ), placed AS (
        SELECT *, row_number() OVER (PARTITION BY counted, number ORDER BY source, sink, port) - 1 AS row FROM flow
    )
    SELECT printf('prod-eu/node-%d/5be6c2f0a91d/1/%d/0/%d', counted, number, row) AS id,
        make_timestamptz(({BEGIN_MS} + number * {_WINDOW_MS}) * 1000) AS window_start,
        make_timestamptz(({BEGIN_MS} + (number + 1) * {_WINDOW_MS}) * 1000) AS window_end,
        CASE WHEN source < 0 OR sink < 0 THEN 'external' WHEN src.node = dst.node THEN 'same_node'
            WHEN src.node % 3 = dst.node % 3 THEN 'same_zone' ELSE 'cross_zone' END AS scope,
        if(source < 0, 'ingress', 'egress') AS direction,
        (52 + hash(id) % (1 << (8 + hash(id, 1) % if(asks, 6, 12))::INT))::BIGINT AS bytes,
        1 + bytes // (200 + hash(id, 2) % 1200)::BIGINT AS packets,
        if(asks, true, NULL) AS dnat, NULL::VARCHAR AS encapsulation, 'tcp' AS transport, 'ipv4' AS network_type,
        {_end("src", "src", serves="NOT asks")}, {_end("dst", "dst", serves="asks")},
        'node-' || counted AS observer_node, 'eu-west-1' || ['a', 'b', 'c'][1 + counted % 3] AS observer_zone,
        'prod-eu' AS cluster, (counted % {PARTITIONS})::INT AS raw_partition, number::BIGINT AS raw_offset,
        if(asks, 'destination', 'source') AS server, NULL::INT AS attribution_version
    FROM placed AS flow LEFT JOIN pod AS src ON src.pod = source LEFT JOIN pod AS dst ON dst.pod = sink
    ORDER BY number, counted, row
"""


class _Rows:
    """The rows of one file."""

    def __init__(self, table: pa.Table) -> None:
        self.rows = len(table)
        self._table = table

    @property
    def size_bytes(self) -> int:
        return int(self._table.nbytes)

    def encode(self) -> Sequence[pa.Buffer]:
        output = pa.BufferOutputStream()
        pq.write_table(self._table, output, **WRITTEN)
        return [output.getvalue()]


def make(directory: Path, cuts: int, namespaces: int, partitions: int = PARTITIONS) -> int:
    """Write an archive of so many cuts (`CUTS_AN_HOUR`) of so many namespaces; return how many flows it has."""
    archive, flows = Archive(LocalStore(directory), TOPIC, SUFFIX), 0
    per_cut = _CUT_MS // _WINDOW_MS
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        database.execute(f"CREATE TABLE pod AS {_POD.format(pods=namespaces * 4)}")
        database.execute(f"CREATE TABLE talk AS {_TALKS}")
        for sequence in range(1, cuts + 1):
            first = (sequence - 1) * per_cut
            query = f"SELECT {', '.join(COLUMNS)} FROM ({_FLOWS.format(first=first, beyond=first + per_cut)})"
            table = database.sql(query).to_arrow_table().cast(SCHEMA)
            flows += len(table)
            hour_ms = BEGIN_MS + first * _WINDOW_MS // HOUR_MS * HOUR_MS
            for partition in range(partitions):
                remainder = pa.array(table["raw_partition"].to_numpy() % partitions)
                part = table.filter(pa.compute.equal(remainder, partition))
                manifest = Manifest(
                    topic=TOPIC, partition=partition, sequence=sequence, writer="", first_offset=0, next_offset=flows
                )
                archive.write(ArchiveCut(manifest, {hour_ms: _Rows(part)}))
    return flows
