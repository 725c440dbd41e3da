# SPDX-License-Identifier: Apache-2.0
"""Files of an archive that hold more than any flow log writes: one line that names the file, before it is unpacked."""

import gc
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.audit.deep.archive import read_archive
from history.audit.deep.facts import Facts, Wanted
from history.bill.read import BillFiles
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.read.archive import limits
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.read.batch import SCHEMA
from schemas.amount import Amount
from schemas.ledger import LedgerRecord
from sinks.flowlog.archive.manifest import DataFile, Manifest, encode
from sinks.flowlog.stores.store import MAX_MANIFEST_BYTES

HOUR = "flows/date=2026-11-22/hour=22"
START_MS = 1_795_384_800_000
SPAN = TimeRange(START_MS, START_MS + 3_600_000)
MANIFEST = "_manifests/p=3/000000000001.json"


def made(root: Path, make: Callable[[Path], object], suffix: str = "parquet") -> FlowArchive:
    """Make an archive of one file, which `make` writes."""
    path = root / HOUR / f"flows-p3-000000000001-5c9e01.{suffix}"
    for directory in (path.parent, root / "_manifests/p=3"):
        directory.mkdir(parents=True)
    make(path)
    entry = LedgerRecord(
        hop="flowlog",
        id="x",
        partition=3,
        start_ms=START_MS,
        end_ms=START_MS + 10_000,
        taken=Amount(0, 0, 0),
        given=Amount(0, 0, 0),
    )
    manifest = Manifest(
        topic="t",
        partition=3,
        sequence=1,
        writer="5c9e01",
        first_offset=0,
        next_offset=3,
        files=[DataFile(str(path.relative_to(root)), 3, 9)],
        ledger=[entry],
    )
    (root / MANIFEST).write_bytes(encode(manifest))
    return FlowArchive(str(root))


def footer(size: int) -> Callable[[Path], object]:
    """Return what writes a file, of zeroes but for its end, whose footer is that large."""

    def write(path: Path) -> None:
        path.write_bytes(b"PAR1")
        os.truncate(path, size + 4)
        with path.open("ab") as file:
            file.write(size.to_bytes(4, "little") + b"PAR1")

    return write


def table(rows: int, columns: int = 1) -> Callable[[Path], object]:
    return lambda path: pq.write_table(
        pa.table({f"c{number}": pa.nulls(rows) for number in range(columns)}), path, row_group_size=20_000_000
    )


def bomb(path: Path) -> None:
    pq.write_table(pa.table({"id": ["0" * (4 << 20)]}), path, compression="zstd")


BAD = [
    pytest.param(footer(1 << 30), "holds 1,073,741,824 bytes of footer, more than the 67,108,864", id="footer"),
    pytest.param(table(0, 1_001), "holds 1,001 columns, more than the 1,000", id="columns"),
    pytest.param(table(10_000_001), "holds 10,000,001 rows in a row group, more than the 10,000,000", id="rows"),
    pytest.param(bomb, r"holds 4,\d\d\d,\d\d\d bytes unpacked in a row group, more than the 4,194,304", id="a page"),
    pytest.param(os.mkfifo, "it is not a file", id="pipe"),
]


@pytest.fixture(autouse=True)
def less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a bomb of 4 MiB one of them: one of 4 GiB takes minutes to make."""
    monkeypatch.setattr(limits, "MAX_GROUP_BYTES", 4 << 20)


@pytest.mark.parametrize(("make", "says"), BAD)
def test_a_report_names_it(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    archive = made(tmp_path, make)
    with pytest.raises(
        Refusal, match=rf"^archive {tmp_path}: {HOUR}/flows-p3-\d*-5c9e01.parquet:? {says}[^\n]*; [^\n]*restore [^\n]*$"
    ):
        ArchiveQuery(archive, SPAN).summarise(Parties(), Summary(), Selection())


@pytest.mark.parametrize(("make", "says"), BAD)
def test_a_deep_audit_names_it(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    [found] = deep(made(tmp_path, make))
    assert says.partition("more")[0].partition("\\d")[0] in found


@pytest.mark.parametrize("column", ["id", "bytes", "packets", "window_start"])
def test_a_deep_audit_names_rows_that_lack_something(tmp_path: Path, column: str) -> None:
    values = {
        "id": "c/n/5be6c2f0a91d/1/1/0/0",
        "bytes": 9,
        "packets": 1,
        "window_start": datetime(2026, 11, 22, 22, tzinfo=UTC),
    }
    table = pa.table({name: [value, None if name == column else value] for name, value in values.items()})
    [found] = deep(made(tmp_path, lambda path: pq.write_table(table, path)))
    assert f"a row has no {column}" in found


def test_a_deep_audit_names_windows_of_another_hour(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["c/n/5be6c2f0a91d/1/1/0/0"],
            "bytes": [9],
            "packets": [1],
            "window_start": [datetime(2026, 11, 22, 23, tzinfo=UTC)],
        }
    )
    [found] = deep(made(tmp_path, lambda path: pq.write_table(table, path)))
    assert found.endswith("cannot be read: c/n/5be6c2f0a91d/1/1/0/0 is not of the hour that the file is of")


@pytest.mark.parametrize(
    ("name", "says"),
    [("src_zon%", "has a column 'src_zon%' and no column src_zone"), ("dst_zone", "has a column 'dst_zone' twice")],
)
def test_audit_deep_names_a_file_with_a_damaged_name_of_a_column(tmp_path: Path, name: str, says: str) -> None:
    """Of four columns it reads the rows; what reports refuse it has to name all the same."""

    def damaged(path: Path) -> None:
        pq.write_table(SCHEMA.empty_table(), path)
        path.write_bytes(path.read_bytes().replace(b"\x08src_zone", b"\x08" + name.encode()))

    [found] = deep(made(tmp_path, damaged))
    assert f"flows-p3-000000000001-5c9e01.parquet cannot be read: {says}" in found


def deep(archive: FlowArchive) -> list[str]:
    facts = Facts(3, Wanted(SPAN))
    read_archive(archive.location, facts)
    return [each.what for each in facts.findings]


def test_a_line_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    def sparse(path: Path) -> None:
        path.touch()
        os.truncate(path, 1 << 30)

    [found] = deep(made(tmp_path, sparse, "jsonl"))
    assert "flows-p3-000000000001-5c9e01.jsonl cannot be read: a line has more than 65,536 bytes" in found


@pytest.mark.parametrize("size", [MAX_MANIFEST_BYTES + 1, 5 << 30])
def test_a_manifest_that_no_flow_log_writes(tmp_path: Path, size: int) -> None:
    made(tmp_path, table(3))
    os.truncate(tmp_path / MANIFEST, size)
    with pytest.raises(
        Refusal, match=rf"^archive {tmp_path}: {MANIFEST} is damaged: it is larger than 134,217,728 bytes$"
    ):
        FlowArchive(str(tmp_path))


def test_a_manifest_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    made(tmp_path, table(3))
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1', b'"schema_version":2'))
    says = "unsupported_version: schema_version 2, this reader knows 1; run the version of zonemeter that wrote it"
    with pytest.raises(Refusal, match=rf"^archive {tmp_path}: {MANIFEST}: {says}$"):
        FlowArchive(str(tmp_path))
    archive = made(tmp_path / "other", table(3))
    (tmp_path / "other" / MANIFEST).write_bytes(b'{"schema_version":2,"files":[]}')
    with pytest.raises(Refusal, match=says):
        archive.listing(3, 1)


def test_what_a_flow_log_writes_is_read(tmp_path: Path) -> None:
    archive = made(tmp_path, lambda path: pq.write_table(SCHEMA.empty_table(), path))
    with ArchiveQuery(archive, SPAN) as query:
        query.summarise(Parties(), Summary(), Selection())
        assert len(query.read) == 1


def test_a_bill_with_a_footer_that_none_has(tmp_path: Path) -> None:
    footer(1 << 30)(tmp_path / "cur.parquet")
    with pytest.raises(Refusal, match=r"cur\.parquet: its footer has 1,073,741,824 bytes, more than the 67,108,864"):
        BillFiles([tmp_path / "cur.parquet"])


def flows(path: Path, names: Sequence[str], *, null: str = "", statistics: list[str] | bool = True) -> None:
    table = pa.table({name: pa.array([None if name == null else 1], pa.int64()) for name in names})
    pq.write_table(table, path, write_statistics=statistics)


def test_no_footer_stays_in_memory(tmp_path: Path) -> None:
    """Until Python looks for what refers to itself, which commands have it do seldom."""
    gc.collect()
    gc.disable()
    try:
        archive = made(tmp_path, lambda path: flows(path, SCHEMA.names))
        limits.check_files(archive, [f"{HOUR}/flows-p3-000000000001-5c9e01.parquet"])
        assert not any(isinstance(each, pq.FileMetaData) for each in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("column", ["window_start", "window_end", "scope"])
def test_a_file_is_refused_whose_footer_does_not_tell_whether_a_row_lacks_what_it_must_have(
    tmp_path: Path, column: str
) -> None:
    """What is asked of a range would leave such a row out without a word."""
    others = [name for name in SCHEMA.names if name != column]
    for says, names, statistics in (
        (f"does not say whether rows have no {column}", SCHEMA.names, others),
        (f"has no column {column}", others, True),
    ):
        archive = made(tmp_path / str(len(names)), partial(flows, names=names, statistics=statistics))
        with pytest.raises(Refusal, match=says):
            limits.check_files(archive, [f"{HOUR}/flows-p3-000000000001-5c9e01.parquet"])


@pytest.mark.parametrize("names", [SCHEMA.names, SCHEMA.names[::-1]], ids=["usual", "other"])
def test_a_column_is_found_wherever_it_stands(tmp_path: Path, names: Sequence[str]) -> None:
    archive = made(tmp_path, lambda path: flows(path, names, null="bytes"))
    with pytest.raises(Refusal, match="has rows without bytes"):
        limits.check_files(archive, [f"{HOUR}/flows-p3-000000000001-5c9e01.parquet"])
