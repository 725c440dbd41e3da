# SPDX-License-Identifier: Apache-2.0
"""Real TCP and UDP between the pods of a running lab, all of it held by one process: a plan's streams, at their rates.

It says nothing about what went over the wire: that is `truth`.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path

from common.task_group import TaskGroup
from lab import stories
from lab.network import script
from lab.network.namespaces import make_socket
from lab.plan import Node, Outside, Plan, Pod, Stream
from lab.traffic.server import request, serve_tcp, serve_udp

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5
_REQUESTS_PER_CONNECTION = 50  # a Service spreads connections, not requests

Address = tuple[str, int]


class Traffic:
    """Servers in every pod and outside host, and clients. `requests` and `failures` count by `source -> target`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def run(self, streams: Iterable[Stream]) -> None:
        """Send what the streams say until cancelled; what fails is counted and tried again."""
        async with TaskGroup() as group:
            for stream in streams:
                for pod in self.plan.pods_of(stream.source):
                    group.create_task(self._stream(pod, stream), name=f"{pod.key} -> {stream.target}")

    async def _stream(self, pod: Pod, stream: Stream) -> None:
        name = f"{stream.source} -> {stream.target}"
        namespace = script.pod_namespace(self.plan.prefix, pod)
        pace = _pace(stream.per_second)
        for target in itertools.cycle(targets(self.plan, stream)):
            try:
                if stream.protocol == "tcp":
                    await self._connection(name, namespace, target, stream, pace)
                else:
                    await self._datagrams(name, namespace, target, stream, pace)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.failures[name] += 1
                log.debug("%s: %s", name, error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connection(
        self, name: str, namespace: str, target: Address, stream: Stream, pace: AsyncIterator[None]
    ) -> None:
        async with asyncio.timeout(_REQUEST_SECONDS):
            reader, writer = await connect(namespace, target)
        try:
            for _ in range(_REQUESTS_PER_CONNECTION):
                await anext(pace)
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await exchange(reader, writer, stream.request_bytes, stream.response_bytes)
                self.requests[name] += 1
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _datagrams(
        self, name: str, namespace: str, target: Address, stream: Stream, pace: AsyncIterator[None]
    ) -> None:
        loop = asyncio.get_running_loop()
        with connected_udp(namespace, target) as sender:
            for _ in range(_REQUESTS_PER_CONNECTION):
                await anext(pace)
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await loop.sock_sendall(sender, request(stream.request_bytes, stream.response_bytes))
                    missing = stream.response_bytes
                    while missing > 0:
                        missing -= len(await loop.sock_recv(sender, 65_536))
                self.requests[name] += 1


@contextlib.asynccontextmanager
async def traffic(plan: Plan) -> AsyncIterator[Traffic]:
    """Serve every port of every pod and outside host for the length of the block."""
    async with contextlib.AsyncExitStack() as stack:
        for namespace, address, ports in _served(plan):
            for port in ports:
                server = await serve_tcp(_bind(namespace, (address, port), socket.SOCK_STREAM))
                stack.callback(server.close)
                datagrams = await serve_udp(_bind(namespace, (address, port), socket.SOCK_DGRAM))
                stack.callback(datagrams.close)
        yield Traffic(plan)


def targets(plan: Plan, stream: Stream) -> list[Address]:
    """Return the addresses a stream's target stands for; raises `KeyError` for one the plan lacks."""
    kind, _, name = stream.target.rpartition(":")
    if kind == "service":
        service = plan.service(name)
        return [(service.cluster_ip_v4 if stream.family == 4 else service.cluster_ip_v6, stream.port)]
    hosts: Sequence[Pod | Node | Outside]
    if kind == "outside":
        hosts = [plan.outside(name)]
    elif kind == "node":
        hosts = [plan.node(name)]
    else:
        hosts = plan.pods_of(name)
    return [(host.address_v4 if stream.family == 4 else host.address_v6, stream.port) for host in hosts]


async def run_until_signal(plan: Plan) -> Counter[str]:
    """Run a plan's traffic until SIGINT or SIGTERM; return the requests answered, by `source -> target`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with traffic(plan) as running:
        streams = asyncio.create_task(running.run(plan.streams), name="streams")
        waiting = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({streams, waiting}, return_when=asyncio.FIRST_COMPLETED)
        streams.cancel()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await streams
        return running.requests


def _served(plan: Plan) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for pod in plan.pods:
        for address in (pod.address_v4, pod.address_v6):
            yield script.pod_namespace(plan.prefix, pod), address, pod.workload.ports
    for outside in plan.outsides:
        for address in (outside.address_v4, outside.address_v6):
            yield script.outside_namespace(plan.prefix, outside), address, outside.ports


def _bind(namespace: str, address: Address, kind: socket.SocketKind) -> socket.socket:
    bound = make_socket(namespace, _family(address), kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound


async def connect(namespace: str, target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection from a namespace."""
    made = make_socket(namespace, _family(target), socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(made, target)
        return await asyncio.open_connection(sock=made)
    except BaseException:
        made.close()
        raise


def connected_udp(namespace: str, target: Address) -> socket.socket:
    """Return a socket in a namespace that sends to the target."""
    made = make_socket(namespace, _family(target), socket.SOCK_DGRAM)
    made.connect(target)
    return made


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_bytes: int, response_bytes: int
) -> None:
    """Send one request, and receive all of its response."""
    writer.write(request(request_bytes, response_bytes))
    await writer.drain()
    while response_bytes > 0:
        chunk = await reader.read(min(response_bytes, 65_536))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", response_bytes)
        response_bytes -= len(chunk)


async def _pace(per_second: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    interval = 1 / per_second
    due = loop.time() + interval * random.random()  # noqa: S311 (spreads the starts, keeps no secret)
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield
        due = max(due + interval, loop.time() - 1.0)  # after a stall, at most a second is caught up


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[1]).read_bytes())
    plan = stories.make(sys.argv[2], described["prefix"], described["fabric"])
    asyncio.run(run_until_signal(plan.without(sys.argv[3:])))
