# SPDX-License-Identifier: Apache-2.0
"""Compaction: the same rows in few files, sorted, with the flow log's own columns; of earlier versions' files, too."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import UNSET

import schemas
from common.errors import Refusal
from history.model.filters import Selection
from history.read.archive.narrowed import Narrowed
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.read.batch import ArchiveParties
from history.upkeep import sorting
from history.upkeep.compact import Rule
from schemas.flow import Endpoint, Flow, Kubernetes, Named, Workload
from sinks.flowlog.rows.parquet import MILLISECONDS, TIME
from tests.support.history.windows import flows, records
from tests.support.history.written import DAY, HOUR, Written, compact
from tests.support.sinks.flows import EXTERNAL, flow_id, pod


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
    monkeypatch.setattr(sorting, "_GROUP_ROWS", 8)
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
