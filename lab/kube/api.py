# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for pods, nodes and services: lists and watches over HTTP as the real one does.

Written against what kube-apiserver 1.34 answers. Selectors and writes are not served; `/lab/` changes the cluster
instead. Misbehaviour comes in from outside, as `Faults`.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import orjson
from aiohttp import web

from lab.kube.answers import (
    ApiError,
    ListQuery,
    continue_token,
    event,
    gone,
    list_answer,
    parse_list,
    single,
    status_object,
    too_large,
)
from lab.kube.control import add_control_routes, add_fault_routes
from lab.kube.faults import KubeFaults
from lab.kube.store import NAMESPACED, RESOURCES, CompactedError, FutureVersionError, NotFoundError, Object, Store
from lab.kube.watch import Watch, WatchQuery

log = logging.getLogger(__name__)


class Faults(Protocol):
    """What a test may put between the API and its clients."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Return an answer to give instead of the API's; None lets the API answer."""

    async def line(self, request: web.Request, line: bytes) -> bytes | None:
        """Return what to send instead of a watch's line; None cuts the connection."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API behaves.

    `token`: the bearer token wanted, None for none. `rights`: what it may do, (verb, resource), None for anything.
    """

    token: str | None = None
    rights: frozenset[tuple[str, str]] | None = None
    bookmark_seconds: float = 60.0  # kube-apiserver's: about once a minute


class ApiStart(msgspec.Struct, frozen=True):
    """The file the API's process starts from. With a certificate (PEM files) it speaks TLS."""

    port: int
    token: str
    objects: list[tuple[str, Object]]
    rights: list[tuple[str, str]] | None = None
    certificate: str | None = None
    key: str | None = None


class KubeApi:
    """The API over a store. In-process users change the store and then call `changed`.

    `asked` is what was asked for and allowed: (verb, resource).
    """

    def __init__(self, store: Store, settings: ApiSettings | None = None, faults: Faults | None = None) -> None:
        self.store = store
        self.settings = settings or ApiSettings()
        self.asked: set[tuple[str, str]] = set()
        self._faults = faults
        self._news = asyncio.Condition()

    async def changed(self) -> None:
        """Wake the watches: the store has new changes."""
        async with self._news:
            self._news.notify_all()

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024 * 1024)
        app.router.add_get("/version", _version)
        app.router.add_get("/readyz", _readyz)
        app.router.add_get("/api/v1/{resource}", self._collection)
        app.router.add_get("/api/v1/nodes/{name}", self._one)
        app.router.add_get("/api/v1/namespaces/{namespace}/{resource}", self._collection)
        app.router.add_get("/api/v1/namespaces/{namespace}/{resource}/{name}", self._one)
        add_control_routes(app, self.store, self.changed)
        app.router.add_get("/lab/asked", self._tell_asked)
        if isinstance(self._faults, KubeFaults):
            add_fault_routes(app, self._faults)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            control = request.path.startswith("/lab/")
            if self._faults and not control and (instead := await self._faults.answer(request)) is not None:
                return instead
            wanted = self.settings.token
            if (
                wanted is not None
                and request.path != "/readyz"
                and request.headers.get("Authorization") != f"Bearer {wanted}"
            ):
                raise ApiError(401, "Unauthorized", "Unauthorized")
            if not control and "resource" in request.match_info:
                self._authorize(request)
            return await handler(request)
        except ApiError as error:
            return _json(orjson.dumps(error.body), error.body["code"], error.headers)
        except NotFoundError as error:
            return _json(orjson.dumps(status_object(404, "NotFound", str(error))), 404)
        except web.HTTPNotFound:
            message = "the server could not find the requested resource"
            return _json(orjson.dumps(status_object(404, "NotFound", message)), 404)

    def _authorize(self, request: web.Request) -> None:
        watch = request.query.get("watch", "false").lower() in ("true", "1")
        verb = "get" if "name" in request.match_info else "watch" if watch else "list"
        asked = (verb, request.match_info["resource"])
        if self.settings.rights is not None and asked not in self.settings.rights:
            raise ApiError(403, "Forbidden", f'{asked[1]} is forbidden: cannot {verb} resource "{asked[1]}"')
        self.asked.add(asked)

    async def _one(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info.get("resource", "nodes")
        namespace = request.match_info.get("namespace", "")
        if resource not in RESOURCES:
            raise web.HTTPNotFound
        return _json(single(resource, self.store.get(resource, (namespace, request.match_info["name"]))))

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = request.match_info["resource"], request.match_info.get("namespace")
        if resource not in RESOURCES or (namespace and resource not in NAMESPACED):
            raise web.HTTPNotFound
        for name in ("labelSelector", "fieldSelector"):
            if request.query.get(name):
                raise ApiError(400, "BadRequest", f"the lab's API does not know {name}")
        if request.query.get("watch", "false").lower() in ("true", "1"):
            return await self._watch(request, resource, namespace)
        return self._list(parse_list(request.query), resource, namespace)

    def _list(self, query: ListQuery, resource: str, namespace: str | None) -> web.Response:
        try:
            page = self.store.page(resource, namespace, query.version, query.after, query.limit)
        except CompactedError as error:
            raise gone(str(error), query, self.store.version) from error
        except FutureVersionError as error:
            raise too_large(str(error)) from error
        if query.at_least and page.version < query.at_least:
            raise too_large(f"Too large resource version: {query.at_least}, current: {page.version}")
        token = continue_token(page) if page.next_after else None
        return _json(list_answer(resource, page, token))

    async def _watch(self, request: web.Request, resource: str, namespace: str | None) -> web.StreamResponse:
        watch = Watch(self.store, WatchQuery.parse(request.query), resource, namespace)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)

        async def send(line: bytes) -> None:
            sent = line if self._faults is None else await self._faults.line(request, line)
            if sent is None:
                if request.transport:
                    request.transport.abort()
                raise ConnectionAbortedError("a fault cut the watch")
            await response.write(sent)

        try:
            await watch.run(send, self._wait_for_change, self.settings.bookmark_seconds)
        except CompactedError as error:
            await send(event("ERROR", status_object(410, "Expired", str(error))))
        except ConnectionError as error:
            log.debug("watch of %s: %s", resource, error)
            return response
        await response.write_eof()
        return response

    async def _tell_asked(self, _: web.Request) -> web.Response:
        return _json(orjson.dumps(sorted(self.asked)))

    async def _wait_for_change(self, version: int, seconds: float) -> None:
        async with self._news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(lambda: self.store.version > version)


async def _version(_: web.Request) -> web.Response:
    return _json(orjson.dumps({"major": "1", "minor": "34", "gitVersion": "v1.34.1"}))


async def _readyz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


@contextlib.asynccontextmanager
async def serve(
    api: KubeApi, port: int = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve for the length of the block, over TLS if told how; yields the port (0 asks for any free one)."""
    runner = web.AppRunner(api.application(), handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def run_until_signal(start: ApiStart) -> None:
    """Serve a cluster until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store()
    for resource, body in start.objects:
        store.put(resource, body)
    rights = None if start.rights is None else frozenset(start.rights)
    api = KubeApi(store, ApiSettings(start.token, rights), KubeFaults())
    async with serve(api, start.port, tls=_tls(start)):
        await stop.wait()


def _tls(start: ApiStart) -> ssl.SSLContext | None:
    if start.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(start.certificate, start.key)
    return context


if __name__ == "__main__":
    asyncio.run(run_until_signal(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ApiStart)))
