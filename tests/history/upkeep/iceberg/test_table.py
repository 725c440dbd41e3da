# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: at any moment the table is one state of the archive, each file once.

What the table holds is read by ClickHouse, whose Iceberg is not pyiceberg's, beside the archive read by its manifests.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from history.read.batch import SCHEMA
from history.upkeep.command import expire as expire_main
from history.upkeep.iceberg import catalog as catalogs
from history.upkeep.iceberg import exchange
from history.upkeep.iceberg.command import main
from tests.history.conftest import Command
from tests.history.upkeep.conftest import Run
from tests.history.upkeep.iceberg.conftest import files_of, rewrite, rows_of
from tests.support.history.windows import flows
from tests.support.history.written import BEGIN_MS, HOUR_MS, Written, compact_all
from tests.support.servers.clickhouse import clickhouse

SUMS = "count() AS n, sum(bytes) AS b, sum(packets) AS p, sum(cityHash64(id)) AS ids"


def test_a_table_follows_its_archive(written: Written, publish: Callable[..., str], at: Run, table: Any) -> None:
    assert publish("--dry-run") == "would create zonemeter.flows\n"
    assert not (written.root / "_iceberg").exists()
    said = publish().splitlines()
    assert re.fullmatch(r"zonemeter\.flows: added 6 files of [\d.]+ kB, took out 0", said[0])
    assert re.fullmatch(r"6 files of [\d.]+ kB, 24 flows", said[1])
    assert said[2] == f"metadata: {table().metadata_location}"
    # Else an engine that is told to drop the table, or to forget its snapshots, may delete the archive's files.
    assert table().properties["gc.enabled"] == "false"
    assert files_of(table()) == written.files()
    assert rows_of(table()) == written.rows()

    first = table().metadata_location
    assert publish().startswith("zonemeter.flows: nothing new\n6 files")
    assert table().metadata_location == first

    written.cut(0, flows(0, 400, start_ms=BEGIN_MS))
    (written.root / "flows/date=2026-11-22/hour=22/flows-p1-000000000099-abcdef.parquet").write_bytes(b"no manifest")
    assert publish("--dry-run").startswith("zonemeter.flows: would add 1 file of ")
    assert publish().startswith("zonemeter.flows: added 1 file of ")
    assert table().current_snapshot().summary.operation.value == "append"
    assert rows_of(table()) == written.rows()

    before = written.rows()
    compact_all(written.root)
    assert publish().startswith("zonemeter.flows: added 2 files of ")
    assert table().current_snapshot().summary.operation.value == "overwrite"
    assert len(files_of(table())) == 2
    assert rows_of(table()) == before == written.rows()

    at(25.5, expire_main, "--newest-too", "--archive", str(written.root), "--keep", "24h")
    assert 0 < len(written.rows()) < len(before)
    assert publish().startswith("zonemeter.flows: added 0 files of 0 B, took out ")
    assert rows_of(table()) == written.rows()


def test_another_engine_reads_the_same(written: Written, publish: Callable[..., str], table: Any) -> None:
    publish()
    compact_all(written.root)
    written.cut(1, flows(1, 500))
    publish()
    where = str(table().location()).removeprefix("file://")
    files = f"file('{written.root}/{{{','.join(files_of(table()))}}}', Parquet)"
    rest = "toUnixTimestamp64Milli(toDateTime64(max(window_end), 3)) AS e, uniq(src_pod) AS pods, max(dst_port) AS port"
    (there,) = clickhouse(f"SELECT {SUMS}, {rest} FROM icebergLocal('{where}')")
    (expected,) = clickhouse(f"SELECT {SUMS}, {rest} FROM {files}")
    assert there == expected
    assert int(there["b"]) == sum(row["bytes"] for row in written.rows())
    assert there["n"] == len(written.rows())
    hour = "window_start >= '2026-11-22 23:00:00' AND window_start < '2026-11-23 00:00:00'"
    (of_hour,) = clickhouse(f"SELECT count() AS n FROM icebergLocal('{where}') WHERE {hour}")
    starts = [row["window_start"].timestamp() * 1000 for row in written.rows()]
    assert of_hour["n"] == sum(BEGIN_MS + HOUR_MS <= start < BEGIN_MS + 2 * HOUR_MS for start in starts)


def test_a_column_that_came_later_is_added_and_null_before(
    written: Written, publish: Callable[..., str], table: Any
) -> None:
    rewrite(written, written.files()[0], lambda read: read.drop_columns(["server"]))
    publish()
    assert "later" not in table().schema().column_names
    written.cut(0, flows(0, 700))
    (added,) = set(written.files()) - set(files_of(table()))
    rewrite(written, added, lambda read: read.append_column("later", read["packets"]))
    publish()
    rows = rows_of(table())
    assert [{**row, "later": None} for row in rows] == [{**row, "later": None} for row in written.rows()]
    assert sum(row["later"] is not None for row in rows) == 4
    assert all(row["later"] in (None, row["packets"]) for row in rows)
    where = str(table().location()).removeprefix("file://")
    (there,) = clickhouse(f"SELECT count(later) AS later, countIf(server IS NULL) AS n FROM icebergLocal('{where}')")
    assert there["later"] == sum(row["later"] is not None for row in rows)
    assert there["n"] == sum(row["server"] is None for row in rows)


def test_a_table_of_an_earlier_version_gets_the_columns_of_this_one(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = SCHEMA.names[-1]
    for path in written.files():
        rewrite(written, path, lambda read: read.drop_columns([newest]))
    with monkeypatch.context() as earlier:
        earlier.setattr(catalogs, "SCHEMA", SCHEMA.remove(len(SCHEMA) - 1))
        publish()
    assert newest not in table().schema().column_names
    written.cut(0, flows(0, 700))
    publish()
    assert table().schema().column_names == SCHEMA.names
    assert rows_of(table()) == written.rows()


def test_metadata_is_kept_small_and_holds_no_addresses(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "FEW_MANIFESTS", 3)
    for number in range(6):
        written.cut(0, flows(0, 800 + number))
        publish("--keep-snapshots", "1ms")
    now = table()
    snapshot = now.current_snapshot()
    named = {now.metadata_location, snapshot.manifest_list, *(log.metadata_file for log in now.metadata.metadata_log)}
    manifests = snapshot.manifests(now.io)
    named |= {each.manifest_path for each in manifests}
    there = {f"{now.location()}/metadata/{path.name}" for path in Path(now.location()[7:], "metadata").iterdir()}
    assert there == named
    assert len(manifests) <= 3
    columns = {now.schema().find_field(name).field_id for name in ("window_start", "window_end")}
    for each in now.inspect.files().to_pylist():
        assert {key for key, _ in [*each["lower_bounds"], *each["upper_bounds"]]} == columns
    assert rows_of(now) == written.rows()


def test_hours_of_before_a_time_are_left_out(written: Written, publish: Callable[..., str], table: Any) -> None:
    publish()
    assert publish("--since", "2026-11-22T23:00Z").startswith(
        "zonemeter.flows: added 0 files of 0 B, took out 3\n3 files"
    )
    assert files_of(table()) == [path for path in written.files() if "hour=22" not in path]
    assert publish().startswith("zonemeter.flows: added 3 files")


def test_an_archive_without_files_is_an_empty_table(tmp_path: Path, command: Command) -> None:
    empty = Written(tmp_path / "archive")
    empty.cut(0, [])
    status, out, err = command(main, "--archive", str(empty.root))
    assert (status, err) == (0, "")
    assert out.startswith("zonemeter.flows: nothing new\n0 files of 0 B, 0 flows\n")
