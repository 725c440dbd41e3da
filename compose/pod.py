# SPDX-License-Identifier: Apache-2.0
"""A pod of `docker-compose.yml`'s demo: serves TCP, and asks its peers for so many bytes ten times a second.

    pod.py POD_NET [NUMBER:BYTES ...]

Docker puts its containers on one link, where this host would not see their packets at its IP layer. Kubernetes' pods
reach each other through their node; so a pod here takes the link's route away and leaves only that to its gateway.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator

from pyroute2 import IPRoute

from common.terminal import say
from lab.traffic_server import request, serve_tcp

PORT = 8080
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 1.0


def route_through_gateway(pod_net: str) -> None:
    """Replace the route to `pod_net`.0/24 on the link by one to the gateway, which the default route names."""
    with IPRoute() as route:
        (device,) = route.link_lookup(ifname="eth0")
        route.route("replace", dst=f"{pod_net}.1/32", oif=device, scope="link")
        route.route("del", dst=f"{pod_net}.0/24", oif=device, scope="link")


async def talk(address: str, response_bytes: int) -> None:
    """Ask one peer, over one connection after another, until cancelled; then say how much it answered."""
    answered = 0
    try:
        async for size in answers(address, response_bytes):
            answered += size
    finally:
        say(f"answered by {address}: {answered} bytes")


async def answers(address: str, response_bytes: int) -> AsyncIterator[int]:
    """Yield the size of each answer of a peer, for ever."""
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
    route_through_gateway(sys.argv[1])
    asyncio.run(live(sys.argv[1], sys.argv[2:]))
