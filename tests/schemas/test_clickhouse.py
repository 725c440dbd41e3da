# SPDX-License-Identifier: Apache-2.0
"""schemas/clickhouse.sql, run by ClickHouse itself. Not its Kafka engine, which is not in chDB: a table takes its place
that hands what is inserted to the same view.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from schemas.flow import Endpoint, Flow, Kubernetes, Named
from sinks.flowlog.rows.columns import COLUMNS
from tests.support.history.windows import flows
from tests.support.history.written import Written, compact_all
from tests.support.servers.clickhouse import clickhouse
from tests.support.services import ROOT
from tests.support.sinks.flows import POSTGRES, encoded, flow, flow_id, node

TEXT = re.sub(r"^--.*\n", "", (ROOT / "schemas/clickhouse.sql").read_text(), flags=re.MULTILINE)
STATEMENTS = [each.strip() for each in TEXT.split(";") if each.strip()]
KAFKA = re.compile(r"ENGINE = Kafka\nSETTINGS .*", re.DOTALL)


def prepared(archive: Path | str = "/nowhere") -> list[str]:
    """Return the statements, but for Kafka, of that archive."""
    kafka = [each for each in STATEMENTS if KAFKA.search(each)]
    assert len(kafka) == 1
    statements = [KAFKA.sub("ENGINE = Null", each) for each in STATEMENTS]
    return [each.replace("/var/lib/zonemeter/flowlog", str(archive)) for each in statements if "archive AS" not in each]


def view_of(archive: Path) -> list[str]:
    """Return the statements that make the archive's view."""
    (view,) = (each for each in STATEMENTS if "archive AS" in each)
    return [STATEMENTS[0], view.replace("/var/lib/zonemeter/flowlog", str(archive))]


def insert(records: list[bytes]) -> str:
    """Return the statement that brings records, as Kafka would."""
    lines = "\n".join(json.dumps({"record": record.decode()}) for record in records)
    return f"INSERT INTO zonemeter.flows_topic FORMAT JSONEachRow {lines}"


@pytest.fixture(scope="module")
def some() -> list[Flow]:
    """Flows of several kinds, with names that are hostile to SQL."""
    hostile = flow(
        id=flow_id(900, 0, "node-a1"),
        source=node("it's; DROP TABLE x --\\", None),
        destination=POSTGRES,
        scope="unknown",
    )
    outer = flow(id=flow_id(901, 0, "node-a1"), encapsulation="vxlan", bytes=5, dnat=True, server="destination")
    k8s = Kubernetes(namespace=Named("shop"), pod=Named("db-0"), node=Named("node-a1"), cluster=Named("prod-us"))
    elsewhere = Endpoint(kind="pod", address="10.0.2.9", k8s=k8s)
    crossing = flow(id=flow_id(902, 0, "node-a1"), destination=elsewhere)
    return [*flows(0, 1), *flows(1, 2), hostile, outer, crossing]


def test_records_become_the_columns_of_the_flow_log(some: list[Flow], tmp_path: Path) -> None:
    written = Written(tmp_path / "archive")
    written.cut(0, some)
    columns = [name for name in COLUMNS if name not in ("window_start", "window_end", "raw_partition")]
    query = f"SELECT {', '.join(columns)}, toUnixTimestamp64Milli(window_start) AS s FROM zonemeter.flows ORDER BY id"
    found = clickhouse(*prepared(), insert([encoded(each) for each in some]), query)
    for row in found:
        row.update({name: int(row[name]) for name in ("bytes", "packets", "raw_offset", "s")})
    expected = [
        {**{name: row[name] for name in columns}, "s": int(row["window_start"].timestamp() * 1000)}
        for row in written.rows()
    ]
    assert found == expected


def test_repeats_and_what_is_not_a_flow_count_once_and_never(some: list[Flow]) -> None:
    records = [encoded(each) for each in some]
    brought = [insert(records), insert(records[:5]), insert([b"{}", b"not JSON"])]
    sums = "count() AS n, sum(bytes) AS b"
    assert clickhouse(*prepared(), *brought, f"SELECT {sums} FROM zonemeter.flows")[0]["n"] == len(records) + 5
    counted = [each for each in some if "encapsulation" not in json.loads(encoded(each))]
    (traffic,) = clickhouse(*prepared(), *brought, f"SELECT {sums} FROM zonemeter.traffic")
    assert (traffic["n"], int(traffic["b"])) == (len(counted), sum(each.bytes for each in counted))
    merged = "OPTIMIZE TABLE zonemeter.flows FINAL"
    (after,) = clickhouse(*prepared(), *brought, merged, f"SELECT {sums} FROM zonemeter.flows")
    assert (after["n"], int(after["b"])) == (len(some), sum(each.bytes for each in some))


def test_a_relayed_leg_is_of_the_zone_that_sent_it_on(some: list[Flow]) -> None:
    query = "SELECT DISTINCT src_zone AS zone FROM zonemeter.traffic WHERE direction = 'relay'"
    found = clickhouse(*prepared(), insert([encoded(each) for each in some]), query)
    zones = {json.loads(encoded(each))["observer"]["cloud"]["availability_zone"] for each in flows(0, 1)}
    assert {row["zone"] for row in found} == zones


def test_of_the_archive_only_listed_files_are_read(tmp_path: Path) -> None:
    written = Written(tmp_path / "archive")
    for sequence in range(1, 4):
        for partition in range(2):
            written.cut(partition, flows(partition, sequence))
    kept = {path: (written.root / path).read_bytes() for path in written.files()}
    query = "SELECT count() AS n, sum(bytes) AS b FROM zonemeter.archive"

    def expected() -> dict[str, Any]:
        return {"n": len(written.rows()), "b": sum(row["bytes"] for row in written.rows())}

    def found() -> dict[str, Any]:
        (row,) = clickhouse(*view_of(written.root), query)
        return {name: int(value) for name, value in row.items()}

    unlisted = written.root / "flows/date=2026-11-22/hour=22/flows-p0-000000000009-abcdef.parquet"
    unlisted.write_bytes(next(iter(kept.values())))
    assert found() == expected()
    compact_all(written.root)
    # As a killed compaction leaves them.
    for path, content in kept.items():
        (written.root / path).write_bytes(content)
    assert found() == expected()
