# SPDX-License-Identifier: Apache-2.0
"""Whose the consumer group is: an enricher of another cluster in it would take this one's records for rubbish.

A member says its cluster in its client id. Who comes second is refused, before it joins and disturbs the first.
"""

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from common.errors import Refusal
from common.kafka import clients
from common.service.running import Service
from enricher.settings import EnricherSettings

_CLIENT = "zonemeter-enricher/"
_RETRY_SECONDS = 0.5


def client_id(settings: EnricherSettings) -> str:
    """Return what a member of the group calls itself."""
    return f"{_CLIENT}{settings.cluster}"


async def refuse_others(service: Service, settings: EnricherSettings) -> None:
    """Raise `Refusal` if a member of the group works for another cluster; what Kafka's client raises, as it does."""
    admin = await clients.start(service, settings, lambda: AIOKafkaAdminClient(**clients.client_options(settings)))
    try:
        found = await service.unless_stopped(_described(admin, settings.group_id, settings.kafka_deadline_seconds))
    finally:
        await clients.close(admin)
    members = (member for group in found.to_object()["groups"] for member in group["members"])
    clusters = {m["client_id"].removeprefix(_CLIENT) for m in members if m["client_id"].startswith(_CLIENT)}
    for cluster in sorted(clusters - {settings.cluster}):
        raise Refusal(
            f"topic_prefix = {settings.topic_prefix!r}: an enricher of cluster {cluster!r} is at work in the group "
            f"{settings.group_id}, and this is one of {settings.cluster!r}; give each cluster a topic prefix of its "
            "own, or, if the cluster was renamed, stop the other first"
        )


async def _described(admin: AIOKafkaAdminClient, group: str, seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            try:
                [found] = await admin.describe_consumer_groups([group])
            except (GroupLoadInProgressError, GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
                await asyncio.sleep(_RETRY_SECONDS)  # of a group that is new, or whose broker went
            else:
                return found
