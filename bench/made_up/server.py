# SPDX-License-Identifier: Apache-2.0
"""A large cluster's API server, for the index's figures: ready-made pages, and a watch that changes pods at a rate.

    python -m bench.made_up.server PORT

The lab's API makes each page when it is asked for and keeps every version; this one costs as little as possible, so
that what is measured is the client. `GET /changes?rate=1000` sets how many pod changes a second the watch tells.
"""

import asyncio
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import orjson
from aiohttp import web

from bench.made_up.objects import NODES, PODS_A_NODE, SERVICES, Object, node_object, pod_object, service_object

PAGE_OBJECTS = 500
TICK_SECONDS = 0.01
# How long an address stays free before another pod gets it.
_REUSE_SECONDS = 10.0


class Changes:
    """What happens to pods, one event after the other: readiness lost or won, one deleted, a new one at an address."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._lives = [0] * (NODES * PODS_A_NODE)
        self._unready: set[int] = set()
        self._free: deque[tuple[float, int]] = deque()
        self._versions = itertools.count(2000)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            number = self._alive()
            yield self._event("MODIFIED", number, ready=number in self._unready)
            self._unready ^= {number}
            number = self._alive()
            yield self._event("DELETED", number, ended=True)
            self._free.append((time.monotonic(), number))
            self._lives[number] = -self._lives[number] - 1
            if self._free[0][0] < time.monotonic() - _REUSE_SECONDS:
                number = self._free.popleft()[1]
                self._lives[number] *= -1
                yield self._event("ADDED", number)

    def _alive(self) -> int:
        while self._lives[number := self._chance.randrange(len(self._lives))] < 0:
            pass
        return number

    def _event(self, kind: str, number: int, *, ready: bool = True, ended: bool = False) -> bytes:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = pod_object(*divmod(number, PODS_A_NODE), self._lives[number], at, ready=ready)
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        if ended:
            for container in found["status"]["containerStatuses"]:
                container["state"] = {"terminated": {"exitCode": 0, "startedAt": at, "finishedAt": at}}
        return orjson.dumps({"type": kind, "object": {"kind": "Pod", "apiVersion": "v1"} | found}) + b"\n"


class Server:
    """The pages of each resource, and its watch."""

    def __init__(self) -> None:
        pods = itertools.product(range(NODES), range(PODS_A_NODE))
        self._pages = {
            "nodes": list(_pages(NODES, node_object)),
            "services": list(_pages(SERVICES, service_object)),
            "pods": list(_pages(NODES * PODS_A_NODE, lambda _: pod_object(*next(pods)))),
        }
        self._rate = 0.0

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application()
        app.router.add_get("/api/v1/{resource}", self._collection)
        app.router.add_get("/changes", self._change)
        return app

    async def _change(self, request: web.Request) -> web.Response:
        self._rate = float(request.query["rate"])
        return web.Response(text="ok")

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info["resource"]
        if "watch" in request.query:
            return await self._watch(request, resource)
        page = self._pages[resource][int(request.query.get("continue", "0"))]
        return web.Response(body=page, content_type="application/json")

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        changes, told, due = iter(Changes()), 0, 0.0
        last = time.monotonic()
        # The client goes when it has what it wants.
        with suppress(ConnectionResetError):
            while True:
                await asyncio.sleep(TICK_SECONDS)
                now = time.monotonic()
                due, last = due + (now - last) * self._rate * (resource == "pods"), now
                if due >= told + 1:
                    lines = list(itertools.islice(changes, int(due) - told))
                    told += len(lines)
                    await response.write(b"".join(lines))
        return response


def _pages(count: int, made: Callable[[int], Object]) -> Iterator[bytes]:
    for begin in range(0, count, PAGE_OBJECTS):
        end = min(begin + PAGE_OBJECTS, count)
        following = {"continue": str(end // PAGE_OBJECTS), "remainingItemCount": count - end} if end < count else {}
        head = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1000"} | following}
        yield orjson.dumps(head | {"items": [made(number) for number in range(begin, end)]})


def main() -> None:
    """Serve until ended."""
    server = Server()
    web.run_app(server.application(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
