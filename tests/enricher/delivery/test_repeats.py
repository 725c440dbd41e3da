# SPDX-License-Identifier: Apache-2.0
"""What numbers and times somebody makes up in a node's name do to the node's own: next to nothing, and it shows."""

from typing import Any

import msgspec
import orjson
import pytest
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from enricher.delivery.incoming.admission import IDLE_MS, MAX_STRANGERS, Nodes
from enricher.delivery.incoming.earlier import MAX_RECORDS, MORE_MS, BootStates, Reach, why_not
from enricher.delivery.incoming.repeats import MAX_BOOTS, MAX_BOOTS_OF_NODE, BootMemory, came_before
from enricher.delivery.incoming.taken import ChunkMark, TakenRuns
from enricher.index.cidrs import load_cidr_map
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.metrics import EnricherMetrics, GivenOut
from schemas.errors import DecodeError
from schemas.raw import RawChunk
from tests.support.enricher.build import START, chunk, node, row

WINDOW_MS = 10_000
DAY_MS = 86_400_000
MAX = 2**53 - 1


def window(number: int, **overrides: Any) -> RawChunk:
    start = START + number * WINDOW_MS
    fields = {"sequence": number, "start_ms": start, "end_ms": start + WINDOW_MS} | overrides
    return chunk([row("10.42.1.17", "8.8.8.8")], **fields)


class Partition:
    """Takes chunks as the enricher does; each comes when its window ends, by a clock that is right."""

    def __init__(self) -> None:
        self.memory = BootMemory()
        self.now_ms = START

    def take(self, raw: RawChunk, now_ms: int | None = None) -> str:
        self.now_ms = max(self.now_ms, raw.end_ms) if now_ms is None else now_ms
        life = self.memory.life(raw.origin)
        if why_not(raw, life, self.now_ms):
            return "refused"
        if life is not None and came_before(raw, life):
            return "repeat"
        self.memory.note(raw, self.now_ms)
        return "taken"


def honest(partition: Partition, sequences: range, **overrides: Any) -> list[str]:
    return [partition.take(window(sequence, **overrides)) for sequence in sequences]


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"sequence": MAX}, id="the greatest sequence"),
        pytest.param({"sequence": 5_000}, id="a sequence that nobody can have come to"),
        pytest.param({"generation": MAX}, id="the greatest generation"),
        pytest.param({"generation": 4, "sequence": MAX}, id="the next generation, far ahead"),
        pytest.param({"sequence": 21, "start_ms": 0, "end_ms": 1}, id="1970"),
        pytest.param({"sequence": 21, "start_ms": 1, "end_ms": START}, id="a window of decades"),
        pytest.param(
            {"sequence": 21, "start_ms": START + 60 * DAY_MS, "end_ms": START + 61 * DAY_MS}, id="months ahead"
        ),
    ],
)
def test_what_no_node_can_have_come_to_is_refused_and_changes_nothing(forged: dict[str, Any]) -> None:
    partition = Partition()
    assert set(honest(partition, range(20))) == {"taken"}
    assert partition.take(window(20, **forged), partition.now_ms) == "refused"
    assert set(honest(partition, range(20, 40))) == {"taken"}


@pytest.mark.parametrize("uptime_seconds", [4, 3 + DAY_MS // 1_000, 3 + 1_000 * DAY_MS // 1_000])
def test_a_program_that_takes_over_whenever_it_may_is_no_forgery(uptime_seconds: int) -> None:
    partition = Partition()
    assert set(honest(partition, range(20))) == {"taken"}
    later = [partition.take(window(20 + n, generation=uptime_seconds, sequence=n)) for n in range(20)]
    assert set(later) == {"taken"}


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param([{"sequence": 1_000}], id="a jump within bounds"),
        pytest.param([{"generation": 4, "sequence": 0}], id="the next generation"),
        pytest.param([{"generation": 4, "sequence": n} for n in range(200)], id="a life in the next generation"),
        pytest.param([{"generation": 300_000_000, "sequence": 0}], id="a generation of years later"),
        pytest.param([{"sequence": 100 + 2 * n} for n in range(200)], id="more jumps than runs are remembered"),
        pytest.param(
            [{"sequence": 900, "start_ms": START + 20 * DAY_MS, "end_ms": START + 20 * DAY_MS + 1}], id="weeks ahead"
        ),
    ],
)
def test_what_might_be_costs_the_node_no_window_once_its_clock_has_gone_on(forged: list[dict[str, Any]]) -> None:
    partition = Partition()
    assert set(honest(partition, range(20))) == {"taken"}
    assert {partition.take(window(20, **each), partition.now_ms) for each in forged} == {"taken"}
    # What was under way when the forgery came may be lost: clocks may differ by a minute.
    after = honest(partition, range(20, 60))
    assert set(after[7:]) == {"taken"}
    # And what the node publishes again is still known.
    assert partition.take(window(50)) == "repeat"


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param({"sequence": 2, "end_ms": MAX}, id="a time that cannot be"),
        pytest.param({"sequence": 2, "start_ms": 0, "end_ms": 1}, id="1970"),
        pytest.param({"sequence": MAX}, id="a number that cannot be"),
        pytest.param({"sequence": 2, "cluster": "other"}, id="another cluster"),
        pytest.param({"sequence": 2, "bytes": [1, 2]}, id="columns of different length"),
        pytest.param({"sequence": 2, "end_ms": START}, id="ends before it begins"),
    ],
)
def test_what_went_to_the_dead_letters_says_nothing_when_it_is_read_back(refused: dict[str, Any]) -> None:
    true = [window(number) for number in (0, 1)]
    forged = encoded(window(2)) | refused
    records = [record(encoded(each)) for each in true] + [record(forged), record(encoded(window(2)), key=b"another")]
    lives = BootStates(true[0].cluster)
    lives.note(records, START + 365 * DAY_MS)
    life = lives.get(true[0].origin)
    assert life is not None
    assert life.furthest == ChunkMark(true[1].generation, 1, 0)
    assert life.end_ms == true[1].end_ms
    assert [came_before(window(number), life) for number in range(4)] == [True, True, False, False]


def encoded(raw: RawChunk) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(msgspec.json.encode(raw))
    return fields


def record(fields: dict[str, Any], key: bytes | None = None) -> ConsumerRecord[bytes, bytes]:
    value, key = orjson.dumps(fields), fields["node"].encode() if key is None else key
    return ConsumerRecord("raw", 0, 0, 0, 0, key, value, None, len(key), len(value), ())


def test_the_first_that_is_known_of_a_boot_may_be_a_forgery() -> None:
    partition = Partition()
    assert partition.take(window(0, sequence=MAX)) == "taken"
    assert set(honest(partition, range(10, 40))) == {"taken"}


@pytest.mark.parametrize("ahead_ms", [-5 * 3_600_000, 40 * 3_600_000, 200 * 3_600_000])
def test_a_node_whose_clock_is_wrong_is_taken_once(ahead_ms: int) -> None:
    partition = Partition()
    now = START
    for sequence in range(50):
        now += WINDOW_MS
        shift = ahead_ms if 10 <= sequence < 30 else 0
        start = START + sequence * WINDOW_MS + shift
        of = window(sequence, start_ms=start, end_ms=start + WINDOW_MS)
        assert partition.take(of, now) == "taken"
        assert partition.take(of, now) == "repeat"


def test_a_window_of_several_chunks_below_a_forged_number() -> None:
    partition = Partition()
    honest(partition, range(5))
    assert partition.take(window(5, sequence=500), partition.now_ms) == "taken"
    parts = [window(20, chunk=number, chunks=3, **({} if number == 0 else {"ledger": None})) for number in range(3)]
    assert [partition.take(part) for part in parts] == ["taken"] * 3
    assert [partition.take(part) for part in parts] == ["repeat"] * 3


def test_boots_made_up_cost_little_and_push_out_no_other_node() -> None:
    partition = Partition()
    honest(partition, range(5))
    honest(partition, range(5), node="node-b1")
    for number in range(2_000):
        partition.take(window(5, boot_id=f"{number:012x}"))
    assert len(partition.memory) == MAX_BOOTS_OF_NODE + 1
    for number in range(2 * MAX_BOOTS):
        partition.memory.note(window(5, node=f"forged-{number}"), START)
    assert len(partition.memory) <= MAX_BOOTS


def test_nodes_of_the_cluster_find_room_whatever_names_are_made_up() -> None:
    index = Index()
    nodes = Nodes(index)
    for number in range(MAX_STRANGERS):
        nodes.admit(f"forged-{number}", START)
    with pytest.raises(DecodeError, match="too_many_names"):
        nodes.admit("forged-more", START)
    index.apply(node("node-a1", "10.0.0.1"))
    nodes.admit("node-a1", START)
    nodes.admit("forged-0", START)
    assert len(nodes) == MAX_STRANGERS
    nodes.admit("forged-more", START + IDLE_MS)
    assert len(nodes) == MAX_STRANGERS


def test_series_of_nodes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enricher.metrics.MAX_NODES", 3)
    registry = CollectorRegistry()
    metrics, resolver = EnricherMetrics(registry, Index()), Resolver(Index(), load_cidr_map(None))
    for number in range(10):
        named = chunk([row("10.0.1.1", "10.0.2.1")], node=f"n{number}")
        metrics.given_out([GivenOut(named, join(named, resolve(named, resolver), 0, 0), waited=False)], START)
        metrics.contradicted(f"n{number}")
    left = {sample.labels["node"] for each in registry.collect() for sample in each.samples if "node" in sample.labels}
    assert left == {"n7", "n8", "n9"}


def readings(reach: Reach, ends_ms: list[int], now_ms: int, start: int) -> tuple[int, int]:
    """Return how many times was read back for these windows, and how many records, if all stand behind `start`."""
    times = records = 0
    for end_ms in ends_ms:
        to_ms = reach.wanted(end_ms, now_ms)
        if to_ms is None or reach.is_used_up:
            continue
        times += 1
        share = (now_ms - to_ms) / (now_ms - START)
        offset = max(int(start - start * share), 0)
        while part := reach.next_slice(offset):
            records += len(part)
            reach.took(part, 300 * len(part))
        if reach.read_from <= offset:
            reach.to_ms = to_ms
    return times, records


def test_ever_older_times_are_few_readings_of_few_records() -> None:
    now = START + DAY_MS
    minutes = [now - minute * 60_000 for minute in range(60)]
    assert readings(Reach(8_640), minutes, now, 8_640)[0] <= 7
    times, records = readings(Reach(10_000_000), [now - hour * 3_600_000 for hour in range(24)] * 3, now, 10_000_000)
    assert records <= MAX_RECORDS
    assert times <= 7
    assert Reach(5).wanted(now, now) == now - MORE_MS


def test_runs_are_forgotten_and_never_joined() -> None:
    taken = TakenRuns(3)
    for number in range(0, 100, 10):
        taken.add(ChunkMark(1, number, 0))
        taken.add(ChunkMark(1, number + 1, 0))
    assert len(taken) == 3
    assert [taken.holds(ChunkMark(1, number, 0)) for number in (91, 90, 85, 71, 61)] == [True, True, False, True, False]
    assert not taken.holds(ChunkMark(1, 91, 1))
    assert not taken.holds(ChunkMark(2, 91, 0))
