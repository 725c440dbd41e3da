-- SPDX-License-Identifier: Apache-2.0
-- ClickHouse: the flows as they arrive in Kafka, and the archive. docs/engines.md says how to use it; a test runs it.
-- Replace kafka:9092 and the archive's place.

CREATE DATABASE IF NOT EXISTS zonemeter;

-- One row a record, as text: a column that a later version adds breaks nothing. Nobody selects from it but the view below.
CREATE TABLE zonemeter.flows_topic (record String)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'kafka:9092',
         kafka_topic_list = 'zonemeter.flows.enriched.v1',
         kafka_group_name = 'clickhouse',
         kafka_format = 'LineAsString';

-- The columns are the flow log's (flowlog.v1.schema.json). The topic is at least once: rows with one id are one flow, of
-- one window, so they meet in one partition, and a merge leaves one of them. Until then FINAL does.
CREATE TABLE zonemeter.flows (
    id String CODEC(ZSTD(3)),
    window_start DateTime64(3, 'UTC') CODEC(Delta, ZSTD(3)),
    window_end DateTime64(3, 'UTC') CODEC(Delta, ZSTD(3)),
    scope LowCardinality(String),
    direction LowCardinality(String),
    bytes UInt64 CODEC(T64, ZSTD(3)),
    packets UInt64 CODEC(T64, ZSTD(3)),
    dnat Nullable(Bool),
    encapsulation LowCardinality(Nullable(String)),
    transport LowCardinality(String),
    network_type LowCardinality(String),
    src_kind LowCardinality(String),
    src_address Nullable(String),
    src_port Nullable(UInt16),
    src_namespace LowCardinality(Nullable(String)),
    src_pod Nullable(String),
    src_workload_kind LowCardinality(Nullable(String)),
    src_workload LowCardinality(Nullable(String)),
    src_service LowCardinality(Nullable(String)),
    src_node LowCardinality(Nullable(String)),
    src_zone LowCardinality(Nullable(String)),
    src_region LowCardinality(Nullable(String)),
    src_zone_id LowCardinality(Nullable(String)),
    src_name LowCardinality(Nullable(String)),
    src_reason LowCardinality(Nullable(String)),
    dst_kind LowCardinality(String),
    dst_address Nullable(String),
    dst_port Nullable(UInt16),
    dst_namespace LowCardinality(Nullable(String)),
    dst_pod Nullable(String),
    dst_workload_kind LowCardinality(Nullable(String)),
    dst_workload LowCardinality(Nullable(String)),
    dst_service LowCardinality(Nullable(String)),
    dst_node LowCardinality(Nullable(String)),
    dst_zone LowCardinality(Nullable(String)),
    dst_region LowCardinality(Nullable(String)),
    dst_zone_id LowCardinality(Nullable(String)),
    dst_name LowCardinality(Nullable(String)),
    dst_reason LowCardinality(Nullable(String)),
    observer_node LowCardinality(String),
    observer_zone LowCardinality(Nullable(String)),
    cluster LowCardinality(String),
    raw_partition Int32,
    raw_offset Int64,
    server LowCardinality(Nullable(String)),
    attribution_version Nullable(Int32)
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(window_start)
ORDER BY (window_start, id)
TTL toDateTime(window_start) + INTERVAL 395 DAY;

-- What is absent in a record is null. An end in another cluster has its cluster before namespace and node, as in the archive.
CREATE MATERIALIZED VIEW zonemeter.flows_arrive TO zonemeter.flows AS
WITH
    if(JSONHas(record, 'source', 'k8s', 'cluster'),
       concat(JSONExtractString(record, 'source', 'k8s', 'cluster', 'name'), '/'), '') AS src_cluster,
    if(JSONHas(record, 'destination', 'k8s', 'cluster'),
       concat(JSONExtractString(record, 'destination', 'k8s', 'cluster', 'name'), '/'), '') AS dst_cluster
SELECT
    JSONExtractString(record, 'id') AS id,
    fromUnixTimestamp64Milli(JSONExtractInt(record, 'start_ms'), 'UTC') AS window_start,
    fromUnixTimestamp64Milli(JSONExtractInt(record, 'end_ms'), 'UTC') AS window_end,
    JSONExtractString(record, 'scope') AS scope,
    JSONExtractString(record, 'direction') AS direction,
    JSONExtractUInt(record, 'bytes') AS bytes,
    JSONExtractUInt(record, 'packets') AS packets,
    JSONExtract(record, 'dnat', 'Nullable(Bool)') AS dnat,
    JSONExtract(record, 'encapsulation', 'Nullable(String)') AS encapsulation,
    JSONExtractString(record, 'network', 'transport') AS transport,
    JSONExtractString(record, 'network', 'type') AS network_type,
    JSONExtractString(record, 'source', 'kind') AS src_kind,
    JSONExtract(record, 'source', 'address', 'Nullable(String)') AS src_address,
    JSONExtract(record, 'source', 'port', 'Nullable(UInt16)') AS src_port,
    concat(src_cluster, JSONExtract(record, 'source', 'k8s', 'namespace', 'name', 'Nullable(String)')) AS src_namespace,
    JSONExtract(record, 'source', 'k8s', 'pod', 'name', 'Nullable(String)') AS src_pod,
    JSONExtract(record, 'source', 'k8s', 'workload', 'kind', 'Nullable(String)') AS src_workload_kind,
    JSONExtract(record, 'source', 'k8s', 'workload', 'name', 'Nullable(String)') AS src_workload,
    JSONExtract(record, 'source', 'k8s', 'service', 'name', 'Nullable(String)') AS src_service,
    concat(src_cluster, JSONExtract(record, 'source', 'k8s', 'node', 'name', 'Nullable(String)')) AS src_node,
    JSONExtract(record, 'source', 'cloud', 'availability_zone', 'Nullable(String)') AS src_zone,
    JSONExtract(record, 'source', 'cloud', 'region', 'Nullable(String)') AS src_region,
    JSONExtract(record, 'source', 'cloud', 'zone_id', 'Nullable(String)') AS src_zone_id,
    JSONExtract(record, 'source', 'name', 'Nullable(String)') AS src_name,
    JSONExtract(record, 'source', 'reason', 'Nullable(String)') AS src_reason,
    JSONExtractString(record, 'destination', 'kind') AS dst_kind,
    JSONExtract(record, 'destination', 'address', 'Nullable(String)') AS dst_address,
    JSONExtract(record, 'destination', 'port', 'Nullable(UInt16)') AS dst_port,
    concat(dst_cluster, JSONExtract(record, 'destination', 'k8s', 'namespace', 'name', 'Nullable(String)')) AS dst_namespace,
    JSONExtract(record, 'destination', 'k8s', 'pod', 'name', 'Nullable(String)') AS dst_pod,
    JSONExtract(record, 'destination', 'k8s', 'workload', 'kind', 'Nullable(String)') AS dst_workload_kind,
    JSONExtract(record, 'destination', 'k8s', 'workload', 'name', 'Nullable(String)') AS dst_workload,
    JSONExtract(record, 'destination', 'k8s', 'service', 'name', 'Nullable(String)') AS dst_service,
    concat(dst_cluster, JSONExtract(record, 'destination', 'k8s', 'node', 'name', 'Nullable(String)')) AS dst_node,
    JSONExtract(record, 'destination', 'cloud', 'availability_zone', 'Nullable(String)') AS dst_zone,
    JSONExtract(record, 'destination', 'cloud', 'region', 'Nullable(String)') AS dst_region,
    JSONExtract(record, 'destination', 'cloud', 'zone_id', 'Nullable(String)') AS dst_zone_id,
    JSONExtract(record, 'destination', 'name', 'Nullable(String)') AS dst_name,
    JSONExtract(record, 'destination', 'reason', 'Nullable(String)') AS dst_reason,
    JSONExtractString(record, 'observer', 'node') AS observer_node,
    JSONExtract(record, 'observer', 'cloud', 'availability_zone', 'Nullable(String)') AS observer_zone,
    JSONExtractString(record, 'k8s', 'cluster', 'name') AS cluster,
    JSONExtractInt(record, 'raw', 'partition') AS raw_partition,
    JSONExtractInt(record, 'raw', 'offset') AS raw_offset,
    JSONExtract(record, 'server', 'Nullable(String)') AS server,
    JSONExtract(record, 'attribution_version', 'Nullable(Int32)') AS attribution_version
FROM zonemeter.flows_topic
WHERE JSONHas(record, 'id');

-- What to add up: each flow once, without the outer packets of overlays, a relayed leg from where it was sent on.
CREATE VIEW zonemeter.traffic AS
SELECT * REPLACE (if(direction = 'relay', observer_zone, src_zone) AS src_zone)
FROM zonemeter.flows FINAL
WHERE encapsulation IS NULL;

-- The archive: of its files those that a manifest or a compaction lists and no compaction replaced. For a bucket, s3() with
-- the address and credentials in the place of file().
CREATE VIEW zonemeter.archive AS
SELECT *
FROM file('/var/lib/zonemeter/flowlog/flows/*/*/*.parquet', Parquet)
WHERE substring(_path, position(_path, 'flows/date=')) IN (
    SELECT arrayJoin(files).path
    FROM file('/var/lib/zonemeter/flowlog/_{manifests,compactions}/**/*.json', JSONEachRow,
              'files Array(Tuple(path String))')
) AND substring(_path, position(_path, 'flows/date=')) NOT IN (
    SELECT arrayJoin(replaces)
    FROM file('/var/lib/zonemeter/flowlog/_{manifests,compactions}/**/*.json', JSONEachRow, 'replaces Array(String)')
);
