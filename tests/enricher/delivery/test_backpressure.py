# SPDX-License-Identifier: Apache-2.0
"""A Kafka that is slow, silent or takes nothing: fetching stops, heartbeats go on, memory is bounded, all arrives."""

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from bench.measure.process import resident_bytes
from lab.kafka.broker import Broker, free_port
from schemas.amount import NOTHING
from tests.support.enricher.build import encoded, row
from tests.support.enricher.processes import Enricher, running, topology_file
from tests.support.enricher.topics import Topics, given
from tests.support.lab.proxy import Proxy
from tests.support.services import eventually

ROWS = 3000
TEMPLATE = encoded(
    [row("10.42.1.17", "10.42.2.9", dst_port=1000 + i, bytes=1000 + i) for i in range(ROWS)], sequence=4321
)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[Topics, Proxy]]:
    """Topics of a broker that is also reached through a proxy, on a listener that is advertised as the proxy's."""
    listener = free_port()
    with Proxy(("127.0.0.1", listener)) as proxy:
        more = (("127.0.0.1", listener),)
        broker = Broker(tmp_path / "kafka", more_listeners=more, advertised={listener: proxy.port})
        try:
            asyncio.run(broker.start())
            yield Topics.make(broker.bootstrap), proxy
        finally:
            broker.kill()


def flags_of(topics: Topics, directory: Path, *more: str) -> list[str]:
    # The last of a flag counts.
    flags = [*topics.flags, "--topology", str(topology_file(directory)), "--session-seconds", "6", *more]
    return [*flags, "--kafka-deadline-seconds", "3", "--batch-rows", "3000"]


def windows(numbers: range) -> list[bytes]:
    return [TEMPLATE.replace(b'"sequence":4321', b'"sequence":%d' % number) for number in numbers]


def check_whole(topics: Topics, chunks: int) -> None:
    """Every row of every window went out once, and the books say so."""
    flows = topics.flows()
    assert len({flow.id for flow in flows}) == len(flows) == chunks * ROWS
    assert sum((record.given for record in topics.ledger().values()), NOTHING) == given(flows)


def taken_over(log: Path) -> int:
    return log.read_text().count("took over a partition")


def backlog(topics: Topics, enricher: Enricher, chunks: int) -> int:
    """Produce a first window, wait until it is through, produce the rest; return what the process holds then."""
    eventually(enricher.ready)
    topics.produce(windows(range(1, 2)))
    eventually(lambda: len(topics.ledger()) == 1)
    held = resident_bytes(enricher.process.pid)
    topics.produce(windows(range(2, chunks + 1)))
    return held


def test_a_slow_kafka_sets_the_pace(proxied: tuple[Topics, Proxy], tmp_path: Path) -> None:
    """Some 6 MB of raw chunks stand behind a link of 1.5 MB/s: what is on the way stays a few chunks."""
    topics, proxy = proxied
    chunks = 40
    through = ["--kafka-bootstrap", f"127.0.0.1:{proxy.port}"]
    with running([*flags_of(topics, tmp_path), *through], tmp_path / "log") as enricher:
        held = backlog(topics, enricher, chunks)
        proxy.bytes_per_second, proxy.delay_seconds = 1_500_000, 0.01
        peak = 0

        def done() -> bool:
            nonlocal peak
            peak = max(peak, resident_bytes(enricher.process.pid))
            return len(topics.ledger()) == chunks

        eventually(done)
        assert peak - held < 64 << 20
        assert taken_over(tmp_path / "log") == 3
        assert enricher.terminate() == 0
    check_whole(topics, chunks)


@pytest.mark.parametrize("fault", ["replies", "cut"])
def test_a_kafka_that_falls_silent_under_way_brings_nothing_twice(
    proxied: tuple[Topics, Proxy], tmp_path: Path, fault: str
) -> None:
    topics, proxy = proxied
    chunks = 40
    through = ["--kafka-bootstrap", f"127.0.0.1:{proxy.port}", "--group-instance-id", "one"]
    with running([*flags_of(topics, tmp_path), *through], tmp_path / "log") as enricher:
        backlog(topics, enricher, chunks)
        if fault == "cut":
            proxy.cut()
        else:
            proxy.silence(fault)  # type: ignore[arg-type]
        eventually(lambda: enricher.get("/readyz")[0] == 503)  # beyond Kafka's deadline, on a busy machine
        proxy.heal()
        eventually(lambda: len(topics.ledger()) == chunks)
        eventually(enricher.ready)
        assert enricher.terminate() == 0
    check_whole(topics, chunks)


def test_a_topic_that_takes_nothing_stops_the_reading_and_no_heartbeat(topics: Topics, tmp_path: Path) -> None:
    """Every batch is too large: each poisons its producer, which is rebuilt again and again, longer than a session."""
    chunks = 40
    with running(flags_of(topics, tmp_path), tmp_path / "log") as enricher:
        held = backlog(topics, enricher, 1)
        set_max_message_bytes(topics, 100)
        topics.produce(windows(range(2, chunks + 1)))
        eventually(lambda: enricher.samples()["zonemeter_publish_failures_total", ()] >= 3)
        eventually(
            lambda: "partition 0: failing" in (said := enricher.get("/readyz")[1]) and "MessageSizeTooLarge" in said
        )
        # Two chunks at most: the one that went through, and the one that does not.
        assert enricher.metric("raw_flows_total") <= 2 * ROWS
        assert resident_bytes(enricher.process.pid, peak=True) - held < 64 << 20
        set_max_message_bytes(topics, 1 << 20)
        eventually(lambda: len(topics.ledger()) == chunks)
        eventually(enricher.ready)
        assert taken_over(tmp_path / "log") == 3
        assert enricher.terminate() == 0
    check_whole(topics, chunks)


def set_max_message_bytes(topics: Topics, count: int) -> None:
    """Change the largest batch that the topic of flows takes."""
    name = "max.message.bytes"
    admin: Any = importlib.import_module("confluent_kafka.admin")  # its types do not export what it documents
    entry = admin.ConfigEntry(name, str(count), incremental_operation=admin.AlterConfigOpType.SET)
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, topics.settings.topics.enriched)
    resource.add_incremental_config(entry)
    client = admin.AdminClient({"bootstrap.servers": topics.settings.kafka_bootstrap})
    for future in client.incremental_alter_configs([resource]).values():
        try:
            future.result(20)
        except confluent_kafka.KafkaException as error:
            raise AssertionError(str(error)) from error
