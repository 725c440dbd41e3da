# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit` over a ledger made by hand: what it says first, what it names, how it explains."""

import asyncio
import itertools
import re
import time
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition

from common.kafka import clients
from common.kafka.publish import Record
from history.audit import command as audit
from lab.kafka.broker import Broker
from schemas.dead_letter import dead_letter
from schemas.ids import Origin, chunk_id
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.raw import UplinkCounters
from schemas.topology import TopologyState, encode_topology
from tests.history.conftest import Command
from tests.support.builders import ORIGIN, START_MS, amount, collector_entry, enricher_entry, raw_chunk, sink_entry
from tests.support.cli.records import publish
from tests.support.sinks.flows import encoded, flow
from tests.support.sinks.topics import Topics

OTHER = Origin(ORIGIN.cluster, "node-b1", "bbbbbbbbbbbb")
TWIN = Origin(ORIGIN.cluster, "node-b1", "cccccccccccc")
CHECKPOINTS = itertools.count(1)


class Ledger:
    """A ledger of a few minutes ago."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.settings = topics.settings
        self.shift_ms = time.time_ns() // 1_000_000 - START_MS - 300_000

    def put(self, *entries: LedgerRecord) -> None:
        """Publish entries with their times moved."""
        moved = [_moved(entry, self.shift_ms) for entry in entries]
        topic = self.settings.topics.ledger
        publish(self.settings, [Record(topic, 0, each.key, encode_ledger(each), each.end_ms) for each in moved])

    def node(self, name: str) -> None:
        """Let the cluster have a node."""
        state = TopologyState(kind="node", uid=name, resource_version="1", name=name, from_ms=0)
        publish(self.settings, [Record(self.settings.topics.topology, 0, state.key, encode_topology(state), START_MS)])

    def records(self, topic: str, *values: bytes) -> None:
        """Put records into partition 0 of a topic."""
        publish(self.settings, [Record(topic, 0, b"k", value, START_MS + self.shift_ms) for value in values])

    def commit(self, hop: str, topic: str, offset: int) -> None:
        """Let a hop's group go on from there."""

        async def inside() -> None:
            consumer = clients.new_consumer(self.settings, group_id=f"{self.settings.topic_prefix}{hop}")
            await consumer.start()
            try:
                place = TopicPartition(topic, 0)
                consumer.assign([place])
                await consumer.commit({place: offset})
            finally:
                await consumer.stop()

        asyncio.run(inside())

    def letter(self, topic: str, by: str, node: str) -> None:
        """Let somebody have refused a record of a node."""
        now_ms = time.time_ns() // 1_000_000
        value = dead_letter("not_json", "?", by, topic, 0, 7, now_ms, node.encode(), b"rubbish")
        publish(self.settings, [Record(self.settings.topics.dead_letter, 0, b"k", value, now_ms)])


def _moved(entry: LedgerRecord, by_ms: int) -> LedgerRecord:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return LedgerRecord(**(fields | {"start_ms": entry.start_ms + by_ms, "end_ms": entry.end_ms + by_ms}))


@pytest.fixture
def ledger(broker: Broker) -> Ledger:
    return Ledger(Topics.make(broker.bootstrap))


def whole(*sequences: int, origin: Origin = ORIGIN, **collector: Any) -> list[LedgerRecord]:
    sizes = dict.fromkeys(sequences, 1_000)
    return [
        *(collector_entry(sequence, 1_000, origin, **collector) for sequence in sequences),
        *(enricher_entry(sequence, 1_000, origin) for sequence in sequences),
        *(sink_entry(sink, next(CHECKPOINTS), sizes, origin) for sink in ("metrics", "flowlog")),
    ]


def test_it_begins_with_who_was_metered_and_how_much_of_it(ledger: Ledger, command: Command) -> None:
    for node in ("node-a1", "node-b1", "node-c1"):
        ledger.node(node)
    ledger.put(*whole(0, 1, uplinks={"eth0": UplinkCounters(1_000, 10, 500, 5)}, received=amount(500)))
    ledger.put(*whole(0, 1, origin=OTHER, uplinks={"eth0": UplinkCounters(4_000, 10, 0, 0)}))
    status, out, _ = command(audit.main, *ledger.topics.flags)
    lines = out.splitlines()
    assert lines[1:5] == [
        "nodes metered 2 of 3 in the cluster",
        "never metered in this range: node-c1",
        "coverage out 40.0 %, in 100.0 % (least: node-b1 out 25.0 %)",
        "windows 4     unmeasured no time",
    ]
    assert lines[-1] == "ledger 1.000000   every byte is accounted for"
    assert status == 0


def test_what_was_there_before_the_ledger_begins_is_named(ledger: Ledger, command: Command) -> None:
    ledger.put(*whole(19, 20), *whole(1, origin=OTHER))
    status, out, _ = command(audit.main, *ledger.topics.flags)
    assert "gone from the ledger: earlier windows of 1 node, which are in no sum" in out
    (line,) = (line for line in out.splitlines() if line.startswith("gone  "))
    assert "node-a1" in line
    assert "windows 1 to 18 (boot 5be6c2f0a91d, generation 1)" in line
    assert status == 0


def test_one_node_alone_and_a_row_for_each(ledger: Ledger, command: Command) -> None:
    ledger.put(*whole(0, 3))
    ledger.put(*whole(0, 1, 2, origin=OTHER))
    _, out, _ = command(audit.main, *ledger.topics.flags, "--by", "node")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("node-")}
    assert rows == {"node-a1": ["2", "2,000", "-", "20.0", "0", "0"], "node-b1": ["3", "3,000", "-", "0.0", "0", "0"]}
    _, out, _ = command(audit.main, *ledger.topics.flags, "--node", "node-b1", "-o", "json")
    answer = orjson.loads(out)
    assert answer["nodes"]["metered"] == ["node-b1"]
    assert (answer["windows"], answer["gaps"], answer["closes"]) == (3, [], True)


def test_a_clock_that_was_set_is_named_and_accuses_nobody(ledger: Ledger, command: Command) -> None:
    ledger.put(*whole(0), *whole(1, clock_step_ms=-90_000))
    status, out, _ = command(audit.main, *ledger.topics.flags)
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("clock")]
    assert "node-a1  set back by 90.0 s in the window that ended at " in line
    _, out, _ = command(audit.main, *ledger.topics.flags, "-o", "json")
    (step,) = orjson.loads(out)["clock_steps"]
    assert step == {"node": "node-a1", "to_ms": START_MS + 20_000 + ledger.shift_ms, "step_ms": -90_000}


def test_what_is_missing_is_explained_by_its_dead_letter(ledger: Ledger, command: Command) -> None:
    entries = [e for e in whole(0, 1, 2) if not (e.hop == "enricher" and e.id.endswith("/1/0"))]
    ledger.put(*entries)
    ledger.letter(ledger.settings.topics.raw, "enricher", "node-a1")
    ledger.letter(ledger.settings.topics.raw, "enricher", "node-b1")
    status, out, _ = command(audit.main, *ledger.topics.flags)
    assert status == 1
    explained = [line for line in out.splitlines() if line.startswith("explained  enricher, node-a1")]
    assert len(explained) == 1
    assert "it refused 1 records of this node in the range (not_json), dead letters 0" in explained[0]
    assert "unaccounted  enricher  lab/node-a1/5be6c2f0a91d/1/1  1,000 bytes" in out


@pytest.mark.parametrize("more", [[], ["--deep"]])
def test_without_a_topic_of_dead_letters_it_audits_all_the_same(
    broker: Broker, command: Command, more: list[str]
) -> None:
    ledger = Ledger(Topics.make(broker.bootstrap, missing=("dead-letter.v1",)))
    ledger.put(*(entry for entry in whole(0, 1, 2) if not (entry.hop == "enricher" and entry.id.endswith("/1/0"))))
    status, out, err = command(audit.main, *ledger.topics.flags, *more)
    assert (status, err) == (1, "")
    assert f"explained  dead letters: topic {ledger.settings.topics.dead_letter} does not exist; " in out
    assert "unaccounted  enricher  lab/node-a1/5be6c2f0a91d/1/1  1,000 bytes" in out


def test_forgeries_and_senders_that_nobody_meters_are_bad_news(ledger: Ledger, command: Command) -> None:
    ledger.put(
        *whole(0, 1),
        collector_entry(0, 0, OTHER),
        enricher_entry(0, 0, OTHER),
        collector_entry(1, 0, TWIN),
        enricher_entry(1, 0, TWIN),
        collector_entry(2, 0, OTHER),
        enricher_entry(2, 0, OTHER, foreign_source={"node-a1": amount(700)}, senders={"fargate-1": amount(900)}),
    )
    status, out, _ = command(audit.main, *ledger.topics.flags)
    assert status == 1
    assert "ledger 1.000000" in out
    assert "forged?  node-b1: boots bbbbbbbbbbbb, cccccccccccc go on side by side" in out
    assert "forged?  foreign_source  node-b1 says it sent 700 bytes from addresses of node-a1" in out
    assert "not counted  900 bytes from fargate-1" in out
    _, out, _ = command(audit.main, *ledger.topics.flags, "--node", "node-b1")
    assert "not counted" not in out, "of one node's windows nobody knows what others metered"


def test_rubbish_in_the_ledger_is_named_and_hides_nothing(ledger: Ledger, command: Command) -> None:
    ledger.put(*whole(0, 1))
    topic = ledger.settings.topics.ledger
    publish(ledger.settings, [Record(topic, 2, b"k", b"rubbish", START_MS + ledger.shift_ms)])
    status, out, err = command(audit.main, *ledger.topics.flags)
    assert (status, err) == (0, "")
    assert f"not ours  {topic} partition 2 offset 0: not_json" in out


def test_windows_under_way_are_told_apart_from_what_nobody_has(ledger: Ledger, command: Command) -> None:
    ledger.put(*whole(0, 1), collector_entry(2, 5_000))
    _, out, _ = command(audit.main, *ledger.topics.flags, "-o", "json", "--settle-seconds", "3000")
    answer = orjson.loads(out)
    assert (answer["closes"], answer["in_flight"], answer["windows"]) == (True, 1, 2)
    status, out, _ = command(audit.main, *ledger.topics.flags)
    assert status == 1
    assert "nor anything later of this node" in out
    assert "nor are they seen to wait for it in Kafka" in out


@pytest.mark.parametrize("stands", [1, 2])
def test_what_waits_in_kafka_is_late_and_what_its_hop_is_beyond_is_lost(
    ledger: Ledger, command: Command, stands: int
) -> None:
    """The enricher lacks window 2, the flow log window 3; both stand at offset 1. Who goes on from 2 has lost it."""
    names = ledger.settings.topics
    ledger.put(*whole(0, 1), collector_entry(2, 5_000))
    ledger.put(*(entry for entry in whole(0, 3, origin=OTHER) if entry.hop != "flowlog"))
    ledger.put(sink_entry("flowlog", next(CHECKPOINTS), {0: 1_000}, OTHER))
    ledger.records(names.raw, b"rubbish", raw_of(2, 0, 5_000))
    ledger.records(names.enriched, *(flow_of(sequence, 0, 1_000) for sequence in (0, 3)))
    ledger.commit("enricher", names.raw, stands)
    ledger.commit("flowlog", names.enriched, stands)
    status, out, _ = command(audit.main, *ledger.topics.flags)
    _, document, _ = command(audit.main, *ledger.topics.flags, "-o", "json")
    answer = orjson.loads(document)
    if stands == 1:
        assert (status, answer["late_windows"]) == (0, 2)
        assert answer["late_bytes"] == {"enricher": 5_000, "flowlog": 1_000}
        assert "windows 3, 2 late (left out)" in out
        assert "late  enricher  5,000 bytes wait for it in Kafka" in out
        assert out.endswith("ledger 1.000000   every byte is accounted for, or waits in Kafka\n")
    else:
        assert (status, answer["late_windows"], answer["late_bytes"]) == (1, 0, {})
        assert answer["unaccounted_bytes"] == {"enricher": 5_000, "flowlog": 1_000}


def test_what_waits_in_kafka_only_in_part_is_lost(ledger: Ledger, command: Command) -> None:
    """Of window 2 chunk 0 was taken meanwhile, 1 is gone, 2 came twice; of window 3 a flow is gone, one came twice.

    Nor is a corrected flow what the flow log waits for.
    """
    names = ledger.settings.topics
    ledger.put(*whole(0, 1), collector_entry(2, 5_000, chunks=3), enricher_entry(2, 1_000))
    ledger.put(*(entry for entry in whole(0, 3, origin=OTHER) if entry.hop != "flowlog"))
    ledger.put(*(sink_entry(sink, next(CHECKPOINTS), {2: 1_000}) for sink in ("metrics", "flowlog")))
    ledger.put(sink_entry("flowlog", next(CHECKPOINTS), {0: 1_000}, OTHER))
    ledger.records(names.raw, raw_of(2, 0, 1_000), *2 * [raw_of(2, 2, 3_000)])
    ledger.records(names.enriched, *2 * [flow_of(3, 0, 600)], flow_of(3, 1, 400, attribution_version=1))
    ledger.commit("enricher", names.raw, 0)
    ledger.commit("flowlog", names.enriched, 0)
    status, document, _ = command(audit.main, *ledger.topics.flags, "-o", "json")
    answer = orjson.loads(document)
    assert (status, answer["late_windows"], answer["late_bytes"]) == (1, 0, {})
    assert answer["unaccounted_bytes"] == {"enricher": 4_000, "flowlog": 1_000}


def raw_of(sequence: int, chunk: int, size: int) -> bytes:
    head = {"generation": 1, "sequence": sequence, "chunk": chunk, "chunks": chunk + 1}
    return raw_chunk([], head, bytes=[size], packets=[size // 100])


def flow_of(sequence: int, row: int, size: int, **overrides: Any) -> bytes:
    name = f"{chunk_id(OTHER, 1, sequence, 0)}/{row}"
    return encoded(flow(id=name, bytes=size, packets=size // 100, **overrides))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--node", "node-z9"], f"no window of node node-z9 in .*; there are {ORIGIN.cluster}/node-a1\n"),
        (["--cluster", "nowhere"], f"no window of cluster nowhere in .*; there are {ORIGIN.cluster}/node-a1\n"),
        (["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"], "no window in 2026-01-01 .*: is a coll"),
    ],
)
def test_a_range_that_holds_nothing_is_one_line(ledger: Ledger, command: Command, flags: list[str], says: str) -> None:
    ledger.put(*whole(1, 2))
    status, out, err = command(audit.main, *ledger.topics.flags, *flags)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert re.match(f"zonemeter audit: {says}", err)


def test_an_archive_without_deep_is_wrong_use(ledger: Ledger, command: Command) -> None:
    status, out, err = command(audit.main, *ledger.topics.flags, "--archive", "/nowhere")
    assert (status, out) == (2, "")
    assert err.endswith("--archive is read with --deep only\n")
