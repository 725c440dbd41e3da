# SPDX-License-Identifier: Apache-2.0
"""How a running cluster is changed from outside: `/lab/` on the API server, for tests and the demo.

`PUT` and `DELETE /lab/pods/NAMESPACE/NAME` (services alike), `/lab/nodes/NAME`; a body is a whole object as in a
list. `POST /lab/compact` makes older resourceVersions expire. They answer with the store's version.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
from aiohttp import web

from lab.kube.answers import ApiError
from lab.kube.objects import rfc3339
from lab.kube.store import NAMESPACED, RESOURCES, Key, Store


def add_control_routes(app: web.Application, store: Store, changed: Callable[[], Awaitable[None]]) -> None:
    """Add the routes; `changed` is called after every change of the store."""

    async def put(request: web.Request) -> web.Response:
        resource, key = _address(request)
        try:
            body = orjson.loads(await request.read())
            named = (body["metadata"].get("namespace", ""), body["metadata"]["name"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApiError(400, "BadRequest", f"body: not an object with metadata.name: {error!r}") from error
        if named != key:
            raise ApiError(400, "BadRequest", f"body: its name is {named}, the path says {key}")
        store.put(resource, body)
        await changed()
        return _answer(store)

    async def delete(request: web.Request) -> web.Response:
        resource, key = _address(request)
        store.delete(resource, key, rfc3339(datetime.now(UTC)))
        await changed()
        return _answer(store)

    async def compact(_: web.Request) -> web.Response:
        store.compact()
        await changed()
        return _answer(store)

    for path in ("/lab/{resource}/{name}", "/lab/{resource}/{namespace}/{name}"):
        app.router.add_put(path, put)
        app.router.add_delete(path, delete)
    app.router.add_post("/lab/compact", compact)


def _address(request: web.Request) -> tuple[str, Key]:
    resource, namespace = request.match_info["resource"], request.match_info.get("namespace", "")
    if resource not in RESOURCES or bool(namespace) != (resource in NAMESPACED):
        raise web.HTTPNotFound
    return resource, (namespace, request.match_info["name"])


def _answer(store: Store) -> web.Response:
    return web.json_response({"resourceVersion": str(store.version)})
