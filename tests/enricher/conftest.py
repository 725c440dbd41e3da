# SPDX-License-Identifier: Apache-2.0
"""Topics of each test's own on the tests' one Kafka."""

import pytest

from lab.kafka.broker import Broker
from tests.support.enricher.topics import Topics


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """The five topics under a prefix of the test's own, with three partitions."""
    return Topics.make(broker.bootstrap)
