# SPDX-License-Identifier: Apache-2.0
"""Closing a Kafka client, whatever its own `stop` does."""

import asyncio

import pytest
from aiokafka.errors import KafkaError

from common.kafka import clients


class Connections:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Client:
    """A client whose `stop` ends in `how`."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._client = Connections()

    async def stop(self) -> None:
        if self._how == "awaits a task that it has cancelled":
            task = asyncio.ensure_future(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await task
        if self._how == "never":
            await asyncio.Event().wait()
        if self._how == "error":
            raise KafkaError("no")


@pytest.mark.parametrize("how", ["awaits a task that it has cancelled", "never", "error", "cleanly"])
def test_close_returns_and_leaves_no_connection(how: str) -> None:
    client = Client(how)
    asyncio.run(clients.close(client, seconds=0.05))
    assert client._client.closed == (how != "cleanly")
