# SPDX-License-Identifier: Apache-2.0
"""OAUTHBEARER: where tokens come from, what is said of those that are none, and sessions that end (KIP-368)."""

import asyncio
import base64
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import Refusal
from common.kafka.auth import credentials, tokens
from common.kafka.auth.tokens import NoTokenError
from common.kafka.publish import Publisher, Record
from common.kafka.topic_admin import admin_client
from common.service.running import Service
from common.settings import KafkaSettings
from tests.support.services import DEADLINE_SECONDS, ServiceProcess, eventually
from tests.torture.checker import check
from tests.torture.kafka import Kafka, with_tokens
from tests.torture.secrets import Tokens, token
from tests.torture.world import PARTITIONS, World

BEARER: dict[str, Any] = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}


FILE = {"kafka_sasl_token_file": "/no/such"}
MSK = {"kafka_sasl_msk_region": "eu-west-1"}
USER = {"kafka_sasl_username": "x"}


def command(line: str) -> dict[str, str]:
    return {"kafka_sasl_token_command": line}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with with_tokens(tmp_path_factory.mktemp("tokens") / "kafka", session_ms=1500) as made:
        yield made


def settings(kafka: Kafka, **changed: Any) -> KafkaSettings:
    flags = {name[2:].replace("-", "_"): value for name, value in zip(*[iter(kafka.flags)] * 2, strict=True)}
    own = {"kafka_bootstrap": kafka.bootstrap, "kafka_deadline_seconds": DEADLINE_SECONDS}
    return KafkaSettings(**own | flags | changed)


def ask(given: KafkaSettings) -> None:
    async def describe() -> None:
        async with admin_client(given) as admin:
            await admin.describe_cluster()

    asyncio.run(describe())


def run(get: tokens.Source) -> str:
    async def once() -> str:
        return await get()

    return asyncio.run(once())


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (BEARER, "one of kafka_sasl_token_file, .*given: none"),
        (BEARER | FILE | MSK, "given: kafka_sasl_token_file, kafka_sasl_msk_region"),
        (BEARER | FILE, "^kafka_sasl_token_file = '/no/such': No such file .*holds the token"),
        (
            BEARER | {"kafka_sasl_token_file": "/dev/zero"},
            "^kafka_sasl_token_file = '/dev/zero': is a pipe or a device",
        ),
        (BEARER | {"kafka_sasl_token_file": __file__}, "^kafka_sasl_token_file = .*expected a bearer token"),
        (BEARER | command("no-such-program"), "^kafka_sasl_token_command = 'no-such-program': no such"),
        (BEARER | command("echo 'x"), "^kafka_sasl_token_command = .*No closing quotation; expected"),
        (BEARER | command(" "), "^kafka_sasl_token_command = ' ': no such program"),
        (BEARER | {"kafka_sasl_msk_region": "Dublin"}, "^kafka_sasl_msk_region = 'Dublin': expected the AWS"),
        (BEARER | command("echo x") | USER, "^kafka_sasl_username is given, and"),
        (BEARER | command("echo x") | {"kafka_sasl_extensions": "auth=1"}, "^kafka_sasl_extensions = 'auth=1'"),
        ({"kafka_security_protocol": "SASL_SSL"} | command("echo x"), "^kafka_sasl_token_command is given"),
        ({"kafka_security_protocol": "SSL"} | FILE, "^kafka_sasl_token_file is given, and kafka_security_protocol"),
        (USER, "^kafka_sasl_username is given, and kafka_security_protocol = 'PLAINTEXT'"),
        ({"kafka_security_protocol": "SASL_SSL"}, "^kafka_sasl_username is not set; .* = 'SCRAM-SHA-512'"),
        ({"kafka_security_protocol": "SASL_SSL"} | USER, "^kafka_sasl_password_file is not set"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        credentials.of(KafkaSettings(**given))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('log in first', file=sys.stderr); sys.exit(3)", "ended with status 3: log in first"),
        ("print('<html>')", "printed 7 bytes that are not a token"),
        ("print('a\\nb')", "that are not a token"),
        ("pass", "printed 0 bytes"),
        ("while True: print('x' * 1000)", "printed more than 65536 bytes"),
        ("import time; time.sleep(600)", "did not end within 0.5 s"),
        ("import os, time; os.fork() or time.sleep(600)", "did not end within 0.5 s"),
    ],
)
def test_a_command_is_bounded_and_what_is_no_token_is_said(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "COMMAND_SECONDS", 0.5 if "sleep" in code else 20.0)
    get = tokens.source(KafkaSettings(**BEARER, kafka_sasl_token_command=python(code)))
    with pytest.raises(NoTokenError, match=said):
        run(get)


def test_connections_opened_together_share_what_a_command_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    get = tokens.source(
        KafkaSettings(**BEARER, kafka_sasl_token_command=python(f"open({str(ran)!r}, 'a').write('x'); print('a.b.c')"))
    )

    async def several() -> list[str]:
        first = [*await asyncio.gather(*(get() for _ in range(3))), await get()]
        monkeypatch.setattr(tokens, "REUSED_SECONDS", -1.0)
        return [*first, await get()]

    assert asyncio.run(several()) == ["a.b.c"] * 5
    assert ran.read_text() == "xx"


def test_whoever_gives_up_waiting_for_a_command_takes_it_from_nobody(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"open({str(fifo)!r}).read(); print('a.b.c')"
    get = tokens.source(KafkaSettings(**BEARER, kafka_sasl_token_command=python(code)))

    async def one_gives_up() -> str:
        first, second = asyncio.create_task(get()), asyncio.create_task(get())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.to_thread(fifo.write_text, "go on")
        return await second

    assert asyncio.run(one_gives_up()) == "a.b.c"


def test_a_command_that_failed_is_asked_again_at_once(tmp_path: Path) -> None:
    code = f"import os, sys; p = {str(tmp_path / 'there')!r}; os.path.exists(p) and sys.exit(print('a.b.c') or 0);"
    get = tokens.source(KafkaSettings(**BEARER, kafka_sasl_token_command=python(f"{code} open(p, 'w'); sys.exit(3)")))
    with pytest.raises(NoTokenError, match="status 3"):
        run(get)
    assert run(get) == "a.b.c"


def test_aws_signs_a_token_for_msk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not a secret")
    get = tokens.source(KafkaSettings(**BEARER, kafka_sasl_msk_region="eu-west-1"))
    made = run(get)
    signed = base64.urlsafe_b64decode(made + "=" * (-len(made) % 4)).decode()
    assert signed.startswith("https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect")
    assert "X-Amz-Credential=AKIAEXAMPLE" in signed


def test_without_credentials_aws_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    get = tokens.source(KafkaSettings(**BEARER, kafka_sasl_msk_region="eu-west-1"))
    with pytest.raises(NoTokenError, match=r"^kafka_sasl_msk_region = 'eu-west-1': "):
        run(get)


def test_a_token_that_the_broker_refuses_is_named(kafka: Kafka, tmp_path: Path) -> None:
    Tokens(tmp_path / "old").write(seconds=-60)
    said = f"refuses the token from kafka_sasl_token_file = '{tmp_path / 'old'}' .*invalid_token"
    with pytest.raises(Refusal, match=said):
        ask(settings(kafka, kafka_sasl_token_file=tmp_path / "old"))
    failing = {"kafka_sasl_token_file": None, "kafka_sasl_token_command": python("import sys; sys.exit('log in')")}
    with pytest.raises(Refusal, match=r"kafka_sasl_token_command = .*status 1: log in"):
        ask(settings(kafka, **failing))
    ask(settings(kafka, **failing | {"kafka_sasl_token_command": python(f"print({token(60)!r})")}))


def test_a_connection_outlives_its_sessions(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records go out all the while, over the same connections; each proves itself again and again."""
    shown: list[float] = []
    ask_for = credentials.Credentials.token

    async def counted(self: credentials.Credentials) -> str:
        shown.append(time.monotonic())
        return await ask_for(self)

    monkeypatch.setattr(credentials.Credentials, "token", counted)
    proxy = kafka.proxy
    assert proxy is not None
    topics = World(tmp_path / "world", kafka, 1)
    topics.apply_topics()
    where = (topics.settings.topics.ledger, 0)

    async def publish() -> None:
        publisher = Publisher(Service("test"), settings(kafka))
        try:
            end = (await publisher.publish([Record(*where, b"key", b"value", 1)]))[where]
            before, connections = len(shown), proxy.connections_seen
            while len(shown) < before + 5:
                sent = [publisher.publish([Record(*where, b"key", b"value", 1)]), asyncio.sleep(0.02)]
                ends, _ = await asyncio.gather(*sent)
                assert isinstance(ends, dict)
                assert ends[where] == (end := end + 1)
                if proxy.connections_seen > connections:  # on a busy machine some session ends before it is renewed
                    before, connections = len(shown), proxy.connections_seen
        finally:
            await publisher.close()

    asyncio.run(publish())


@pytest.mark.timeout(300)
def test_every_service_goes_on_while_sessions_and_tokens_end(kafka: Kafka, tmp_path: Path) -> None:
    proxy = kafka.proxy
    assert proxy is not None
    world = World(tmp_path / "world", kafka, 1)
    try:
        world.open()
        flags = ["--topic-prefix", world.settings.topic_prefix, "--partitions", str(PARTITIONS), *kafka.flags]
        flags += ["--kafka-bootstrap", kafka.bootstrap]
        world.fleet.running["audit-0"] = ServiceProcess(["cli", "run", "audit"], flags, tmp_path / "audit.log")
        world.fleet.ready()
        with world.still():
            pass  # afterwards every partition has been written to, and all connections are open
        world.recover()

        def renewed() -> bool:
            """Return whether nothing connected for eight seconds: a session lives 1.5 s, a token 4 s."""
            connections = proxy.connections_seen
            wanted = sum(world.feeder.marks().values()) + 80  # a window is fed each tenth of a second
            eventually(lambda: sum(world.feeder.marks().values()) >= wanted)
            return proxy.connections_seen == connections

        eventually(renewed)  # on a busy machine some session ends before it is renewed
        world.recover()
        assert all(service.ready() for service in world.fleet.running.values())
        assert check(world).flows > 1000
    finally:
        world.close()
