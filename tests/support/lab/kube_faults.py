# SPDX-License-Identifier: Apache-2.0
"""How the lab's Kubernetes API misbehaves on demand: each fault has a name, lasts until it is healed, and counts.

What fails is what real API servers, load balancers before them and broken links do; texts are kube-apiserver's.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import orjson
from aiohttp import web

from lab.kube.answers import event, status_object

_EXPIRED = "The provided continue parameter is too old to display a consistent list result"
_INITIALIZING, _LATER = "storage is (re)initializing", {"retryAfterSeconds": 1}
_RUBBISH = "<html><body>502 Bad Gateway</body></html>"


def _status(code: int, reason: str, message: str, **headers: str) -> web.Response:
    body = orjson.dumps(status_object(code, reason, message))
    return web.Response(status=code, body=body, content_type="application/json", headers=headers)


# Instead of any answer, to lists and watches alike.
_ANSWERS: dict[str, Callable[[], web.Response]] = {
    "429": lambda: web.Response(status=429, text="Too many requests", headers={"Retry-After": "1"}),
    "500": lambda: _status(500, "InternalError", "etcdserver: request timed out"),
    "503": lambda: web.Response(status=503, text="no healthy upstream"),
    "401": lambda: _status(401, "Unauthorized", "Unauthorized"),
    "403": lambda: _status(403, "Forbidden", 'pods is forbidden: User "x" cannot list resource "pods"'),
    "text": lambda: web.Response(text=_RUBBISH, content_type="text/html"),
}
# Instead of a watch's line. Half a line is followed by the end of the connection.
_LINES: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda line: None,
    "half-line": lambda line: line[: len(line) // 2],
    "rubbish-line": lambda line: b"rubbish\n",
    "watch-410": lambda line: event("ERROR", status_object(410, "Expired", "too old resource version: 1 (2)")),
    "watch-500": lambda line: event("ERROR", status_object(500, "InternalError", "etcdserver: leader changed")),
    "watch-429": lambda line: event("ERROR", status_object(429, "TooManyRequests", _INITIALIZING, details=_LATER)),
}
_OTHERS = ("list-410", "continue-410", "watch-ends", "reset", "unanswered", "silence")
NAMES = (*_ANSWERS, *_LINES, *_OTHERS)


class KubeFaults:
    """The faults that are on. `hits` counts, by name, what they did; `told` is the last line of each path's watches."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.told: dict[str, bytes] = {}
        self._on: set[str] = set()
        self._healed = asyncio.Event()

    def begin(self, name: str) -> None:
        """Turn a fault on; raises `KeyError` for one that there is not."""
        if name not in NAMES:
            raise KeyError(name)
        if not self._on:
            self._healed = asyncio.Event()
        self._on.add(name)

    def heal(self) -> None:
        """Turn all of them off; what hangs in one is cut off."""
        self._on.clear()
        self._healed.set()

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Return an answer to give instead of the API's; None lets the API answer."""
        watch = "watch" in request.query
        for name in list(self._on):
            if name in _ANSWERS:
                self.hits[name] += 1
                return _ANSWERS[name]()
            if (name == "list-410" and not watch) or (name == "continue-410" and "continue" in request.query):
                self.hits[name] += 1
                return _status(410, "Expired", _EXPIRED)
            if name == "watch-ends" and watch:
                self.hits[name] += 1
                return web.Response(text="", content_type="application/json")
            if name in ("reset", "unanswered"):
                self.hits[name] += 1
                return await self._hang(request, until_healed=name == "unanswered")
        return None

    async def line(self, request: web.Request, line: bytes) -> bytes | None:
        """Return what to send instead of a watch's line; None cuts the connection."""
        if request.get("cut"):
            return None
        self.told[request.path] = line
        for name in list(self._on):
            if name in _LINES:
                self.hits[name] += 1
                request["cut"] = name == "half-line"
                return _LINES[name](line)
            if name == "silence":
                self.hits[name] += 1
                await self._healed.wait()
                return None
        return line

    async def _hang(self, request: web.Request, *, until_healed: bool) -> web.Response:
        if until_healed:
            await self._healed.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
