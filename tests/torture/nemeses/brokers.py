# SPDX-License-Identifier: Apache-2.0
"""Nemeses of Kafka: brokers killed, answers cut, disks full, rights withdrawn, topics deleted, shrunk or overtaken."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from common.kafka.clients import METADATA_MS
from tests.support.services import eventually
from tests.torture.content import NODES
from tests.torture.world import ADMIN, RECOVERY_SECONDS, World


def kill(world: World, times: int) -> None:
    """SIGKILL the only broker mid-stream, and start it again."""
    [broker] = world.kafka.members
    for _ in range(times):
        world.nap(1.0, 3.0)
        broker.kill()
        world.nap()
        asyncio.run(broker.start())
        world.recover()


def kill_leader(world: World, times: int) -> None:
    """Of three brokers kill one that leads: another takes over, nothing waits for the dead one."""
    cluster = world.kafka.cluster
    assert cluster is not None
    for number in range(times):
        world.nap(1.0, 3.0)
        topic = (world.settings.topics.raw, world.settings.topics.enriched)[number % 2]
        leader = cluster.member(asyncio.run(cluster.leader(topic, number % 3)))
        leader.kill()
        world.recover()
        asyncio.run(leader.start())
        _in_sync(world)


def kill_two(world: World, times: int) -> None:
    """Of three brokers kill two: with min.insync.replicas=2 everything must wait, and lose nothing."""
    for _ in range(times):
        victims = world.rng.sample(world.kafka.members, 2)
        world.nap(1.0, 3.0)
        for broker in victims:
            broker.kill()
        before = world.feeder.marks()
        time.sleep(world.rng.uniform(8.0, 14.0))
        fed = sum(world.feeder.marks().values()) - sum(before.values())
        assert fed <= 2 * len(NODES), f"{fed} windows were acknowledged by one replica of three"
        begun = time.monotonic()
        for broker in victims:
            asyncio.run(broker.start())
        world.recover(begun)
        _in_sync(world)


def cut(world: World, times: int) -> None:
    """A network that delays, silences one direction for longer than any deadline, and resets connections."""
    proxy = world.kafka.proxy
    assert proxy is not None
    for number in range(times):
        world.nap(0.5, 2.0)
        match number % 5:
            case 0:
                proxy.silence("replies")  # what was sent has arrived, and nobody learns of it
            case 1:
                proxy.silence("requests")
            case 2:
                proxy.cut()
            case 3:
                proxy.delay_seconds = 0.4
            case 4:
                for _ in range(20):
                    proxy.reset()
                    world.nap(0.05, 0.4)
        time.sleep(world.rng.choice((2.0, 12.0)))
        proxy.heal()
        world.recover()


def end_in_silence(world: World, times: int) -> None:
    """SIGTERM while Kafka takes what it is sent and never answers: ended within the budget, and nothing lost."""
    proxy = world.kafka.proxy
    assert proxy is not None
    for _ in range(times):
        world.nap(0.5, 2.0)
        proxy.silence("replies")
        world.nap()
        roles = list(world.fleet.running)
        begun = time.monotonic()
        world.fleet.terminate(*roles)
        # The budget, drain_seconds, is 20 s; a pod's grace period is 30 s.
        assert time.monotonic() - begun < 30, "not ended within a pod's grace period"
        proxy.heal()
        world.fleet.start(*roles)
        world.recover()


def withdraw(world: World, times: int) -> None:
    """Rights taken away mid-run, one after the other: whoever needs them waits, says so, and goes on after."""
    names, kinds, verbs = world.settings.topics, ADMIN.ResourceType, ADMIN.AclOperation
    prefix = world.settings.topic_prefix
    rights = [
        (kinds.TOPIC, names.enriched, verbs.WRITE),
        (kinds.TOPIC, names.raw, verbs.READ),
        (kinds.TOPIC, names.ledger, verbs.WRITE),
        (kinds.TOPIC, names.enriched, verbs.READ),
        (kinds.GROUP, f"{prefix}enricher", verbs.READ),
        (kinds.GROUP, f"{prefix}flowlog", verbs.READ),
    ]
    client = ADMIN.AdminClient({"bootstrap.servers": world.direct})
    literal, deny = ADMIN.ResourcePatternType.LITERAL, ADMIN.AclPermissionType.DENY
    for number in range(times):
        kind, name, verb = rights[number % len(rights)]
        allow = ADMIN.AclBinding(kind, name, literal, "User:*", "*", verbs.ALL, ADMIN.AclPermissionType.ALLOW)
        denial = ADMIN.AclBinding(kind, name, literal, "User:service", "*", verb, deny)
        world.nap(0.5, 2.0)
        for done in client.create_acls([allow, denial]).values():
            done.result(timeout=20)
        eventually(lambda: _not_ready(world))
        _calm(world, 4.0)
        filters = [ADMIN.AclBindingFilter(kind, name, literal, "User:service", "*", verb, deny)]
        for done in client.delete_acls(filters).values():
            done.result(timeout=20)
        world.recover()


def rotate(world: World, times: int) -> None:
    """Password and certificates renewed at the broker, and at the services later: each says what it waits for."""
    secrets = world.kafka.secrets
    assert secrets is not None
    for _ in range(times):
        world.nap(0.5, 2.0)
        renew(world)
        eventually(lambda: all_say(world, "is not trusted"), RECOVERY_SECONDS)
        secrets.give_services("ca.pem")
        eventually(lambda: all_say(world, "refuses this client's certificate"), RECOVERY_SECONDS)
        secrets.give_services("cert.pem")  # with a key that is not its own
        secrets.give_services("key.pem")
        eventually(lambda: all_say(world, "kafka_sasl_password_file"), RECOVERY_SECONDS)
        secrets.give_services("password")
        world.recover()
        world.fleet.ready()


def renew(world: World) -> None:
    """Give the broker another password, another certificate and another authority; only it knows of them yet."""
    secrets, [broker] = world.kafka.secrets, world.kafka.members
    assert secrets is not None
    secrets.change_password(broker.bootstrap)
    secrets.change_certificates()
    secrets.give_broker()
    broker.kill()
    asyncio.run(broker.start())


def expire(world: World, times: int) -> None:
    """Sessions and tokens that end all the while: no connection is lost over it, and all services stay ready."""
    proxy = world.kafka.proxy
    assert proxy is not None
    for _ in range(times):
        with world.still():
            pass  # afterwards every partition has been written to, and all connections are open
        world.recover()
        world.fleet.ready()
        before = proxy.connections_seen
        time.sleep(world.rng.uniform(8.0, 12.0))
        assert not _not_ready(world)
        assert proxy.connections_seen == before, "a connection was opened again"


def all_say(world: World, words: str) -> bool:
    """Return whether every service is not ready, and says so in these words."""
    return all(words in service.get("/readyz")[1] for service in world.fleet.running.values())


def smaller_messages(world: World, times: int) -> None:
    """The broker takes smaller batches than before, then large ones again."""
    topics = world.settings.topics
    for number in range(times):
        with world.still():
            topic = (topics.enriched, topics.ledger)[number % 2]
            world.raise_message_limit(topic, world.rng.choice((8_000, 20_000, 60_000)))
            for node in NODES:
                world.feeder.feed(node, rows=600)
        world.recover()
        world.raise_message_limit(topic, 1_048_576)


def made_anew(world: World, times: int) -> None:
    """A topic deleted, when all of it has been read, and made again."""
    names = world.settings.topics
    client = ADMIN.AdminClient({"bootstrap.servers": world.direct})
    for number in range(times):
        with world.still():
            name = (names.raw, names.enriched)[number % 2]
            eventually(lambda: world.committed("enricher") and world.committed("metrics"))
            world.wait_for_rows()
            if name == names.enriched:
                world.deleted |= world.feeder.truth.keys()
            for done in client.delete_topics([name]).values():
                done.result(timeout=20)
            eventually(lambda: name not in client.list_topics(timeout=20).topics)  # noqa: B023
            world.nap()
            world.apply_topics()
            eventually(lambda: _has_leaders(client, name))  # noqa: B023
        world.recover()


def grown(world: World, times: int) -> None:
    """Somebody gives a topic more partitions: what runs goes on, what starts again says that they must agree."""
    client = ADMIN.AdminClient({"bootstrap.servers": world.direct})
    topics = world.settings.topics
    for number in range(times):
        world.nap()
        name = (topics.enriched, topics.raw)[number % 2]
        for done in client.create_partitions([ADMIN.NewPartitions(name, 5 + number)]).values():
            done.result(timeout=20)
        time.sleep(METADATA_MS / 1000 + 3)
        world.recover()
    role = f"flowlog-{world.counts['flowlog']}"
    world.fleet.start(role)
    eventually(lambda: "they must agree" in world.fleet.running[role].get("/readyz")[1])
    world.fleet.terminate(role)


def overtaken(world: World, times: int) -> None:
    """Records deleted before they are read: what is lost is counted, and the audit names each window."""
    topics = world.settings.topics
    for number in range(times):
        room = ("enricher", "sinks")[number % 2]
        with world.still():
            world.wait_for_rows()
            roles = world.fleet.roles("enricher") if room == "enricher" else _sinks(world)
            world.fleet.terminate(*roles)
            doomed = [world.feeder.feed(node) for node in NODES for _ in range(3)]
            lost = {id_.rpartition("/")[0] for window in doomed for id_ in window.flows}
            if room == "sinks":
                eventually(lambda: world.committed("enricher"))
                world.deleted |= world.feeder.truth.keys()
            world.delete_records(topics.raw if room == "enricher" else topics.enriched)
            world.lost |= lost
            world.fleet.start(*roles)
            world.fleet.ready(*roles)
        world.recover()
        counted = world.missed(room)
        assert counted > 0, f"{room}: the gap is in no counter"


def fill(directory: Callable[[World], Path]) -> Callable[[World, int], None]:
    """Return a nemesis that fills the disk that `directory` is on, and makes room again."""

    def act(world: World, times: int) -> None:
        for _ in range(times):
            world.nap(0.5, 2.0)
            filler = directory(world) / "filler"
            fill_up(filler)
            time.sleep(world.rng.uniform(3.0, 6.0))
            fill_up(filler)
            filler.unlink()
            for broker in world.kafka.members:
                if not broker.alive:  # Kafka halts when its only log directory fails
                    broker.kill()
                    asyncio.run(broker.start())
            world.recover()

    return act


def data_directory(world: World) -> Path:
    """Return where the only broker keeps its data."""
    assert world.kafka.disk is not None
    return world.kafka.disk


def fill_up(path: Path) -> None:
    """Append to a file until its disk takes not one byte more."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while os.write(file.fileno(), b"x" * size):
                    pass
            except OSError:
                continue


def _sinks(world: World) -> list[str]:
    return [*world.fleet.roles("metrics"), *world.fleet.roles("flowlog")]


def _not_ready(world: World) -> list[str]:
    return [role for role, service in world.fleet.running.items() if service.get("/readyz")[0] == 503]


def _calm(world: World, seconds: float) -> None:
    """Hold that who cannot go on waits, and does not spin."""
    before = {role: _cpu(world, role) for role in world.fleet.running}
    time.sleep(seconds)
    used = {role: _cpu(world, role) - cpu for role, cpu in before.items()}
    assert max(used.values()) < 0.7 * seconds, f"CPU seconds within {seconds} s: {used}"


def _cpu(world: World, role: str) -> float:
    fields = Path(f"/proc/{world.fleet.running[role].process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _has_leaders(client: object, name: str) -> bool:
    found = client.list_topics(timeout=20).topics.get(name)  # type: ignore[attr-defined]
    return bool(found) and all(part.leader >= 0 for part in found.partitions.values())


def _in_sync(world: World) -> None:
    """Wait until every replica is in sync again."""
    client = ADMIN.AdminClient({"bootstrap.servers": world.direct})

    def whole() -> bool:
        parts = [part for topic in client.list_topics(timeout=20).topics.values() for part in topic.partitions.values()]
        return all(len(part.isrs) == len(part.replicas) for part in parts)

    eventually(whole, RECOVERY_SECONDS)
