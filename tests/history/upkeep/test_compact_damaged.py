# SPDX-License-Identifier: Apache-2.0
"""Compaction: what is missing or cannot be trusted is refused in one line; what a killed writer left is cleared up."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.model.filters import Selection
from history.read.archive.files import find_chapter
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.upkeep.compact import Rule
from sinks.flowlog.archive.compaction import record_path
from sinks.flowlog.archive.manifest import Intent, encode
from tests.support.history.windows import flows
from tests.support.history.written import DAY, HOUR, Dying, Written, compact


@pytest.mark.parametrize("whole", [True, False], ids=["an hour that was deleted", "a part of one"])
def test_what_is_gone_of_a_compacted_hour_is_missed(written: Written, whole: bool) -> None:
    done = compact(written.root, Rule(files=2, file_bytes=1))
    assert done
    if whole:
        shutil.rmtree(written.root / f"flows/{HOUR}")
        chapter = find_chapter(FlowArchive(str(written.root)), DAY)
        assert chapter.deleted == f"flows/{HOUR}"
        assert len(written.rows()) == 6
        return
    written.cut(0, flows(0, 50))
    (written.root / done.after[0].path).unlink()
    with pytest.raises(Refusal, match=f"{Path(done.after[0].path).name} is missing, a compaction wrote it"):
        written.rows()


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        pytest.param(["_compactions"], f"_compactions/{HOUR}/000001.json", id="compactions"),
        pytest.param(
            ["_compactions", *(f"_manifests/p={p}/000000000001.json" for p in range(3))], "is missing", id="both"
        ),
        pytest.param(["_manifests/p=1/000000000003.json"], "_manifests/p=1/000000000003.json", id="newest manifest"),
        pytest.param(["_manifests/p=1"], "_manifests/p=1/000000000003.json", id="a partition's manifests"),
    ],
)
def test_a_backup_that_came_back_in_part_is_no_deleted_hour(written: Written, gone: list[str], says: str) -> None:
    compact(written.root)
    for path in gone:
        shutil.rmtree(written.root / path) if (written.root / path).is_dir() else (written.root / path).unlink()
    with pytest.raises(Refusal, match=says) as refused:
        written.rows()
    assert not isinstance(refused.value, ArchiveChanged)


@pytest.mark.parametrize("gone", ["_manifests/p=1/000000000001.json", "_manifests/p=1"])
def test_files_whose_manifest_is_missing_are_no_files_that_do_not_count(written: Written, gone: str) -> None:
    path = written.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(Refusal, match=re.escape("_manifests/p=1/000000000001.json is missing; restore it")):
        written.rows()


def test_a_record_that_is_missing_is_missed(written: Written) -> None:
    compact(written.root)
    for partition in range(3):
        written.cut(partition, flows(partition, 50))
    compact(written.root)
    (written.root / record_path(HOUR, 1)).unlink()
    with pytest.raises(Refusal, match=r"000001\.json is missing; restore it"):
        written.rows()


FILE = f"flows/{HOUR}/flows-c000001-abcdef-0.parquet"

OURS = {"hour": HOUR, "sequence": 1, "writer": "abcdef"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{", "is damaged", id="half"),
        pytest.param(b'{"x":' + b"[" * 100_000, "is damaged", id="brackets without end"),
        pytest.param(b" " * (64 * 1024 * 1024 + 1), "at most 67,108,864 are read", id="endless"),
        pytest.param(OURS | {"schema_version": 2}, "schema_version 2", id="a later version's"),
        pytest.param(OURS | {"sequence": 2}, "it is compaction 2 of", id="another number"),
        pytest.param(OURS | {"hour": "date=2026-11-22/hour=23"}, "it is compaction 1 of", id="another hour's"),
        pytest.param(
            OURS | {"replaces": ["flows/date=2026-11-22/hour=23/flows-p0-000000000003-abcdef.parquet"]},
            "not a file of its hour",
            id="replaces another hour's",
        ),
        pytest.param(OURS | {"replaces": ["../../kept"]}, "not a file of its hour", id="dots"),
        pytest.param(
            OURS | {"replaces": [f"flows/{HOUR}/../../../kept.parquet"]}, "not a file of its hour", id="more dots"
        ),
        pytest.param(OURS | {"replaces": ["/etc/passwd"]}, "not a file of its hour", id="absolute"),
        pytest.param(
            OURS | {"files": [{"path": FILE.replace("abcdef", "fedcba"), "rows": 1, "size_bytes": 1}]},
            "its writer has no file",
            id="another writer's",
        ),
        pytest.param(
            OURS | {"files": [{"path": FILE.replace("000001", "000002"), "rows": 1, "size_bytes": 1}]},
            "its writer has no file",
            id="another compaction's",
        ),
        pytest.param(OURS | {"files": [{"path": FILE, "rows": 1, "size_bytes": 1}] * 2}, "a file twice", id="twice"),
        pytest.param(OURS | {"files": [{"path": FILE, "rows": -1, "size_bytes": 1}]}, "is damaged", id="negative"),
        pytest.param(
            OURS | {"rollups": [{"path": FILE.replace("flows", "rollups", 1), "rows": 1, "size_bytes": 1}]},
            "it has no file that",
            id="a rollup of nothing",
        ),
        pytest.param(
            OURS | {"expired": True, "rollups": [{"path": "rollups/../x", "rows": 1, "size_bytes": 1}]},
            "it has no file that",
            id="a rollup elsewhere",
        ),
        pytest.param(
            OURS
            | {
                "expired": True,
                "rollups": [{"path": FILE.replace("flows", "rollups", 1), "rows": 1, "size_bytes": 1}] * 2,
            },
            "a rollup twice",
            id="a rollup twice",
        ),
    ],
)
def test_a_record_that_cannot_be_trusted_is_refused_in_one_line(written: Written, content: Any, says: str) -> None:
    files = written.files()
    path = written.root / record_path(HOUR, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for use in (written.rows, lambda: compact(written.root)):
        with pytest.raises(Refusal, match=says) as refusal:
            use()
        assert "\n" not in str(refusal.value)
        assert f"{record_path(HOUR, 1)} is damaged" in str(refusal.value)
    assert written.files() == files


@pytest.mark.parametrize(
    "path", ["../../kept", f"flows/{HOUR}/flows-p0-000000000001-abcdef.parquet", FILE, f"rollups/{FILE[6:]}"]
)
def test_an_intent_names_its_writers_files_and_no_others(written: Written, path: str) -> None:
    files = written.files()
    intent = written.root / f"_compactions/{HOUR}/000001-fedcba.intent"
    intent.parent.mkdir(parents=True)
    intent.write_bytes(encode(Intent(1, [path])))
    with pytest.raises(Refusal, match="its writer has no file"):
        compact(written.root)
    assert written.files() == files


def test_what_a_killed_writer_left_half_written_is_cleared_up(written: Written) -> None:
    compact(written.root)
    left = [
        written.root / f"_compactions/{HOUR}/000002.json.0a1b2c3d.tmp",
        written.root / f"flows/{HOUR}/flows-c000002-abcdef-0.parquet.tmp",
        written.root / f"flows/{HOUR}/flows-c000001-abcdef-0.parquet",
    ]
    for path in left:
        path.write_bytes(b"half")
    (written.root / f"_compactions/{HOUR}/000002-abcdef.intent").write_bytes(
        encode(Intent(2, [f"flows/{HOUR}/flows-c000002-abcdef-0.parquet"]))
    )
    before = written.rows()
    compact(written.root)
    assert [path for path in left if path.exists()] == []
    assert written.rows() == before
    assert not list(written.root.glob("**/*.intent"))


def test_a_source_that_holds_other_than_is_listed_is_left_as_it_is(written: Written) -> None:
    path = written.root / written.files()[0]
    table = pq.ParquetFile(path).read()
    pq.write_table(table.slice(1), path)
    files = written.files()
    with pytest.raises(Refusal, match="hold 35 flows, 36 are listed"):
        compact(written.root)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refusal, match=HOUR) as refusal:
        compact(written.root)
    assert "\n" not in str(refusal.value)
    assert written.files() == files


def renamed(path: Path, name: bytes, count: int) -> None:
    """Damage a column's name in a footer: in its schema (the first), or there and in every row group."""
    path.write_bytes(path.read_bytes().replace(b"\x08src_zone", b"\x08" + name, count))


@pytest.mark.parametrize(
    ("name", "says"),
    [(b"src_zon%", "has a column 'src_zon%' and no column src_zone"), (b"dst_zone", "has a column 'dst_zone' twice")],
    ids=["unknown", "another's"],
)
@pytest.mark.parametrize("count", [1, -1], ids=["schema", "everywhere"])
def test_a_column_whose_name_is_damaged_is_not_compacted_away(
    written: Written, count: int, name: bytes, says: str
) -> None:
    path = written.files()[4]
    renamed(written.root / path, name, count)
    files = written.files()
    readings: list[Callable[[], object]] = [
        lambda: compact(written.root),
        lambda: compact(written.root, Rule(files=0, file_bytes=1, erasure="all")),
        lambda: list(ArchiveQuery(FlowArchive(str(written.root)), DAY).tables(Selection())),
    ]
    for reading in readings:
        with pytest.raises(Refusal, match=f"{path} {says}; [^\n]*restore it$"):
            reading()
    assert written.files() == files


def test_what_a_later_version_has_more_of_is_not_compacted_away(written: Written) -> None:
    files = written.files()
    path = written.root / files[4]
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column("src_rack", table["src_zone"]), path)
    with pytest.raises(Refusal, match=f"{files[4]} has a column 'src_rack'; run a version that knows it$"):
        compact(written.root)
    assert written.files() == files
    assert [*ArchiveQuery(FlowArchive(str(written.root)), DAY).tables(Selection())]


def test_what_was_written_wrong_does_not_come_to_count(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = written.rows(), written.files()

    class Wrong(Dying):
        def put(self, path: str, parts: Any) -> int:
            if path.endswith(".parquet"):
                content = pq.read_table(parts[0])
                bad = content.set_column(5, "bytes", [[value + 1 for value in content["bytes"].to_pylist()]])
                (written.root / path).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(bad, written.root / path)
                return 1
            return super().put(path, parts)

    with pytest.raises(Refusal, match="is not what was read"):
        compact(written.root, store=Wrong(FlowArchive(str(written.root)).store, -1))
    assert written.rows() == before
    assert written.files() == files
    assert not list(written.root.glob("**/*.intent"))
