# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for pods, nodes, services, namespaces and EndpointSlices: lists and watches over HTTP.

As the real one answers, kube-apiserver 1.34, of all namespaces together; EndpointSlices also of one, and of one name.
Other selectors, single objects and writes are not served; `/lab/` changes the cluster instead.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import orjson
from aiohttp import web

from lab.kube.answers import (
    ApiError,
    Chosen,
    ListQuery,
    chosen,
    continue_token,
    event,
    gone,
    list_answer,
    parse_list,
    status_object,
    too_large,
)
from lab.kube.control import add_control_routes
from lab.kube.store import RESOURCES, CompactedError, FutureVersionError, NotFoundError, Object, Store
from lab.kube.watch import Watch, WatchQuery

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API behaves. `token`: the bearer token wanted, None for none."""

    token: str | None = None
    bookmark_seconds: float = 60.0  # kube-apiserver's: about once a minute


class ApiStart(msgspec.Struct, frozen=True):
    """The file the API's process starts from."""

    port: int
    token: str
    objects: list[tuple[str, Object]]


class KubeApi:
    """The API over a store. In-process users change the store and then call `changed`."""

    def __init__(self, store: Store, settings: ApiSettings | None = None) -> None:
        self.store = store
        self.settings = settings or ApiSettings()
        self._news = asyncio.Condition()

    async def changed(self) -> None:
        """Wake the watches: the store has new changes."""
        async with self._news:
            self._news.notify_all()

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024 * 1024)
        app.router.add_get("/readyz", _readyz)
        app.router.add_get("/api/v1/{resource}", self._collection)
        app.router.add_get("/apis/discovery.k8s.io/v1/{resource:endpointslices}", self._collection)
        app.router.add_get(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/{resource:endpointslices}", self._collection
        )
        add_control_routes(app, self.store, self.changed)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.path != "/readyz":
                self.authorize(request)
            return await handler(request)
        except ApiError as error:
            return _json(orjson.dumps(error.body), error.body["code"], error.headers)
        except NotFoundError as error:
            return _json(orjson.dumps(status_object(404, "NotFound", str(error))), 404)
        except web.HTTPNotFound:
            message = "the server could not find the requested resource"
            return _json(orjson.dumps(status_object(404, "NotFound", message)), 404)

    def authorize(self, request: web.Request) -> None:
        """Raise `ApiError` if this client may not ask this."""
        wanted = self.settings.token
        if wanted is not None and request.headers.get("Authorization") != f"Bearer {wanted}":
            raise ApiError(401, "Unauthorized", "Unauthorized")

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info["resource"]
        if resource not in RESOURCES:
            raise web.HTTPNotFound
        if request.query.get("labelSelector"):
            raise ApiError(400, "BadRequest", "the lab's API does not know labelSelector")
        only = chosen(request.match_info.get("namespace"), request.query.get("fieldSelector", ""))
        if request.query.get("watch", "false").lower() in ("true", "1"):
            return await self._watch(request, resource, only)
        return self._list(parse_list(request.query), resource, only)

    def _list(self, query: ListQuery, resource: str, only: Chosen) -> web.Response:
        try:
            page = self.store.page(resource, query.version, query.after, query.limit)
        except CompactedError as error:
            raise gone(str(error), query, self.store.version) from error
        except FutureVersionError as error:
            raise too_large(str(error)) from error
        if query.at_least and page.version < query.at_least:
            raise too_large(f"Too large resource version: {query.at_least}, current: {page.version}")
        page = replace(page, items=[item for item in page.items if only(item)])
        token = continue_token(page) if page.next_after else None
        return _json(list_answer(resource, page, token))

    async def _watch(self, request: web.Request, resource: str, only: Chosen) -> web.StreamResponse:
        watch = Watch(self.store, WatchQuery.parse(request.query), resource, only)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        send = partial(self.send, request, response)
        try:
            await watch.run(send, self._wait_for_change, self.settings.bookmark_seconds)
        except CompactedError as error:
            await send(event("ERROR", status_object(410, "Expired", str(error))))
        except ConnectionError as error:
            log.debug("watch of %s: %s", resource, error)
            return response
        await response.write_eof()
        return response

    async def send(self, request: web.Request, response: web.StreamResponse, line: bytes) -> None:
        """Send a line of a watch; raises `ConnectionError`."""
        await response.write(line)

    async def _wait_for_change(self, version: int, seconds: float) -> None:
        async with self._news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(lambda: self.store.version > version)


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


def stored(objects: Iterable[tuple[str, Object]]) -> Store:
    """Return a store with these objects in it."""
    store = Store()
    for resource, body in objects:
        store.put(resource, body)
    return store


async def run_until_signal(api: KubeApi, port: int, tls: ssl.SSLContext | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(api, port, tls=tls):
        await stop.wait()


if __name__ == "__main__":
    wanted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ApiStart)
    asyncio.run(run_until_signal(KubeApi(stored(wanted.objects), ApiSettings(wanted.token)), wanted.port))
