# SPDX-License-Identifier: Apache-2.0
"""Waits until processes of the lab say over HTTP that they are ready, in whatever namespace they listen."""

import asyncio
import socket

from lab.errors import LabError
from lab.network.namespaces import make_socket
from lab.processes import Process, Processes

Probe = tuple[Process, str | None, int]
"""Process, namespace (None: the root's), port on its loopback."""

_READY_SECONDS = 90.0
_ANSWER_SECONDS = 2.0
_POLL_SECONDS = 0.05
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"


async def wait_ready(processes: Processes, probes: list[Probe]) -> None:
    """Wait until all answer /readyz with 200; raises `LabError` naming the first that ended or is not ready in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_SECONDS
    for process, namespace, port in probes:
        while (status := await _status(namespace, port)) != 200:
            if not process.alive:
                raise LabError(f"{process.role}: ended: {processes.last_words(process.role)}")
            if loop.time() > deadline:
                answer = f"answers {status} to /readyz" if status else "does not answer"
                raise LabError(f"{process.role}: not ready after {_READY_SECONDS:.0f} s: {answer} on port {port}")
            await asyncio.sleep(_POLL_SECONDS)


async def _status(namespace: str | None, port: int) -> int:
    """Return the HTTP status of /readyz, 0 if there is no answer."""
    loop = asyncio.get_running_loop()
    with make_socket(namespace, socket.AF_INET, socket.SOCK_STREAM) as asking:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await loop.sock_connect(asking, ("127.0.0.1", port))
                await loop.sock_sendall(asking, _REQUEST)
                words = (await loop.sock_recv(asking, 64)).split()
        except (OSError, TimeoutError):
            return 0
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
