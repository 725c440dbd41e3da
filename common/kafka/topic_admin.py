# SPDX-License-Identifier: Apache-2.0
"""Compares the topics that Kafka has with those that zonemeter needs, and makes what is missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from common.errors import Refusal
from common.kafka import clients
from common.kafka.protocol.alter_topics import set_settings
from common.settings import KafkaSettings
from schemas.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is. `config` holds only the settings that a `TopicSpec` names; None: the topic does not exist."""

    spec: TopicSpec
    partitions: int | None
    config: dict[str, str]

    @property
    def differences(self) -> list[str]:
        """What is not as it should be, in words; empty if nothing."""
        if self.partitions is None:
            return ["does not exist"]
        found = []
        if self.partitions != self.spec.partitions:
            found.append(f"{self.partitions} partitions, not {self.spec.partitions}")
        return found + [f"{key} is {self.config.get(key)!r}, not {wanted!r}" for key, wanted in self.to_set.items()]

    @property
    def to_set(self) -> dict[str, str]:
        """The settings that are not as they should be, as they should be; empty if the topic does not exist."""
        if self.partitions is None:
            return {}
        wanted = self.spec.config.items()
        return {key: value for key, value in wanted if _normal(self.config.get(key, "")) != _normal(value)}


def _normal(value: str) -> tuple[str, ...]:
    return tuple(sorted(value.split(",")))


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Give an admin client, for as long as Kafka's deadline; raise `Refusal` where it does not answer, or refuses."""
    admin = AIOKafkaAdminClient(**clients.client_options(settings))
    try:
        async with asyncio.timeout(settings.kafka_deadline_seconds):
            await admin.start()
            await _some_broker(admin)
            yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise Refusal(f"Kafka at {settings.kafka_bootstrap}: {clients.reason(error)}") from error
    finally:
        await clients.close(admin)


async def _some_broker(admin: AIOKafkaAdminClient) -> None:
    """Wait until the cluster names a broker: one that has just started, or is slow, is in no metadata for a moment."""
    client = admin._client  # noqa: SLF001 - aiokafka's admin client fails where it would have to wait
    while not client.cluster.brokers():
        await asyncio.sleep(0.1)
        await client.force_metadata_update()


async def describe(admin: AIOKafkaAdminClient, specs: list[TopicSpec]) -> list[TopicState]:
    """Return each topic as it is."""
    names = [spec.name for spec in specs]
    described = {t["topic"]: t for t in await admin.describe_topics(names) if t["error_code"] == 0}
    configs: dict[str, dict[str, str]] = {}
    if described:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in described]
        for response in await admin.describe_configs(resources):
            for resource in response.resources:
                configs[resource[3]] = {entry[0]: entry[1] for entry in resource[4]}
    return [
        TopicState(
            spec,
            len(described[spec.name]["partitions"]) if spec.name in described else None,
            {key: configs.get(spec.name, {}).get(key, "") for key in spec.config},
        )
        for spec in specs
    ]


async def apply(admin: AIOKafkaAdminClient, states: list[TopicState]) -> None:
    """Make the topics that are missing and set the settings that differ; no others, and partitions never.

    Growth would move nodes to other partitions and break the order that identity rests on: a new prefix instead.
    Raises `Refusal` where the broker says no.
    """
    missing = [state.spec for state in states if state.partitions is None]
    if missing:
        new = [NewTopic(s.name, s.partitions, s.replication, topic_configs=s.config) for s in missing]
        response = await admin.create_topics(new)
        for name, code, *message in response.topic_errors:
            if code and for_code(code).__name__ != "TopicAlreadyExistsError":
                raise Refusal(f"topic {name}: {(message and message[0]) or for_code(code).__name__}")
    changed = {state.spec.name: state.to_set for state in states if state.to_set}
    if changed:
        await set_settings(admin, changed)
