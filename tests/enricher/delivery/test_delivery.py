# SPDX-License-Identifier: Apache-2.0
"""The enricher as a process against real Kafka: every flow once, whatever dies, and the ledger closes."""

import asyncio
import os
import signal
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from common.service.running import Service
from enricher.delivery.outgoing import recovery
from enricher.delivery.outgoing.recovery import Committed
from enricher.settings import EnricherSettings
from lab.kafka.broker import Broker, free_port
from schemas.amount import NOTHING, Amount
from schemas.flow import RawPosition
from schemas.ids import parse_flow_id
from tests.support.batches import BOMBS, bomb_within_limits, publish
from tests.support.enricher.build import END, encoded, row
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics, given
from tests.support.services import eventually
from tests.support.sinks import flows
from tests.support.sinks.flows import encoded as encode_flow

# Well under the manifest's limit (k8s/base/services/enricher.yaml).
MOST_BYTES = 400 * 1024 * 1024
POD, DATABASE = "10.42.1.17", "10.42.2.9"


def window(sequence: int, rows: int = 3, **overrides: Any) -> bytes:
    """A window whose rows differ, one of them put aside."""
    made = [row(POD, DATABASE, dst_port=1000 + i % 60_000, bytes=1000 + i) for i in range(rows)]
    made.append(row(DATABASE, POD, src_port=5432, dst_port=0, direction=1, bytes=77))
    return encoded(made, sequence=sequence, **overrides)


def flags_of(topics: Topics, directory: Path, *more: str) -> list[str]:
    """Flags with a static member, so that a restart after a kill need not wait for the dead one's session."""
    return [*topics.flags, "--topology", str(topology_file(directory)), "--group-instance-id", "one", *more]


def chunk_ids(sequences: range | list[int]) -> set[str]:
    return {f"prod-eu/node-a1/5be6c2f0a91d/3/{sequence}/0" for sequence in sequences}


def check_books(topics: Topics, sequences: range | list[int], rows: int) -> None:
    """No flow twice, none missing, and the ledger closes over them."""
    flows = topics.flows()
    wanted = [f"{chunk}/{i}" for chunk in chunk_ids(sequences) for i in range(rows)]
    assert sorted(flow.id for flow in flows) == sorted(wanted)
    ledger = {id_: record for id_, record in topics.ledger().items() if "@" not in id_}
    assert ledger.keys() == chunk_ids(sequences)
    assert sum((record.given for record in ledger.values()), NOTHING) == given(flows)
    assert all(record.aside == {"sender_in_cluster": Amount(77, 10, 1)} for record in ledger.values())
    assert all(record.taken.rows == rows + 1 for record in ledger.values())


def test_raw_chunks_become_flows(topics: Topics, tmp_path: Path) -> None:
    topics.produce([window(1)])
    with running([*topics.flags, "--topology", str(topology_file(tmp_path))], tmp_path / "log") as enricher:
        eventually(enricher.ready)
        eventually(lambda: len(topics.ledger()) == 1)
        topics.produce([window(2)])
        eventually(lambda: len(topics.ledger()) == 2)
        assert enricher.metric("flows_total", "cross_zone") == 6
        assert enricher.metric("aside_bytes_total", "sender_in_cluster") == 154
        assert enricher.metric("node_bytes_total", "sender", "node-b1") == 154
        assert enricher.metric("node_window_end_seconds", "node-a1") == END / 1000
        assert enricher.terminate() == 0
    check_books(topics, [1, 2], 3)
    first = topics.records(topics.settings.topics.enriched)[0]
    assert (first.key, [*first.headers]) == (
        b"node-a1",
        [("content-type", b"application/json"), ("schema", b"zonemeter.flow.v1")],
    )
    assert first.value.startswith(b'{"id":"prod-eu/node-a1/5be6c2f0a91d/3/1/0/0","start_ms":')


@pytest.mark.parametrize(
    "crash",
    ["before-flows:2", "after-batch:3", "after-batch:7", "after-flows:1", "after-flows:2", "before-commit:2"],
)
def test_killed_anywhere_no_flow_is_twice_or_missing(topics: Topics, tmp_path: Path, crash: str) -> None:
    rows = 2000
    flags = flags_of(topics, tmp_path, "--batch-rows", "3000")
    topics.produce([window(sequence, rows) for sequence in range(1, 6)])
    with running(flags, tmp_path / "log", crash) as doomed:
        assert doomed.wait() == -9
    before = len(topics.flows())
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 5 and enricher.metric("lag_records", "0") == 0)
        eventually(lambda: enricher.metric("chunks_total", "enriched") > 0 or before == 5 * rows)
    check_books(topics, range(1, 6), rows)


def test_killed_twice_in_one_chunk_with_another_idea_of_who_is_metered(topics: Topics, tmp_path: Path) -> None:
    """What went out counts as it was; the rest is joined as known now."""
    flags = flags_of(topics, tmp_path)
    topics.produce([window(1, 4000)])
    for crash in ("after-batch:2", "after-batch:2"):
        with running(flags, tmp_path / "log", crash) as doomed:
            assert doomed.wait() == -9
    assert 0 < len(topics.flows()) < 4000
    with running(flags, tmp_path / "log"):
        eventually(lambda: len(topics.ledger()) == 1)
    check_books(topics, [1], 4000)


def test_rubbish_goes_to_the_dead_letters_and_the_rest_goes_on(topics: Topics, tmp_path: Path) -> None:
    topics.produce([b"rubbish", None, window(1, cluster="other"), window(2, schema_version=2), window(3)])
    topics.produce([window(4)], key=b"node-b1")
    topics.produce([window(5)], partition=1)
    with running([*topics.flags, "--topology", str(topology_file(tmp_path))], tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2)
        eventually(lambda: len(topics.dead_letters()) == 5)
        assert enricher.metric("dead_letters_total", "inconsistent") == 2
    assert [(letter.reason, letter.offset) for letter in topics.dead_letters()] == [
        ("not_json", 0),
        ("not_json", 1),
        ("inconsistent", 2),
        ("unsupported_version", 3),
        ("inconsistent", 5),
    ]
    check_books(topics, [3, 5], 3)


def test_a_dead_letter_topic_that_is_missing_holds_up_only_partitions_with_letters(
    broker: Broker, tmp_path: Path
) -> None:
    topics = Topics.make(broker.bootstrap, missing=("dead-letter.v1",))
    names = topics.settings.topics
    topics.produce([window(1)])
    topics.produce([b"rubbish", window(2)], partition=1)
    flags = flags_of(topics, tmp_path, "--kafka-deadline-seconds", "3")
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: chunk_ids([1]) <= topics.ledger().keys())
        eventually(lambda: f"{names.raw} partition 1: failing since" in enricher.get("/readyz")[1])
        assert (
            f"dead letters: topic {names.dead_letter} does not exist: zonemeter topics apply"
            in enricher.get("/readyz")[1]
        )
        topics.produce([window(3)])
        eventually(lambda: chunk_ids([3]) <= topics.ledger().keys())
        topics.apply()
        eventually(enricher.ready)
        assert [(letter.partition, letter.offset) for letter in topics.dead_letters()] == [(1, 0)]
        assert enricher.terminate() == 0
    check_books(topics, [1, 2, 3], 3)


def test_a_batch_that_cannot_be_unpacked_is_one_dead_letter_and_the_rest_goes_on(
    topics: Topics, tmp_path: Path
) -> None:
    raw = topics.settings.topics.raw
    sent = {codec: bomb_within_limits(codec) for codec in BOMBS}
    for number, packed in enumerate(sent.values(), 1):
        topics.produce([window(number)])
        publish(topics.settings.kafka_bootstrap, raw, 0, packed)
    flags = flags_of(topics, tmp_path)
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == len(sent) == len(topics.dead_letters()))
        assert enricher.metric("dead_letters_total", "batch_too_large") == len(sent)
        assert enricher.metric("raw_gap_records_total") == 0
        assert enricher.peak_bytes() < MOST_BYTES
    assert [(letter.reason, letter.first_offset, letter.offset) for letter in topics.dead_letters()] == [
        ("batch_too_large", offset, offset + 15) for offset in range(1, 17 * len(sent), 17)
    ]
    assert [letter.value_size for letter in topics.dead_letters()] == list(map(len, sent.values()))
    check_books(topics, range(1, len(sent) + 1), 3)
    # Met again when the first copy is looked for, and when what is out is read back.
    topics.produce([window(1, maybe_repeat=True)])
    publish(topics.settings.kafka_bootstrap, topics.settings.topics.enriched, 0, sent["zstd"])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: enricher.metric("chunks_total", "repeat") == 1)
        assert enricher.peak_bytes() < MOST_BYTES


def test_a_repeat_is_put_aside_by_memory_and_by_looking_back(topics: Topics, tmp_path: Path) -> None:
    flags = flags_of(topics, tmp_path)
    topics.produce([window(1), window(2), window(2, maybe_repeat=True), window(3, maybe_repeat=True)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 4)
        assert enricher.terminate() == 0
    # The first of each node is looked for even if it does not say so: it may have been held up on its way.
    topics.produce([window(3), window(4, maybe_repeat=True), window(2, maybe_repeat=True)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 7)
        assert enricher.metric("chunks_total", "repeat") == 2
    check_books(topics, [1, 2, 3, 4], 3)
    repeats = {id_: record for id_, record in topics.ledger().items() if "@" in id_}
    assert {id_.rpartition("/")[0][-1] + id_[id_.index("@") :]: set(each.aside) for id_, each in repeats.items()} == {
        "2@2": {"repeat"},
        "3@4": {"unannounced_repeat"},
        "2@6": {"repeat"},
    }


def test_rubbish_that_is_met_again_when_looking_back_does_no_harm(topics: Topics, tmp_path: Path) -> None:
    flags = flags_of(topics, tmp_path)
    topics.produce([window(1), b'{"cluster":"\xff"}', b'{"x":' + b"[" * 200_000, None, window(2)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2)
        eventually(lambda: len(topics.dead_letters()) == 3)
        assert enricher.terminate() == 0
    topics.produce([window(1, maybe_repeat=True), window(3)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 4)
        assert enricher.metric("chunks_total", "repeat") == 1
    check_books(topics, [1, 2, 3], 3)


@pytest.mark.parametrize("said", ["", "?", "enriched=-1", "enriched=" + "9" * 40, "enriched=999999999"])
def test_what_somebody_else_committed_is_known_for_what_it_is(topics: Topics, tmp_path: Path, said: str) -> None:
    """An operator set the offset back, or rubbish stands beside it: all is read back, and no flow is out twice."""
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path))]
    topics.produce([window(1), window(2), window(3)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 3)
        assert enricher.terminate() == 0
    topics.commit(0, 1, said)
    topics.produce([window(4)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 4)
        assert enricher.metric("chunks_total", "enriched") == 3
        assert enricher.terminate() == 0
    check_books(topics, [1, 2, 3, 4], 3)
    told = "was committed by somebody else" in (tmp_path / "log").read_text()
    assert told == (said != "enriched=999999999")


@pytest.mark.parametrize("point", ["after-commit:1", "after-commit:3", "after-flows:2"])
def test_killed_while_it_reads_again_what_is_out_nothing_is_twice(topics: Topics, tmp_path: Path, point: str) -> None:
    """The group's offset was set to the beginning: what a killed enricher had not come to yet is still known as out."""
    flags = flags_of(topics, tmp_path, "--batch-rows", "1")
    topics.produce([window(sequence) for sequence in range(1, 9)])
    # Not a fixed member, which would stay in the group: an operator sets the offsets of an empty one.
    with running([*flags[:-4], "--batch-rows", "1"], tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 8)
        assert enricher.terminate() == 0
    topics.commit(0, 0, "")
    with running(flags, tmp_path / "log", point) as doomed:
        assert doomed.wait() == -9
    topics.produce([window(9)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 9)
        assert enricher.terminate() == 0
    check_books(topics, range(1, 10), 3)


def test_where_what_is_out_begins_is_found_by_time(topics: Topics) -> None:
    """Days of output before the raw records that are read again are not read, but for the last record before them."""
    day_ms = 86_400_000
    days = [
        (window(day, 2, end_ms=END - (9 - day) * day_ms, start_ms=END - (9 - day) * day_ms - 10_000))
        for day in range(9)
    ]
    out = [encode_flow(flows.flow(end_ms=END - (9 - day) * day_ms)) for day in range(9)]
    topics.produce(days)
    topics.produce_flows(out)

    def looked_for(committed: Committed, raw_first: int) -> tuple[range, range]:
        settings = EnricherSettings(**topics.settings.model_dump())
        return asyncio.run(recovery.not_committed(Service("enricher"), settings, 0, committed, raw_first))

    assert looked_for(Committed(7, None), 7) == (range(7, 9), range(6, 9))
    assert looked_for(Committed(7, 8), 7) == (range(7, 9), range(8, 9))
    assert looked_for(Committed(7, 99), 7) == (range(7, 9), range(6, 9)), "not an offset of this topic"
    assert looked_for(Committed(None, None), 0) == (range(9), range(9))
    assert looked_for(Committed(9, None), 9) == (range(9, 9), range(9, 9)), "nothing of raw is left"


def test_a_flow_in_the_output_that_no_enricher_wrote_keeps_none_of_its_chunk_back(
    topics: Topics, tmp_path: Path
) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path))]
    forged = encode_flow(flows.flow(id="prod-eu/node-a1/5be6c2f0a91d/3/1/0/1", bytes=1, raw=RawPosition(0, 0)))
    topics.produce_flows([forged])
    topics.produce_flows([forged], key=b"node-b1")
    topics.produce([window(1), window(2)])
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2)
        assert enricher.metric("foreign_output_chunks_total") == 1
        assert enricher.terminate() == 0
    assert [entry.given for entry in topics.ledger().values()] == [Amount(3003, 30, 3)] * 2
    assert len(topics.flows()) == 2 + 6


def test_a_repeat_split_over_two_chunks_after_a_restart(topics: Topics, tmp_path: Path) -> None:
    flags = flags_of(topics, tmp_path)
    chunks = [window(1, chunk=0, chunks=2), window(1, chunk=1, chunks=2)]
    topics.produce(chunks)
    with running(flags, tmp_path / "log") as enricher:
        eventually(lambda: len(topics.ledger()) == 2)
        assert enricher.terminate() == 0
    topics.produce([window(1, chunk=0, chunks=2, maybe_repeat=True), window(1, chunk=1, chunks=2, maybe_repeat=True)])
    with running(flags, tmp_path / "log"):
        eventually(lambda: len(topics.ledger()) == 4)
    assert len(topics.flows()) == 6


def produce_windows(topics: Topics, sequences: range) -> None:
    """Give each of three partitions a node's windows of those sequences."""
    for number in range(3):
        chunks = [window(sequence, 300, node=f"node-{number}") for sequence in sequences]
        topics.produce(chunks, key=f"node-{number}".encode(), partition=number)


def test_two_share_the_partitions_and_nothing_is_done_twice(topics: Topics, tmp_path: Path) -> None:
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--batch-rows", "500", "--session-seconds", "6"]
    produced = 30
    produce_windows(topics, range(1, 31))

    def more_until_two_has_some() -> bool:
        nonlocal produced
        produce_windows(topics, range(produced + 1, produced + 6))
        produced += 5
        eventually(lambda: len(topics.ledger()) == 3 * produced)
        return two.metric("chunks_total", "enriched") > 0

    with running(flags, tmp_path / "one") as one:
        eventually(lambda: one.metric("chunks_total", "enriched") > 3)
        with running(flags, tmp_path / "two") as two:
            eventually(more_until_two_has_some)
            one.kill()
            produce_windows(topics, range(produced + 1, produced + 11))
            produced += 10
            eventually(lambda: len(topics.ledger()) == 3 * produced)
    flows = topics.flows()
    assert len({flow.id for flow in flows}) == len(flows) == 3 * produced * 300


def test_a_broker_killed_under_way_brings_no_flow_twice_and_loses_none(tmp_path: Path) -> None:
    broker, rows = Broker(tmp_path / "kafka", port=free_port()), 2000
    try:
        asyncio.run(broker.start())
        topics = Topics.make(broker.bootstrap)
        flags = flags_of(topics, tmp_path, "--kafka-deadline-seconds", "3", "--batch-rows", "1500")
        topics.produce([window(sequence, rows) for sequence in range(1, 61)])
        with running(flags, tmp_path / "log") as enricher:
            for chunks in (3, 20, 40):
                eventually(lambda: enricher.metric("chunks_total", "enriched") >= chunks)  # noqa: B023
                broker.kill()
                asyncio.run(broker.start())
            eventually(lambda: len(topics.ledger()) == 60)
            assert enricher.terminate() == 0
        check_books(topics, range(1, 61), rows)
    finally:
        broker.kill()


def test_a_paused_enricher_that_wakes_after_its_partitions_moved_does_no_harm(topics: Topics, tmp_path: Path) -> None:
    """Readers skip what a zombie may have added; nothing is missing, and who reads in order sees each row once."""
    rows = 2000
    flags = [*topics.flags, "--topology", str(topology_file(tmp_path)), "--session-seconds", "6"]
    topics.produce([window(sequence, rows) for sequence in range(1, 41)])
    with running(flags, tmp_path / "one", "after-batch:3:SIGSTOP") as one:
        eventually(one.stands_still)
        with running(flags, tmp_path / "two") as two:
            eventually(lambda: two.metric("chunks_total", "enriched") > 0)
            os.kill(one.process.pid, signal.SIGCONT)
            eventually(lambda: len(topics.ledger()) == 40)
    marks = [parse_flow_id(flow.id)[1] for flow in topics.flows()]
    assert len(set(accumulate(marks, max))) == 40 * rows
