# SPDX-License-Identifier: Apache-2.0
"""Compaction: the same rows in few files, whatever comes in between; killed at any step nothing is doubled or lost."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

import schemas
from common.errors import Refusal
from history.model.filters import Selection
from history.read.archive.files import find_chapter
from history.read.archive.narrowed import Narrowed
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.read.batch import ArchiveParties
from history.upkeep import sorting
from history.upkeep.compact import Compactor, Rule, Taken
from schemas.flow import Endpoint, Flow, Kubernetes, Named, Workload
from sinks.flowlog.archive.compaction import COMPACTED, Compaction, record_path, rollup_path
from sinks.flowlog.archive.manifest import Intent, encode
from sinks.flowlog.rows.parquet import MILLISECONDS, TIME
from tests.support.history.written import BEGIN_MS, DAY, FEW, HOUR, HOUR_MS, Dying, Killed, Written, compact, rows
from tests.support.sinks.flows import EXTERNAL, POSTGRES, flow, flow_id, pod

NODES = ("node-a1", "node-b1", "node-c1")


def flows(partition: int, sequence: int, count: int = 4, start_ms: int = BEGIN_MS) -> list[Flow]:
    """Return flows of one window of the partition's node."""
    start = start_ms + sequence * 10_000
    return [
        flow(
            id=flow_id(sequence, row, NODES[partition]),
            start_ms=start,
            end_ms=start + 10_000,
            bytes=1_000 * sequence + row,
            source=pod(f"web-{row}", "a"),
            destination=EXTERNAL if row == 2 else POSTGRES,
            scope="external" if row == 2 else "cross_zone",
            direction="relay" if row == 3 else "egress",
        )
        for row in range(count)
    ]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Three partitions with three cuts each in one hour, the last of which reaches into the next."""
    made = Written(tmp_path / "archive")
    for sequence in range(1, 4):
        for partition in range(3):
            later = flows(partition, sequence + 360, 2) if sequence == 3 else []
            made.cut(partition, [*flows(partition, sequence), *later])
    return made


def records(root: Path) -> list[Compaction]:
    return [
        msgspec.json.decode(path.read_bytes(), type=Compaction)
        for path in sorted(root.glob(f"_compactions/{HOUR}/*.json"))
    ]


def test_files_of_before_times_were_microseconds_are_read_and_made_alike(written: Written) -> None:
    before = written.rows()
    for path in written.files()[::2]:
        whole = written.root / path
        read = pq.ParquetFile(whole).read()
        for name in ("window_start", "window_end"):
            read = read.set_column(read.column_names.index(name), name, read[name].cast(MILLISECONDS))
        pq.write_table(read, whole, store_schema=False)
    assert written.rows() == before
    with ArchiveQuery(FlowArchive(str(written.root)), DAY) as query:
        read_back = [row for table in query.tables(Selection()) for row in ArchiveParties().rows(table)]
    starts = {row[0].start_ms for row in read_back}
    assert starts == {int(row["window_start"].timestamp() * 1000) for row in before}
    compact(written.root)
    (made,) = (written.root / f"flows/{HOUR}").glob("flows-c*.parquet")
    assert times(made) == {TIME}
    assert written.rows() == before


def times(path: Path) -> set[pa.DataType]:
    return {pq.ParquetFile(path).schema_arrow.field(name).type for name in ("window_start", "window_end")}


def test_what_was_compacted_when_times_were_milliseconds_is_compacted_again_if_asked_for(written: Written) -> None:
    before = written.rows()
    compact(written.root)
    (made,) = (written.root / f"flows/{HOUR}").glob("flows-c*.parquet")
    read = pq.ParquetFile(made).read()
    for name in ("window_start", "window_end"):
        read = read.set_column(read.column_names.index(name), name, read[name].cast(MILLISECONDS))
    pq.write_table(read, made, store_schema=False)
    # Large enough to stay: more than half of what a file may have.
    rule = Rule(files=2, file_bytes=1, old_times=True)
    assert compact(written.root, Rule(files=2, file_bytes=1)) is None
    done = compact(written.root, rule)
    assert done is not None
    assert [file.path for file in done.before] == [str(made.relative_to(written.root))]
    assert {kind for file in done.after for kind in times(written.root / file.path)} == {TIME}
    assert written.rows() == before
    assert compact(written.root, rule) is None
    (next(iter((written.root / f"flows/{HOUR}").glob("*")))).write_bytes(b"PAR1")
    with pytest.raises(Refusal, match=f"flows/{HOUR}/flows-c"):
        compact(written.root, rule)


def test_the_rows_are_the_same_in_fewer_files(written: Written) -> None:
    before = written.rows()
    asked = _asked(written)
    done = compact(written.root)
    assert done is not None
    assert (len(done.before), len(done.after), done.rows) == (9, 1, 36)
    assert written.rows() == before
    assert _asked(written) == asked
    (record,) = records(written.root)
    assert {file.path for file in record.files} <= set(written.files())
    assert [path for path in written.files() if path.startswith(f"flows/{HOUR}/")] == [done.after[0].path]
    assert done.after[0].size_bytes == (written.root / done.after[0].path).stat().st_size
    assert not list(written.root.glob("_compactions/*/*/*.intent"))
    assert compact(written.root) is None


def _asked(written: Written, selection: Selection | None = None) -> list[dict[str, Any]]:
    """Return the rows as a replay reads them."""
    with ArchiveQuery(FlowArchive(str(written.root)), DAY) as query:
        found = [row for table in query.tables(selection or Selection()) for row in table.to_pylist()]
    return sorted(found, key=lambda row: row["id"])


def test_a_directory_whose_name_reads_as_a_pattern_is_read_and_no_other(written: Written, tmp_path: Path) -> None:
    asked = _asked(written)
    for name in ("a*", "a1b"):
        shutil.copytree(written.root, tmp_path / name)
    written.root = tmp_path / "a*"
    assert _asked(written) == asked
    assert compact(written.root)
    assert _asked(written) == asked


def test_columns_and_types_are_the_flow_logs(written: Written) -> None:
    raw = pq.read_schema(written.root / written.files()[0])
    assert compact(written.root)
    (path,) = [path for path in written.files() if path.startswith(f"flows/{HOUR}/")]
    assert pq.read_schema(written.root / path).equals(raw)
    schema = json.loads((Path(schemas.__file__).parent / "flowlog.v1.schema.json").read_text())
    types = {name: column["x-arrow"] for name, column in schema["properties"].items()}
    assert {field.name: str(field.type) for field in raw} == types


def test_files_end_at_their_size_and_all_is_sorted(written: Written) -> None:
    before = written.rows()
    done = compact(written.root, Rule(files=2, file_bytes=1))
    assert done is not None
    assert written.rows() == before
    assert sum(file.rows for file in done.after) == 36
    sources = [
        value for file in done.after for value in pq.read_table(written.root / file.path)["src_workload"].to_pylist()
    ]
    assert sources == sorted(sources)


def test_late_flows_are_compacted_once_they_make_enough_files(written: Written) -> None:
    compact(written.root)
    for partition in range(2):
        written.cut(partition, flows(partition, 50))
    before = written.rows()
    assert len(before) == 36 + 6 + 8
    assert compact(written.root) is None
    written.cut(2, flows(2, 50))
    before = written.rows()
    done = compact(written.root)
    assert done is not None
    assert (len(done.before), len(done.after)) == (4, 1)
    assert written.rows() == before
    assert [record.sequence for record in records(written.root)] == [1, 2]
    # A file that has its size is left as it is.
    for partition in range(3):
        written.cut(partition, flows(partition, 60))
    before = written.rows()
    done = compact(written.root, Rule(files=2, file_bytes=1))
    assert done is not None
    assert len(done.before) == 3
    assert written.rows() == before


def test_an_earlier_versions_files_and_folders_are_compacted_too(written: Written) -> None:
    for directory in sorted(written.root.glob("flows/date=*")):
        shutil.move(directory, written.root / directory.name)
    for manifest in written.root.glob("_manifests/p=*/*.json"):
        manifest.write_bytes(manifest.read_bytes().replace(b'"flows/date=', b'"date='))
    for path in written.files()[::2]:
        pq.write_table(pq.ParquetFile(written.root / path).read().drop_columns(["server"]), written.root / path)
    before = written.rows()
    assert compact(written.root)
    assert written.rows() == before
    assert not list(written.root.glob(f"{HOUR}/*"))
    assert len(list(written.root.glob(f"flows/{HOUR}/*"))) == 1


@pytest.mark.parametrize(("error", "late"), [(Killed, False), (OSError, True)], ids=["killed", "no answer"])
def test_stopped_at_any_step_nothing_is_doubled_or_lost(tmp_path: Path, error: type[BaseException], late: bool) -> None:
    written = Written(tmp_path / "archive")
    for sequence in range(1, 4):
        written.cut(1, flows(1, sequence))
    before, at, over = written.rows(), 0, False
    while not over:
        at += 1
        root = Path(shutil.copytree(written.root, tmp_path / f"copy-{at}"))
        dying = Dying(FlowArchive(str(root)).store, at, error, late=late)
        try:
            compact(root, store=dying)
            over = dying.calls < at
        except error:
            pass
        assert rows(str(root)) == before, at
        late_flows = flows(1, 70)
        again = _resumed(root, late_flows)
        # Whoever was killed, the next run leaves what counts and nothing else.
        compact(root)
        assert rows(str(root)) == again, at
        counting = {file.path for file in find_chapter(FlowArchive(str(root)), DAY).files}
        assert {str(path.relative_to(root)) for path in root.glob("flows/*/*/*")} == counting, at
        rollups = set(FlowArchive(str(root)).chain(HOUR).rollups)
        assert {str(path.relative_to(root)) for path in root.glob("rollups/*/*/*")} == rollups, at
        assert rollups == {rollup_path(path) for path in counting if COMPACTED.fullmatch(Path(path).name)}, at
        assert not list(root.glob("**/*.intent")), at
        assert not list(root.glob("**/*.tmp")), at
        shutil.rmtree(root)
    assert at > 6


def _resumed(root: Path, more: list[Flow]) -> list[dict[str, Any]]:
    """Let the flow log write on in that hour; return the rows."""
    writer = Written(root)
    writer._sequence = {1: 3}
    writer.cut(1, more)
    return rows(str(root))


def test_a_flow_log_that_writes_meanwhile_is_not_in_the_way(written: Written) -> None:
    class Busy(Dying):
        """Each time that something changes, the flow log adds a file to the hour."""

        def _change(self, call: Any, *arguments: Any) -> Any:
            self.calls += 1
            written.cut(self.calls % 3, flows(self.calls % 3, 100 + self.calls))
            return super()._change(call, *arguments)

    busy = Busy(FlowArchive(str(written.root)).store, -1)
    assert compact(written.root, store=busy)
    assert busy.calls > 10
    found = written.rows()
    assert len(found) == len({row["id"] for row in found}) == 36 + 6 + 4 * busy.calls // 2


def test_of_two_compactors_one_is_told_so_and_nothing_of_it_is_left(written: Written, tmp_path: Path) -> None:
    before = written.rows()

    class Overtaken(Dying):
        """Another process compacts just before this one's record."""

        def create(self, path: str, parts: Any) -> bool:
            assert compact(written.root)
            return super().create(path, parts)

    archive = FlowArchive(str(written.root))
    archive.store = Overtaken(archive.store, -1)
    spill = tmp_path / "other"
    spill.mkdir()
    with pytest.raises(Taken):
        Compactor(archive).compact(HOUR, FEW, spill)
    assert written.rows() == before
    assert not list(written.root.glob("**/*.intent"))
    counting = {file.path for file in find_chapter(FlowArchive(str(written.root)), DAY).files}
    assert set(written.files()) == counting


@pytest.mark.parametrize("after", ["plan", "_put"])
def test_files_that_another_compactor_deleted_are_not_damaged(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    before, call = written.rows(), getattr(Compactor, after)

    def overtaken(*arguments: Any) -> Any:
        found = call(*arguments)
        with monkeypatch.context() as patched:
            patched.setattr(Compactor, after, call)
            compact(written.root)
        return found

    spill = tmp_path / "other"
    spill.mkdir()
    compactor = Compactor(FlowArchive(str(written.root)))
    monkeypatch.setattr(Compactor, after, overtaken)
    with pytest.raises(Taken):
        compactor.compact(HOUR, FEW, spill)
    monkeypatch.undo()
    assert written.rows() == before
    assert compact(written.root) is None
    assert len([path for path in written.files() if HOUR in path]) == 1
    assert not list(written.root.glob("_compactions/*/*/*.intent"))


def test_a_compaction_between_listing_and_reading_makes_a_reader_begin_again(written: Written) -> None:
    before = written.rows()
    archive = FlowArchive(str(written.root))
    with ArchiveQuery(archive, DAY) as query:
        compact(written.root)
        with pytest.raises(ArchiveChanged, match="compacted while it was read"):
            list(query.tables(Selection()))
    assert written.rows() == before


def test_a_reader_goes_on_with_what_was_replaced_a_moment_ago(
    written: Written, tmp_path: Path, waited: list[float]
) -> None:
    before = written.rows()
    compactor = Compactor(FlowArchive(str(written.root)), keep_seconds=3600)
    with ArchiveQuery(FlowArchive(str(written.root)), DAY) as query:
        compactor.compact(HOUR, FEW, tmp_path)
        compactor.delete_replaced()
        read = [row for table in query.tables(Selection()) for row in table.to_pylist()]
        assert sorted(read, key=lambda row: row["id"]) == before
    assert written.rows() == before
    many = len(written.files())
    compactor.delete_replaced(wait=True)
    assert 3_500 < waited[-1] <= 3_600
    assert len(written.files()) < many
    assert not list(written.root.glob("_compactions/*/*/*.intent"))
    assert written.rows() == before


def test_a_compaction_of_flows_newer_than_the_archive_was_opened_makes_a_reader_begin_again(written: Written) -> None:
    archive = FlowArchive(str(written.root))
    written.cut(1, flows(1, 50))
    compact(written.root)
    # These flows are behind the newest manifest that the reader knows: it would take them from the topic once more.
    with pytest.raises(ArchiveChanged):
        find_chapter(archive, DAY)


def test_a_compaction_while_files_are_listed_is_seen_whole_or_not_at_all(written: Written) -> None:
    before = written.rows()
    archive = FlowArchive(str(written.root))
    done = False

    class Listing(Dying):
        def names(self, directory: str) -> list[str]:
            nonlocal done
            if directory == "_compactions" and not done:
                done = True
                compact(written.root)
            return super().names(directory)

    archive.store = Listing(archive.store, -1)
    chapter = find_chapter(archive, DAY)
    assert done
    assert (sum(file.rows for file in chapter.files), chapter.unlisted) == (len(before), 0)
    chain = archive.chain(HOUR)
    assert chain.files.keys() <= {*chapter.paths}
    assert chain.replaced.isdisjoint(chapter.paths)
    assert written.rows() == before


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


SELECTIONS = [
    Selection(),
    Selection(namespaces=["team-1"]),
    Selection(namespaces=["team-2", "nobody"], scopes=["cross_zone"]),
    Selection(namespaces=["kube-system"], min_bytes=1_000),
    Selection(workloads=["team-3/web"]),
    Selection(workloads=["Deployment/dns"], directions=["relay"]),
    Selection(pods=["team-1/web-0"]),
    Selection(pods=["api-0"], ports=[5432]),
    Selection(addresses=["10.42.1.0/24"]),
    Selection(destinations=["team-2/api"]),
    Selection(namespaces=["nobody"]),
]


def test_what_is_filtered_is_the_same_out_of_the_few_row_groups_that_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_LEAST_GROUP_ROWS", 8)
    written = Written(tmp_path / "archive")
    for sequence in range(1, 5):
        written.cut(sequence % 3, talk(sequence))
    before = [_asked(written, selection) for selection in SELECTIONS]
    done = compact(written.root, Rule(files=0, file_bytes=20_000))
    assert done is not None
    assert len(done.after) > 1
    assert [_asked(written, selection) for selection in SELECTIONS] == before
    assert [bool(found) for found in before] == [True] * 10 + [False]
    archive, paths = FlowArchive(str(written.root)), [file.path for file in done.after]
    found = [
        sum(len(Narrowed(archive, path, Selection(namespaces=[name])).rows) for path in paths)
        for name in ("team-1", "kube-system", "nobody")
    ]
    assert found == [len(before[1]), len(_asked(written, Selection(namespaces=["kube-system"]))), 0]
    # Files that came since are not left out.
    written.cut(1, talk(9))
    assert len(_asked(written, SELECTIONS[1])) == len(before[1]) * 5 // 4


def talk(sequence: int) -> list[Flow]:
    """Return flows of a window in which each of five namespaces talks to itself and to DNS."""
    dns = placed("dns", "kube-system", 9)
    pairs = []
    for number in range(1, 6):
        web, api = placed("web", f"team-{number}", number), placed("api", f"team-{number}", number + 10)
        pairs += [(web, api), (api, web), (web, dns), (dns, web), (api, EXTERNAL)]
    return [
        msgspec.structs.replace(each, id=flow_id(sequence, row), source=source, destination=destination)
        for row, (each, (source, destination)) in enumerate(zip(flows(1, sequence, len(pairs)), pairs, strict=True))
    ]


def placed(name: str, namespace: str, number: int) -> Endpoint:
    """Return a pod of a namespace."""
    k8s = Kubernetes(Named(namespace), Named(f"{name}-0"), Workload("Deployment", name))
    return pod(name, "a", k8s=k8s, address=f"10.42.{number}.1", port=5432 if name == "api" else UNSET)


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


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "cut", "compact", "killed"]),
            st.integers(0, 2),
            st.integers(1, 5),
            st.integers(0, 2),
            st.integers(1, 14),
        ),
        min_size=2,
        max_size=14,
    )
)
def test_whatever_the_order_of_cuts_and_compactions_every_flow_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int, int]]
) -> None:
    made = Written(tmp_path_factory.mktemp("random") / "archive")
    expected: dict[str, int] = {}
    for number, (step, partition, count, hour, at) in enumerate([("cut", 0, 1, 0, 1), *steps], start=1):
        if step == "cut":
            some = flows(partition, number, count, BEGIN_MS + hour * HOUR_MS)
            expected |= {each.id: each.bytes for each in some}
            made.cut(partition, some)
            continue
        name = ("date=2026-11-22/hour=22", "date=2026-11-22/hour=23", "date=2026-11-23/hour=00")[hour]
        store = Dying(FlowArchive(str(made.root)).store, at if step == "killed" else -1)
        with contextlib.suppress(Killed):
            compact(made.root, Rule(files=at % 4, file_bytes=at % 2 * 2000 + 1), store, name)
    found = made.rows()
    assert {row["id"]: row["bytes"] for row in found} == expected
    assert len(found) == len(expected)
