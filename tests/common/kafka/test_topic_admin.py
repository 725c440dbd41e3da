# SPDX-License-Identifier: Apache-2.0
"""The client that looks at topics and changes them, while Kafka is not quite there."""

import asyncio
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata

from common.kafka.topic_admin import admin_client
from lab.kafka.broker import Broker
from tests.support.sinks.topics import Topics


def test_a_cluster_that_names_no_broker_yet_is_waited_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that has just started, or does not keep up with its controller, is in no metadata for a moment."""
    topics = Topics.make(broker.bootstrap)
    real, asked = ClusterMetadata.brokers, 0

    def brokers(self: Any) -> Any:
        nonlocal asked
        asked += 1
        return set() if asked < 10 else real(self)

    monkeypatch.setattr(ClusterMetadata, "brokers", brokers)

    async def describe() -> list[Any]:
        async with admin_client(topics.settings) as admin:
            return list(await admin.describe_topics([topics.settings.topics.raw]))

    [described] = asyncio.run(describe())
    assert len(described["partitions"]) == topics.settings.partitions
    assert asked >= 10
