# SPDX-License-Identifier: Apache-2.0
"""What tests of several rooms need: a lab of this run's own, so that it stands beside others, and one Kafka."""

import asyncio
import logging
import socket
from collections.abc import Iterator

import pytest

from common.log import JsonLines
from lab import cluster
from lab.broker import Broker
from lab.plan import Plan
from lab.stories import shop

_SLOTS = 8


@pytest.fixture(scope="session")
def plan() -> Iterator[Plan]:
    """A plan that no other test run on this machine uses; what a killed run left of it is removed first."""
    for slot in range(_SLOTS):
        taken = socket.socket(socket.AF_UNIX)
        try:
            taken.bind(f"\0zonemeter-tests/{slot}")
        except OSError:
            taken.close()
            continue
        with taken:
            made = shop(f"zmt{slot}", 200 + slot)
            asyncio.run(cluster.down(made.prefix))
            yield made
            asyncio.run(cluster.down(made.prefix))
        return
    pytest.fail("eight test runs at once")


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
