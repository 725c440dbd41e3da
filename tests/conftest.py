# SPDX-License-Identifier: Apache-2.0
"""What tests of several rooms need: a lab of this run's own, so that it stands beside others, and one Kafka."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from common.log import JsonLines
from lab.broker import Broker
from lab.plan import Plan
from tests.labs import own_plan


@pytest.fixture(scope="session")
def plan() -> Iterator[Plan]:
    """A plan that no other test run on this machine uses."""
    with own_plan() as made:
        yield made


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lives as long as the tests; each test has topics of its own."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def _service_logs_no_further() -> Iterator[None]:
    """A service that a test ran in this process logs to that test's stderr, which is closed after it."""
    yield
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonLines)]:
        root.removeHandler(handler)
