# SPDX-License-Identifier: Apache-2.0
"""A rollup is what its file sums up to, goes with its file, and is compared with it by `audit --deep`."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from history.audit.deep.rollups import check_rollups
from history.read.archive.opened import FlowArchive
from history.read.batch import ROLLUP_SCHEMA
from history.upkeep.compact import Rule
from tests.support.history.written import BEGIN_MS, DAY, HOUR, HOUR_MS, Written, compact
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id, node, other, pod

BROKER = pod("kafka", "c", address="10.42.9.9", port=9092)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Five windows of one hour, one of which is missing, in a file for each."""
    made = Written(tmp_path / "archive")
    ends = [
        (API, POSTGRES),
        (POSTGRES, API),
        (pod("lone", "a"), EXTERNAL),
        (node("node-a1", "a"), BROKER),
        (API, BROKER),
    ]
    for sequence in (1, 2, 4, 5, 6):
        start = BEGIN_MS + sequence * 10_000
        flows = [
            flow(id=flow_id(sequence, row), start_ms=start, end_ms=start + 10_000, source=source, destination=to)
            for row, (source, to) in enumerate(ends)
        ]
        outer = {"source": node("node-a1", "a"), "destination": node("node-b1", "b"), "encapsulation": "vxlan"}
        flows.append(flow(id=flow_id(sequence, 7), start_ms=start, end_ms=start + 10_000, **outer))
        made.cut(1, flows)
    return made


def rollups(root: Path) -> list[Path]:
    return sorted(root.glob("rollups/*/*/*"))


def faults(root: Path) -> list[str]:
    return [found.what for found in check_rollups(str(root), DAY)]


def test_a_row_for_what_a_report_tells_apart_and_one_for_each_stretch_of_time(written: Written) -> None:
    compact(written.root)
    (path,) = rollups(written.root)
    table = pq.ParquetFile(path).read()
    assert table.schema.equals(ROLLUP_SCHEMA)
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    traffic = [row for row in rows if "scope" in row]
    assert [(row["bytes"], row["packets"], row["flows"]) for row in traffic] == [(5_000, 10, 5)] * 6
    assert {row["window_start"].timestamp() * 1000 for row in traffic} == {BEGIN_MS}
    assert {row["window_end"].timestamp() * 1000 for row in traffic} == {BEGIN_MS + HOUR_MS}
    # An address only where it may be of a broker that a collector writes to.
    assert [(row["src_kind"], row["dst_address"]) for row in traffic if "dst_address" in row] == [("node", "10.42.9.9")]
    assert not any("src_address" in row or "src_pod" in row or "observer_node" in row for row in traffic)
    (outer,) = (row for row in traffic if "encapsulation" in row)
    assert not {"src_node", "dst_node"} & set(outer)
    stretches = [
        (
            row["observer_node"],
            *(int(row[name].timestamp() * 1000) - BEGIN_MS for name in ("window_start", "window_end")),
        )
        for row in rows
        if "scope" not in row
    ]
    assert sorted(stretches) == [("node-a1", 10_000, 30_000), ("node-a1", 40_000, 70_000)]
    assert sum(row["bytes"] + row["flows"] for row in rows if "scope" not in row) == 0


def test_a_prefix_that_stands_for_addresses_of_the_internet_is_not_kept_apart(tmp_path: Path) -> None:
    written = Written(tmp_path / "archive")
    names = ["198.51.100.0/24", "203.0.113.0/24", "s3", "2001:db8::/48", None]
    ends = [other("external", **({"name": name} if name else {})) for name in names]
    for sequence in range(1, 4):
        flows = [flow(id=flow_id(sequence, row), start_ms=BEGIN_MS, end_ms=BEGIN_MS + 10_000, destination=to)
                 for row, to in enumerate(ends)]  # fmt: skip
        written.cut(1, flows)
    compact(written.root)
    (path,) = rollups(written.root)
    rows = [row for row in pq.ParquetFile(path).read().to_pylist() if row["scope"]]
    assert {row["dst_name"]: row["flows"] for row in rows} == {None: 12, "s3": 3}


def test_a_window_that_ends_long_after_its_hour_keeps_its_end(tmp_path: Path) -> None:
    written = Written(tmp_path / "archive")
    late = BEGIN_MS + HOUR_MS - 10_000
    for sequence, end in enumerate((late + 10_000, late + 70_000, late + 70_001, late + HOUR_MS), start=1):
        written.cut(1, [flow(id=flow_id(sequence), start_ms=late, end_ms=end)])
    compact(written.root)
    (path,) = rollups(written.root)
    rows = [row for row in pq.ParquetFile(path).read().to_pylist() if row["scope"]]
    ends = {int(row["window_end"].timestamp() * 1000) - BEGIN_MS - HOUR_MS: row["flows"] for row in rows}
    assert ends == {0: 2, 60_001: 1, HOUR_MS - 10_000: 1}


def test_rollups_of_parts_of_an_hour_add_up_to_it(written: Written) -> None:
    before = Counter[str]()
    for row in written.rows():
        before[row["scope"]] += row["bytes"]
    done = compact(written.root, Rule(files=2, file_bytes=1))
    assert done is not None
    paths = rollups(written.root)
    assert len(paths) == len(done.after)
    sums = Counter[str]()
    for path in paths:
        for row in pq.ParquetFile(path).read().to_pylist():
            if row["scope"]:
                sums[row["scope"]] += row["bytes"]
    assert sums == before
    assert faults(written.root) == []


def test_a_rollup_goes_with_its_file(written: Written) -> None:
    compact(written.root)
    first = rollups(written.root)
    for sequence in range(50, 53):
        written.cut(1, [flow(id=flow_id(sequence), start_ms=BEGIN_MS + 500_000, end_ms=BEGIN_MS + 510_000)])
    compact(written.root)
    (path,) = rollups(written.root)
    assert path not in first
    assert list(FlowArchive(str(written.root)).chain(HOUR).rollups) == [str(path.relative_to(written.root))]
    assert sum(row["flows"] for row in pq.ParquetFile(path).read().to_pylist()) == len(written.rows())


def _changed(table: pa.Table, name: str, change: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(
        at, table.schema.field(at), pa.array(change(table[name].to_pylist()), table.schema.field(at).type)
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: _changed(table, "bytes", lambda values: [values[0] + 1, *values[1:]]), "2 rows differ"),
        (lambda table: _changed(table, "bytes", lambda values: [None, *values[1:]]), "has rows without bytes"),
        (lambda table: _changed(table, "dst_zone", lambda values: ["z", *values[1:]]), "2 rows differ"),
        (lambda table: table.slice(1), "1 rows differ"),
        (lambda table: table.drop_columns(["flows"]), "flows"),
        (lambda table: table.drop_columns(["scope"]), "scope"),
        (None, "cannot be compared with its flows"),
    ],
    ids=["a byte more", "no bytes", "another zone", "a row less", "no flows", "no scopes", "not Parquet"],
)
def test_a_rollup_that_differs_from_its_flows_is_found(written: Written, change: Any, says: str) -> None:
    compact(written.root)
    (path,) = rollups(written.root)
    assert faults(written.root) == []
    table = pq.ParquetFile(path).read()
    if change is None:
        path.write_bytes(b"PAR1")
    else:
        pq.write_table(change(table), path)
    (fault,) = faults(written.root)
    assert says in fault
    assert str(path.relative_to(written.root)) in fault
    assert "\n" not in fault


def test_a_rollup_that_is_missing_is_found(written: Written) -> None:
    compact(written.root)
    (path,) = rollups(written.root)
    path.unlink()
    (fault,) = faults(written.root)
    assert str(path.relative_to(written.root)) in fault
