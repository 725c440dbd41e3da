# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of a service, bounded: a client that reaches the port costs it little and cannot keep others out.

aiohttp by itself has no limit on connections, keeps an idle one for an hour, and holds a copy of the answer for each
reader that does not read. Here connections, what a request may hold, idle time and the time of an answer are bounded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CollectorRegistry, Counter

log = logging.getLogger(__name__)

# A new connection beyond these takes the place of the one that has been idle longest. New ones are never refused:
# somebody who holds all of them would otherwise fail the kubelet's probes, and with that restart the service.
CONNECTIONS = 64
# An answer is rendered once for all who ask within this time.
SHARED_SECONDS = 1.0
# Renderings that readers still hold; with so many, the newest serves all.
RENDERINGS = 4

_HEADERS = 32
_HEADER_BYTES = 4096
_WRITE_BYTES = 64 * 1024
_WARN_SECONDS = 60.0


def _is_the_services_fault(record: logging.LogRecord) -> bool:
    """Return whether an error is the service's own, not a bad request nor a connection that its reader closed.

    A traceback for each of these would let anyone fill the log.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, ConnectionError)))


_errors = log.getChild("errors")
_errors.addFilter(_is_the_services_fault)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Request(web.BaseRequest):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # Its default is the versions of Python and aiohttp. Every answer comes by here, those of bad requests too.
        response.headers.pop(hdrs.SERVER, None)


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """How long a connection may lie idle, or a request's header take; how long an answer, from that to its end."""

    idle_seconds: float = 20.0
    answer_seconds: float = 10.0


PATIENCE = HttpTimeouts()


class _Connection(RequestHandler):
    """aiohttp's connection; it tells when it is closed because nothing came."""

    __slots__ = ()

    def _process_keepalive(self) -> None:
        manager, was_closed = self._manager, self._force_close
        super()._process_keepalive()
        if self._force_close and not was_closed and isinstance(manager, BoundedServer):
            manager.count("idle")


class BoundedServer(web.Server):
    """aiohttp's server with the limits above. Which of them closed how many connections is counted."""

    def __init__(self, handler: Handler, registry: CollectorRegistry, patience: HttpTimeouts) -> None:
        super().__init__(
            self._answer,
            request_factory=self._request,
            handler_cancellation=True,
            access_log=None,
            logger=_errors,
            keepalive_timeout=patience.idle_seconds,
            lingering_time=0,
            max_headers=_HEADERS,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        self._handler = handler
        self._answer_seconds = patience.answer_seconds
        self._closed = Counter(
            "zonemeter_http_closed_connections",
            "Connections to --listen that the service closed: full (made room), idle, slow (took no answer in time).",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "idle", "slow"):
            self._closed.labels(reason)
        self._open: dict[RequestHandler, asyncio.Transport] = {}  # the longest idle first
        self._busy: set[RequestHandler] = set()
        self._warned_at: float | None = None

    def __call__(self) -> RequestHandler:
        """Make a connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def count(self, reason: str) -> None:
        """Count a connection that is closed for a reason."""
        self._closed.labels(reason).inc()

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in; beyond the limit, close another one."""
        super().connection_made(handler, transport)
        if len(self._open) >= CONNECTIONS:
            idle = (each for each in self._open if each not in self._busy)
            self._open.pop(next(idle, None) or next(iter(self._open))).abort()
            self.count("full")
            self._warn()
        self._open[handler] = transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        self._open.pop(handler, None)

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._warned_at is None or now - self._warned_at > _WARN_SECONDS:
            self._warned_at = now
            log.warning("more than %d connections to --listen: the longest idle ones are closed", CONNECTIONS)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol, transport = request.protocol, request.transport
        self._busy.add(protocol)
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await self._handler(request)
        except TimeoutError:
            self.count("slow")
            if transport is not None:
                transport.abort()  # `close` would wait for the reader to take what is buffered
            raise ConnectionResetError("the answer was not taken in time") from None
        finally:
            self._busy.discard(protocol)
            if protocol in self._open:
                self._open[protocol] = self._open.pop(protocol)


async def send(request: web.BaseRequest, body: bytes, content_type: str) -> web.StreamResponse:
    """Answer with a large body, at the reader's pace: a connection holds a piece of it, never a copy."""
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: content_type, hdrs.CONTENT_LENGTH: str(len(body))})
    await response.prepare(request)
    if request.method == hdrs.METH_GET:
        pieces = memoryview(body)
        for begin in range(0, len(body), _WRITE_BYTES):
            await response.write(pieces[begin : begin + _WRITE_BYTES])
    await response.write_eof()
    return response


@dataclass
class Rendering:
    """A body, and how many readers hold it."""

    body: bytes
    at: float
    readers: int = 0


class Rendered:
    """A body that is rendered in a thread, once for all who ask for it about the same time."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._running: asyncio.Task[Rendering] | None = None
        self._held: list[Rendering] = []  # the last is the newest; older ones are still being read

    async def answer(self, request: web.BaseRequest, content_type: str) -> web.StreamResponse:
        """Answer with a body that is at most `SHARED_SECONDS` old, or older while too many are still being read."""
        rendering = await self._newest()
        rendering.readers += 1
        try:
            return await send(request, rendering.body, content_type)
        finally:
            rendering.readers -= 1
            self._held = [each for each in self._held[:-1] if each.readers] + self._held[-1:]

    async def close(self) -> None:
        """Give up what is being rendered."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._running

    async def _newest(self) -> Rendering:
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            if self._held and (loop.time() - self._held[-1].at < SHARED_SECONDS or len(self._held) >= RENDERINGS):
                return self._held[-1]
            self._running = loop.create_task(self._again(), name="render-metrics")
        return await asyncio.shield(self._running)

    async def _again(self) -> Rendering:
        loop = asyncio.get_running_loop()
        # A thread of its own each time: it waits for no checkpoint and no spool, none of them waits for it, and it
        # keeps no rights that the process has given up since.
        executor = ThreadPoolExecutor(1, "render-metrics")
        try:
            body: Any = await loop.run_in_executor(executor, self._render)
        finally:
            executor.shutdown(wait=False)
        rendering = Rendering(body, loop.time())
        self._held = [each for each in self._held if each.readers] + [rendering]
        return rendering
