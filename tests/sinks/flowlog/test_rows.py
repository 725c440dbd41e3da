# SPDX-License-Identifier: Apache-2.0
"""Rows as DuckDB reads them back from Parquet and from JSON lines: the same, and nothing of the flow is lost."""

import json
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from common.plausible import EARLIEST_MS, LATEST_AHEAD_MS
from schemas.flow import (
    MAX_ATTRIBUTION_VERSION,
    Cloud,
    Cluster,
    Flow,
    Kubernetes,
    Named,
    Network,
    Observer,
    RawPosition,
    Workload,
)
from sinks.flowlog.archive.pending import Buffer
from sinks.flowlog.rows.columns import COLUMNS, END_COLUMNS, flatten
from sinks.flowlog.rows.jsonl import JsonLines
from sinks.flowlog.rows.parquet import ParquetRows
from sinks.intake import Intake, Lane
from tests.support.sinks.flows import END_MS, EXTERNAL, START_MS, encoded, flow, flow_id, other, pod, records

FULL = pod(
    "api",
    "a",
    port=443,
    address="2001:db8::1",
    k8s=Kubernetes(Named("shop"), Named("api-0"), Workload("Deployment", "api"), Named("api-svc"), Named("node-a1")),
    cloud=Cloud("eu-west-1a", "eu-west-1", "euw1-az1"),
)
SCHEMA = json.loads((Path(schemas.__file__).parent / "flowlog.v1.schema.json").read_text())
AWKWARD = 'a"b\\c\nd\té日本,{}'
FLOWS = [
    pytest.param({}, id="pods"),
    pytest.param({"source": FULL, "dnat": True, "encapsulation": "vxlan"}, id="everything"),
    pytest.param({"server": "source", "source": FULL}, id="a reply"),
    pytest.param({"attribution_version": MAX_ATTRIBUTION_VERSION}, id="joined again"),
    pytest.param({"dnat": False, "direction": "ingress", "source": EXTERNAL, "scope": "external"}, id="external"),
    pytest.param({"source": other("unknown", reason="late_index"), "scope": "unknown"}, id="unknown"),
    pytest.param({"destination": other("cidr", name=AWKWARD), "k8s": Cluster(Named(AWKWARD))}, id="awkward-names"),
    pytest.param({"observer": Observer(AWKWARD, Cloud(AWKWARD)), "network": Network(AWKWARD, "ipv6")}, id="observer"),
    pytest.param({"bytes": 2**53 - 1, "packets": 0, "raw": RawPosition(2**31 - 1, 2**53 - 1)}, id="largest-numbers"),
    pytest.param({"start_ms": START_MS + 1, "end_ms": END_MS + 999}, id="a-short-window"),
    pytest.param({"start_ms": EARLIEST_MS, "end_ms": EARLIEST_MS + 1}, id="first-moment"),
    pytest.param({"start_ms": END_MS, "end_ms": END_MS + LATEST_AHEAD_MS}, id="last-moment"),
]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def buffered(buffer: Buffer, *flows: Flow) -> bytes:
    for version, some in groupby(flows, lambda each: each.attribution_version or 0):
        intake = Intake(flatten, attribution_version=version)
        batch = intake.take(Lane(0), records([encoded(each) for each in some]), END_MS)
        assert not batch.refused
        buffer.add(batch.rows)
    assert buffer.rows == len(flows)
    return b"".join(bytes(part) for part in buffer.encode())


def expected_end(prefix: str, value: dict[str, Any]) -> dict[str, Any]:
    k8s, cloud = value.get("k8s", {}), value.get("cloud", {})
    values = {
        **{name: value.get(name) for name in ("kind", "address", "port", "name", "reason")},
        **{name: k8s.get(name, {}).get("name") for name in ("namespace", "pod", "workload", "service", "node")},
        "workload_kind": k8s.get("workload", {}).get("kind"),
        "zone": cloud.get("availability_zone"),
        "region": cloud.get("region"),
        "zone_id": cloud.get("zone_id"),
    }
    assert set(values) == set(END_COLUMNS)
    return {prefix + name: each for name, each in values.items()}


def expected(one: Flow) -> dict[str, Any]:
    """The row that a flow should become, straight from its JSON."""
    value = orjson.loads(encoded(one))
    observer = value["observer"]
    return {
        **{
            name: value.get(name)
            for name in ("id", "scope", "direction", "bytes", "packets", "dnat", "encapsulation", "server")
        },
        "window_start": value["start_ms"],
        "window_end": value["end_ms"],
        "transport": value["network"]["transport"],
        "network_type": value["network"]["type"],
        **expected_end("src_", value["source"]),
        **expected_end("dst_", value["destination"]),
        "observer_node": observer["node"],
        "observer_zone": observer.get("cloud", {}).get("availability_zone"),
        "cluster": value["k8s"]["cluster"]["name"],
        "raw_partition": value["raw"]["partition"],
        "raw_offset": value["raw"]["offset"],
        "attribution_version": value.get("attribution_version"),
    }


def read(path: Path, function: str) -> list[dict[str, Any]]:
    with duckdb.connect() as database:
        # As numbers: DuckDB's Python client wants yet another package to hand out instants.
        moments = "epoch_ms(window_start) AS window_start, epoch_ms(window_end) AS window_end"
        result = database.execute(f"SELECT * REPLACE ({moments}) FROM {function}('{path}')")
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@pytest.mark.parametrize("fields", FLOWS)
def test_duckdb_reads_parquet(fields: dict[str, Any], tmp_path: Path) -> None:
    one = flow(**fields)
    path = tmp_path / "flows.parquet"
    path.write_bytes(buffered(ParquetRows(), flow(id=flow_id(0)), one.__class__(**_fields(one, 1))))
    rows = read(path, "read_parquet")
    assert tuple(rows[1]) == COLUMNS
    assert rows[1] == expected(one.__class__(**_fields(one, 1)))


@pytest.mark.parametrize("fields", FLOWS)
def test_json_lines_hold_the_same(fields: dict[str, Any]) -> None:
    one = flow(**fields)
    [line] = buffered(JsonLines(), one).splitlines()
    row = orjson.loads(line)
    assert None not in row.values()
    for name in ("window_start", "window_end"):
        row[name] = (datetime.fromisoformat(row[name]) - EPOCH) // timedelta(milliseconds=1)
    assert row == {name: value for name, value in expected(one).items() if value is not None}
    assert [name for name in COLUMNS if name in row] == list(row)


def test_duckdb_reads_json_lines(tmp_path: Path) -> None:
    # A chunk each: together they come to more than a chunk may.
    flows = [flow(**{**each.values[0], "id": flow_id(chunk=n)}) for n, each in enumerate(FLOWS[:-1])]  # type: ignore[dict-item]
    path = tmp_path / "flows.jsonl"
    path.write_bytes(buffered(JsonLines(), *flows))
    with duckdb.connect() as database:
        found = database.execute(f"SELECT id, bytes, src_workload, dst_name FROM read_json('{path}')").fetchall()
        total = database.execute(f"SELECT sum(bytes)::BIGINT FROM read_json('{path}') WHERE packets > 0").fetchone()
    assert found == [tuple(expected(each)[n] for n in ("id", "bytes", "src_workload", "dst_name")) for each in flows]
    assert total == (sum(each.bytes for each in flows if each.packets),)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_any_text_comes_through(name: str, transport: str) -> None:
    one = flow(source=other("cidr", name=name), network=Network(transport, "ipv4"))
    row = orjson.loads(buffered(JsonLines(), one))
    assert (row["src_name"], row["transport"]) == (name, transport)
    table = ParquetRows()
    buffered(table, one)
    assert [table.table()[column][0].as_py() for column in ("src_name", "transport")] == [name, transport]


def test_a_flow_in_parquet_takes_few_bytes() -> None:
    pods = [pod(f"app-{number}", "abc"[number % 3], address=f"10.42.0.{number}") for number in range(200)]
    flows = [
        flow(
            id=flow_id(row // 1000, row % 1000),
            source=pods[row // 40 % 200],
            destination=pods[(row * 7919) % 200],
            bytes=40 + (row * 2_654_435_761) % 1_000_003,
            packets=1 + (row * 40_503) % 997,
        )
        for row in range(20_000)
    ]
    assert len(buffered(ParquetRows(), *flows)) / len(flows) <= 12


def _fields(one: Flow, row: int) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__} | {"id": flow_id(1, row)}


def test_the_schema_file_names_every_column_in_order_with_its_type(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    path.write_bytes(buffered(ParquetRows(), flow(source=FULL)))
    found = pq.read_schema(path)
    assert {name: wanted["x-arrow"] for name, wanted in SCHEMA["properties"].items()} == {
        name: str(type_) for name, type_ in zip(found.names, found.types, strict=True)
    }
    assert list(SCHEMA["properties"]) == found.names == list(COLUMNS)


@pytest.mark.parametrize("fields", FLOWS)
def test_a_line_is_as_the_schema_file_says(fields: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for line in buffered(JsonLines(), flow(**fields)).splitlines():
        validator.validate(orjson.loads(line))
