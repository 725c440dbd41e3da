# SPDX-License-Identifier: Apache-2.0
"""`zonemeter topics`, with a broker: what is as it should be, what is not, and what is nobody else's to change."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from cli import topics
from common.errors import Refusal
from common.kafka import topic_admin
from common.kafka.protocol.alter_topics import set_settings
from common.kafka.publish import Record
from common.settings import KafkaSettings
from history.replay.topic import TopicWriter
from lab.kafka.broker import Broker, free_port
from schemas.topics import TopicNames
from tests.support.cli.records import publish
from tests.support.services import eventually

BEFORE, AFTER = "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"


class Own:
    """The topics of a prefix of its own."""

    def __init__(self, bootstrap: str) -> None:
        prefix = f"t{uuid.uuid4().hex[:8]}."
        self.names = TopicNames(prefix)
        self.flags = ["--kafka-bootstrap", bootstrap, "--topic-prefix", prefix, "--partitions", "1"]
        self._settings = KafkaSettings(kafka_bootstrap=bootstrap)

    def set(self, topic: str, **config: str) -> None:
        """Do as somebody with Kafka's own tools, and wait until the broker knows of it."""
        wanted = {key.replace("_", "."): value for key, value in config.items()}

        async def inside() -> None:
            async with topic_admin.admin_client(self._settings) as admin:
                await set_settings(admin, {topic: wanted})

        asyncio.run(inside())
        eventually(lambda: wanted.items() <= self.config(topic).items())

    def config(self, topic: str) -> Mapping[str, str]:
        """Return all of a topic's settings."""

        async def inside() -> dict[str, str]:
            async with topic_admin.admin_client(self._settings) as admin:
                (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            return {entry[0]: entry[1] for entry in response.resources[0][4]}

        return asyncio.run(inside())


@pytest.fixture
def own(broker: Broker) -> Own:
    made = Own(broker.bootstrap)
    assert topics.apply(made.flags) == 0
    return made


def test_apply_sets_what_differs_and_leaves_all_else_alone(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    raw = own.names.raw
    own.set(raw, max_message_bytes="2000000", retention_bytes="5000000", retention_ms="1000")
    capsys.readouterr()
    assert topics.diff(own.flags) == 1
    assert capsys.readouterr().out == f"{raw}: retention.ms is '1000', not '604800000'\n"
    assert topics.apply(own.flags) == 0
    config = own.config(raw)
    assert (config["max.message.bytes"], config["retention.bytes"]) == ("2000000", "5000000")
    assert config["retention.ms"] == "604800000"


def test_a_limit_to_how_old_a_record_may_be_is_found_and_lifted(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    own.set(own.names.raw, message_timestamp_before_max_ms="86400000", message_timestamp_after_max_ms="60000")
    capsys.readouterr()
    assert topics.diff(own.flags) == 1
    out = capsys.readouterr().out
    assert f"{BEFORE} is '86400000', not '9223372036854775807'" in out
    assert f"{AFTER} is '60000', not '3600000'" in out
    assert topics.apply(own.flags) == 0
    assert own.config(own.names.raw)[BEFORE] == str(2**63 - 1)


def test_nothing_in_the_ledger_is_compacted(own: Own) -> None:
    own.set(own.names.ledger, cleanup_policy="compact,delete")
    assert topics.diff(own.flags) == 1
    assert topics.apply(own.flags) == 0
    assert own.config(own.names.ledger)["cleanup.policy"] == "delete"
    assert own.config(own.names.topology)["cleanup.policy"] == "compact"


def test_what_the_broker_refuses_is_said(own: Own) -> None:
    with pytest.raises(Refusal, match=f"topic {own.names.raw}: Invalid value no for configuration retention.ms"):
        own.set(own.names.raw, retention_ms="no")


@pytest.mark.parametrize("command", [topics.list_, topics.diff, topics.apply])
def test_topics_that_no_record_could_be_written_to_are_not_asked_for(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(["--replication=1", "--min-insync-replicas=2"])
    said = "min_insync_replicas = 2: expected at most replication, which is 1\n"
    assert capsys.readouterr().err.endswith(said)


def test_apply_waits_for_kafka_no_longer_than_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    seconds = iter([0.0, 1.9, 2.1])  # when it begins, and when each of two attempts has failed
    monkeypatch.setattr(topics, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with pytest.raises(SystemExit, match="2"):
        topics.apply(["--kafka-bootstrap", nobody, "--wait", "3s"])
    why = f"zonemeter topics apply: Kafka at {nobody}: no connection to {nobody}: Connect call failed"
    retrying, last = capsys.readouterr().err.splitlines()
    assert retrying.startswith(why)
    assert retrying.endswith("; retrying for up to 3s")
    assert last.startswith(why)
    assert "retrying" not in last


def test_a_broker_that_takes_nothing_old_takes_what_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {"log.message.timestamp.before.max.ms": "3600000"}
    strict = Broker(tmp_path / "kafka", settings=limit, port=free_port())
    said: list[str] = []

    def complain(line: str) -> None:
        """Start the broker when it is missed."""
        said.append(line)
        if strict.process is None:
            strict.launch()

    monkeypatch.setattr(topics, "complain", complain)
    try:
        own = Own(strict.bootstrap)
        assert topics.apply([*own.flags, "--wait", "10m"]) == 0
        assert said[0].endswith("; retrying for up to 10m")
        settings = KafkaSettings(kafka_bootstrap=strict.bootstrap, topic_prefix=own.names.prefix, partitions=1)
        asyncio.run(TopicWriter.open(settings, "replayed"))
        two_days_ago_ms = time.time_ns() // 1_000_000 - 2 * 86_400_000
        made = (*own.names.all, "replayed")
        publish(settings, [Record(topic, 0, b"key", b"{}", two_days_ago_ms) for topic in made])
    finally:
        strict.kill()
