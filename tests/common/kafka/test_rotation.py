# SPDX-License-Identifier: Apache-2.0
"""Passwords, certificates and CAs that change while everything runs, and what is said of those that do not fit."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.conn import CloseReason
from aiokafka.errors import SaslAuthenticationFailed

from common.errors import Refusal
from common.kafka.auth import credentials
from common.kafka.clients import client_options
from common.kafka.protocol import connections
from common.kafka.publish import Publisher, Record
from common.kafka.topic_admin import admin_client
from common.service.running import Service
from common.settings import KafkaSettings
from tests.support.services import DEADLINE_SECONDS, ServiceProcess, eventually
from tests.torture.checker import check
from tests.torture.kafka import Kafka, encrypted
from tests.torture.nemeses.brokers import all_say, renew
from tests.torture.world import PARTITIONS, World

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with encrypted(tmp_path_factory.mktemp("encrypted") / "kafka") as made:
        yield made


def settings(kafka: Kafka, **changed: Any) -> KafkaSettings:
    flags = {name[2:].replace("-", "_"): value for name, value in zip(*[iter(kafka.flags)] * 2, strict=True)}
    own = {"kafka_bootstrap": kafka.bootstrap, "kafka_deadline_seconds": DEADLINE_SECONDS}
    return KafkaSettings(**own | flags | changed)


def test_all_is_rotated_under_load_and_nobody_is_restarted(kafka: Kafka, tmp_path: Path) -> None:
    assert kafka.secrets is not None
    quick = ["--kafka-deadline-seconds", "3"]
    world = World(tmp_path / "world", kafka, 1, flags={"enricher": quick, "metrics": quick, "flowlog": quick})
    try:
        world.open()
        flags = ["--topic-prefix", world.settings.topic_prefix, "--partitions", str(PARTITIONS), *kafka.flags, *quick]
        flags += ["--kafka-bootstrap", kafka.bootstrap]
        audit = world.fleet.running["audit-0"] = ServiceProcess(["cli", "run", "audit"], flags, tmp_path / "audit.log")
        world.fleet.ready()
        renew(world)
        eventually(lambda: all_say(world, "is not trusted"))
        kafka.secrets.give_services("ca.pem", "cert.pem", "key.pem", "password")
        world.recover()
        assert check(world).flows > 100
        assert audit.ready()
    finally:
        world.close()


def test_a_publisher_goes_on_with_the_new_password(kafka: Kafka, tmp_path: Path) -> None:
    """As the collector does, whose other half needs a kernel."""
    secrets, [broker] = kafka.secrets, kafka.members
    assert secrets is not None
    topics = World(tmp_path / "world", kafka, 1)
    topics.apply_topics()
    record = Record(topics.settings.topics.ledger, 0, b"key", b"value", 1)

    async def publish() -> None:
        publisher = Publisher(Service("collector"), settings(kafka))
        try:
            await publisher.publish([record])
            secrets.change_password(broker.bootstrap)
            secrets.give_services("password")
            await asyncio.to_thread(broker.stop)
            await broker.start()
            await publisher.publish([record])
        finally:
            await publisher.close()

    asyncio.run(publish())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(
            {"kafka_sasl_password_file": "wrong"}, "refuses user 'service'.*kafka_sasl_password_file", id="password"
        ),
        pytest.param({"kafka_sasl_username": "nobody"}, "refuses user 'nobody': no such user", id="user"),
        pytest.param({"kafka_sasl_mechanism": "PLAIN"}, "does not take kafka_sasl_mechanism = 'PLAIN'", id="mechanism"),
        pytest.param({"kafka_ssl_ca_file": None}, "is not trusted .*kafka_ssl_ca_file, which is not set", id="no CA"),
        pytest.param({"kafka_ssl_ca_file": "other"}, "is not trusted .*kafka_ssl_ca_file = .*other", id="another CA"),
        pytest.param({"kafka_bootstrap": "localhost:"}, "is for another name .*kafka_bootstrap", id="another name"),
        pytest.param(
            {"kafka_ssl_cert_file": None, "kafka_ssl_key_file": None},
            "wants a client's certificate .*kafka_ssl_cert_file is not set",
            id="no certificate",
        ),
        pytest.param(
            {"kafka_ssl_cert_file": "other", "kafka_ssl_key_file": "other"},
            "refuses this client's certificate .*kafka_ssl_cert_file = .*other",
            id="another certificate",
        ),
        pytest.param({"kafka_bootstrap": "plain"}, "kafka_security_protocol = 'SASL_SSL' fit", id="no TLS there"),
        pytest.param(
            {"kafka_security_protocol": "SSL", "kafka_sasl_username": None, "kafka_sasl_password_file": None},
            "kafka_security_protocol = 'SSL' fit",
            id="no SASL",
        ),
        pytest.param({"kafka_bootstrap": "127.0.0.1:1"}, "no connection to 127.0.0.1:1: .*is it up", id="nobody there"),
        pytest.param({"kafka_bootstrap": "no.such.name.invalid:9"}, "no connection to no.such.name", id="no name"),
    ],
)
def test_what_does_not_fit_is_named(kafka: Kafka, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    assert kafka.secrets is not None
    kafka.secrets.give_services("ca.pem", "cert.pem", "key.pem", "password")
    other = tmp_path / "other"
    kafka.secrets.write_another(other)
    (tmp_path / "wrong").write_text("wrong")
    places = {"wrong": tmp_path / "wrong", "other": other, "plain": kafka.direct}
    places["localhost:"] = kafka.bootstrap.replace("127.0.0.1", "localhost")
    given = settings(kafka, **{name: places.get(value, value) for name, value in changed.items()})

    async def ask() -> None:
        async with admin_client(given) as admin:
            await admin.describe_cluster()

    with pytest.raises(Refusal, match=said):
        asyncio.run(ask())


def test_that_a_closed_connection_ends_hides_no_reason(kafka: Kafka, tmp_path: Path) -> None:
    """A broker that refuses a password hangs up at once; what was read last is the end of the stream."""
    (tmp_path / "wrong").write_text("wrong")
    given = settings(kafka, kafka_sasl_password_file=tmp_path / "wrong")

    async def refused() -> str | None:
        host, _, port = kafka.bootstrap.rpartition(":")
        options = client_options(given)
        names = ("security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_oauth_token_provider")
        with pytest.raises(SaslAuthenticationFailed):
            await connections.open_connection(host, int(port), **{name: options[name] for name in names})
        closed = connections.Connection(host, int(port), sasl_oauth_token_provider=credentials.of(given))
        closed.close(CloseReason.CONNECTION_BROKEN, EOFError("0 bytes read"))
        return connections.why_not()

    assert "refuses user 'service'" in (asyncio.run(refused()) or "")


def test_a_file_that_can_no_longer_be_used_stops_nothing(
    kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    password = tmp_path / "password"
    password.write_text("one\n")
    known = credentials.of(settings(kafka, kafka_sasl_password_file=password))
    caplog.set_level(logging.INFO, "common.kafka.auth.reloading")
    assert known.password() == "one"
    password.unlink()
    assert [known.password() for _ in range(3)] == ["one"] * 3
    password.write_text("two")
    assert known.password() == "two"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "two" not in caplog.text.replace(str(tmp_path), "")
    context = known.tls()
    assert known.tls() is context
