# SPDX-License-Identifier: Apache-2.0
"""The lab's Kubernetes API with what tests put between it and its clients: faults, rights, TLS.

`PUT /lab/faults/NAME` begins a fault (kube_faults.py names them), `DELETE /lab/faults` heals them all, `GET
/lab/faults` tells what they did, and `GET /lab/asked` what was asked for: verb and resource.
"""

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from lab.kube.answers import ApiError
from lab.kube.api import ApiSettings, ApiStart, KubeApi, run_until_signal, stored
from lab.kube.store import Store
from tests.support.lab.kube_faults import KubeFaults


class Faults(Protocol):
    """What stands between."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Return an answer to give instead of the API's; None lets the API answer."""

    async def line(self, request: web.Request, line: bytes) -> bytes | None:
        """Return what to send instead of a watch's line; None cuts the connection."""


class FaultyStart(ApiStart, frozen=True):
    """The file the process starts from. With a certificate (PEM files) it speaks TLS."""

    rights: list[tuple[str, str]] | None = None
    certificate: str | None = None
    key: str | None = None


class FaultyApi(KubeApi):
    """`rights` are what a client may do, (verb, resource), None for anything; `asked` is what it did of that."""

    def __init__(self, store: Store, settings: ApiSettings | None = None, faults: Faults | None = None) -> None:
        super().__init__(store, settings)
        self.rights: frozenset[tuple[str, str]] | None = None
        self.asked: set[tuple[str, str]] = set()
        self._faults = faults or KubeFaults()

    def application(self) -> web.Application:
        app = super().application()
        app.middlewares.insert(0, self._misbehave)
        app.router.add_get("/lab/asked", self._tell_asked)
        if isinstance(self._faults, KubeFaults):
            _add_routes(app, self._faults)
        return app

    def authorize(self, request: web.Request) -> None:
        super().authorize(request)
        if request.path.startswith("/lab/") or "resource" not in request.match_info:
            return
        watch = request.query.get("watch", "false").lower() in ("true", "1")
        verb = "watch" if watch else "list"
        # As a role's resourceNames has it.
        _, _, name = request.query.get("fieldSelector", "").rpartition("metadata.name=")
        asked = (verb, "/".join(filter(None, (request.match_info["resource"], name))))
        if self.rights is not None and asked not in self.rights:
            raise ApiError(403, "Forbidden", f'{asked[1]} is forbidden: cannot {verb} resource "{asked[1]}"')
        self.asked.add(asked)

    async def send(self, request: web.Request, response: web.StreamResponse, line: bytes) -> None:
        sent = await self._faults.line(request, line)
        if sent is None:
            if request.transport:
                request.transport.abort()
            raise ConnectionAbortedError("a fault cut the watch")
        await super().send(request, response, sent)

    @web.middleware
    async def _misbehave(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        instead = None if request.path.startswith("/lab/") else await self._faults.answer(request)
        return await handler(request) if instead is None else instead

    async def _tell_asked(self, _: web.Request) -> web.Response:
        return web.json_response(sorted(self.asked))


def _add_routes(app: web.Application, faults: KubeFaults) -> None:
    async def begin(request: web.Request) -> web.Response:
        try:
            faults.begin(request.match_info["name"])
        except KeyError as error:
            raise web.HTTPNotFound from error
        return web.json_response(faults.hits)

    async def heal(_: web.Request) -> web.Response:
        faults.heal()
        return web.json_response(faults.hits)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(faults.hits)

    app.router.add_put("/lab/faults/{name}", begin)
    app.router.add_delete("/lab/faults", heal)
    app.router.add_get("/lab/faults", tell)


def _tls(start: FaultyStart) -> ssl.SSLContext | None:
    if start.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(start.certificate, start.key)
    return context


if __name__ == "__main__":
    wanted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=FaultyStart)
    api = FaultyApi(stored(wanted.objects), ApiSettings(wanted.token))
    api.rights = None if wanted.rights is None else frozenset(wanted.rights)
    asyncio.run(run_until_signal(api, wanted.port, _tls(wanted)))
