# SPDX-License-Identifier: Apache-2.0
"""Replay of an archive that has lost something, or that an earlier version wrote."""

import shutil
from datetime import datetime
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from tests.history.replay.conftest import Run, lines
from tests.support.history.lived import Lived


@pytest.fixture
def archive(history: Lived, tmp_path: Path) -> Path:
    """A copy of the archive, to be damaged."""
    return Path(shutil.copytree(history.archive, tmp_path / "flows"))


def test_files_that_no_manifest_lists_do_not_count(history: Lived, run: Run, archive: Path) -> None:
    real = sorted(archive.glob("flows/date=*/hour=*/*.parquet"))
    shutil.copy(real[0], real[0].with_name("flows-p0-000000000001-ffffff.parquet"))
    shutil.copy(real[0], real[0].with_name("flows-p0-000000009999-ffffff.parquet"))
    (real[0].parent / "flows-p0-000000000002-ffffff.parquet.tmp").write_bytes(b"half")
    status, out, err = run(*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl")
    assert status == 0
    assert lines(out).keys() == history.flows.keys()
    assert "left out: 2 files that no manifest lists" in err


@pytest.mark.parametrize("which", ["all", "the first", "the last"])
def test_files_of_a_version_that_lacked_a_column_are_read_with_the_others(
    history: Lived, run: Run, archive: Path, which: str
) -> None:
    files = sorted(archive.glob("flows/date=*/hour=*/*.parquet"))
    old = {"all": files, "the first": files[:1], "the last": files[-1:]}[which]
    for path in old:
        pq.write_table(
            pq.ParquetFile(path).read().drop_columns(["server", "attribution_version"]), path, store_schema=False
        )
    status, out, err = run(*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl")
    assert status == 0, err
    found = lines(out)
    assert found.keys() == history.flows.keys()
    known = {id_: flow["server"] for id_, flow in history.flows.items() if "server" in flow}
    said = {id_: row["server"] for id_, row in found.items() if "server" in row}
    assert said.items() <= known.items()
    assert (len(said) < len(known), bool(said)) == (True, which != "all")


def test_an_archive_whose_dates_stand_beside_its_manifests_is_read(history: Lived, run: Run, archive: Path) -> None:
    """As flow logs of before `flows/` wrote it; what is written since stands below that."""
    days = sorted(archive.glob("flows/date=*"))
    for day in days:
        shutil.copytree(day, archive / day.name)
        shutil.rmtree(day)
    manifests = sorted(archive.glob("_manifests/p=*/*.json"))
    for manifest in manifests:
        manifest.write_bytes(manifest.read_bytes().replace(b'"flows/date=', b'"date='))
    newest = next(each for each in reversed(manifests) if b'"date=' in each.read_bytes())
    newest.write_bytes(newest.read_bytes().replace(b'"date=', b'"flows/date='))
    for file in orjson.loads(newest.read_bytes())["files"]:
        moved = archive / file["path"]
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(archive / file["path"].removeprefix("flows/"), moved)
    status, out, _ = run(*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl")
    assert status == 0
    assert lines(out).keys() == history.flows.keys()


def test_an_archive_that_has_lost_something_is_not_passed_off_as_whole(history: Lived, run: Run, archive: Path) -> None:
    flags = [*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl"]
    by_size = sorted(archive.glob("flows/date=*/hour=*/*.parquet"), key=lambda path: path.stat().st_size)
    content = by_size[-1].read_bytes()
    by_size[-1].write_bytes(content[: len(content) // 2])
    status, _, err = run(*flags)
    assert status == 2
    assert by_size[-1].name in err
    assert len(err.splitlines()) == 1
    middle = len(content) // 2
    by_size[-1].write_bytes(content[:100] + bytes(byte ^ 0x5A for byte in content[100:middle]) + content[middle:])
    status, _, err = run(*flags)
    assert (status, len(err.splitlines())) == (2, 1)
    assert by_size[-1].name in err, "what the reader says of broken bytes names no file"
    by_size[-1].write_bytes(content)
    manifests = [path for path in sorted(archive.glob("_manifests/p=*/*.json")) if b"flows-p" in path.read_bytes()]
    for damaged in (b"{", b'{"topic":"\xff","files":[{"path":"\xff"}]}', b'{"x":' + b"[" * 100_000):
        manifests[0].write_bytes(damaged)
        status, _, err = run(*flags)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "is damaged" in err


def test_whichever_listed_file_is_gone_it_is_missed(history: Lived, run: Run, archive: Path) -> None:
    flags = [*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl"]
    files = sorted(archive.glob("flows/date=*/hour=*/*.parquet"))
    assert len(files) > 4
    for lost in files:
        content = lost.read_bytes()
        lost.unlink()
        status, out, err = run(*flags)
        assert (status, out) == (2, "")
        assert f"{lost.name} is missing" in err
        lost.write_bytes(content)
    partition = files[0].name[: len("flows-p0-")]
    for lost in files:
        if lost.name.startswith(partition):
            lost.unlink()
    status, out, err = run(*flags)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"/{partition}" in err, "no file of it is there to tell which manifests are the range's"


def test_hours_that_were_deleted_are_named_and_no_fault(history: Lived, run: Run, archive: Path) -> None:
    flags = [*history.flags, *history.span, "--archive", str(archive), "-o", "jsonl"]
    older, newer = sorted(archive.glob("flows/date=*/hour=*"))
    shutil.rmtree(older)
    status, out, err = run(*flags)
    names = [str(hour.relative_to(archive)) for hour in (older, newer)]
    assert (status, err) == (
        0,
        f"zonemeter replay: of this range, {names[0]} was deleted from the archive, and perhaps what is older\n",
    )
    assert lines(out).keys() == {id_ for id_, flow in history.flows.items() if flow["start_ms"] >= hour_ms(newer)}
    shutil.rmtree(newer)
    status, out, err = run(*flags)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert f"of the range, {names[1]} was deleted" in err


def hour_ms(directory: Path) -> int:
    moment = f"{directory.parent.name[5:]}T{directory.name[5:]}:00:00Z"
    return int(datetime.fromisoformat(moment).timestamp()) * 1000
