# SPDX-License-Identifier: Apache-2.0
"""The lab's Kubernetes API, which misbehaves by a script, followed by a reflector that tells what it saw."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
from aiohttp import web

from enricher.kube.client import KubeClient
from enricher.kube.reflector import PODS, Reflector
from enricher.kube.states.objects import Object
from lab.kube.api import ApiSettings, KubeApi, serve, stored
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import objects
from lab.stories import shop
from tests.support.lab.faulty_api import FaultyApi

PLAN = shop()

AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)

TOKEN = "lab-token"

Answer = Callable[[web.Request], web.StreamResponse | None]

Line = Callable[[bytes], bytes | None]


class Script:
    """Faults, each used once in order: of lists, of watches, and of the lines of watches."""

    def __init__(self) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.lines: list[Line] = []
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        watch = "watch" in request.query
        self.asked.append("watch" if watch else f"list {'continued' if 'continue' in request.query else 'again'}")
        script = self.watches if watch else self.lists
        return script.pop(0)(request) if script else None

    async def line(self, _: web.Request, line: bytes) -> bytes | None:
        return self.lines.pop(0)(line) if self.lines else line


def status(code: int, text: str, **headers: str) -> Answer:
    return lambda _: web.Response(status=code, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})


def as_usual(_: web.Request) -> None:
    return None


class Seen:
    """A sink and a progress that remember."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.lists = 0
        self.failures: list[tuple[str, str]] = []
        self.dropped: list[str] = []

    def take(self, found: Object, version: str) -> None:
        assert version
        self.pods[found.metadata.uid] = found

    def drop(self, found: Object) -> None:
        self.dropped.append(found.metadata.name)
        self.pods.pop(found.metadata.uid, None)

    def retain(self, kind: str, uids: set[str], version: str) -> None:
        assert (kind, bool(version)) == ("pod", True)
        self.dropped += [found.metadata.name for uid, found in self.pods.items() if uid not in uids]
        self.pods = {uid: found for uid, found in self.pods.items() if uid in uids}

    def heard(self, resource: str) -> None:
        assert resource == "pods"

    def listed(self, resource: str) -> None:
        assert resource == "pods"
        self.lists += 1

    def failed(self, resource: str, why: str, line: str) -> None:
        assert resource == "pods"
        assert "\n" not in line
        self.failures.append((why, line))

    @property
    def reasons(self) -> list[str]:
        return [why for why, _ in self.failures]


class Cluster:
    """The lab's API, the reflector that follows it, and what it saw."""

    def __init__(self, api: KubeApi, script: Script, seen: Seen) -> None:
        self.api = api
        self.script = script
        self.seen = seen

    def truth(self) -> dict[str, str]:
        page = self.api.store.page("pods", limit=10_000)
        return {body["metadata"]["uid"]: body["metadata"]["resourceVersion"] for body in map(orjson.loads, page.items)}

    async def agrees(self) -> None:
        """Wait until what was seen is what is."""
        await self.until(
            lambda: {uid: pod.metadata.resource_version for uid, pod in self.seen.pods.items()} == self.truth()
        )

    async def until(self, check: Callable[[], object]) -> None:
        while not check():  # noqa: ASYNC110 - the condition lies in another coroutine
            await asyncio.sleep(0.01)

    async def remove(self, name: str) -> None:
        self.api.store.delete("pods", ("shop", name), "2026-11-22T09:10:00Z")
        await self.api.changed()

    async def touch(self, name: str) -> None:
        body = self.api.store.get("pods", ("shop", name))
        body["metadata"]["labels"]["touched"] = str(self.api.store.version)
        self.api.store.put("pods", body)
        await self.api.changed()


@contextlib.asynccontextmanager
async def following(
    directory: Path, script: Script, settings: ApiSettings, token: str, silence: float
) -> AsyncIterator[Cluster]:
    api, seen = FaultyApi(stored(objects(PLAN, AT)), settings, script), Seen()
    async with serve(api) as port:
        file = directory / "kubeconfig"
        file.write_bytes(kubeconfig(f"http://127.0.0.1:{port}", token))
        client = KubeClient("auto", file)
        await client.open()
        task = asyncio.create_task(Reflector(client, PODS, seen, seen, silence).run())
        try:
            yield Cluster(api, script, seen)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await client.close()
            assert task.cancelled(), task.exception()
