# SPDX-License-Identifier: Apache-2.0
"""One client's watch of the lab's API: where it is in the log, and what it was told last. Knows no HTTP."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from lab.kube.answers import ApiError, Chosen, bookmark, event, initial_events_end, resource_version
from lab.kube.store import Store

Send = Callable[[bytes], Awaitable[None]]
WaitForChange = Callable[[int, float], Awaitable[None]]
"""Wait until the store is past a version, or for so many seconds."""


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """What a watch asks for. `version` 0: everything there is now as ADDED, then what follows."""

    version: int
    bookmarks: bool
    initial_events_end: bool
    timeout_seconds: float

    @staticmethod
    def parse(query: Mapping[str, str]) -> "WatchQuery":
        """Read a watch's parameters; raises `ApiError`."""
        return WatchQuery(
            version=resource_version(query.get("resourceVersion", "")),
            bookmarks=_true(query.get("allowWatchBookmarks")),
            initial_events_end=_true(query.get("sendInitialEvents")),
            timeout_seconds=_timeout(query.get("timeoutSeconds")),
        )


class Watch:
    """A watch of one resource."""

    def __init__(self, store: Store, query: WatchQuery, resource: str, only: Chosen = lambda _: True) -> None:
        self._store = store
        self._only = only
        self._query = query
        self._resource = resource
        self._position = query.version
        self._told = query.version

    async def run(self, send: Send, wait: WaitForChange, bookmark_seconds: float) -> None:
        """Send lines until the time is over, with a bookmark now and then and one just before the end.

        Raises `CompactedError` when the log no longer reaches back to where the watch is.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._query.timeout_seconds
        next_bookmark = loop.time() + bookmark_seconds
        if self._query.version == 0 or self._query.initial_events_end:
            await self._send_everything(send)
        while (now := loop.time()) < end:
            await wait(self._position, min(next_bookmark, end) - now)
            await self._send_changes(send)
            if loop.time() >= next_bookmark:
                await self._send_bookmark(send)
                next_bookmark = loop.time() + bookmark_seconds
        await self._send_bookmark(send)

    async def _send_everything(self, send: Send) -> None:
        page = self._store.page(self._resource)
        self._position = self._told = page.version
        for encoded in filter(self._only, page.items):
            await send(event("ADDED", encoded, self._resource))
        if self._query.initial_events_end:
            await send(initial_events_end(self._resource, page.version))

    async def _send_changes(self, send: Send) -> None:
        reached = self._store.version
        for change in list(self._store.changes_since(self._position, self._resource)):
            if not self._only(change.encoded):
                continue
            await send(event(change.kind, change.encoded, self._resource))
            self._told = change.version
        self._position = max(self._position, reached)

    async def _send_bookmark(self, send: Send) -> None:
        if self._query.bookmarks and self._position > self._told:
            await send(bookmark(self._resource, self._position))
            self._told = self._position


def _timeout(text: str | None) -> float:
    if not text:
        return random.uniform(1800, 3600)  # noqa: S311 (kube-apiserver: at least --min-request-timeout)
    if not text.isdecimal():
        raise ApiError(400, "BadRequest", f'timeoutSeconds: Invalid value: "{text}"')
    return float(text)


def _true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")
