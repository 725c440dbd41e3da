# SPDX-License-Identifier: Apache-2.0
"""What doctor says of a pipeline: by tables of what Kafka may answer, and with a broker that has, lacks or hangs."""

import asyncio
import socket
import time
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from msgspec.structs import replace

from common.kafka import clients
from common.kafka.publish import Record
from common.kafka.topic_admin import TopicState
from doctor import command
from doctor.checks import Finding
from doctor.pipeline import Group, Lag, lag_finding, ledger_findings, topic_finding
from lab.kafka.broker import Broker
from schemas.dead_letter import dead_letter
from schemas.ids import Origin
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.topics import TopicNames, topic_specs
from schemas.topology import TopologyState
from tests.support.builders import END_MS, ORIGIN, collector_entry, enricher_entry, sink_entry
from tests.support.cli.records import publish
from tests.support.reconciled import reconcile
from tests.support.services import DEADLINE_SECONDS
from tests.support.sinks.topics import Topics

RAW = topic_specs(TopicNames(), partitions=2)[0]
SOUND = {"leader": 1, "replicas": [1, 2], "isr": [1, 2]}
ENRICHER = Group("e", "raw", joins=True, optional=False)
SINK = Group("s", "enriched", joins=True, optional=True)


def state(partitions: int | None = 2, **changed: str) -> TopicState:
    return TopicState(RAW, partitions, RAW.config | {key.replace("_", "."): value for key, value in changed.items()})


@pytest.mark.parametrize(
    ("topic", "partitions", "status"),
    [
        pytest.param(state(), [SOUND, SOUND], "ok", id="sound"),
        pytest.param(state(None), [], "no", id="absent"),
        pytest.param(state(3), [SOUND] * 3, "no", id="another number of partitions"),
        pytest.param(state(cleanup_policy="compact"), [SOUND] * 2, "no", id="would be compacted"),
        pytest.param(state(message_timestamp_type="LogAppendTime"), [SOUND] * 2, "no", id="would lose its times"),
        pytest.param(state(message_timestamp_before_max_ms="86400000"), [SOUND] * 2, "no", id="takes nothing old"),
        pytest.param(state(message_timestamp_after_max_ms="60000"), [SOUND] * 2, "no", id="takes nothing ahead"),
        pytest.param(state(message_timestamp_after_max_ms=str(2**63 - 1)), [SOUND] * 2, "ok", id="takes it far ahead"),
        pytest.param(state(retention_ms="1", min_insync_replicas="2"), [SOUND] * 2, "ok", id="its owner's choice"),
        pytest.param(state(), [SOUND, SOUND | {"leader": -1}], "no", id="no leader"),
        pytest.param(state(), [SOUND, SOUND | {"isr": [1]}], "??", id="out of sync"),
    ],
)
def test_topics(topic: TopicState, partitions: list[dict[str, Any]], status: str) -> None:
    assert only(topic_finding(topic, partitions)).status == status


@pytest.mark.parametrize(
    ("group", "lag", "members", "status"),
    [
        pytest.param(ENRICHER, Lag(0, 0, never=False), 1, "ok", id="up to date"),
        pytest.param(ENRICHER, Lag(900, 0, never=False), 2, "ok", id="under way"),
        pytest.param(ENRICHER, Lag(900, 1, never=False), 2, "no", id="too long under way"),
        pytest.param(ENRICHER, Lag(0, 0, never=False), 0, "no", id="nobody there"),
        pytest.param(ENRICHER, Lag(0, 0, never=True), 1, "no", id="never began"),
        pytest.param(SINK, Lag(9, 3, never=True), 0, "??", id="a sink that is not in use"),
        pytest.param(SINK, Lag(9, 0, never=False), 0, "no", id="a sink that was"),
        pytest.param(SINK, Lag(9, 0, never=False), None, "ok", id="members cannot be seen"),
    ],
)
def test_lag(group: Group, lag: Lag, members: int | None, status: str) -> None:
    assert only(lag_finding(group, lag, members, 120.0)).status == status


def whole(windows: int = 2) -> list[LedgerRecord]:
    sizes = dict.fromkeys(range(windows), 1_000)
    books = [entry(sequence, 1_000) for sequence in sizes for entry in (collector_entry, enricher_entry)]
    return [*books, sink_entry("metrics", 1, sizes), sink_entry("flowlog", 1, sizes)]


BOTH = (collector_entry, enricher_entry)


def node(name: str) -> TopologyState:
    return TopologyState(kind="node", uid=name, name=name, resource_version="1", from_ms=0, addresses=["10.0.0.1"])


@pytest.mark.parametrize(
    ("records", "statuses"),
    [
        pytest.param(whole(), ["ok"], id="closes"),
        pytest.param(whole()[1:], ["ok"], id="a window that no collector closed is no window"),
        pytest.param([r for r in whole() if r.hop != "enricher"], ["no"], id="does not close"),
        pytest.param([], ["no"], id="nothing metered"),
        pytest.param([r for r in whole(3) if "91d/1/1" not in r.id], ["ok", "??"], id="unmeasured time"),
        pytest.param([r for r in whole(3) if not r.id.endswith("/1/1")], ["no", "??"], id="an entry that is gone"),
    ],
)
def test_ledger(records: list[LedgerRecord], statuses: list[str]) -> None:
    assert [found.status for found in ledger_findings(reconcile(records, END_MS + 3_600_000))] == statuses


def test_nodes_without_windows_are_named() -> None:
    findings = ledger_findings(reconcile(whole(), END_MS + 3_600_000, [node("node-a1"), node("node-b1")]))
    assert [(found.status, found.found) for found in findings[1:]] == [("??", "node-b1")]


def test_a_node_that_cannot_be_one_is_a_fault() -> None:
    twin = Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")
    twins = [entry(n, 1_000, origin) for n in range(3) for origin in (ORIGIN, twin) for entry in BOTH]
    findings = ledger_findings(reconcile(twins, END_MS + 3_600_000))
    assert [found.found for found in findings if found.status == "no"] == ["windows that cannot be node-a1's alone"]


def test_a_pipeline_as_it_should_be(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    now_ms = time.time_ns() // 1_000_000
    shift = now_ms - 300_000 - END_MS
    entries = [moved(entry, shift) for entry in whole()]
    publish(topics.settings, [ledger_record(topics, entry) for entry in entries])
    asyncio.run(commit(topics, f"{topics.settings.topic_prefix}enricher", topics.settings.topics.raw))
    status, found = run_doctor(topics, capsys, "--metrics-group", "never-was", "--flowlog-group", "nor-was-this")
    by_check = {each["check"]: each for each in found["findings"]}
    assert status == 1
    assert by_check["kafka"]["status"] == "ok"
    assert [each["status"] for name, each in by_check.items() if name.startswith("topic ")] == ["ok"] * 5
    assert by_check[f"lag {topics.settings.topic_prefix}enricher"]["found"] == "no member; 0 records behind"
    assert by_check["lag never-was"]["status"] == by_check["lag nor-was-this"]["status"] == "??"
    assert by_check["ledger"]["status"] == "ok", by_check["ledger"]
    assert by_check["dead letters"]["status"] == "ok"
    assert found["faults"] == 1


def test_dead_letters_and_missing_topics_are_faults(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    topics = Topics.make(broker.bootstrap, missing=("enriched.v1",))
    value = dead_letter("not_json", "?", "enricher", "raw", 0, 7, 0, None, b"rubbish")
    now_ms = time.time_ns() // 1_000_000
    publish(topics.settings, [Record(topics.settings.topics.dead_letter, 0, b"k", value, now_ms)])
    status, found = run_doctor(topics, capsys)
    faults = {each["check"]: each["found"] for each in found["findings"] if each["status"] == "no"}
    unclear = {each["check"]: each["found"] for each in found["findings"] if each["status"] == "??"}
    assert status == 1
    assert faults[f"topic {topics.settings.topics.enriched}"] == "does not exist"
    assert faults["dead letters"].startswith("1 since")
    assert "does not exist" in unclear[f"lag {topics.settings.topic_prefix}metrics"], (
        "a topic that is missing is one fault, not many"
    )


def test_kafka_away_is_one_fault(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_doctor(topics, capsys, "--kafka-bootstrap", "127.0.0.1:1")
    assert (status, found["faults"]) == (1, 1)
    assert found["findings"][0]["check"] == "kafka"


def test_kafka_that_hangs_does_not_hang_doctor(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        where = f"127.0.0.1:{deaf.getsockname()[1]}"
        begun = time.monotonic()
        status, found = run_doctor(topics, capsys, "--kafka-bootstrap", where, "--kafka-deadline-seconds", "1")
    assert time.monotonic() - begun < DEADLINE_SECONDS
    assert (status, found["faults"]) == (1, 1)
    assert all(each["status"] != "ok" for each in found["findings"])


def test_both_parts_as_a_table(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*topics.flags, "--pin-dir", "/sys/fs/bpf/zonemeter-test-none"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "node"
    assert "pipeline" in lines
    assert any(line.startswith("  ok  kernel") for line in lines)
    assert "cannot be told from here" in lines[-1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--node-only", "--pipeline-only"], "leave nothing to look at"),
        (["--since", "yesterday"], "not a duration"),
        (["--pin-dir", "relative"], "absolute path"),
        (["--output", "html"], "Input should be"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(argv)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    assert finding.status != "no" or finding.todo, "a fault must say what to do"
    return finding


def run_doctor(topics: Topics, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = command.main([*topics.flags, "--pipeline-only", "-o", "json", *more])
    return status, orjson.loads(capsys.readouterr().out)


def moved(entry: LedgerRecord, by_ms: int) -> LedgerRecord:
    return replace(entry, start_ms=entry.start_ms + by_ms, end_ms=entry.end_ms + by_ms)


def ledger_record(topics: Topics, entry: LedgerRecord) -> Record:
    return Record(topics.settings.topics.ledger, entry.partition, entry.key, encode_ledger(entry), entry.end_ms)


async def commit(topics: Topics, group: str, topic: str) -> None:
    consumer = clients.new_consumer(topics.settings, group_id=group)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(topics.settings.partitions)]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 0))
    finally:
        await consumer.stop()
