# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: at any moment the table is one state of the archive, each file once.

What the table holds is read by ClickHouse, whose Iceberg is not pyiceberg's, beside the archive read by its manifests.
"""

import importlib.util
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from history.read.archive.files import find_chapter
from history.read.batch import SCHEMA
from history.upkeep.command import expire as expire_main
from history.upkeep.iceberg import catalog as catalogs
from history.upkeep.iceberg import exchange, mirror
from history.upkeep.iceberg.command import main
from sinks.flowlog.rows.parquet import MILLISECONDS
from tests.history.conftest import Command
from tests.history.upkeep.conftest import Run
from tests.history.upkeep.test_compact import flows
from tests.support.clickhouse import clickhouse
from tests.support.history.written import BEGIN_MS, HOUR_MS, Killed, Written, compact_all

SUMS = "count() AS n, sum(bytes) AS b, sum(packets) AS p, sum(cityHash64(id)) AS ids"


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three files in each of two hours."""
    made = Written(tmp_path / "archive")
    for number in range(6):
        made.cut(number % 3, flows(number % 3, number + 1, start_ms=BEGIN_MS + number // 3 * HOUR_MS))
    return made


@pytest.fixture
def publish(written: Written, command: Command) -> Callable[..., str]:
    """Publish the archive; give what was said."""

    def run(*flags: str) -> str:
        status, out, err = command(main, "--archive", str(written.root), *flags)
        assert (status, err) == (0, ""), err
        return out

    return run


def opened(written: Written) -> Catalog:
    """Return the archive's own catalog."""
    return load_catalog("zonemeter", type="sql", uri=f"sqlite:///{written.root}/_iceberg/catalog.db")


@pytest.fixture
def table(written: Written) -> Iterator[Callable[[], Table]]:
    """Open the table, as it is now."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(opened(written)).load_table("zonemeter.flows")


def files_of(table: Table) -> list[str]:
    """Return the paths of the table's files, as they stand in the archive."""
    return sorted(task.file.file_path.partition("/archive/")[2] for task in table.scan().plan_files())


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Return the table's rows by pyiceberg, in order of their ids."""
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["id"])


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

    at(25.5, expire_main, "--archive", str(written.root), "--keep", "24h")
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


@pytest.mark.parametrize("late", [False, True], ids=["before the commit", "after it"])
@pytest.mark.parametrize("compacted", [False, True], ids=["new files", "replaced files"])
def test_a_killed_run_leaves_the_table_as_it_was_or_as_it_should_be(
    written: Written,
    publish: Callable[..., str],
    table: Any,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    compacted: bool,
) -> None:
    publish()
    before = written.rows()
    if compacted:
        compact_all(written.root)
    written.cut(2, flows(2, 600))
    commit = SqlCatalog.commit_table

    def dies(*arguments: Any) -> Any:
        if late:
            commit(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", dies)
        with pytest.raises(Killed):
            publish()
    if late:
        assert rows_of(table()) == written.rows()
    elif not compacted:
        assert rows_of(table()) == before
    assert ("nothing new" in publish()) == late
    assert rows_of(table()) == written.rows()
    assert files_of(table()) == written.files()


@pytest.mark.parametrize("keep", ["1d", "1ms"])
def test_of_two_at_once_the_later_one_looks_again(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    publish()
    written.cut(0, flows(0, 700))
    commit = SqlCatalog.commit_table
    others: list[bool] = []

    def overtaken(*arguments: Any) -> Any:
        if not others:
            others.append(True)
            written.cut(1, flows(1, 701))
            compact_all(written.root)
            assert main(["--archive", str(written.root), "--keep-snapshots", keep]) == 0
        return commit(*arguments)

    monkeypatch.setattr(SqlCatalog, "commit_table", overtaken)
    said = publish()
    assert said.count("zonemeter.flows: added") == 1
    assert "nothing new" in said
    assert files_of(table()) == written.files()
    assert rows_of(table()) == written.rows()


def test_a_table_whose_metadata_went_is_read_again_or_told(
    written: Written, command: Command, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    written.cut(0, flows(0, 700))
    held, others = mirror._Run._held, [written.cut]

    def forgotten(*arguments: Any) -> Any:
        if others:
            others.pop()(1, flows(1, 701))
            compact_all(written.root)
            assert main(["--archive", str(written.root), "--keep-snapshots", "1ms"]) == 0
        return held(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mirror._Run, "_held", forgotten)
        assert "nothing new" in publish()
    assert rows_of(table()) == written.rows()
    written.cut(0, flows(0, 702))
    lost = Path(table().current_snapshot().manifest_list.removeprefix("file://"))
    lost.unlink()
    status, _, err = command(main, "--archive", str(written.root))
    assert (status, str(lost) in err, err.count("\n")) == (2, True, 1)


def test_a_table_that_always_changes_is_told(
    written: Written, command: Command, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    written.cut(0, flows(0, 700))

    def refused(*_: Any) -> Any:
        raise CommitFailedException("taken")

    monkeypatch.setattr(SqlCatalog, "commit_table", refused)
    monkeypatch.setattr("time.sleep", lambda _: None)
    status, out, err = command(main, "--archive", str(written.root))
    assert (status, out) == (2, "")
    assert err.endswith("it or the table was changed 5 times meanwhile; run the command again\n")


def test_a_commit_whose_answer_was_lost_is_not_undone(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks again by itself is told that another commit came first: its own."""
    publish()
    written.cut(0, flows(0, 700))
    commit = SqlCatalog.commit_table

    def lost(*arguments: Any) -> Any:
        commit(*arguments)
        raise CommitFailedException("another commit came first")

    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", lost)
        patch.setattr("time.sleep", lambda _: None)
        assert "added 1 file" in publish()
    assert rows_of(table()) == written.rows()
    assert "nothing new" in publish()


def test_what_a_compaction_replaced_meanwhile_is_looked_for_again(
    written: Written, publish: Callable[..., str], table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = find_chapter

    def then_compacted(*arguments: Any) -> Any:
        found = find(*arguments)
        compact_all(written.root)
        return found

    monkeypatch.setattr(mirror, "find_chapter", then_compacted)
    assert publish().startswith("zonemeter.flows: added 2 files")
    assert rows_of(table()) == written.rows()


def rewrite(written: Written, path: str, change: Callable[[Any], Any]) -> None:
    """Write a file of the archive again, with other columns."""
    whole = written.root / path
    pq.write_table(change(pq.ParquetFile(whole).read()), whole, store_schema=False)


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(lambda read: read.slice(1), "holds 3 flows, 4 are listed", id="rows missing"),
        pytest.param(
            lambda read: read.set_column(5, "bytes", read["id"]),
            "cannot be published: its column bytes is string, not int64",
            id="another type",
        ),
        pytest.param(
            lambda read: read.set_column(1, "window_start", read["window_start"].cast(MILLISECONDS)),
            r"cannot be published: its column window_start is timestamp\[ms, tz=UTC\], not timestamp\[us, tz=UTC\]",
            id="an earlier version's times",
        ),
        pytest.param(
            lambda read: read.append_column("later", pa.array([1] * 4, pa.timestamp("ns"))),
            "cannot be published: Column 'later' has an unsupported type",
            id="a type that Iceberg lacks",
        ),
        pytest.param(
            lambda read: pa.table(
                {**{name: read[name] for name in read.column_names}, **dict.fromkeys(map(str, range(1000)), read["id"])}
            ),
            r"holds 1,0\d\d columns, more than the 1,000 that are read; no flow log wrote it so: restore it",
            id="more than is read",
        ),
    ],
)
def test_a_file_that_is_not_what_it_should_be_stops_the_run(
    written: Written, command: Command, publish: Callable[..., str], table: Any, change: Any, why: str
) -> None:
    publish()
    before = table().metadata_location
    written.cut(0, flows(0, 700))
    (added,) = set(written.files()) - set(files_of(table()))
    rewrite(written, added, change)
    status, out, err = command(main, "--archive", str(written.root))
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"zonemeter archive iceberg: archive \S+: {added} {why}[^\n]*\n", err)
    assert table().metadata_location == before


def test_a_damaged_file_and_a_missing_one_are_named(written: Written, command: Command) -> None:
    path = written.files()[0]
    (written.root / path).write_bytes(b"PAR1")
    status, _, err = command(main, "--archive", str(written.root))
    assert (status, f"{path} cannot be published" in err, err.count("\n")) == (2, True, 1)
    (written.root / path).unlink()
    status, _, err = command(main, "--archive", str(written.root))
    assert (status, f"{path} is missing" in err, err.count("\n")) == (2, True, 1)


def test_what_others_wrote_is_refused(written: Written, command: Command, publish: Callable[..., str]) -> None:
    publish()
    with opened(written) as catalog:
        where = f"file://{written.root}/_iceberg/others"
        catalog.create_table("zonemeter.others", catalog.load_table("zonemeter.flows").schema(), location=where)
        elsewhere = shutil.copy(written.root / written.files()[0], written.root.parent / "elsewhere.parquet")
        catalog.load_table("zonemeter.flows").add_files([f"file://{elsewhere}"])
    status, _, err = command(main, "--archive", str(written.root))
    assert (status, "another program writes to it; drop it" in err) == (2, True)
    status, _, err = command(main, "--archive", str(written.root), "--table", "zonemeter.others")
    assert (status, "table zonemeter.others was not made by this command" in err) == (2, True)
    other = Written(written.root.parent / "other")
    other.cut(0, flows(0, 1))
    file = str(written.root / "_iceberg/catalog.db")
    status, _, err = command(main, "--archive", str(other.root), "--catalog-file", file)
    assert (status, f"zonemeter.flows is of the archive file://{written.root}/" in err) == (2, True)


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


def test_a_catalog_of_pyicebergs_settings(
    written: Written, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "warehouse"
    where.mkdir()
    monkeypatch.setenv("PYICEBERG_CATALOG__OURS__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__OURS__URI", f"sqlite:///{tmp_path}/ours.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__OURS__WAREHOUSE", f"file://{where}")
    status, out, err = command(main, "--archive", str(written.root), "--catalog", "ours", "--table", "net.flows_1")
    assert (status, err) == (0, "")
    assert f"metadata: file://{where}/net/flows_1/metadata/" in out
    assert not (written.root / "_iceberg").exists()
    with closing(sqlite3.connect(tmp_path / "ours.db")) as database:
        assert database.execute("SELECT table_name FROM iceberg_tables").fetchall() == [("flows_1",)]


@pytest.mark.parametrize("name", ["what?mode=memory.db", "100%41.db", "a #1.db"])
def test_a_catalog_is_in_the_file_of_that_name(
    written: Written, publish: Callable[..., str], tmp_path: Path, name: str
) -> None:
    publish("--catalog-file", str(tmp_path / name))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["archive", name])
    assert "nothing new" in publish("--catalog-file", str(tmp_path / name))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--table", "flows"], "table (--table, ZONEMETER_TABLE) = 'flows': expected NAMESPACE.TABLE"),
        (["--table", "z.f'; DROP TABLE x --"], "expected NAMESPACE.TABLE"),
        (["--table", "z.../../etc"], "expected NAMESPACE.TABLE"),
        (["--table", "z.FLOWS"], "expected NAMESPACE.TABLE"),
        (["--catalog", "a b"], "= 'a b': expected the name of a catalog"),
        (["--catalog", "nowhere"], "catalog = 'nowhere': pyiceberg knows no catalog of that name"),
        (["--catalog", "x", "--catalog-file", "y"], "catalog and catalog_file: both are given"),
        (["--catalog-file", "/proc/none/c.db"], "catalog = '/proc/none/c.db': "),
        (["--keep-snapshots", "5x"], "'5x' is not a duration"),
        (["--archive", "s3://bucket/path"], "catalog: none is named; expected --catalog, or --catalog-file"),
        (["--archive", "/proc/nowhere"], "does not exist; expected what zonemeter run flowlog --output wrote"),
    ],
)
def test_wrong_use_is_one_line(written: Written, command: Command, flags: list[str], said: str) -> None:
    archive = [] if "--archive" in flags else ["--archive", str(written.root)]
    status, out, err = command(main, *archive, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (written.root / "_iceberg").exists()


def test_without_the_extra_it_says_how_to_install_it(
    written: Written, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    status, out, err = command(main, "--archive", str(written.root))
    assert (status, out) == (2, "")
    assert err == (
        "zonemeter archive iceberg: pyiceberg is not installed; expected zonemeter[iceberg]: "
        "pip install 'zonemeter[iceberg]'\n"
    )


@pytest.mark.parametrize(("listens", "said"), [(False, "refused"), (True, "no answer within 0.5 s")])
def test_a_catalog_that_does_not_answer(
    written: Written, command: Command, monkeypatch: pytest.MonkeyPatch, listens: bool, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not listens:
            server.close()
        monkeypatch.setattr(catalogs, "DEADLINE_SECONDS", 0.5 if listens else 60)
        monkeypatch.setenv("PYICEBERG_CATALOG__AWAY__URI", f"http://user:secret@127.0.0.1:{port}")
        status, out, err = command(main, "--archive", str(written.root), "--catalog", "away")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("zonemeter archive iceberg: catalog = 'away': ")
    assert said in err
    assert "secret" not in err


def test_a_path_that_a_uri_would_read_otherwise_is_refused(tmp_path: Path, command: Command) -> None:
    odd = Written(tmp_path / "what#else")
    odd.cut(0, flows(0, 1))
    status, _, err = command(main, "--archive", str(odd.root))
    assert (status, "cannot name files below a path with '#'" in err) == (2, True)


def test_an_archive_without_files_is_an_empty_table(tmp_path: Path, command: Command) -> None:
    empty = Written(tmp_path / "archive")
    empty.cut(0, [])
    status, out, err = command(main, "--archive", str(empty.root))
    assert (status, err) == (0, "")
    assert out.startswith("zonemeter.flows: nothing new\n0 files of 0 B, 0 flows\n")
