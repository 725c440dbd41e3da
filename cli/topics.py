# SPDX-License-Identifier: Apache-2.0
"""`zonemeter topics list|diff|apply`."""

import asyncio
import time
from typing import Self

from pydantic import Field, model_validator

from common.amounts import labelled
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.durations import Duration, parse_duration
from common.kafka import clients, topic_admin
from common.kafka.topic_admin import TopicState, admin_client, describe
from common.settings import KafkaSettings
from common.terminal import complain, say
from schemas.topics import HOUR_MS, TopicSpec, topic_specs

_RETRY_SECONDS = 1.0


class TopicsSettings(KafkaSettings):
    """The five topics as they should be."""

    replication: int = Field(1, ge=1, le=32767, description="replicas of each partition")
    min_insync_replicas: int = Field(
        1, ge=1, description="replicas that must have a record before it counts: at most --replication"
    )
    raw_retention_hours: int = Field(168, ge=1, description="how long raw flows and the ledger are kept")
    enriched_retention_hours: int = Field(72, ge=1, description="how long enriched flows are kept")

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        """Kafka takes such a topic, and then refuses every record."""
        if self.min_insync_replicas > self.replication:
            raise ValueError(
                f"min_insync_replicas = {self.min_insync_replicas}: expected at most replication, "
                f"which is {self.replication}"
            )
        return self

    def specs(self) -> list[TopicSpec]:
        """Return the topics that these settings ask for."""
        return topic_specs(
            self.topics,
            partitions=self.partitions,
            replication=self.replication,
            min_insync_replicas=self.min_insync_replicas,
            raw_retention_ms=self.raw_retention_hours * HOUR_MS,
            enriched_retention_ms=self.enriched_retention_hours * HOUR_MS,
        )


class ApplySettings(TopicsSettings):
    """The five topics as they should be."""

    wait: Duration | None = Field(
        None, description="keep retrying for this long, such as 10m, while Kafka does not answer or has too few brokers"
    )


@entry_point("topics list", TopicsSettings)
def list_(settings: TopicsSettings) -> int:
    """Print each topic, its partitions and its settings."""
    say(*_table(_states(settings)))
    return 0


@entry_point("topics diff", TopicsSettings)
def diff(settings: TopicsSettings) -> int:
    """Print what is not as it should be; return 1 if anything is not."""
    return _print_differences(_states(settings))


@entry_point("topics apply", ApplySettings)
def apply(settings: ApplySettings) -> int:
    """Make what is missing; return 1 if something is left that cannot be changed."""
    clients.client_options(settings)  # refuses what no waiting would mend
    return _print_differences(asyncio.run(_ensure_in_time(settings)))


async def _ensure_in_time(settings: ApplySettings) -> list[TopicState]:
    """Make what is missing; while Kafka says no, retry as long as `wait` says, and say each reason once in a row."""
    end = time.monotonic() + (parse_duration(settings.wait) / 1000 if settings.wait else 0.0)
    said = ""
    while True:
        try:
            return await ensure(settings)
        except Refusal as refusal:
            if time.monotonic() + _RETRY_SECONDS > end:
                raise
            if str(refusal) != said:
                complain(f"zonemeter topics apply: {refusal}; retrying for up to {settings.wait}")
            said = str(refusal)
        await asyncio.sleep(_RETRY_SECONDS)


async def ensure(settings: TopicsSettings) -> list[TopicState]:
    """Make what is missing and return the topics as they are then; raise `Refusal` if Kafka says no."""
    async with admin_client(settings) as admin:
        await topic_admin.apply(admin, await describe(admin, settings.specs()))
        states = await describe(admin, settings.specs())
        # The controller makes and changes topics; what this broker knows of it follows a moment later.
        while any(state.partitions is None or state.to_set for state in states):
            await asyncio.sleep(0.1)
            states = await describe(admin, settings.specs())
        return states


def _table(states: list[TopicState]) -> list[str]:
    """Return a topic's name, its partitions and its settings, as many of these to a line as fit."""
    width = max(len(state.spec.name) for state in states)
    lines = [f"{'topic':<{width}}  partitions  settings"]
    for state in states:
        absent = state.partitions is None
        facts = ["does not exist"] if absent else [f"{key}={value}" for key, value in sorted(state.config.items())]
        head = f"{state.spec.name:<{width}}  {'-' if absent else state.partitions:>10}  "
        lines += labelled(head, facts, len(head), " ")
    return lines


def _states(settings: TopicsSettings) -> list[TopicState]:
    async def read() -> list[TopicState]:
        async with admin_client(settings) as admin:
            return await describe(admin, settings.specs())

    return asyncio.run(read())


def _print_differences(states: list[TopicState]) -> int:
    lines = [f"{state.spec.name}: {difference}" for state in states for difference in state.differences]
    say(*lines or [f"{len(states)} topics are as they should be"])
    return 1 if lines else 0
