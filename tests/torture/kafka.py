# SPDX-License-Identifier: Apache-2.0
"""The Kafkas that scenarios need: one, three, behind a proxy, with rights, secrets, tokens, beside an object store."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from lab.kafka.broker import Broker, free_port
from tests.support.lab.brokers import Brokers
from tests.support.lab.proxy import Proxy
from tests.support.servers.object_store import BUCKET, KEYS, port_of, s3_server
from tests.support.servers.s3_faults import S3Faults, s3_faults
from tests.support.sinks.disk import small_disk
from tests.torture.secrets import Secrets, Tokens

BROKER_DISK = "48m"


@dataclass
class Kafka:
    """`direct` is where this process finds it; the services are told `bootstrap` and `flags`."""

    direct: str
    bootstrap: str
    members: list[Broker] = field(default_factory=list)
    cluster: Brokers | None = None
    proxy: Proxy | None = None
    disk: Path | None = None
    secrets: Secrets | None = None
    flags: list[str] = field(default_factory=list)
    # Where the flow log writes, if not to a directory of the world's; the files of that; the proxy in front of it.
    output: str = ""
    files: Path | None = None
    store: S3Faults | None = None

    @property
    def replication(self) -> int:
        """How many replicas a partition can have."""
        return len(self.members) or 1


Setup = Callable[[Path], AbstractContextManager[Kafka]]


@contextmanager
def one(directory: Path) -> Iterator[Kafka]:
    """One broker."""
    with _running(Broker(directory, free_port())) as broker:
        yield Kafka(broker.bootstrap, broker.bootstrap, [broker])


@contextmanager
def three(directory: Path) -> Iterator[Kafka]:
    """Three brokers with one controller."""
    brokers = Brokers(directory)
    try:
        asyncio.run(brokers.start())
        yield Kafka(brokers.bootstrap, brokers.bootstrap, brokers.members, brokers)
    finally:
        brokers.kill()


@contextmanager
def proxied(directory: Path) -> Iterator[Kafka]:
    """One broker that the services reach through a proxy only."""
    listener, front = ("127.0.0.1", free_port()), free_port()
    broker = Broker(directory, free_port(), (listener,), advertised={listener[1]: front})
    with Proxy(listener, front) as proxy, _running(broker):
        yield Kafka(broker.bootstrap, f"127.0.0.1:{front}", [broker], proxy=proxy)


@contextmanager
def guarded(directory: Path) -> Iterator[Kafka]:
    """One broker that the services reach as the user `service` only, whose rights can be withdrawn."""
    listener = ("127.0.0.1", free_port())
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_service="secret";'
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTRA0:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.extra0.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS",
    }
    password = directory.with_name("password")
    password.write_text("secret")
    flags = ["--kafka-security-protocol", "SASL_PLAINTEXT", "--kafka-sasl-mechanism", "PLAIN"]
    flags += ["--kafka-sasl-username", "service", "--kafka-sasl-password-file", str(password)]
    with _running(Broker(directory, free_port(), (listener,), settings)) as broker:
        yield Kafka(broker.bootstrap, f"127.0.0.1:{listener[1]}", [broker], flags=flags)


@contextmanager
def encrypted(directory: Path) -> Iterator[Kafka]:
    """One broker that the services reach by mutual TLS with a password; `secrets` holds what may be rotated."""
    secrets, listener = Secrets(directory.with_name("secrets")), ("127.0.0.1", free_port())
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTRA0:SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.extra0.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.extra0.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secrets.keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secrets.truststore),
    }
    broker = Broker(directory, free_port(), (listener,), settings)
    secrets.give_broker()
    with _running(broker):
        secrets.change_password(broker.bootstrap)
        secrets.give_services("ca.pem", "cert.pem", "key.pem", "password")
        yield Kafka(broker.bootstrap, f"127.0.0.1:{listener[1]}", [broker], flags=secrets.flags, secrets=secrets)


@contextmanager
def with_tokens(directory: Path, session_ms: int = 3000) -> Iterator[Kafka]:
    """One broker that the services reach with tokens, through a proxy; each must be shown again within `session_ms`."""
    listener, front, tokens = ("127.0.0.1", free_port()), free_port(), Tokens(directory.with_name("token"))
    login = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,EXTRA0:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.extra0.oauthbearer.sasl.jaas.config": f'{login} unsecuredLoginStringClaim_sub="broker";',
        "listener.name.extra0.oauthbearer.connections.max.reauth.ms": str(session_ms),
    }
    flags = ["--kafka-security-protocol", "SASL_PLAINTEXT", "--kafka-sasl-mechanism", "OAUTHBEARER"]
    broker = Broker(directory, free_port(), (listener,), settings, advertised={listener[1]: front})
    with Proxy(listener, front) as proxy, _running(broker), tokens.renewed():
        flags += ["--kafka-sasl-token-file", str(tokens.path)]
        yield Kafka(broker.bootstrap, f"127.0.0.1:{front}", [broker], proxy=proxy, flags=flags)


@contextmanager
def on_a_small_disk(directory: Path) -> Iterator[Kafka]:
    """One broker whose data are on a disk that is easily full."""
    # Kafka lets an index file have its full size at once.
    settings = {"log.segment.bytes": "4194304", "log.index.size.max.bytes": "65536"}
    with small_disk(directory, BROKER_DISK), _running(Broker(directory, free_port(), settings=settings)) as broker:
        yield Kafka(broker.bootstrap, broker.bootstrap, [broker], disk=directory)


@contextmanager
def beside_small_disks(directory: Path) -> Iterator[Kafka]:
    """One broker; the sinks' state and output are on disks that are easily full."""
    beside = directory.parent
    with small_disk(beside / "state", "4m"), small_disk(beside / "flows", "24m"), one(directory) as kafka:
        yield kafka


@contextmanager
def beside_an_object_store(directory: Path) -> Iterator[Kafka]:
    """One broker; the flow log writes to a real S3 server, through a proxy that misbehaves on demand."""
    place = directory.with_name("s3")
    place.mkdir()
    with (
        patch.dict(os.environ, KEYS),
        s3_server(place) as uri,
        s3_faults(port_of(uri)) as store,
        one(directory) as kafka,
    ):
        kafka.output = uri.replace(str(port_of(uri)), str(store.port)).format(path="/torture")
        kafka.files, kafka.store = place / "data" / BUCKET / "torture", store
        yield kafka


@contextmanager
def _running(broker: Broker) -> Iterator[Broker]:
    try:
        asyncio.run(broker.start())
        yield broker
    finally:
        broker.kill()
