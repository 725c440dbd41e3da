# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever was done: one check for all scenarios, over the whole run.

Every id exactly once in the flow log and in what a reader of the enriched topic takes; the counters exact; the dead
letters exactly the rubbish; the audit closed, or, where an operator has thrown records away, naming each of them, and
naming whatever numbers were left out and whichever node has two boots side by side.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import confluent_kafka
import duckdb
import orjson

from schemas.ids import parse_flow_id
from tests.support.servers.prometheus import Prometheus
from tests.support.services import ROOT, eventually
from tests.torture.content import Expected, totals
from tests.torture.world import World

SERVED_SECONDS = 60.0
_REASON = re.compile(r"(\w+) ([\d,]+)(?=[,;])")  # of the last line of zonemeter dead-letters list
Zones = tuple[str, str, str]


@dataclass
class Found:
    """What was checked: flows, and how many of them stand in the enriched topic more than once (readers skip those)."""

    flows: int
    repeated: int


def check(world: World, scraper: Prometheus | None = None) -> Found:
    """Wait until everything has arrived, then hold all of it against the truth; raises `AssertionError`."""
    world.settle()
    truth = {id_: flow for id_, flow in world.feeder.truth.items() if id_.rpartition("/")[0] not in world.lost}
    world.wait_for_rows()
    _flow_log(world, truth)
    _counters(world, truth, scraper)
    repeated = _topic(world, truth)
    _dead_letters(world)
    _audit(world)
    assert not world.fleet.dead(), world.fleet.dead()
    return Found(len(truth), repeated)


def _flow_log(world: World, truth: dict[str, Expected]) -> None:
    files = [str(path) for path in world.output.glob("flows/date=*/**/*.parquet")]
    columns = "id, bytes, packets, scope, coalesce(src_zone, ''), coalesce(dst_zone, '')"
    with duckdb.connect() as connection:
        rows = connection.execute(f"select {columns} from read_parquet(?)", [files]).fetchall()
    twice = [id_ for id_, count in Counter(row[0] for row in rows).items() if count > 1]
    assert not twice, f"flow log: {len(twice)} ids more than once, such as {twice[:3]}"
    _same("flow log", {row[0]: Expected(*row[1:]) for row in rows}, truth)


def _topic(world: World, truth: dict[str, Expected]) -> int:
    """Read the enriched topic as a consumer that keeps one mark per life of a node; return how many rows it skips."""
    flows: dict[str, Expected] = {}
    marks: dict[Any, Any] = {}
    repeated = 0
    for message in read(world, world.settings.topics.enriched):
        flow = orjson.loads(message)
        origin, position = parse_flow_id(flow["id"])
        last, seen_ms = marks.get(origin, ((), 0))
        # docs/topics.md: what is not beyond the last is a repeat, unless it is of a later time.
        if position <= last and flow["start_ms"] < seen_ms:
            repeated += 1
            continue
        marks[origin] = position, max(seen_ms, flow["end_ms"])
        zones = [flow[side].get("cloud", {}).get("availability_zone", "") for side in ("source", "destination")]
        flows[flow["id"]] = Expected(flow["bytes"], flow["packets"], flow["scope"], *zones)
    # A topic that was deleted under way, or cut by its retention, holds only what came after.
    _same("enriched topic", flows, {id_: flow for id_, flow in truth.items() if id_ not in world.deleted})
    return repeated


def _same(where: str, found: dict[str, Expected], truth: dict[str, Expected]) -> None:
    missing, more = truth.keys() - found.keys(), found.keys() - truth.keys()
    assert not missing, f"{where}: {len(missing)} of {len(truth)} ids missing, such as {sorted(missing)[:3]}"
    assert not more, f"{where}: {len(more)} ids that nobody sent, such as {sorted(more)[:3]}"
    wrong = list(islice((id_ for id_, flow in truth.items() if found[id_] != flow), 3))
    assert not wrong, f"{where}: {[(id_, found[id_], truth[id_]) for id_ in wrong]}"


def _counters(world: World, truth: dict[str, Expected], scraper: Prometheus | None) -> None:
    expected = totals(truth.values())
    names = ("zonemeter_zone_bytes_total", "zonemeter_zone_packets_total")
    for number, name in enumerate(names):
        wanted = {zones: amounts[number] for zones, amounts in expected.items()}
        eventually(lambda: _serves(world, name, wanted), SERVED_SECONDS)  # noqa: B023
        if scraper is not None:
            # Also what a replica had counted that is no more (docs/metrics.md).
            expression = f"sum by (src_zone, dst_zone, scope) (last_over_time({name}[1h]))"
            scraped = _labelled(scraper.fresh(expression, up=world.counts["metrics"]))
            assert scraped == wanted, f"Prometheus, {name}: {_difference(scraped, wanted)}"
            assert scraper.ask(f"resets({name}[1h]) > 0") == [], "a restart looks like a counter reset"


def _difference(found: dict[Zones, int], wanted: dict[Zones, int]) -> dict[Zones, int]:
    every = found.keys() | wanted.keys()
    return {zones: d for zones in every if (d := found.get(zones, 0) - wanted.get(zones, 0))}


def _serves(world: World, name: str, wanted: dict[Zones, int]) -> bool:
    """Return whether the counters are as wanted; fail at once where one says too much: waiting would not help."""
    served = _served(world, name)
    more = {zones: over for zones, over in _difference(served, wanted).items() if over > 0}
    assert not more, f"{name} counts more than was sent: {more}"
    return served == wanted


def _served(world: World, name: str) -> dict[Zones, int]:
    sums: Counter[Zones] = Counter()
    served = [world.fleet.running[role].samples() for role in world.fleet.roles("metrics")]
    for samples in (*served, *world.retired.values()):
        for (sample, labels), value in samples.items():
            if sample == name:
                _, *zones = labels
                sums[tuple(zones)] += int(value)  # type: ignore[index]
    return dict(sums)


def _labelled(result: list[dict[str, Any]]) -> dict[Zones, int]:
    return {
        (each["metric"].get("src_zone", ""), each["metric"].get("dst_zone", ""), each["metric"]["scope"]): int(
            each["value"][1]
        )
        for each in result
    }


def _dead_letters(world: World) -> None:
    letters = [orjson.loads(message) for message in read(world, world.settings.topics.dead_letter)]
    # By place: a crash between the letter and the commit writes it again under the same key.
    found = Counter({(x["topic"], x["partition"], x["offset"]): x["reason"] for x in letters}.values())
    assert found == Counter(world.dead_letters), f"dead letters: {found}, sent {world.dead_letters}"
    _, listed = _command(world, "dead-letters", "list")
    last = listed.splitlines()[-1]
    shown = {reason: int(count.replace(",", "")) for reason, count in _REASON.findall(last)}
    assert shown == Counter(x["reason"] for x in letters), f"zonemeter dead-letters list: {last}"


def _audit(world: World) -> None:
    begin = datetime.fromtimestamp(world.content.start_ms / 1000 - 86_400, UTC).isoformat()
    end = datetime.fromtimestamp(world.content.start_ms / 1000 + 10 * 86_400, UTC).isoformat()
    status, told = _command(world, "audit", "-o", "json", "--settle-seconds", "0", "--from", begin, "--to", end)
    audit = json.loads(told)
    gaps = {(gap["node"], gap["why"]) for gap in audit["gaps"] if gap["why"].startswith("sequence")}
    assert gaps == world.feeder.gaps, f"the audit names {gaps}, left out are {world.feeder.gaps}"
    assert audit["interleaved_boots"].keys() == world.interleaved, audit["interleaved_boots"]
    assert {each["id"] for each in audit["contradicted"]} == world.contradicted, audit["contradicted"]
    named = {short["window"] for short in audit["shortfalls"]}
    lost = {chunk.rpartition("/")[0] for chunk in world.lost}
    assert {_window(name) for name in named} == lost, f"the audit names {named}, lost is {lost}"
    assert audit["closes"] is not bool(lost), audit["ratio"]
    forged = world.interleaved or world.contradicted
    assert status == bool(lost or forged), f"exit status {status}"
    assert audit["windows"] == len(world.feeder.windows), f"{audit['windows']} of {len(world.feeder.windows)} windows"


def _command(world: World, *words: str) -> tuple[int, str]:
    """Run a command of zonemeter's against the world's topics; return its exit status, 0 or 1, and what it says."""
    where = ("--kafka-bootstrap", world.direct, "--topic-prefix", world.settings.topic_prefix)
    command = [sys.executable, "-m", "cli", *words, *where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


def _window(id_: str) -> str:
    return "/".join(id_.split("/")[:5])


def read(world: World, topic: str) -> list[bytes]:
    """Return every value of a topic, partition by partition, by librdkafka."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": world.direct, "group.id": "none", "enable.partition.eof": True}
    )
    try:
        numbers = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        beginning = confluent_kafka.OFFSET_BEGINNING
        consumer.assign([confluent_kafka.TopicPartition(topic, number, beginning) for number in numbers])
        values: dict[int, list[bytes]] = {number: [] for number in numbers}
        open_ = set(numbers)
        while open_:
            message = consumer.poll(30)
            assert message is not None, f"{topic} cannot be read"
            error, partition = message.error(), message.partition()
            assert partition is not None
            if error is None:
                values[partition].append(message.value() or b"")
            else:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
                open_.discard(partition)
        return [value for each in values.values() for value in each]
    finally:
        consumer.close()
