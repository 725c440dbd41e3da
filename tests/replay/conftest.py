# SPDX-License-Identifier: Apache-2.0
"""One history for all tests that read one back."""

import asyncio
from collections.abc import Iterator

import pytest

from lab.broker import Broker
from tests.replay.lived import Lived, lived


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lives as long as the tests."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="session")
def history(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """What the pipeline left of five minutes."""
    with lived(broker.bootstrap, tmp_path_factory.mktemp("history")) as made:
        yield made
