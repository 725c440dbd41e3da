# SPDX-License-Identifier: Apache-2.0
"""Replay against a real Kafka and a real flow log: the same flows by id, however they are read back."""

import asyncio
import csv
import errno
import io
import ipaddress
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.read.batch import SCHEMA
from history.read.topic import read_topic
from history.replay.files import stream_to
from sinks.flowlog.rows.columns import COLUMNS
from tests.history.replay.conftest import Run, lines
from tests.support.history.lived import Lived, rfc3339
from tests.support.sinks.disk import small_disk


@pytest.mark.parametrize("how", ["topic", "archive", "raw"])
def test_the_same_flows_however_they_are_read(history: Lived, run: Run, how: str) -> None:
    flags = {
        "topic": [],
        "archive": ["--archive", str(history.archive)],
        "raw": ["--from-raw", "--cidr-map", str(history.cidrs)],
    }[how]
    status, out, _ = run(*history.flags, *history.span, *flags, "-o", "jsonl")
    assert status == 0
    found = lines(out)
    assert found.keys() == history.flows.keys()
    assert len(found) > 500
    for id_, flow in history.flows.items():
        row = found[id_]
        assert (row["bytes"], row["packets"], row["scope"]) == (flow["bytes"], flow["packets"], flow["scope"])
        assert row["raw_offset"] == flow["raw"]["offset"]
        assert row.get("server") == flow.get("server")
        for side, end in (("src", flow["source"]), ("dst", flow["destination"])):
            assert row[f"{side}_kind"] == end["kind"]
            assert row.get(f"{side}_pod") == end.get("k8s", {}).get("pod", {}).get("name")
            assert row.get(f"{side}_zone") == end.get("cloud", {}).get("availability_zone")


Flow = dict[str, Any]


def ends(flow: Flow) -> Iterator[Flow]:
    for side in ("source", "destination"):
        end = flow[side]
        k8s, cloud = end.get("k8s", {}), end.get("cloud", {})
        yield {
            "namespace": k8s.get("namespace", {}).get("name"),
            "pod": k8s.get("pod", {}).get("name"),
            "workload": k8s.get("workload", {}),
            "zone": cloud.get("availability_zone"),
            "address": ipaddress.ip_address(end["address"]),
            "port": end.get("port"),
            "label": {
                "node": f"node/{k8s.get('node', {}).get('name')}",
                "cidr": f"cidr/{end.get('name')}",
                "pod": k8s.get("pod", {}).get("name"),
            }.get(end["kind"], end["kind"]),
        }


FILTERS: list[tuple[list[str], Callable[[Flow], bool]]] = [
    (["-n", "batch"], lambda f: any(e["namespace"] == "batch" for e in ends(f))),
    (["-n", "batch,shop"], lambda f: any(e["namespace"] for e in ends(f))),
    (["--workload", "postgres"], lambda f: any(e["workload"].get("name") == "postgres" for e in ends(f))),
    (["--workload", "shop/Deployment/api"], lambda f: any(e["workload"].get("name") == "api" for e in ends(f))),
    (["--workload", "Deployment/api"], lambda f: any(e["workload"].get("name") == "api" for e in ends(f))),
    (["--pod", "shop/web-2"], lambda f: any(e["pod"] == "web-2" for e in ends(f))),
    (["--pod", "job-2", "--pod", "web-2"], lambda f: any(e["pod"] in ("job-2", "web-2") for e in ends(f))),
    (["--address", "10.42.2.0/24"], lambda f: any(str(e["address"]).startswith("10.42.2.") for e in ends(f))),
    (["--address", "2c0f:ff00::/32"], lambda f: any(str(e["address"]) == "2c0f:ff00::10" for e in ends(f))),
    (["--zone", "eu-west-1c"], lambda f: any(e["zone"] == "eu-west-1c" for e in ends(f))),
    (["--workload", "cidr/orders-db"], lambda f: any(e["label"] == "cidr/orders-db" for e in ends(f))),
    (["--source", "shop/Deployment/api"], lambda f: next(ends(f))["workload"].get("name") == "api"),
    (
        ["--destination", "cidr/orders-db,shop/web-1"],
        lambda f: list(ends(f))[1]["label"] in ("cidr/orders-db", "web-1"),
    ),
    (["--source", "10.42.2.0/24"], lambda f: str(next(ends(f))["address"]).startswith("10.42.2.")),
    (["--destination", "node/node-a1,external"], lambda f: list(ends(f))[1]["label"] in ("node/node-a1", "external")),
    (
        ["--source", "10.42.1.1", "--destination", "11.0.0.0/8,10.60.0.7"],
        lambda f: [str(e["address"]) for e in ends(f)] in (["10.42.1.1", "11.0.0.10"], ["10.42.1.1", "10.60.0.7"]),
    ),
    (["--direction", "relay,ingress"], lambda f: f["direction"] in ("relay", "ingress")),
    (["--scope", "unknown,external"], lambda f: f["scope"] in ("unknown", "external")),
    (["--port", "5432,443"], lambda f: any(e["port"] in (5432, 443) for e in ends(f))),
    (["--min-bytes", "1000000"], lambda f: f["bytes"] >= 1_000_000),
    (["--cluster", "prod-eu"], lambda f: True),
    (
        ["-n", "shop", "--zone", "eu-west-1b", "--port", "8080"],
        lambda f: (
            any(e["namespace"] == "shop" and e["zone"] == "eu-west-1b" for e in ends(f))
            and any(e["port"] == 8080 for e in ends(f))
        ),
    ),
]


@pytest.mark.parametrize(("flags", "wanted"), FILTERS, ids=[" ".join(flags) for flags, _ in FILTERS])
def test_filters_want_the_same_of_topic_and_archive(
    history: Lived, run: Run, flags: list[str], wanted: Callable[[Flow], bool]
) -> None:
    expected = {id_ for id_, flow in history.flows.items() if wanted(flow)}
    assert len(expected) > 0
    for source in ([], ["--archive", str(history.archive)]):
        status, out, _ = run(*history.flags, *history.span, *source, *flags, "-o", "jsonl")
        assert status == 0
        assert lines(out).keys() == expected


def test_a_range_holds_the_windows_that_start_in_it(history: Lived, run: Run) -> None:
    middle = history.begin_ms + 100_000
    span = ["--from", history.span[1], "--to", rfc3339(middle)]
    expected = {id_ for id_, flow in history.flows.items() if flow["start_ms"] < middle}
    assert 0 < len(expected) < len(history.flows)
    for source in ([], ["--archive", str(history.archive)], ["--from-raw"]):
        assert lines(run(*history.flags, *span, *source, "-o", "jsonl")[1]).keys() == expected


def test_csv_and_parquet_have_the_same_rows(history: Lived, run: Run, tmp_path: Path) -> None:
    for source in ([], ["--archive", str(history.archive)]):
        file = tmp_path / f"flows{len(source)}.parquet"
        assert run(*history.flags, *history.span, *source, "-o", "parquet", "--file", str(file))[0] == 0
        table = pq.read_table(file)
        assert table.schema == SCHEMA
        rows = {row["id"]: row for row in table.to_pylist()}
        assert rows.keys() == history.flows.keys()
        text = run(*history.flags, *history.span, *source, "-o", "csv")[1]
        written = list(csv.DictReader(io.StringIO(text)))
        assert tuple(written[0]) == COLUMNS
        assert {row["id"] for row in written} == history.flows.keys()
        for row in written:
            assert int(row["bytes"]) == rows[row["id"]]["bytes"] == history.flows[row["id"]]["bytes"]
            assert row["src_reason"] == (rows[row["id"]]["src_reason"] or "")
            assert row["window_start"].endswith(".000Z")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".parquet"] == []


@pytest.mark.parametrize("how", ["topic", "archive", "raw"])
def test_another_topic_takes_the_same_flows(history: Lived, run: Run, how: str) -> None:
    topic = f"replayed.{how}.{history.topics.settings.topic_prefix}"
    flags = {
        "topic": [],
        "archive": ["--archive", str(history.archive)],
        "raw": ["--from-raw", "--cidr-map", str(history.cidrs)],
    }[how]
    status, out, err = run(*history.flags, *history.span, *flags, "--to-topic", topic)
    assert (status, out) == (0, "")
    assert f"{len(history.flows):,} flows to topic {topic}" in err

    async def read() -> list[tuple[int, int, bytes | None, Flow]]:
        return [
            (record.partition, record.timestamp, record.key, orjson.loads(record.value))
            async for batch in read_topic(history.topics.settings, topic)
            for record in batch
        ]

    records = asyncio.run(read())
    assert len(records) == len(history.flows)
    for partition, timestamp_ms, key, flow in records:
        live = history.flows[flow["id"]]
        assert timestamp_ms == live["end_ms"]
        assert key == live["observer"]["node"].encode()
        assert partition == flow["raw"]["partition"], "a node's flows are where its raw ones are"
        if how == "archive":
            # All that the flow log does not hold is where in its region the observer is.
            live = {**live, "observer": {**live["observer"], "cloud": {**live["observer"]["cloud"]}}}
            live["observer"]["cloud"].pop("region")
        assert flow == live


@pytest.mark.parametrize("where", ["topic", "archive"])
@pytest.mark.parametrize("flags", [[], ["-n", "batch", "--direction", "egress"]])
def test_the_sums_are_of_what_would_be_listed(history: Lived, run: Run, where: str, flags: list[str]) -> None:
    argv = [*history.flags, *history.span, *flags, *(["--archive", str(history.archive)] if where == "archive" else [])]
    listed = lines(run(*argv, "-o", "jsonl")[1]).values()
    inner = [row for row in listed if "encapsulation" not in row]
    outer = [row for row in listed if "encapsulation" in row]
    assert outer or flags
    found = orjson.loads(run(*argv, "--sum", "-o", "json")[1])
    for part, rows in ((found, inner), (found["overlay_outer"], outer)):
        assert (part["flows"], part["bytes"]) == (len(rows), sum(row["bytes"] for row in rows))
        assert part["packets"] == sum(row["packets"] for row in rows)
    scopes = {row["scope"] for row in inner}
    assert {scope: part["bytes"] for scope, part in found["scopes"].items()} == {
        scope: sum(row["bytes"] for row in inner if row["scope"] == scope) for scope in scopes
    }
    table = run(*argv, "--sum")[1].splitlines()
    total = [f"{len(inner):,}", f"{found['bytes']:,}", f"{found['packets']:,}"]
    assert next(line for line in table if line.startswith("all ")).split()[1:] == total
    written = list(csv.DictReader(io.StringIO(run(*argv, "--sum", "-o", "csv")[1])))
    assert sum(int(row["bytes"]) for row in written) == sum(row["bytes"] for row in listed)


def test_another_cidr_map_names_other_things(history: Lived, run: Run, tmp_path: Path) -> None:
    cidrs = tmp_path / "cidrs.toml"
    cidrs.write_text('[[cidr]]\ncidr = "10.99.0.0/16"\nname = "legacy"\nzone = "eu-west-1c"\nregion = "eu-west-1"\n')
    _, out, _ = run(*history.flags, *history.span, "--from-raw", "--cidr-map", str(cidrs), "-o", "jsonl")
    found = lines(out)
    assert found.keys() == history.flows.keys()
    assert {row.get("dst_name") for row in found.values()} == {None, "legacy"}
    orders = {id_ for id_, flow in history.flows.items() if flow["destination"].get("name") == "orders-db"}
    assert orders
    assert {found[id_]["dst_reason"] for id_ in orders} == {"vpc_unmapped"}
    assert {found[id_]["scope"] for id_ in orders} == {"unknown"}


def test_the_table_shows_the_greatest(history: Lived, run: Run) -> None:
    for source in ([], ["--archive", str(history.archive)]):
        status, out, _ = run(*history.flags, *history.span, *source, "--top", "5")
        assert status == 0
        text = out.splitlines()
        assert max(map(len, text)) <= 100
        assert f"{len(history.flows):,} flows" in text[1]
        assert text.index("") + 1 + 1 + 5 + 1 == len(text)
        assert text[-1].startswith(f"and {len(history.flows) - 5:,} smaller ones")


@pytest.mark.parametrize("links", [True, False], ids=["", "no hard links"])
def test_a_file_that_appeared_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "flows.jsonl"
    with pytest.raises(Refusal, match="exists: it was written meanwhile"), stream_to(path) as stream:
        stream.write(b"mine")
        path.write_bytes(b"another run's")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("flows.jsonl", b"another run's")]
    path.unlink()
    with stream_to(path) as stream:
        stream.write(b"mine")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("flows.jsonl", b"mine")]


def test_a_read_only_file_system_is_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(Refusal, match=r"flows.jsonl': Read-only file system$"), stream_to(disk / "flows.jsonl"):
            raise AssertionError("nothing can be written there")


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["-n", "shpo"], 1, 'no flow of namespace "shpo" in this range; did you mean shop?'),
        (["--workload", "postgre"], 1, 'no flow of workload "postgre" in this range; did you mean postgres?'),
        (["--pod", "batch/web-2"], 1, 'no flow of pod "batch/web-2" in this range; did you mean '),
        (["--scope", "cross_region"], 1, 'no flow of scope "cross_region" in this range; there are '),
        (["--zone", "zz"], 1, "there are eu-west-1a, eu-west-1b, eu-west-1c"),
        (["--port", "9"], 1, 'no flow of port "9" in this range'),
        (["--cluster", "prod"], 1, "did you mean prod-eu?"),
        (["--source", "cidr/orders-dbs"], 1, 'no flow of source "cidr/orders-dbs" in this range'),
        (["--destination", "192.0.2.1"], 1, 'no flow of destination "192.0.2.1" in this range'),
        (["--source", "10.42.1.7/24"], 2, "has host bits set"),
        (["--source", "a//b"], 2, "source 'a//b': expected name, Kind/name"),
        (["--direction", "out"], 2, "direction 'out': expected one of egress, ingress, relay"),
        (["--port", "70000"], 2, "port 70000: expected 1 to 65535"),
        (["--address", "192.0.2.0/24"], 1, 'no flow of address "192.0.2.0/24" in this range'),
        (["--min-bytes", "99999999999999"], 1, "the largest has 1,099,511,"),
        (["--pod", "web-1", "--zone", "eu-west-1c"], 1, "no flow meets all the filters"),
        (["--scope", "crosszone"], 2, "scope 'crosszone': expected one of same_node"),
        (["--address", "10.42.1.7/24"], 2, "has host bits set"),
        (["--workload", "a/b/c/d/e"], 2, "expected name, Kind/name"),
        (["-n", "shop", "-A"], 2, "contradict each other"),
        (["--port", "http"], 2, "port (--port, ZONEMETER_PORT)"),
    ],
)
@pytest.mark.parametrize("source", ["topic", "archive"])
def test_a_filter_that_finds_nothing_says_what_is_there(
    history: Lived, run: Run, tmp_path: Path, flags: list[str], status: int, said: str, source: str
) -> None:
    where = ["--archive", str(history.archive)] if source == "archive" else []
    file = tmp_path / "flows.jsonl"
    found, out, err = run(*history.flags, *history.span, *where, *flags, "-o", "jsonl", "--file", str(file))
    assert (found, out) == (status, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"], 1, "no flow in 2026-01-01 00:00:00"),
        (["--from", "2126-01-01T00:00:00Z", "--to", "2126-01-02T00:00:00Z"], 2, "lies in the future"),
        (["--from", "now", "--to", "now-1h"], 2, "the range is empty"),
        (["-n", ""], 2, "an empty name"),
        (["--workload", "api,"], 2, "an empty name"),
        (["--since", "soon"], 2, "'soon' is neither a duration"),
        (["--since", "1h", "--from", "now-2h"], 2, "give one"),
        (["--archive", "/nonexistent"], 2, "archive = '/nonexistent' does not exist"),
        (["--archive", "/dev/null"], 2, "is not a directory"),
        (["--archive", "/proc/self/fdinfo"], 2, "no flow log is there"),
        (["--archive", "s4://bucket"], 2, "archive = 's4://bucket'"),
        (["--archive", "/tmp", "--from-raw"], 2, "the archive holds no raw flows"),
        (["--topology", "/x"], 2, "only means something with --from-raw"),
        (["--attribution-version", "1", "-o", "csv"], 2, "attribution_version needs --from-raw"),
        (["--from-raw", "--attribution-version", "1"], 2, "attribution_version needs --output jsonl, csv or parquet"),
        (["--from-raw", "--attribution-version", "1", "--sum", "-o", "csv"], 2, "needs --output jsonl, csv or parquet"),
        (["--from-raw", "--attribution-version", "1", "--diff", "-o", "csv"], 2, "needs --output jsonl, csv or"),
        (["--from-raw", "--attribution-version", "0"], 2, "attribution_version (--attribution-version"),
        (["--from-raw", "--attribution-version", "2147483648"], 2, "should be less than or equal to 2147483647"),
        (["--from-raw", "--cidr-map", "/nonexistent"], 2, "No such file or directory"),
        (["--to-topic", "zonemeter.flows.enriched.v1", "--topic-prefix", "zonemeter."], 2, "its readers would count"),
        (["--to-topic", "x y"], 2, "String should match pattern '^[a-zA-Z0-9._-]{1,249}$'"),
        (["--to-topic", "x", "-o", "csv"], 2, "to_topic excludes file and output"),
        (["--sum", "-o", "parquet"], 2, "sum excludes to_topic, file and output = parquet"),
        (["--file", "x"], 2, "file needs --output"),
        (["--topic-prefix", "none."], 2, "topic none.flows.enriched.v1 does not exist"),
        (["--kafka-bootstrap", "127.0.0.1:1", "--kafka-deadline-seconds", "3"], 2, "Kafka at 127.0.0.1:1"),
        (["-o", "jsonl", "--file", "/nonexistent/x"], 2, "No such file or directory"),
        (["-o", "jsonl", "--file", "/dev/null"], 2, "exists; delete it or name another"),
    ],
)
def test_wrong_use_is_one_line(history: Lived, run: Run, flags: list[str], status: int, said: str) -> None:
    span = [] if {"--from", "--since"} & set(flags) else history.span
    found, out, err = run(*history.flags, *span, *flags)
    assert (found, out) == (status, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_rubbish_is_left_out_and_said(history: Lived, run: Run) -> None:
    status, _, err = run(*history.flags, *history.span, "--from-raw", "--top", "1")
    assert status == 0
    assert "left out, not to be decoded: not_json 1" in err
    assert "joined without --cidr-map" in err
