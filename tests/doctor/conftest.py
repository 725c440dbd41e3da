# SPDX-License-Identifier: Apache-2.0
"""Two metered nodes, as the collector's tests have them, and topics of a test's own."""

import pytest

from lab.kafka.broker import Broker
from tests.collector.conftest import _bpffs, _meters, meters, nodes
from tests.support.sinks.topics import Topics

__all__ = ["_bpffs", "_meters", "meters", "nodes", "topics"]


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """The five topics under a prefix of the test's own, with three partitions."""
    return Topics.make(broker.bootstrap)
