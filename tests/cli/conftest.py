# SPDX-License-Identifier: Apache-2.0
"""One Kafka for the tests of commands; each test has topics of its own."""

import asyncio
from collections.abc import Iterator

import pytest

from lab.broker import Broker
from tests.sinks.topics import Topics


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lives as long as the tests."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """The five topics under a prefix of the test's own, with three partitions."""
    return Topics.make(broker.bootstrap)
