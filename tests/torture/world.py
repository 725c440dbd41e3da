# SPDX-License-Identifier: Apache-2.0
"""One pipeline under torture: topics of its own, feeder, services; what of it has arrived, and how long that took."""

import asyncio
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
import confluent_kafka.admin as confluent

from common.kafka import topic_admin
from common.settings import KafkaSettings
from schemas.ids import Origin
from schemas.topics import topic_specs
from schemas.topology import encode_topology_file
from sinks.flowlog.archive.manifest import decode_manifest
from tests.support.services import Samples, eventually
from tests.torture.content import CLUSTER, NODES, Content, topology
from tests.torture.feeder import Feeder, Sent
from tests.torture.fleet import Fleet
from tests.torture.kafka import Kafka

ADMIN: Any = confluent
PARTITIONS = 3
RECOVERY_SECONDS = 180.0
# Windows lie in the past, so that thousands of them fit before now, and within every topic's retention.
_BEGUN_HOURS_AGO = 30
_HOUR_MS = 3_600_000


@dataclass
class World:
    """A pipeline. Random choices are made by `rng`, in the order of the scenario's steps."""

    directory: Path
    kafka: Kafka
    seed: int
    counts: dict[str, int] = field(default_factory=lambda: {"enricher": 1, "metrics": 1, "flowlog": 1})
    flags: dict[str, list[str]] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)
    # Chunks that an operator threw away before they were read, and flows that stand in the enriched topic no more.
    lost: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # Nodes that had two boots side by side.
    interleaved: set[str] = field(default_factory=set)
    # Boots whose clock was ahead at some time.
    ahead: set[Origin] = field(default_factory=set)
    # Windows under whose ledger entry came another one, that says something else.
    contradicted: set[str] = field(default_factory=set)
    # What replicas served last that are no more: to Prometheus their counters are not undone.
    retired: dict[str, Samples] = field(default_factory=dict)
    # Waits until Prometheus, where there is one, has what every metrics replica serves by now.
    scraped: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.rng, self.direct = random.Random(self.seed), self.kafka.direct
        options: dict[str, Any] = {"partitions": PARTITIONS, "topic_prefix": f"t{uuid.uuid4().hex[:8]}."}
        self.settings = KafkaSettings(kafka_bootstrap=self.direct, **options)
        hour_ms = time.time_ns() // 1_000_000 // _HOUR_MS * _HOUR_MS
        self.content = Content(self.seed, hour_ms - _BEGUN_HOURS_AGO * _HOUR_MS, PARTITIONS)
        self.fleet = Fleet(self.directory, self._flags_of)
        self.feeder = Feeder(self.content, self.direct, self.settings.topics)
        self.output = self.kafka.files or self.directory / "flows"

    def open(self) -> None:
        """Make the topics, start everything, and wait until all is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "topology.json").write_bytes(
            encode_topology_file(topology(self.content.start_ms - 30 * 24 * _HOUR_MS))
        )
        self.apply_topics()
        roles = [f"{room}-{number}" for room, count in self.counts.items() for number in range(count)]
        self.fleet.start(*roles)
        self.fleet.ready()
        self.feeder.start()

    def close(self) -> None:
        """End everything."""
        self.fleet.close()
        self.feeder.stop()

    def apply_topics(self) -> None:
        """Make the topics that are not there."""
        replication = self.kafka.replication
        specs = topic_specs(
            self.settings.topics,
            partitions=PARTITIONS,
            replication=replication,
            min_insync_replicas=min(replication, 2),
        )

        async def apply() -> None:
            async with topic_admin.admin_client(self.settings) as admin:
                await topic_admin.apply(admin, await topic_admin.describe(admin, specs))

        asyncio.run(apply())

    def raise_message_limit(self, topic: str, size: int) -> None:
        """Set the greatest batch that the broker takes for a topic, in bytes."""
        self.configure(topic, {"max.message.bytes": str(size)})

    def configure(self, topic: str, config: dict[str, str]) -> None:
        """Set some of a topic's settings; the others stay."""
        client = ADMIN.AdminClient({"bootstrap.servers": self.direct})
        entries = [
            ADMIN.ConfigEntry(name, value, incremental_operation=ADMIN.AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ADMIN.ConfigResource(ADMIN.ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        for done in client.incremental_alter_configs([resource]).values():
            done.result(timeout=20)

    def arrived(self, room: str) -> Sent:
        """Return the last window of every node's life that a sink has made durable."""
        return self._in_checkpoints() if room == "metrics" else self._in_manifests()

    def has(self, wanted: Sent) -> bool:
        """Return whether both sinks have everything up to these windows; fails if a service has ended by itself."""
        assert not self.fleet.dead(), self.fleet.dead()
        arrived = [self.arrived(room) for room in ("metrics", "flowlog")]
        return all(each.get(origin, 0) >= sequence for origin, sequence in wanted.items() for each in arrived)

    def recover(self, since: float | None = None) -> float:
        """Wait until all that is acknowledged by now is in both sinks; return and note how long that took.

        `since`: when the fault was over (`time.monotonic()`), if not just now.
        """
        begun, wanted = since or time.monotonic(), self.feeder.marks()
        eventually(lambda: self.has(wanted), RECOVERY_SECONDS)
        self.recoveries.append(time.monotonic() - begun)
        return self.recoveries[-1]

    def settle(self) -> None:
        """Stop feeding and wait until all has arrived."""
        self.feeder.pause()
        wanted = self.feeder.marks()
        eventually(lambda: self.has(wanted), RECOVERY_SECONDS)

    def rows(self) -> int:
        """Return how many flows the flow log's manifests list."""
        manifests = self.output.glob("_manifests/p=*/*.json")
        return sum(file.rows for path in manifests for file in decode_manifest(path.read_bytes()).files)

    def wait_for_rows(self) -> None:
        """Wait until every flow that is to come has come."""
        wanted = [id_ for id_ in self.feeder.truth if id_.rpartition("/")[0] not in self.lost]
        eventually(lambda: self.rows() >= len(wanted), RECOVERY_SECONDS)

    def committed(self, room: str) -> bool:
        """Return whether a group has committed everything that stands in its topic."""
        topic = self.settings.topics.raw if room == "enricher" else self.settings.topics.enriched
        places = [confluent_kafka.TopicPartition(topic, number) for number in range(PARTITIONS)]
        options = {"bootstrap.servers": self.direct, "group.id": f"{self.settings.topic_prefix}{room}"}
        consumer = confluent_kafka.Consumer(options)
        try:
            done = {each.partition: each.offset for each in consumer.committed(places, timeout=20)}
            ends = {each.partition: consumer.get_watermark_offsets(each, timeout=20)[1] for each in places}
            return all(done[number] == end or not end for number, end in ends.items())
        finally:
            consumer.close()

    def delete_records(self, topic: str) -> None:
        """Delete all that a topic holds now, as its retention would."""
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.direct, "group.id": "none"})
        places = [confluent_kafka.TopicPartition(topic, number) for number in range(PARTITIONS)]
        for each in places:
            each.offset = consumer.get_watermark_offsets(each, timeout=20)[1]
        consumer.close()
        client = ADMIN.AdminClient({"bootstrap.servers": self.direct})
        for done in client.delete_records(places).values():
            done.result(timeout=20)

    def missed(self, room: str) -> int:
        """Return how many records the counters say were gone before they were read."""
        name = "zonemeter_enricher_raw_gap_records_total" if room == "enricher" else "zonemeter_records_missed_total"
        running = [self.fleet.running[role] for role in self.fleet.running]
        return sum(int(value) for each in running for (sample, _), value in each.samples().items() if sample == name)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Feed nothing while the context lasts; what came before has arrived, and afterwards each node feeds at once.

        Some time passes first, so that there is something to arrive.
        """
        self.nap(1.0, 2.0)
        self.settle()
        yield
        for node in NODES:
            self.feeder.feed(node)
        self.feeder.resume()

    def nap(self, least: float = 0.1, most: float = 1.5) -> None:
        """Let a random time pass: the fault is to come at no particular moment."""
        time.sleep(self.rng.uniform(least, most))

    def replicas(self, room: str) -> list[str]:
        """Return the roles that a room has by plan."""
        return [f"{room}-{number}" for number in range(self.counts[room])]

    def state_dir(self, role: str) -> Path:
        """Return a metrics sink's state directory."""
        return self.directory / "state" / role

    def _flags_of(self, role: str) -> list[str]:
        room, _, number = role.partition("-")
        own = {
            "enricher": [
                *("--topology", str(self.directory / "topology.json"), "--session-seconds", "6"),
                *("--group-instance-id", role, "--batch-rows", "500"),
            ],
            "metrics": [
                *("--state-dir", str(self.state_dir(role)), "--checkpoint-seconds", "0.3"),
                *("--replicas", str(self.counts["metrics"]), "--replica-ordinal", number),
            ],
            "flowlog": [
                *("--output", self.kafka.output or str(self.output), "--group-instance-id", role),
                *("--cut-seconds", "0.7", "--session-timeout-seconds", "6"),
            ],
            "audit": ["--span-minutes", "10080", "--check-seconds", "1"],
        }
        return [
            *("--kafka-bootstrap", self.kafka.bootstrap, "--topic-prefix", self.settings.topic_prefix),
            *("--partitions", str(PARTITIONS), "--cluster", CLUSTER, "--kafka-deadline-seconds", "8"),
            *self.kafka.flags,
            *own[room],
            *self.flags.get(room, []),
        ]

    def _in_checkpoints(self) -> Sent:
        found: Sent = {}
        for path in self.directory.glob("state/*/metrics.sqlite3"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as state:
                for *origin, sequence in state.execute("SELECT cluster, node, boot_id, sequence FROM marks"):
                    found[Origin(*origin)] = max(found.get(Origin(*origin), 0), sequence)
        return found

    def _in_manifests(self) -> Sent:
        found: Sent = {}
        for partition in self.output.glob("_manifests/p=*"):
            names = sorted(partition.glob("*.json"))
            newest = decode_manifest(names[-1].read_bytes()) if names else None
            for origin, mark in newest.known_marks().items() if newest else ():
                found[origin] = max(found.get(origin, 0), mark.sequence)
        return found
