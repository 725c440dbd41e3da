# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive iceberg`: files, tables, catalogs and flags that cannot be used are named in one line."""

import importlib.util
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from history.upkeep.iceberg import catalog as catalogs
from history.upkeep.iceberg.command import main
from sinks.flowlog.rows.parquet import MILLISECONDS
from tests.history.conftest import Command
from tests.history.upkeep.iceberg.conftest import files_of, opened, rewrite
from tests.support.history.windows import flows
from tests.support.history.written import Written


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
