# SPDX-License-Identifier: Apache-2.0
"""An archive in an object store: the flow log writes it, and commands read the same from it as from a directory."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pyarrow import fs
from pyarrow import parquet as pq

from history.advise import command as advise
from history.audit import command as audit
from history.replay import command as replay
from history.report import command as report
from history.upkeep import command as upkeep
from sinks.flowlog.archive.manifest import decode_manifest
from sinks.flowlog.stores import object_client
from sinks.flowlog.stores.opening import open_store
from tests.history.conftest import Command
from tests.support.history.lived import Lived, rfc3339
from tests.support.history.wrong_bits import make_silently_wrong
from tests.support.lab.proxy import Proxy
from tests.support.servers.object_store import KEYS, port_of, s3_bucket
from tests.support.servers.s3_faults import (
    Act,
    S3Faults,
    cut,
    lagging,
    late,
    now_and_then,
    refuse,
    s3_faults,
    unanswered,
)
from tests.support.services import eventually
from tests.support.sinks.processes import running


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket's URI, with a place for the path."""
    with s3_bucket(tmp_path_factory.mktemp("s3")) as uri:
        yield uri


@pytest.fixture(scope="module")
def copied(bucket: str, history: Lived) -> str:
    """The history's archive in the bucket, object by object."""
    uri = bucket.format(path="/copied")
    filesystem, root = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(history.archive), root, destination_filesystem=filesystem)
    return uri


def both(command: Command, main: Any, history: Lived, uri: str, *flags: str) -> tuple[Any, Any]:
    """Return what a command answers from the directory and from the object store, without the places' names."""
    answers = []
    for archive in (str(history.archive), uri):
        status, out, err = command(main, *history.flags, *history.span, *flags, "--archive", archive)
        assert (status, err) == (0, ""), err
        answers.append(out.replace(archive, "ARCHIVE"))
    return answers[0], answers[1]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_report_is_the_same(history: Lived, copied: str, command: Command, form: str) -> None:
    local, remote = both(command, report.main, history, copied, "-o", form)
    assert remote == local


def test_a_replay_is_the_same(history: Lived, copied: str, command: Command) -> None:
    local, remote = both(command, replay.main, history, copied, "-o", "jsonl", "--address", "10.0.0.0/8")
    assert sorted(remote.splitlines()) == sorted(local.splitlines()) != []


def test_an_object_of_a_version_that_lacked_a_column_is_read(history: Lived, bucket: str, command: Command) -> None:
    uri = bucket.format(path="/older")
    filesystem, root = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(history.archive), root, destination_filesystem=filesystem)
    objects = filesystem.get_file_info(fs.FileSelector(f"{root}/flows", recursive=True))
    old = min(each.path for each in objects if each.path.endswith(".parquet"))
    with filesystem.open_input_file(old) as stream:
        table = pq.read_table(stream)
    pq.write_table(table.drop_columns(["server"]), old, filesystem=filesystem, store_schema=False)
    status, out, err = command(replay.main, *history.flags, *history.span, "-o", "jsonl", "--archive", uri)
    assert (status, err) == (0, "")
    rows = [orjson.loads(line) for line in out.splitlines()]
    assert {row["id"] for row in rows} == history.flows.keys()
    assert any("server" in row for row in rows)


def test_a_deep_audit_is_the_same(history: Lived, copied: str, command: Command) -> None:
    answers = []
    for archive in (str(history.archive), copied):
        status, out, err = command(
            audit.main, *history.flags, *history.span, "--deep", "--archive", archive, "-o", "json"
        )
        answers.append((status, err, orjson.loads(out.replace(archive, "ARCHIVE"))))
        answers[-1][2]["repeats"].sort(key=lambda repeat: (repeat["chunk"], repeat["offset"]))
    assert answers[0] == answers[1]
    assert "archive" in out


def test_it_is_compacted_relieved_of_addresses_and_deleted_like_a_directory(
    history: Lived, bucket: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = bucket.format(path="/upkeep")
    filesystem, root = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(history.archive), root, destination_filesystem=filesystem)

    def objects() -> list[str]:
        infos = filesystem.get_file_info(fs.FileSelector(f"{root}/flows", recursive=True))
        return sorted(info.path for info in infos if info.type == fs.FileType.File)

    def flows(*filters: str) -> list[dict[str, Any]]:
        status, out, err = command(
            replay.main, *history.flags, *history.span, *filters, "-o", "jsonl", "--archive", uri
        )
        assert (status, err) == (0, ""), err
        return sorted(map(orjson.loads, out.splitlines()), key=lambda row: str(row["id"]))

    before, of_shop = flows(), flows("-n", "shop")
    later_ns = time.time_ns() + 8 * 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later_ns)
    rewriting = ("--archive", uri, "--spill-directory", str(tmp_path), "--delete-after", "1ms")
    status, out, err = command(upkeep.main, *rewriting)
    assert (status, err) == (0, "")
    assert "manifests of compacted files deleted" in out
    assert [path.rpartition("/")[2][:7] for path in objects()] == ["flows-c", "flows-c"]
    assert flows() == before
    assert flows("-n", "shop") == of_shop
    status, out, err = command(upkeep.erase, *rewriting, "--older-than", "1d")
    assert (status, err) == (0, "")
    erased = flows()
    assert {row["id"]: row["bytes"] for row in erased} == {row["id"]: row["bytes"] for row in before}
    seen = [{row.get("dst_address") for row in rows if row["dst_kind"] == "external"} for rows in (before, erased)]
    assert seen == [{"11.0.0.10", "2c0f:ff00::10"}, {"11.0.0.0", "2c0f:ff00::"}]
    status, out, err = command(upkeep.expire, "--archive", uri, "--keep", "1d", "--newest-too")
    assert (status, err) == (0, "")
    assert out.startswith("deleted 2 hours, ")
    assert objects() == []
    status, _, err = command(replay.main, *history.flags, *history.span, "-o", "jsonl", "--archive", uri)
    assert status == 1
    assert "its rollups are kept, and do not tell a part of an hour" in err
    hour_ms = 3_600_000
    hours = [rfc3339(history.begin_ms // hour_ms * hour_ms), rfc3339((history.end_ms // hour_ms + 1) * hour_ms)]
    span = ["--from", hours[0], "--to", hours[1]]
    status, out, err = command(replay.main, *history.flags, *span, "-o", "jsonl", "--archive", uri)
    assert status == 0, err
    rows = list(map(orjson.loads, out.splitlines()))
    assert sum(row["flows"] for row in rows) == len(before)
    assert sum(row["bytes"] for row in rows) == sum(row["bytes"] for row in before)


def test_a_damaged_object_is_named(history: Lived, bucket: str, command: Command) -> None:
    uri = bucket.format(path="/damaged")
    filesystem, root = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(history.archive), root, destination_filesystem=filesystem)
    objects = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    spoilt = next(each.path for each in objects if each.path.endswith(".parquet"))
    with filesystem.open_output_stream(spoilt) as stream:
        stream.write(b"PAR1 but no more")
    status, _, err = command(report.main, *history.flags, *history.span, "--archive", uri)
    assert status == 2
    (line,) = err.splitlines()
    assert spoilt.removeprefix(f"{root}/") in line


def test_a_wrong_bit_of_an_object_is_not_taken_for_other_values(
    history: Lived, bucket: str, tmp_path: Path, command: Command
) -> None:
    uri = bucket.format(path="/wrong")
    filesystem, root = fs.FileSystem.from_uri(uri)
    copy = Path(shutil.copytree(history.archive, tmp_path / "archive"))
    spoilt = max(copy.glob("flows/*/*/*.parquet"), key=lambda path: path.stat().st_size)
    make_silently_wrong(spoilt, "bytes")
    fs.copy_files(str(copy), root, destination_filesystem=filesystem)
    status, _, err = command(report.main, *history.flags, *history.span, "--archive", uri)
    assert status == 2
    (line,) = err.splitlines()
    assert str(spoilt.relative_to(copy)) in line


def test_the_flow_log_writes_it(history: Lived, bucket: str, tmp_path: Path, command: Command) -> None:
    uri = bucket.format(path="/written")
    flags = [*history.flags, "--output", uri, "--cut-seconds", "1", "--group", "zonemeter.again"]
    with running("flowlog", flags, tmp_path / "log") as sink:
        eventually(lambda: sink.samples().get(("zonemeter_flows_taken_total", ())) == len(history.flows))
        assert sink.terminate() == 0
    assert _rows(uri) == len(history.flows)
    status, out, err = command(replay.main, *history.flags, *history.span, "-o", "jsonl", "--archive", uri)
    assert (status, err) == (0, "")
    assert {orjson.loads(line)["id"] for line in out.splitlines()} == history.flows.keys()


@pytest.fixture
def faults(bucket: str) -> Iterator[S3Faults]:
    """A proxy in front of the server."""
    with s3_faults(port_of(bucket)) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        pytest.param(report.main, ["-o", "json"], id="report"),
        pytest.param(replay.main, ["-o", "jsonl", "--address", "10.0.0.0/8"], id="replay"),
        pytest.param(advise.main, ["-o", "json"], id="advise"),
        pytest.param(audit.main, ["-o", "json", "--deep"], id="audit"),
    ],
)
def test_a_store_on_a_bad_day_is_asked_again(
    history: Lived, copied: str, faults: S3Faults, command: Command, main: Any, flags: list[str]
) -> None:
    answers = []
    trouble = refuse(503, "SlowDown"), refuse(500, "InternalError"), refuse(429, "SlowDown"), unanswered, late(0.3)
    faults.add(cut, path=r"list-type|\.json", times=3)
    if main is not replay.main:  # what it has printed cannot be taken back
        faults.add(cut, path=r"\.parquet", times=2)
    faults.add(now_and_then(0.15, *trouble))
    through = copied.replace(str(port_of(copied)), str(faults.port))
    for uri in (copied, through):
        status, out, err = command(main, *history.flags, *history.span, *flags, "--archive", uri)
        # What it says takes time, and so the age of the newest flow.
        assert status in (0, 1), err
        answers.append(
            sorted(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?", "TIME", (out + err).replace(uri, "ARCHIVE")).splitlines())
        )
    assert answers[0] == answers[1] != []
    assert len(faults.asked) > 20


@pytest.mark.parametrize(
    ("path", "act", "says"),
    [
        pytest.param(".", refuse(503, "SlowDown"), "SlowDown: Said by a test", id="throttled"),
        pytest.param(".", refuse(400, "ExpiredToken"), "ExpiredToken: Said by a test", id="expired"),
        pytest.param(r"\.parquet", refuse(400, "ExpiredToken"), "HTTP 400 Bad Request", id="expired in the middle"),
        pytest.param(r"\.json", refuse(403, "AccessDenied"), "AccessDenied: Said by a test", id="forbidden"),
    ],
)
@pytest.mark.parametrize(("main", "flags"), [(report.main, []), (audit.main, ["--deep"])], ids=["report", "audit"])
def test_a_store_that_does_not_answer_is_one_line_and_no_damage(
    history: Lived,
    copied: str,
    faults: S3Faults,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    main: Any,
    flags: list[str],
    path: str,
    act: Act,
    says: str,
) -> None:
    monkeypatch.setitem(object_client._RETRY, "max_retries", 1)
    faults.add(act, path=path)
    through = copied.replace(str(port_of(copied)), str(faults.port))
    status, out, err = command(main, *history.flags, *history.span, *flags, "--archive", through)
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert says in line
    assert "damage" not in line


def test_a_listing_that_lags_behind_hides_nothing(
    history: Lived, copied: str, faults: S3Faults, command: Command
) -> None:
    local, _ = both(command, report.main, history, copied, "-o", "csv")
    faults.add(lagging(r"-p[01]-00000000000\d-[0-9a-f]{6}\.parquet"), "GET", r"list-type")
    through = copied.replace(str(port_of(copied)), str(faults.port))
    status, out, err = command(report.main, *history.flags, *history.span, "-o", "csv", "--archive", through)
    assert (status, err) == (0, "")
    assert out == local


def test_a_store_that_falls_silent_is_named_and_waited_for(history: Lived, bucket: str, tmp_path: Path) -> None:
    uri = bucket.format(path="/silent")
    with Proxy(("127.0.0.1", port_of(uri))) as proxy:
        through = uri.replace(str(port_of(uri)), str(proxy.port))
        flags = [*history.flags, "--output", through, "--cut-seconds", "5", "--group", "zonemeter.silent"]
        with running("flowlog", flags, tmp_path / "log") as sink:
            eventually(lambda: sink.samples().get(("zonemeter_flows_taken_total", ())) == len(history.flows))
            proxy.silence("replies")
            eventually(lambda: "no answer for 10 s" in sink.get("/readyz")[1])
            proxy.heal()
            eventually(lambda: _rows(uri) == len(history.flows))
            eventually(sink.ready)
            assert sink.terminate() == 0
    assert _rows(uri) == len(history.flows)


def _rows(uri: str) -> int:
    store = open_store(uri)
    manifests = [
        f"_manifests/{partition}/{name}"
        for partition in store.names("_manifests")
        for name in store.names(f"_manifests/{partition}")
        if name.endswith(".json")
    ]
    return sum(file.rows for path in manifests for file in decode_manifest(store.read(path)).files)


def test_a_store_that_takes_no_token_any_more_is_waited_for(
    history: Lived, bucket: str, faults: S3Faults, tmp_path: Path
) -> None:
    uri = bucket.format(path="/expired")
    through = uri.replace(str(port_of(uri)), str(faults.port))
    flags = [*history.flags, "--output", through, "--cut-seconds", "1", "--group", "zonemeter.expired"]
    faults.add(refuse(400, "ExpiredToken"))
    faults.add(refuse(400, "ExpiredToken"), "PUT", r"\.parquet")
    with running("flowlog", flags, tmp_path / "log") as sink:
        eventually(lambda: "ExpiredToken: Said by a test.; retrying" in sink.get("/readyz")[1])
        del faults.rules[0]
        eventually(lambda: sink.samples().get(("zonemeter_flows_taken_total", ())) == len(history.flows))
        eventually(lambda: "ExpiredToken: Said by a test.; retrying" in sink.get("/readyz")[1])
        assert _rows(uri) == 0
        faults.heal()
        eventually(lambda: _rows(uri) == len(history.flows))
        eventually(sink.ready)
        assert sink.terminate() == 0
    assert _rows(uri) == len(history.flows)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in (tmp_path / "log").read_text()
