# SPDX-License-Identifier: Apache-2.0
"""The five topics: names, partitions and broker settings. Names end in the schema's major version."""

from dataclasses import dataclass

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# Of `message.timestamp.before.max.ms`: a record may be as old as it is. What a collector spooled while Kafka was away
# would be refused otherwise. Kafka's own default, which a broker may have changed for all its topics.
ANY_AGE_MS = 2**63 - 1
# Of `message.timestamp.after.max.ms`: Kafka's default since 4.0. Less would refuse records of a clock that is a little
# ahead; more would let one record with a time far ahead keep its segment from ever being deleted.
AHEAD_MS = HOUR_MS


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics' full names under one prefix."""

    prefix: str = "zonemeter."

    @property
    def raw(self) -> str:
        """Flow aggregates as the nodes counted them; key: node."""
        return f"{self.prefix}flows.raw.v1"

    @property
    def enriched(self) -> str:
        """One JSON object per flow; key: node; partition as in raw."""
        return f"{self.prefix}flows.enriched.v1"

    @property
    def topology(self) -> str:
        """Who owned which address, when; compacted."""
        return f"{self.prefix}topology.v1"

    @property
    def ledger(self) -> str:
        """What each hop took in, gave out and lost; partition as in raw."""
        return f"{self.prefix}ledger.v1"

    @property
    def dead_letter(self) -> str:
        """What could not be decoded, with the reason."""
        return f"{self.prefix}dead-letter.v1"

    @property
    def all(self) -> tuple[str, ...]:
        """All five."""
        return (self.raw, self.enriched, self.topology, self.ledger, self.dead_letter)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic should be. `config` holds Kafka topic settings, as text (Kafka documentation, Topic Configs)."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def topic_specs(
    names: TopicNames,
    *,
    partitions: int = 12,
    replication: int = 1,
    min_insync_replicas: int = 1,
    raw_retention_ms: int = 7 * DAY_MS,
    enriched_retention_ms: int = 3 * DAY_MS,
) -> list[TopicSpec]:
    """Return the five topics. Raw, enriched and ledger have equal partitions: a record stays in its partition.

    The ledger is not compacted: of two entries under one key compaction keeps the later, and a contradiction would be
    gone. Entries come again under their key after a crash only, so there is little that it would save.
    """
    common = {
        "min.insync.replicas": str(min_insync_replicas),
        "message.timestamp.type": "CreateTime",
        "message.timestamp.before.max.ms": str(ANY_AGE_MS),
        "message.timestamp.after.max.ms": str(AHEAD_MS),
    }

    def spec(name: str, count: int, **config: str) -> TopicSpec:
        return TopicSpec(name, count, replication, common | {k.replace("_", "."): v for k, v in config.items()})

    raw, enriched = str(raw_retention_ms), str(enriched_retention_ms)
    return [
        spec(names.raw, partitions, cleanup_policy="delete", retention_ms=raw),
        spec(names.enriched, partitions, cleanup_policy="delete", retention_ms=enriched),
        spec(names.topology, 1, cleanup_policy="compact"),
        spec(names.ledger, partitions, cleanup_policy="delete", retention_ms=raw),
        spec(names.dead_letter, 1, cleanup_policy="delete", retention_ms=raw),
    ]
