# SPDX-License-Identifier: Apache-2.0
"""SIGTERM while Kafka takes connections and answers nothing: each service ends by itself, within its budget.

The broker is stopped (SIGSTOP), which is what a client sees of a host that hangs, of a network that drops what comes
back, and of a load balancer with nobody behind it. The collector's turn is in tests/collector/test_kafka.py.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import confluent_kafka
import confluent_kafka.admin as confluent
import pytest

from common.errors import Refusal
from lab.kafka.broker import Broker
from tests.support.enricher.build import encoded, row
from tests.support.enricher.processes import topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import ServiceProcess, eventually, while_running

# None of them may wait for Kafka's own deadline, and a busy machine takes its time.
DRAIN = ["--drain-seconds", "40", "--kafka-deadline-seconds", "300"]
ROOMS = ("enricher", "metrics", "flowlog", "audit")
GROUPS = ("enricher", "flowlog")


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that may be stopped."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@contextmanager
def silent(broker: Broker) -> Iterator[None]:
    """Let a broker take what it is sent and answer nothing while the context lasts."""
    assert broker.process is not None
    os.kill(broker.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.process.pid, signal.SIGCONT)
        # The controller has taken it for dead, and gives it no partition for a moment.
        eventually(lambda: _takes_topics(broker))


def _takes_topics(broker: Broker) -> bool:
    try:
        Topics.make(broker.bootstrap)
    except Refusal:
        return False
    return True


def service(room: str, topics: Topics, directory: Path) -> ServiceProcess:
    directory.mkdir(exist_ok=True)
    own = {
        "enricher": ["--topology", str(topology_file(directory))],
        "metrics": ["--state-dir", str(directory / "state"), "--checkpoint-seconds", "0.1"],
        "flowlog": ["--output", str(directory / "out"), "--cut-seconds", "0.2"],
        "audit": ["--check-seconds", "0.2"],
    }
    return ServiceProcess(["cli", "run", room], [*topics.flags, *DRAIN, *own[room]], directory / f"{room}.log")


def chunks(first: int, count: int) -> list[bytes]:
    begin_ms = time.time_ns() // 1_000_000 - 60_000
    rows = [row("10.42.1.17", "10.42.2.9", dst_port=port) for port in range(1, 200)]
    numbers = range(first, first + count)
    return [encoded(rows, sequence=n, start_ms=begin_ms + n, end_ms=begin_ms + n + 1) for n in numbers]


def end(services: dict[str, ServiceProcess]) -> None:
    """Ask all to stop at once; each must end in order, not because its time was up."""
    for each in services.values():
        each.process.terminate()
    statuses = {room: each.wait() for room, each in services.items()}
    logs = {room: each.log.read_text() for room, each in services.items()}
    assert statuses == dict.fromkeys(services, 0), "\n".join(log[-2000:] for log in logs.values())
    assert all('"stopped"' in log for log in logs.values())


@contextmanager
def running(rooms: tuple[str, ...], topics: Topics, directory: Path) -> Iterator[dict[str, ServiceProcess]]:
    with ExitStack() as stack:
        yield {room: stack.enter_context(while_running(service(room, topics, directory))) for room in rooms}


def test_in_the_middle_of_the_work(own_broker: Broker, tmp_path: Path) -> None:
    topics = Topics.make(own_broker.bootstrap)
    with running(ROOMS, topics, tmp_path) as services:
        eventually(lambda: all(each.ready() for each in services.values()))
        topics.produce(chunks(1, 200))
        eventually(lambda: "zonemeter_zone_bytes_total" in services["metrics"].get("/metrics")[1])
        topics.produce(chunks(201, 200))
        with silent(own_broker):
            end(services)


def test_before_anything_was_answered(own_broker: Broker, tmp_path: Path) -> None:
    topics = Topics.make(own_broker.bootstrap)
    with silent(own_broker), running(ROOMS, topics, tmp_path) as services:
        eventually(lambda: all(each.get("/readyz")[0] == 503 for each in services.values()))
        end(services)


@pytest.mark.parametrize("room", GROUPS)
def test_while_the_group_waits_for_another_member(own_broker: Broker, tmp_path: Path, room: str) -> None:
    """One that holds its partitions and does not give them back: the broker keeps all others waiting for minutes."""
    topics = Topics.make(own_broker.bootstrap)
    names = topics.settings.topics
    topic = names.raw if room == "enricher" else names.enriched
    options = {"bootstrap.servers": own_broker.bootstrap, "group.id": f"{topics.settings.topic_prefix}{room}"}
    other = confluent_kafka.Consumer(options | {"partition.assignment.strategy": "roundrobin"})
    try:
        other.subscribe([topic])
        eventually(lambda: other.poll(0.1) is None and other.assignment())
        with running((room,), topics, tmp_path) as services:
            eventually(lambda: _state_of(own_broker, options["group.id"]) == "PREPARING_REBALANCING")
            end(services)
    finally:
        other.close()


def _state_of(broker: Broker, group: str) -> str:
    admin = confluent.AdminClient({"bootstrap.servers": broker.bootstrap})
    return str(admin.describe_consumer_groups([group])[group].result(timeout=20).state.name)
