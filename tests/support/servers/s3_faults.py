# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of the S3 server that misbehaves as object stores do, by rules: one object store with bad days."""

import asyncio
import random
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

Act = Callable[[web.Request, "Answer"], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Answer:
    """What the server answers, asked once: `await answer()`."""

    request: web.Request
    session: aiohttp.ClientSession
    end_point: str

    async def __call__(self, *, drop: tuple[str, ...] = ()) -> web.Response:
        headers = {name: value for name, value in self.request.headers.items() if name not in drop}
        body = await self.request.read()
        url = f"{self.end_point}{self.request.raw_path}"
        method = self.request.method
        async with self.session.request(method, url, headers=headers, data=body, skip_auto_headers=_ALL) as got:
            content = await got.read()
            kept = {name: value for name, value in got.headers.items() if name not in _HOP}
            if method == "HEAD":
                kept["Content-Length"] = got.headers.get("Content-Length", "0")
            return web.Response(status=got.status, headers=kept, body=content)


_ALL = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_HOP = ("Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive")


@dataclass(slots=True)
class Rule:
    """What is done with requests of that method whose path and query match, so many times."""

    act: Act
    method: str = ".*"
    path: str = ".*"
    times: int = 1_000_000


@dataclass(slots=True)
class S3Faults:
    """The proxy. `rules`: the first that matches decides. `asked`: method and path of every request."""

    port: int = 0
    rules: list[Rule] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def add(self, act: Act, method: str = ".*", path: str = ".*", times: int = 1_000_000) -> None:
        """Misbehave from now on."""
        self.rules.append(Rule(act, method, path, times))

    def heal(self) -> None:
        """Behave."""
        self.rules.clear()

    def act_for(self, request: web.Request) -> Act | None:
        """Return what to do, and count it."""
        self.asked.append((request.method, request.path_qs))
        for rule in self.rules:
            matches = re.fullmatch(rule.method, request.method) and re.search(rule.path, request.path_qs)
            if matches and rule.times > 0:
                rule.times -= 1
                return rule.act
        return None


def refuse(status: int, code: str) -> Act:
    """Answer with an error, and do nothing."""

    async def act(request: web.Request, _: Answer) -> web.StreamResponse:
        await request.read()
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Said by a test.</Message></Error>'
        return web.Response(status=status, text=body, content_type="application/xml")

    return act


def late(seconds: float) -> Act:
    """Answer late."""

    async def act(_: web.Request, answer: Answer) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await answer()

    return act


async def cut(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Do it, say half of the answer and cut the connection."""
    whole = await answer()
    if request.method == "HEAD":
        return whole  # it has no half
    half = web.StreamResponse(status=whole.status, headers=whole.headers)
    content = whole.body if isinstance(whole.body, bytes) else b""
    half.content_length = len(content)
    await half.prepare(request)
    await half.write(content[: len(content) // 2])
    if request.transport:
        request.transport.abort()
    return half


async def unanswered(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Do it and cut the connection without a word."""
    await answer()
    if request.transport:
        request.transport.abort()
    return web.Response()


async def unconditional(_: web.Request, answer: Answer) -> web.StreamResponse:
    """Do it whatever the condition was."""
    return await answer(drop=("If-None-Match",))


def lagging(names: str) -> Act:
    """List without what matches."""

    async def act(_: web.Request, answer: Answer) -> web.StreamResponse:
        whole = await answer()
        text = whole.text or ""
        for part in re.findall(r"<Contents>.*?</Contents>|<CommonPrefixes>.*?</CommonPrefixes>", text, re.DOTALL):
            if re.search(names, part):
                text = text.replace(part, "")
        return web.Response(status=whole.status, text=text, content_type="application/xml")

    return act


def now_and_then(share: float, *acts: Act) -> Act:
    """Do one of these to some of the requests; the others are answered. In the same order each time."""
    choose = random.Random(20261129)

    async def act(request: web.Request, answer: Answer) -> web.StreamResponse:
        if choose.random() < share:
            return await choose.choice(acts)(request, answer)
        return await answer()

    return act


@contextmanager
def s3_faults(server_port: int) -> Iterator[S3Faults]:
    """Put one in front of a server on loopback."""
    faults, loop, up = S3Faults(), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as session:

            async def handle(request: web.Request) -> web.StreamResponse:
                answer = Answer(request, session, f"http://127.0.0.1:{server_port}")
                act = faults.act_for(request)
                try:
                    return await (act(request, answer) if act else answer())
                except ConnectionError:
                    return web.Response()  # the client was killed

            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            faults.port = runner.addresses[0][1]
            up.set()
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield faults
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
