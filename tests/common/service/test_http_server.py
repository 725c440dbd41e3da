# SPDX-License-Identifier: Apache-2.0
import asyncio
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from common.service import http_server
from common.service.health import Health
from lab.kafka.broker import free_port


@pytest.mark.parametrize(
    ("at", "reached"),
    [("", {"127.0.0.1", "[::1]"}), ("127.0.0.1", {"127.0.0.1"}), ("[::1]", {"[::1]"})],
)
def test_it_is_reached_where_it_listens_and_nowhere_else(at: str, reached: set[str]) -> None:
    port = free_port()

    def answers(address: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/healthz", timeout=20) as answer:
                return bool(answer.read())
        except OSError:
            return False

    async def inside() -> set[str]:
        async with http_server.serve(f"{at}:{port}", Health(), CollectorRegistry()):
            return {each for each in ("127.0.0.1", "[::1]") if await asyncio.to_thread(answers, each)}

    assert asyncio.run(inside()) == reached
