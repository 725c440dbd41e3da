# SPDX-License-Identifier: Apache-2.0
"""The rights that docs/security.md lists are enough for each component, and no component has more than it needs."""

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka import admin as confluent

from common.kafka import clients
from common.kafka.publish import Publisher, Record
from common.service.running import Service
from common.settings import KafkaSettings, ServiceSettings
from lab.kafka.broker import Broker, free_port
from schemas.ledger import encode_ledger
from tests.docs.printed.commands import ROOT
from tests.enricher.test_service import window
from tests.support.builders import ORIGIN, START_MS, collector_entry
from tests.support.enricher.api_process import POSTGRES, api_at
from tests.support.services import DEADLINE_SECONDS, ServiceProcess, eventually, while_running

PAGE = (ROOT / "docs/security.md").read_text()
ROW = re.compile(r"^\| `(zonemeter-\w+)` \| ([A-Z_, ]+) \| (topic|group) `([^`*]+)(\*?)`", re.MULTILINE)
PRINCIPALS = ("collector", "enricher", "metrics", "flowlog", "audit", "reader", "admin")
PARTITIONS = 2
# Its module names what it exports for no type checker.
ADMIN: Any = confluent

Attempt = Callable[[dict[str, str], str], str]


@dataclass
class Guarded:
    """A broker that lets each principal do what the page says, and nothing else."""

    bootstrap: str
    password_file: Path

    def flags(self, name: str) -> list[str]:
        """Return the flags of a command that comes as `zonemeter-<name>`."""
        return [
            *("--kafka-bootstrap", self.bootstrap, "--partitions", str(PARTITIONS)),
            *("--kafka-security-protocol", "SASL_PLAINTEXT", "--kafka-sasl-mechanism", "PLAIN"),
            *("--kafka-sasl-username", f"zonemeter-{name}", "--kafka-sasl-password-file", str(self.password_file)),
        ]

    def settings(self, name: str) -> ServiceSettings:
        """Return the same as settings."""
        values: dict[str, Any] = {
            "kafka_bootstrap": self.bootstrap,
            "partitions": PARTITIONS,
            "kafka_security_protocol": "SASL_PLAINTEXT",
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_sasl_username": f"zonemeter-{name}",
            "kafka_sasl_password_file": self.password_file,
            "kafka_deadline_seconds": 60.0,
        }
        return ServiceSettings(**values)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "password").write_text("secret\n")
    users = " ".join(f'user_zonemeter-{name}="secret"' for name in PRINCIPALS)
    login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTRA0:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.extra0.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    extra = ("127.0.0.1", free_port())
    broker = Broker(directory / "kafka", more_listeners=(extra,), settings=settings)
    try:
        asyncio.run(broker.start())
        grant(broker.bootstrap)
        made = Guarded(f"{extra[0]}:{extra[1]}", directory / "password")
        applied = zonemeter("topics", "apply", *made.flags("admin"))
        assert (applied.returncode, applied.stderr) == (0, ""), applied.stdout
        yield made
    finally:
        broker.kill()


def grant(bootstrap: str) -> None:
    """Give every principal what the page lists."""
    rights = [
        ADMIN.AclBinding(
            ADMIN.ResourceType[kind.upper()],
            name,
            ADMIN.ResourcePatternType.PREFIXED if prefixed else ADMIN.ResourcePatternType.LITERAL,
            f"User:{principal}",
            "*",
            ADMIN.AclOperation[operation.strip()],
            ADMIN.AclPermissionType.ALLOW,
        )
        for principal, operations, kind, name, prefixed in ROW.findall(PAGE)
        for operation in operations.split(",")
    ]
    assert {right.principal for right in rights} == {f"User:zonemeter-{name}" for name in PRINCIPALS}
    client = ADMIN.AdminClient({"bootstrap.servers": bootstrap})
    for granted in client.create_acls(rights).values():
        granted.result(timeout=DEADLINE_SECONDS)


def zonemeter(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


async def publish(settings: KafkaSettings, wanted: list[str], records: list[Record]) -> None:
    """Do what the collector does in Kafka."""
    service = Service("collector")
    publisher = Publisher(service, settings)
    try:
        await clients.wait_for_topics(service, settings, dict.fromkeys(wanted, settings.partitions))
        await publisher.publish(records)
    finally:
        await publisher.close()


def test_the_listed_rights_are_enough_for_everything(guarded: Guarded, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(api_at(tmp_path))
        api.start()
        flags = {
            "enricher": ["--kubeconfig", str(api.kubeconfig), "--cluster", "prod-eu"],
            "metrics": ["--state-dir", str(tmp_path / "state")],
            "flowlog": ["--output", str(tmp_path / "flows"), "--format", "jsonl", "--cut-seconds", "1"],
            "audit": ["--check-seconds", "0.2"],
        }
        services = {
            name: stack.enter_context(
                while_running(
                    ServiceProcess(["cli", "run", name], [*guarded.flags(name), *more], tmp_path / f"{name}.log")
                )
            )
            for name, more in flags.items()
        }
        for service in services.values():
            eventually(service.ready)
        send_a_window_and_rubbish(guarded)
        taken = ("zonemeter_flows_taken_total", ())
        eventually(lambda: services["metrics"].samples().get(taken, 0) == 1)
        eventually(lambda: list((tmp_path / "flows").rglob("date=*/**/*.jsonl")))
        assert [service.terminate() for service in services.values()] == [0, 0, 0, 0]

    shown = zonemeter("dead-letters", "list", *guarded.flags("reader"))
    assert "not_json" in shown.stdout, shown.stderr
    audited = zonemeter("audit", *guarded.flags("reader"), "--since", "10m", "-o", "json")
    assert audited.stderr == ""
    looked = zonemeter("doctor", "--pipeline-only", *guarded.flags("reader"))
    assert "cannot be looked at" not in looked.stdout, looked.stdout
    assert "uthorization" not in looked.stdout + looked.stderr, looked.stdout
    top = zonemeter("top", "--once", *guarded.flags("reader"), "--quiet-seconds", "8")
    assert top.returncode in (0, 1), top.stderr


def send_a_window_and_rubbish(guarded: Guarded) -> None:
    """As the collector: a window of a known pod, its ledger entry, and a record that cannot be decoded."""
    settings = guarded.settings("collector")
    names = settings.topics
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms - now_ms % 10_000 - 10_000
    chunk = window(1, POSTGRES.address_v4, start_ms=start_ms, end_ms=start_ms + 10_000, node=POSTGRES.node)
    entry = collector_entry(0, 1_000, ORIGIN)
    key, end_ms = POSTGRES.node.encode(), start_ms + 10_000
    records = [
        Record(names.raw, 0, key, chunk, end_ms),
        Record(names.raw, 0, key, b"rubbish", end_ms),
        Record(names.ledger, 0, entry.key, encode_ledger(entry), START_MS),
    ]
    asyncio.run(publish(settings, [names.raw, names.ledger], records))


def read(options: dict[str, str], topic: str) -> str:
    """Try to read from a topic's beginning; return why not."""
    consumer = Consumer(options | {"group.id": "none"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(DEADLINE_SECONDS)
        assert message is not None, "no answer"
        error = message.error()
        return "" if error is None else str(error.name())
    finally:
        consumer.close()


def write(options: dict[str, str], topic: str) -> str:
    """Try to write a record; return why not."""
    errors: list[Any] = []
    producer = Producer(options)
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(DEADLINE_SECONDS) == 0, "no answer"
    return errors[0].name() if errors[0] else ""


def commit(options: dict[str, str], group: str) -> str:
    """Try to move a group's position; return why not."""
    consumer = Consumer(options | {"group.id": group})
    try:
        consumer.commit(offsets=[TopicPartition("zonemeter.flows.enriched.v1", 0, 0)], asynchronous=False)
    except KafkaException as error:
        return str(error.args[0].name())
    finally:
        consumer.close()
    return ""


@pytest.mark.parametrize(
    ("name", "attempt", "what"),
    [
        pytest.param("collector", read, "zonemeter.flows.raw.v1", id="a collector reads no raw flows"),
        pytest.param("collector", read, "zonemeter.flows.enriched.v1", id="nor enriched ones"),
        pytest.param("collector", write, "zonemeter.flows.enriched.v1", id="nor does it write them"),
        pytest.param("collector", write, "zonemeter.topology.v1", id="nor who owned what"),
        pytest.param("enricher", write, "zonemeter.flows.raw.v1", id="an enricher writes no raw flows"),
        pytest.param("metrics", write, "zonemeter.flows.enriched.v1", id="a sink writes no flows"),
        pytest.param("flowlog", read, "zonemeter.flows.raw.v1", id="a sink reads no raw flows"),
        pytest.param("audit", read, "zonemeter.flows.enriched.v1", id="the audit reads no flows"),
        pytest.param("audit", write, "zonemeter.ledger.v1", id="and writes no books"),
        pytest.param("reader", write, "zonemeter.ledger.v1", id="a reader writes no books"),
        pytest.param("reader", commit, "zonemeter.enricher", id="a reader moves no positions"),
        pytest.param("admin", read, "zonemeter.flows.enriched.v1", id="an admin reads no flows"),
    ],
)
def test_beyond_them_it_is_refused(guarded: Guarded, name: str, attempt: Attempt, what: str) -> None:
    options = {
        "bootstrap.servers": guarded.bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": f"zonemeter-{name}",
        "sasl.password": guarded.password_file.read_text().strip(),
    }
    assert attempt(options, what) in ("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED")
