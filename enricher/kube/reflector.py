# SPDX-License-Identifier: Apache-2.0
"""A reflector: lists the objects of one resource, then watches them, and never believes that all is well.

After client-go's tools/cache/reflector.go: list in pages, watch from the list's version with bookmarks, take up
again from the last version after an end, list again after a 410. kubernetes_asyncio's own Watch does none of that: it
has no deadline, no back-off, and takes an error's text for an event.

Beyond client-go: a watch from a version that does not exist yet hears nothing until it does. That is what is left when
etcd was restored from a backup, and what happened meanwhile nobody tells. So versions must never go back, which is
looked at whenever a watch is taken up again, and silence, too, ends in a new list.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import msgspec

from common.errors import Refusal
from common.service.backoff import Backoff
from enricher.kube.client import KubeClient, Status, one_line
from enricher.kube.errors import GoneError, KubeError
from enricher.kube.states.fields import is_older, list_version
from enricher.kube.states.objects import EndpointSlice, Metadata, Namespace, Node, Object, Pod, Service
from schemas.codec import UNREADABLE

log = logging.getLogger(__name__)

PAGE_OBJECTS = 500
PAGE_SECONDS = 60.0
# client-go's back-off (0.8 s, doubled, times 1 to 2, reset after two minutes without failure), except for its limit
# of 30 s: that spares an API server thousands of kubelets. Of enrichers there are few, and within 5 s of its return
# they are to know what happened.
FIRST_BACKOFF_SECONDS = 0.8
LONGEST_BACKOFF_SECONDS = 2.0
HEALTHY_SECONDS = 120.0
# The API server ends a watch after this long at the latest, so that none hangs forever.
WATCH_SECONDS = (300, 600)
# A watch that ends sooner than this is a failure, however politely it ended.
SHORT_WATCH_SECONDS = 1.0
# Far above etcd's limit for one object (1.5 MiB).
MAX_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resource:
    """What is listed and watched: its name in the API, its path, the kind of the states it makes, its type.

    `fields`: a field selector; "" for all.
    """

    name: str
    path: str
    kind: str
    type: type[Object]
    fields: str = ""


SERVICES = Resource("services", "/api/v1/services", "service", Service)
NODES = Resource("nodes", "/api/v1/nodes", "node", Node)
PODS = Resource("pods", "/api/v1/pods", "pod", Pod)
NAMESPACES = Resource("namespaces", "/api/v1/namespaces", "namespace", Namespace)
ENDPOINT_SLICES = Resource("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", "endpointslice", EndpointSlice)
# Of all slices the API servers' own.
API_SERVERS = Resource(
    "endpointslices",
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
    "endpointslice",
    EndpointSlice,
    fields="metadata.name=kubernetes",
)


class Sink(Protocol):
    """Where the objects go."""

    def take(self, found: Object, version: str) -> None:
        """Take in an object as it is now."""

    def drop(self, found: Object) -> None:
        """Take in that an object was deleted."""

    def retain(self, kind: str, uids: set[str], version: str) -> None:
        """Take in that a list is complete: of this kind only these exist."""


class Progress(Protocol):
    """What is told how it goes; `failed` gets one line."""

    def heard(self, resource: str) -> None:
        """Note that something came from the API."""

    def listed(self, resource: str) -> None:
        """Note that a list is complete."""

    def failed(self, resource: str, why: str, line: str) -> None:
        """Note that something did not work and will be tried again."""


class _PageMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str | None = msgspec.field(name="continue", default=None)


class _Page(msgspec.Struct):
    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct):
    metadata: _Versioned


class _Identified(msgspec.Struct):
    metadata: Metadata


class Reflector:
    """Keeps `sink` at the state of one resource until cancelled."""

    def __init__(
        self, client: KubeClient, resource: Resource, sink: Sink, progress: Progress, silence_seconds: float
    ) -> None:
        self._client = client
        self._resource = resource
        self._sink = sink
        self._progress = progress
        self._silence_seconds = silence_seconds
        self._version: str | None = None
        self._backoff = new_backoff()

    async def run(self) -> None:
        """List and watch forever."""
        while True:
            try:
                if self._version is None:
                    self._version = await self._list()
                    self._progress.listed(self._resource.name)
                else:
                    await self._compare()
                await self._watch()
            except KubeError as error:
                await self._recover(error)

    async def _recover(self, error: KubeError) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(error, GoneError):
            self._version = None
        self._progress.failed(self._resource.name, error.why, str(error))
        if error.status == 401 or error.why == "network":
            await self._reopen()
        await asyncio.sleep(max(self._backoff.next_seconds(loop.time()), error.retry_after_seconds or 0.0))

    def _selected(self, query: dict[str, str]) -> dict[str, str]:
        return query | ({"fieldSelector": self._resource.fields} if self._resource.fields else {})

    async def _reopen(self) -> None:
        try:
            await self._client.reopen()
        except Refusal as error:
            self._progress.failed(self._resource.name, "credentials", f"{error}; going on with the old ones")

    async def _compare(self) -> None:
        """Raise `GoneError` if the API's present is older than what was heard of it."""
        page = await self._page({"limit": "1"})
        self._progress.heard(self._resource.name)
        self._not_back(page.metadata.resource_version)

    def _not_back(self, version: str) -> None:
        if is_older(version, self._version or ""):
            raise GoneError(
                f"{self._place}: it went back from version {self._version} to {version}, as after etcd is restored "
                "from a backup; listing again",
                why="restored",
            )

    async def _list(self) -> str:
        """Take in every object, page by page; return the list's version."""
        query = {"limit": str(PAGE_OBJECTS)}
        uids: set[str] = set()
        while True:
            page = await self._page(query)
            self._progress.heard(self._resource.name)
            for item in page.items or ():
                uids |= self._take_listed(item, list_version(page.metadata.resource_version))
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
            await asyncio.sleep(0)
        self._sink.retain(self._resource.kind, uids, list_version(page.metadata.resource_version))
        return page.metadata.resource_version

    async def _page(self, query: dict[str, str]) -> _Page:
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                answer = await self._client.get(self._resource.path, self._selected(query), PAGE_SECONDS)
                try:
                    body = await answer.read()
                finally:
                    answer.close()
            return msgspec.json.decode(body, type=_Page)
        except UNREADABLE as error:
            raise KubeError(f"{self._place}: the answer is not a list: {error}", why="malformed") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubeError(f"{self._place}: {one_line(error)}") from error

    def _take_listed(self, item: msgspec.Raw, version: str) -> set[str]:
        try:
            found = msgspec.json.decode(item, type=self._resource.type)
        except UNREADABLE as error:
            self._progress.failed(self._resource.name, "object", f"{self._place}: an object cannot be read: {error}")
            return _uid_of(item)
        self._sink.take(found, version)
        return {found.metadata.uid}

    async def _watch(self) -> None:
        """Take in changes from the last version on until the watch ends; raise `KubeError` if it does badly."""
        loop = asyncio.get_running_loop()
        began, events = loop.time(), 0
        query = {
            "watch": "true",
            "resourceVersion": self._version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311 - spread, not a secret
        }
        answer = await self._client.get(self._resource.path, self._selected(query), self._silence_seconds)
        try:
            async for line in lines(answer.content, MAX_LINE_BYTES):
                self._event(line)
                events += 1
        except TimeoutError as error:
            # Not even a bookmark, which comes about every minute: a dead link looks like this, a version that does not
            # exist yet, and a resource of which nothing changed. Only a list tells them apart.
            raise GoneError(f"{self._place}: the watch fell silent; listing again", why="silent") from error
        except (aiohttp.ClientError, OSError) as error:
            raise KubeError(f"{self._place}: the watch broke off: {one_line(error)}") from error
        finally:
            answer.close()
        if not events and loop.time() - began < SHORT_WATCH_SECONDS:
            raise KubeError(f"{self._place}: the watch ended at once", why="ended")

    def _event(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                raise self._status(event.object)
            if event.type == "BOOKMARK":
                version = msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
                self._not_back(version)
            else:
                found = msgspec.json.decode(event.object, type=self._resource.type)
                version = found.metadata.resource_version
                self._not_back(version)
                if event.type == "DELETED":
                    self._sink.drop(found)
                else:
                    self._sink.take(found, version)
            self._version = version
        except UNREADABLE as error:
            # What it said is not known: only a list tells what is true now.
            raise GoneError(f"{self._place}: an event cannot be read: {error}", why="malformed") from error
        self._progress.heard(self._resource.name)

    def _status(self, raw: msgspec.Raw) -> KubeError:
        status = msgspec.json.decode(raw, type=Status)
        line = f"{self._place}: the watch ended: {status.code} {status.message}"
        if status.code == 410:
            return GoneError(line, 410)
        return KubeError(line, status.code or 500, status.retry_after_seconds)

    @property
    def _place(self) -> str:
        return f"Kubernetes API at {self._client.server}: {self._resource.path}"


def new_backoff() -> Backoff:
    """Return client-go's, but for its limit."""
    limits = FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
    return Backoff(*limits, chance=(1.0, 2.0), sound_seconds=HEALTHY_SECONDS)


async def lines(content: aiohttp.StreamReader, longest: int) -> AsyncIterator[bytes]:
    """Yield the lines of a stream; raise `GoneError` for one that is longer than `longest` bytes.

    aiohttp's own readline stops at 4 MiB, which one object can exceed.
    """
    rest = b""
    async for block in content.iter_any():
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > longest:
            raise GoneError(f"a watch's line is longer than {longest} bytes", why="too_long")
        await asyncio.sleep(0)
    if rest.strip():
        raise aiohttp.ClientPayloadError("it ended within a line")


def _uid_of(item: msgspec.Raw) -> set[str]:
    try:
        return {msgspec.json.decode(item, type=_Identified).metadata.uid}
    except UNREADABLE:
        return set()
