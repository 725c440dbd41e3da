# SPDX-License-Identifier: Apache-2.0
"""A pod of `docker-compose.yml`'s demo: serves TCP, and asks its peers for so many bytes ten times a second.

    pod.py [PEER:BYTES ...]

It shares the network namespace of its node (node.py). A peer is the last part of its address.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

from common.terminal import say
from lab.traffic.server import request, serve_tcp

PORT = 8080
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 1.0


async def talk(address: str, response_bytes: int) -> None:
    """Ask one peer, over one connection after another, until cancelled; then say how much it answered."""
    answered = 0
    try:
        async for size in answers(address, response_bytes):
            answered += size
    finally:
        say(f"answered by {address}: {answered} bytes")


async def answers(address: str, response_bytes: int) -> AsyncIterator[int]:
    """Yield the size of each answer of a peer, without end."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, PORT)
            with contextlib.closing(writer):
                while True:
                    writer.write(request(400, response_bytes))
                    await reader.readexactly(response_bytes)
                    yield response_bytes
                    await asyncio.sleep(PAUSE_SECONDS)
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(RETRY_SECONDS)


async def live(pod_net: str, peers: list[str]) -> None:
    """Serve and talk until told to stop."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with await serve_tcp(socket.create_server(("", PORT))):
        tasks = [
            asyncio.create_task(talk(f"{pod_net}.{number}", int(size)), name=f"talk-{number}")
            for number, size in (peer.split(":") for peer in peers)
        ]
        await stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(live(os.environ["POD_NET"], sys.argv[1:]))
