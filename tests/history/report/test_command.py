# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report` against a real Kafka and a real flow log."""

import asyncio
import csv
import io
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from common.kafka import clients
from history.model.grouping import OF_ENDS, By
from history.report import command as report
from schemas.ledger import encode_ledger
from schemas.raw import decode_chunk
from schemas.topology import encode_topology_file
from tests.history.conftest import Command, Ran
from tests.support.enricher import build
from tests.support.history.html import by_id, parsed, rows, text_of, values
from tests.support.history.lived import Lived, ledger_entry, rfc3339, states
from tests.support.price_files import price_file
from tests.support.sinks.topics import Topics

Run = Callable[..., Ran]


@pytest.fixture
def run(command: Command) -> Run:
    """Run `zonemeter report`."""
    return lambda *argv: command(report.main, *argv)


def document(run: Run, *argv: str) -> dict[str, Any]:
    status, out, err = run(*argv, "-o", "json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = orjson.loads(out)
    return found


def inner(history: Lived) -> list[dict[str, Any]]:
    return [flow for flow in history.flows.values() if "encapsulation" not in flow]


@pytest.mark.parametrize("source", ["topic", "archive"])
def test_the_sums_are_those_of_the_flows(history: Lived, run: Run, source: str) -> None:
    where = ["--archive", str(history.archive)] if source == "archive" else []
    found = document(run, *history.flags, *history.span, *where, "--top", "1000")
    scopes: Counter[str] = Counter()
    for flow in inner(history):
        scopes[flow["scope"]] += flow["bytes"]
    assert {scope: facts["bytes"] for scope, facts in found["scopes"].items()} == dict(scopes)
    assert found["bytes"] == scopes.total()
    assert found["flows"] == len(inner(history))
    assert found["overlay_outer_bytes"] == sum(f["bytes"] for f in history.flows.values() if "encapsulation" in f)
    assert found["metered_seconds"] == 300
    assert sum(pair["bytes"] for pair in found["top_pairs"]) == scopes["cross_zone"]
    assert Decimal(found["scopes"]["cross_zone"]["cost"]) == Decimal(scopes["cross_zone"]) * 2 / 10**11
    assert found["prices"]["file"] == "aws"
    assert found["prices"]["why"] == "by the zones' names"


def test_topic_and_archive_say_the_same(history: Lived, run: Run) -> None:
    filters = [["-n", "batch"], ["--source", "node/node-a1,api"], ["--destination", "10.42.1.0/24"], ["--port", "443"]]
    for flags in (
        *filters,
        [],
        ["--prices", "gcp"],
        ["--compare", "2m"],
        ["--by", "workload", "--per", "hour"],
        ["--by", "label:team"],
        ["--by", "label:team", "--per", "hour"],
        ["--direction", "ingress", "--min-bytes", "1MB"],
    ):
        topic = document(run, *history.flags, *history.span, *flags)
        archive = document(run, *history.flags, *history.span, *flags, "--archive", str(history.archive))
        assert topic.pop("sources") != archive.pop("sources")
        assert topic == archive


@pytest.mark.parametrize("source", ["topic", "archive"])
def test_a_comparison_leaves_out_the_windows_that_are_still_coming_in(
    history: Lived, run: Run, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_by_ms = history.begin_ms + 100_000
    monkeypatch.setattr(time, "time_ns", lambda: whole_by_ms * 1_000_000 + report.COMING_IN_MS * 1_000_000)
    span = ["--from", history.span[1], "--to", rfc3339(history.begin_ms + 120_000), "--compare", "20s"]
    where = ["--archive", str(history.archive)] if source == "archive" else []
    found = document(run, *history.flags, *span, *where)
    for part, by_ms in ((found, whole_by_ms), (found["before"], whole_by_ms - 20_000)):
        flows = [flow for flow in inner(history) if flow["end_ms"] <= by_ms]
        assert (part["flows"], part["bytes"]) == (len(flows), sum(flow["bytes"] for flow in flows))
        assert part["windows_ended_by"] == rfc3339(by_ms)
    assert found["metered_seconds"] == 100


def test_a_comparison_names_the_pairs_that_differ(history: Lived, run: Run) -> None:
    half_ms = (history.end_ms - history.begin_ms) // 20_000 * 10_000
    span = ["--from", rfc3339(history.begin_ms + half_ms), "--to", rfc3339(history.begin_ms + 2 * half_ms)]
    flags = [*history.flags, *span, "--compare", f"{half_ms // 1000}s"]
    found = document(run, *flags)
    assert found["differences"]
    for each in found["differences"]:
        change = each["bytes_per_hour"] - each["bytes_per_hour_before"]
        assert each["by_volume_bytes_per_hour"] + each["by_zones_bytes_per_hour"] == change
    status, out, _ = run(*flags)
    assert status == 0
    assert "WHAT DIFFERS" in out


@pytest.mark.parametrize("by", [by for by in get_args(By) if by != "label"])
def test_sums_by_anything_are_those_of_the_flows(history: Lived, run: Run, by: By) -> None:
    expected = Counter[str]()
    for one in inner(history):
        expected.update(dict.fromkeys(set(told_apart(by, one)), one["bytes"]))
    for where in ([], ["--archive", str(history.archive)]):
        found = document(run, *history.flags, *history.span, *where, "--by", by)
        sums = {line["name"]: line for line in found["by"]["sums"]}
        for name, line in sums.items():
            if by not in OF_ENDS:
                assert line["bytes"] == expected[name], name
        amounts = ("sent_bytes", "received_bytes") if by in OF_ENDS else ("bytes",)
        for amount in amounts:
            assert sum(line[amount] for line in sums.values()) == found["bytes"]
        if by in OF_ENDS:
            sent = Counter[str]()
            for one in inner(history):
                sent[told_apart(by, one)[0]] += one["bytes"]
            assert {name: line["sent_bytes"] for name, line in sums.items() if line["sent_bytes"]} == dict(sent)
        else:
            assert sums.keys() == expected.keys()
        cost = sum(Decimal(line.get("cost", 0)) for line in sums.values())
        assert cost == sum(Decimal(scope.get("cost", 0)) for scope in found["scopes"].values())


def told_apart(by: By, flow: dict[str, Any]) -> list[str]:
    """Return what a flow's source and destination are summed up by, out of the flow's own JSON."""
    if by in ("hour", "day"):
        return [
            rfc3339(flow["start_ms"]).replace("T", " ")[: 10 if by == "day" else 13] + (":00" if by == "hour" else "")
        ]
    ends = [flow["source"], flow["destination"]]
    if by == "cluster":
        own = flow["k8s"]["cluster"]["name"]
        return [own if end["kind"] in ("pod", "node", "service") else f"({end['kind']})" for end in ends]
    if by == "port":
        return [str(next((end["port"] for end in reversed(ends) if "port" in end), "(no port)"))]
    names = []
    for end in ends:
        k8s, kind = end.get("k8s", {}), end["kind"]
        full = {key: value["name"] for key, value in k8s.items()}
        zone = end.get("cloud", {}).get("availability_zone")
        if by == "zone" and flow["direction"] == "relay" and end is ends[0]:
            zone = flow["observer"]["cloud"]["availability_zone"]
        label = {"pod": "", "node": f"node/{full.get('node')}", "cidr": f"cidr/{end.get('name')}"}.get(kind, kind)
        if kind == "pod":
            label = f"{full['namespace']}/{full['pod' if by == 'pod' else 'workload']}"
            label = label if by == "pod" else f"{full['namespace']}/{k8s['workload']['kind']}/{k8s['workload']['name']}"
        service = f"{full['namespace']}/{full['service']}" if "service" in full else ""
        names.append(
            {
                "namespace": full.get("namespace", f"({kind})"),
                "workload": label,
                "pod": label,
                "node": full.get("node", f"({kind})"),
                "zone": zone or ("(external)" if kind == "external" else "(unknown)"),
                "service": service,
            }[by]
        )
    return [names[1] or names[0] or "(no service)"] if by == "service" else names


@pytest.mark.parametrize("source", ["topic", "archive", "file"])
def test_a_showback_by_a_label_is_as_of_each_window(history: Lived, run: Run, tmp_path: Path, source: str) -> None:
    where = ["--archive", str(history.archive)] if source != "topic" else []
    if source == "file":
        path = tmp_path / "topology.json"
        path.write_bytes(encode_topology_file(states(history.begin_ms)))
        where += ["--topology", str(path)]
    found = document(run, *history.flags, *history.span, *where, "--by", "label:team", "--per", "day")
    moved_ms = (history.begin_ms + history.end_ms) // 2
    expected: Counter[str] = Counter()
    for one in inner(history):
        end = one["source"]
        namespace = end.get("k8s", {}).get("namespace", {}).get("name")
        team = "web" if one["start_ms"] < moved_ms else "core"
        expected[{"shop": team, "batch": "no label", None: end["kind"]}[namespace]] += one["bytes"]
    sent: Counter[str] = Counter()
    for period in found["showback"]["periods"]:
        sent.update({line["name"]: line["sent_bytes"] for line in period["sums"]})
        sent.update({why: line["sent_bytes"] for why, line in period["unattributed"]["why"].items()})
    assert +sent == +expected
    assert {"web", "core", "no label", "node"} <= sent.keys()
    assert any(said.startswith("label team of 2 namespaces: ") for said in found["sources"])


def test_labels_known_later_than_the_range_begins_are_said_to_be(history: Lived, run: Run, tmp_path: Path) -> None:
    late = [
        state
        for state in states(history.begin_ms)
        if state.kind != "namespace" or (state.labels or {}).get("team") == "core"
    ]
    path = tmp_path / "topology.json"
    path.write_bytes(encode_topology_file(late))
    flags = [*history.flags, "--by", "label:team", "--per", "day", "--topology", str(path)]
    found = document(run, *history.span, *flags)
    assert "since " in found["sources"][-1]
    whys = [period["unattributed"]["why"] for period in found["showback"]["periods"]]
    assert any("label not known" in why for why in whys)
    before = ["--from", history.span[1], "--to", rfc3339(history.begin_ms + 60_000)]
    status, out, err = run(*before, *flags)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "by = label:team: labels are known since" in err


def test_without_kafka_labels_come_from_a_file(history: Lived, run: Run) -> None:
    flags = ["--kafka-bootstrap", "127.0.0.1:1", "--kafka-deadline-seconds", "2", *history.flags[2:]]
    status, out, err = run(*flags, *history.span, "--archive", str(history.archive), "--by", "label:team")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "by = label:team: Kafka at 127.0.0.1:1" in err
    assert err.endswith("; --topology FILE reads its history from a file\n")


def test_without_labels_of_namespaces_the_way_to_get_them_is_said(history: Lived, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    path.write_bytes(encode_topology_file([s for s in states(history.begin_ms) if s.kind != "namespace"]))
    status, out, err = run(*history.flags, *history.span, "--by", "label:team", "--topology", str(path))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"{path} holds no labels of namespaces; the enricher keeps --namespace-labels team" in err


def test_sums_as_a_table_and_as_csv(history: Lived, run: Run) -> None:
    status, out, _ = run(*history.flags, *history.span, "--by", "namespace")
    assert status == 0
    assert "BY NAMESPACE" in out
    assert "TOP PAIRS" not in out
    status, out, _ = run(*history.flags, *history.span, "--by", "hour", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["hour", "bytes", "cross_zone_bytes", "cost", "currency"]
    assert sum(int(row["bytes"]) for row in rows) == sum(flow["bytes"] for flow in inner(history))


def test_what_is_not_archived_yet_comes_from_the_topic(history: Lived, run: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flows"
    shutil.copytree(history.archive, archive)
    for partition in archive.glob("_manifests/p=*"):
        # All but the first that holds flows has not been written yet.
        manifests = sorted(partition.glob("*.json"))
        first = min((number for number, path in enumerate(manifests) if b"flows-p" in path.read_bytes()), default=0)
        for path in manifests[first + 1 :]:
            path.unlink()
            for data in archive.glob(f"flows/date=*/hour=*/flows-p{partition.name[2:]}-{path.stem}-*.parquet"):
                data.unlink()
    whole = document(run, *history.flags, *history.span)
    found = document(run, *history.flags, *history.span, "--archive", str(archive))
    assert "not archived yet" in found.pop("sources")[1]
    whole.pop("sources")
    assert found == whole


def test_the_next_commands_can_be_pasted(history: Lived, run: Run, tmp_path: Path) -> None:
    """A time and a path with blanks in them, and lines that are continued."""
    archive = tmp_path / "a flow log"
    archive.symlink_to(history.archive)
    _, start, _, end = history.span
    words = start.replace("T", " ").removesuffix("Z")
    priced = ["--prices", "gcp", "--own-namespace", "my zonemeter"]
    more = [*priced, "--by", "namespace", "--per", "hour"]
    _, out, _ = run(*history.flags, "--from", words, "--to", end, "--archive", str(archive), *more)
    _, _, following = out.partition("\nnext ")
    commands = [shlex.split(line) for line in following.replace("\\\n", " ").splitlines()]
    found = [argv for argv in commands if argv[1] in ("report", "replay")]
    assert len(found) > 1
    for argv in found:
        assert argv[argv.index("--from") + 1] == words
        assert argv[argv.index("--archive") + 1] == str(archive)
    with_csv = found[-1]
    assert with_csv[-1] == "csv"
    for flag, value in zip(more[::2], more[1::2], strict=True):
        assert with_csv[with_csv.index(flag) + 1] == value


def test_hours_that_were_deleted_from_the_archive_are_named(history: Lived, run: Run, tmp_path: Path) -> None:
    archive = Path(shutil.copytree(history.archive, tmp_path / "flows"))
    older, newer = sorted(archive.glob("flows/date=*/hour=*"))
    shutil.rmtree(older)
    found = document(run, *history.flags, *history.span, "--archive", str(archive))
    assert (
        f"of this range, {older.relative_to(archive)} was deleted from it, and perhaps what is older"
        in (found["sources"])
    )
    assert 0 < found["flows"] < len(inner(history))
    next(newer.glob("*.parquet")).unlink()
    status, out, err = run(*history.flags, *history.span, "--archive", str(archive))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert " is missing, _manifests/" in err


def test_an_archive_is_enough_without_kafka(history: Lived, run: Run) -> None:
    flags = ["--kafka-bootstrap", "127.0.0.1:1", "--kafka-deadline-seconds", "3", *history.flags[2:]]
    status, out, _ = run(*flags, *history.span, "--archive", str(history.archive))
    assert status == 0
    assert "no topic: Kafka at 127.0.0.1:1" in out
    assert "the ledger was not read" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_trust_lines(history: Lived, run: Run) -> None:
    trust = document(run, *history.flags, *history.span)["trust"]
    assert trust["ledger"] == 1.0
    assert trust["ledger_closes"] is True
    assert trust["nodes_metered"] == trust["nodes_in_cluster"] == ["node-a1", "node-a2", "node-b1", "node-c1"]
    assert trust["unmeasured_seconds"] == 10, "a window of node-c1 is missing"
    text = run(*history.flags, *history.span)[1]
    assert "nodes 4 of 4 metered   coverage " in text
    assert "unmeasured 10 s on 1 node" in text


def test_the_csv(history: Lived, run: Run) -> None:
    status, out, _ = run(*history.flags, *history.span, "-o", "csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(int(row["bytes"]) for row in rows) == sum(flow["bytes"] for flow in inner(history))
    assert {row["currency"] for row in rows} == {"USD"}


def test_a_ledger_that_does_not_close_is_bad_news(history: Lived, run: Run) -> None:
    """A window that the collector says it published and nobody else has seen, in a cluster of its own."""
    start = history.begin_ms - 3_600_000
    chunk = build.encoded([build.row("10.42.1.1", "10.42.1.2")], cluster="torn", start_ms=start, end_ms=start + 10_000)
    flow = next(iter(history.flows.values()))
    other = flow | {"id": "torn/node-a1/5be6c2f0a91d/3/9/0/0", "start_ms": start, "end_ms": start + 10_000}
    other["k8s"] = {"cluster": {"name": "torn"}}
    torn = Topics.make(history.topics.settings.kafka_bootstrap)  # the history's own are read by other files
    asyncio.run(_publish(torn, ledger_entry(decode_chunk(chunk)), orjson.dumps(other), start + 10_000))
    span = ["--from", rfc3339(start), "--to", rfc3339(start + 60_000)]
    status, out, _ = run(*torn.flags, *span)
    assert status == 1
    assert "THE LEDGER DOES NOT CLOSE: 1.00 kB unaccounted" in out
    assert "zonemeter audit --from" in out


async def _publish(topics: Topics, entry: Any, flow: bytes, timestamp_ms: int) -> None:
    settings = topics.settings
    producer = clients.new_producer(settings)
    await producer.start()
    try:
        where = {"partition": 0, "timestamp_ms": timestamp_ms}
        await producer.send_and_wait(settings.topics.ledger, encode_ledger(entry), key=entry.key, **where)
        await producer.send_and_wait(settings.topics.enriched, flow, key=b"node-a1", **where)
    finally:
        await producer.stop()


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["-n", "shpo"], 1, 'no flow of namespace "shpo" in this range; did you mean shop?'),
        (["-n", ""], 2, "an empty name"),
        (["--workload", "postgre"], 1, 'no flow of workload "postgre" in this range; did you mean postgres?'),
        (["--scope", "crosszone"], 2, "scope 'crosszone': expected one of same_node"),
        (["--cluster", "nowhere"], 1, 'no flow of cluster "nowhere" in this range; there are prod-eu'),
        (["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"], 1, "no flow in 2026-01-01"),
        (["--from", "2126-01-01", "--to", "2126-01-02"], 2, "lies in the future"),
        (["--since", "0s"], 2, "is neither a duration"),
        (["--compare", "a week"], 2, "is not a duration"),
        (["--by", "colour"], 2, "by (--by, ZONEMETER_BY)"),
        (["--by", "hour", "--compare", "7d"], 2, "contradict each other: no hour is in both ranges"),
        (["--compare", "7d", "-o", "csv"], 2, "compare and output = csv contradict each other: a CSV is of one range"),
        (["--per", "day"], 2, "per = day needs by = namespace, workload, node or label:NAME: only these can bear"),
        (["--per", "day", "--by", "port"], 2, "per = day needs by = namespace, workload, node or label:NAME"),
        (
            ["--by", "label"],
            2,
            "'label': expected namespace, workload, pod, node, zone, port, service, cluster, hour, day or label",
        ),
        (["--by", "label:=1+1"], 2, "'=1+1' is not the name of a label; expected, for example, team"),
        (["--by", "zone:team"], 2, "'zone:team': expected namespace, "),
        (["--by", "label:tea"], 2, "label:tea: no namespace is known to have had it; known: team, tier"),
        (["--by", "node", "--topology", "x.json"], 2, "topology only means something with by = label:NAME"),
        (["--by", "label:team", "--topology", "/nonexistent"], 2, "topology"),
        (["--per", "week", "--by", "node"], 2, "per (--per, ZONEMETER_PER)"),
        (["--per", "day", "--by", "node", "--compare", "7d"], 2, "no day is in both ranges"),
        (["--prices", "/nonexistent"], 2, "expected aws, azure, gcp or a file"),
        (["--archive", "/nonexistent"], 2, "does not exist"),
        (["--topic-prefix", "none."], 2, "topic none.flows.enriched.v1 does not exist"),
        (["--own-kafka", "here"], 2, "expected HOST:PORT"),
        (["--top", "0"], 2, "top (--top, ZONEMETER_TOP)"),
        (["-o", "pdf"], 2, "Input should be 'table', 'json', 'csv' or 'html'"),
    ],
)
def test_bad_news_and_wrong_use_are_one_line(
    history: Lived, run: Run, flags: list[str], status: int, said: str
) -> None:
    span = [] if {"--from", "--since"} & set(flags) else history.span
    found, out, err = run(*history.flags, *span, *flags)
    assert (found, out) == (status, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_price_file_with_errors_is_refused_before_anything_is_read(history: Lived, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('title = "Mine"\ncurrency = "EUR"\nunit = "GB"\nas_of = 2026-11-01\n')
    status, _, err = run("--kafka-bootstrap", "127.0.0.1:1", *history.span, "--prices", str(path))
    assert status == 2
    assert f"{path}:1: price: no price of scope cross_zone" in err


def test_exceptions_to_the_general_price_are_counted(history: Lived, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        price_file(
            {"scope": "cross_zone", "source_zone": "zone-x", "source": 0.5, "destination": 0},
            {"scope": "cross_zone", "source": 0.02, "destination": 0},
        )
    )
    status, out, _ = run(*history.flags, *history.span, "--prices", str(path))
    assert status == 0
    assert "$0.02 per GB across zones, 1 exception" in out


def test_a_currency_of_ones_own(history: Lived, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        price_file(
            {"scope": "cross_zone", "source": 0.5, "destination": 0},
            {"scope": "external", "source": 0.09, "destination": 0},
            currency="EUR",
        )
    )
    status, out, _ = run(*history.flags, *history.span, "--prices", str(path))
    assert status == 0
    assert "EUR 0.50 per GB across zones" in out
    assert "$" not in out
    (sent,) = (line for line in out.splitlines() if "  external out  " in line)
    assert "EUR " in sent
    received = [line for line in out.splitlines() if "  external in  " in line]
    assert not any("EUR " in line for line in received)
    found = document(run, *history.flags, *history.span, "--prices", str(path))
    ways = found["external"]
    assert ways["out"]["bytes"] + ways["in"]["bytes"] == found["scopes"]["external"]["bytes"]
    assert Decimal(ways["out"]["cost"]) == Decimal(found["scopes"]["external"]["cost"]) > 0
    assert Decimal(ways["in"].get("cost", "0")) == 0


@pytest.mark.parametrize("source", ["topic", "archive"])
def test_a_page_has_the_numbers_of_the_json(history: Lived, run: Run, source: str) -> None:
    where = ["--archive", str(history.archive)] if source == "archive" else []
    found = document(run, *history.flags, *history.span, *where, "--top", "1000")
    status, out, err = run(*history.flags, *history.span, *where, "-o", "html")
    assert (status, err) == (0, "")
    shown = parsed(out)
    pairs = [values(row) for row in rows(by_id(shown, "pairs"))]
    assert pairs == [[str(each["bytes"]), each["cost"], each["cost_per_month"]] for each in found["top_pairs"]]
    assert "is not marked" not in text_of(shown), "the topology was read"
    assert [text_of(row[0]) for row in rows(by_id(shown, "gaps"))] == ["node-c1"]
    assert len(list(rows(by_id(shown, "slots")))) == len(found["over_time"]) == 30


def test_a_page_says_why_it_marks_no_changes(history: Lived, run: Run) -> None:
    gone = ["--kafka-bootstrap", "127.0.0.1:1"]
    status, out, err = run(*history.span, *gone, "--archive", str(history.archive), "-o", "html")
    assert (status, err) == (0, "")
    assert "what changed in the cluster is not marked: Kafka at 127.0.0.1:1" in text_of(parsed(out))
