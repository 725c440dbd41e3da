# SPDX-License-Identifier: Apache-2.0
"""Kafka away at the start, killed later, topics missing, of another shape or recreated: both sinks wait and go on."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.kafka.broker import Broker, free_port
from tests.sinks.flowlog.test_service import stored
from tests.support.services import eventually
from tests.support.sinks.disk import small_disk
from tests.support.sinks.flows import encoded, window
from tests.support.sinks.processes import SinkProcess, running
from tests.support.sinks.topics import Topics

ROWS = 20
ROOMS = ["metrics", "flowlog"]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that may be killed; not started."""
    made = Broker(tmp_path / "kafka", port=free_port())
    try:
        yield made
    finally:
        made.kill()


def flags(room: str, topics: Topics, directory: Path) -> list[str]:
    own = {
        "metrics": ["--state-dir", str(directory / "state"), "--checkpoint-seconds", "0.1"],
        "flowlog": ["--output", str(directory / "out"), "--cut-seconds", "0.3", "--session-timeout-seconds", "6"],
    }
    return [*topics.flags, "--kafka-deadline-seconds", "3", *own[room]]


def flows(*sequences: int) -> list[bytes]:
    return [encoded(each) for sequence in sequences for each in window(sequence, ROWS)]


def has_rows(room: str, sink: SinkProcess, directory: Path, windows: int) -> Callable[[], bool | None]:
    """Return a condition: exactly the rows of that many windows have arrived."""

    def check() -> bool | None:
        if room == "flowlog":
            found = stored(directory / "out")
            rows = sum(found.values())
            assert rows == len(found), "rows twice"
        else:
            packets = ("zonemeter_zone_packets_total", ("lab", "a", "b", "cross_zone"))
            rows = int(sink.samples().get(packets, 0))
        assert rows <= windows * ROWS
        return rows == windows * ROWS or None

    return check


def says(sink: SinkProcess, text: str) -> Callable[[], str | None]:
    """Return a condition: it is not ready and says why, in one line for each reason."""

    def check() -> str | None:
        status, body = sink.get("/readyz")
        return body if status == 503 and text in body else None

    return check


@pytest.mark.parametrize("room", ROOMS)
def test_kafka_comes_late_and_is_killed_and_comes_back(room: str, own_broker: Broker, tmp_path: Path) -> None:
    absent = Topics.named(own_broker.bootstrap)
    with running(room, flags(room, absent, tmp_path), tmp_path / "log") as sink:
        eventually(says(sink, f"Kafka at {own_broker.bootstrap}"))
        asyncio.run(own_broker.start())
        asyncio.run(absent.apply())
        eventually(lambda: sink.ready() or None)
        absent.produce({0: flows(1)})
        eventually(has_rows(room, sink, tmp_path, 1))
        own_broker.kill()
        eventually(says(sink, f"Kafka at {own_broker.bootstrap}"))
        assert sink.get("/healthz")[0] == 200
        asyncio.run(own_broker.start())
        absent.produce({0: flows(2), 2: flows(3)})
        eventually(has_rows(room, sink, tmp_path, 3))
        eventually(lambda: sink.ready() or None)
        assert sink.terminate() == 0
    parts = [chunk for entry in absent.ledger(room).values() for chunk in entry.parts]
    assert len(set(parts)) == 3


@pytest.mark.parametrize("room", ROOMS)
def test_it_stops_in_time_while_kafka_is_away(room: str, own_broker: Broker, tmp_path: Path) -> None:
    asyncio.run(own_broker.start())
    topics = Topics.make(own_broker.bootstrap)
    with running(room, flags(room, topics, tmp_path), tmp_path / "log") as sink:
        topics.produce({0: flows(1)})
        eventually(has_rows(room, sink, tmp_path, 1))
        own_broker.kill()
        eventually(says(sink, "Kafka at"))
        assert sink.terminate() == 0


@pytest.mark.parametrize("room", ROOMS)
def test_it_waits_for_topics_as_they_should_be(room: str, broker: Broker, tmp_path: Path) -> None:
    topics = Topics.make(broker.bootstrap, missing=("ledger.v1",))
    with running(room, flags(room, topics, tmp_path), tmp_path / "log") as sink:
        eventually(says(sink, f"topic {topics.settings.topics.ledger} does not exist: zonemeter topics apply"))
        topics.produce({0: flows(1)})
        asyncio.run(topics.apply())
        eventually(has_rows(room, sink, tmp_path, 1))
    more = [*flags(room, topics, tmp_path), "--partitions", "5"]
    with running(room, more, tmp_path / "log") as sink:
        eventually(says(sink, "has 3 partitions, the setting partitions says 5"))
        assert sink.terminate() == 0


@pytest.mark.parametrize("room", ROOMS)
def test_a_dead_letter_topic_that_is_missing_holds_up_only_partitions_with_letters(
    room: str, broker: Broker, tmp_path: Path
) -> None:
    topics = Topics.make(broker.bootstrap, missing=("dead-letter.v1",))
    names = topics.settings.topics
    missing = f"dead letters: topic {names.dead_letter} does not exist: zonemeter topics apply"
    topics.produce({0: flows(1), 1: [b"rubbish"]})
    with running(room, flags(room, topics, tmp_path), tmp_path / "log") as sink:
        eventually(has_rows(room, sink, tmp_path, 1))
        eventually(says(sink, missing))
        eventually(says(sink, f"{names.enriched} partition 1: failing since"))
        topics.produce({0: flows(2), 2: flows(3)})
        eventually(has_rows(room, sink, tmp_path, 3))
        assert (tmp_path / "log").read_text().count(f"not ready: topic {names.dead_letter}") == 1
        asyncio.run(topics.apply())
        eventually(lambda: sink.ready() or None)
        assert [(each.partition, each.offset) for each in topics.dead_letters()] == [(1, 0)]
        assert sink.terminate() == 0


@pytest.mark.parametrize("room", ROOMS)
def test_a_topic_that_is_deleted_is_named_and_recreated_it_brings_nothing_twice(
    room: str, topics: Topics, tmp_path: Path
) -> None:
    enriched = topics.settings.topics.enriched
    topics.produce({0: flows(1, 2)})
    with running(room, flags(room, topics, tmp_path), tmp_path / "log") as sink:
        eventually(has_rows(room, sink, tmp_path, 2))
        asyncio.run(topics.delete(enriched))
        eventually(says(sink, f"topics: topic {enriched} does not exist: zonemeter topics apply"))
        asyncio.run(topics.apply())
        # The last window again, as a mirror of the old topic would hold it, and a new one.
        topics.produce({0: flows(2, 3)})
        eventually(has_rows(room, sink, tmp_path, 3))
        eventually(lambda: sink.ready() or None)
        assert sink.terminate() == 0


def test_the_metrics_sink_waits_for_a_full_disk(topics: Topics, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "2m"), running("metrics", flags("metrics", topics, disk), tmp_path / "log") as sink:
        topics.produce({0: flows(1)})
        eventually(has_rows("metrics", sink, disk, 1))
        filler = disk / "filler"
        with filler.open("wb") as file:
            _fill(file.fileno())
        topics.produce({0: [encoded(f) for n in range(100) for f in window(2 + n, ROWS, node=f"node-{n}")]})
        eventually(says(sink, "database or disk is full; retrying"))
        assert has_rows("metrics", sink, disk, 1)(), "it serves no more than what is durable"
        filler.unlink()
        eventually(has_rows("metrics", sink, disk, 101))
        eventually(lambda: sink.ready() or None)
        assert sink.terminate() == 0


def _fill(descriptor: int) -> None:
    try:
        while os.write(descriptor, b"x" * 4096):
            pass
    except OSError:
        return
