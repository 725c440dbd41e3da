# SPDX-License-Identifier: Apache-2.0
"""A watch of the reflector against the lab's API, which behaves as a real one, and misbehaves where a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from enricher.kube import reflector
from enricher.kube.errors import GoneError
from tests.support.enricher.watched import Cluster, Line, Script, status


def test_lists_in_pages_then_follows(run: Callable[..., None]) -> None:
    async def test(made: Cluster) -> None:
        await made.agrees()
        await made.touch("postgres-0")
        await made.agrees()
        await made.remove("postgres-0")
        await made.agrees()
        assert made.seen.dropped == ["postgres-0"]
        assert made.script.asked == ["list again", *["list continued"] * 3, "watch"]
        assert made.seen.failures == []

    run(test)


def test_too_old_a_version_leads_to_a_list_that_shows_what_went_meanwhile(run: Callable[..., None]) -> None:
    script = Script()

    async def test(made: Cluster) -> None:
        await made.agrees()
        script.watches = [status(503, "away")] * 3
        script.lines = [lambda _: None]
        await made.touch("postgres-0")
        await made.until(lambda: "503" in made.seen.reasons)
        await made.remove("postgres-0")
        made.api.store.compact()
        await made.agrees()
        await made.until(lambda: made.seen.lists == 2)
        assert made.seen.dropped == ["postgres-0"]
        assert "gone" in made.seen.reasons

    run(test, script)


@pytest.mark.parametrize(
    ("fault", "lists"),
    [
        pytest.param(lambda line: None, 1, id="the connection is cut"),
        pytest.param(lambda line: b'{"type":"MODIFIED","obj', 1, id="within a line"),
        pytest.param(lambda line: b"rubbish\n", 2, id="a line of rubbish"),
        pytest.param(lambda line: b'{"type":"MODIFIED","object":{"metadata":{}}}\n', 2, id="an object without a name"),
        pytest.param(
            lambda line: b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd"}}\n', 1, id="error 500"
        ),
        pytest.param(
            lambda line: b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n',
            2,
            id="error 410",
        ),
    ],
)
def test_a_watch_that_breaks_is_taken_up_again(run: Callable[..., None], fault: Line, lists: int) -> None:
    script = Script()

    async def test(made: Cluster) -> None:
        await made.agrees()
        await made.until(lambda: "watch" in script.asked)
        script.lines = [fault]
        await made.touch("postgres-0")
        await made.until(lambda: not script.lines)
        if lists == 1:
            script.lines = [lambda _: None]
            await made.touch("postgres-0")
        await made.agrees()
        await made.until(lambda: made.seen.lists >= lists)
        assert made.seen.lists == lists
        assert made.seen.failures

    run(test, script)


def test_a_silent_watch_ends_in_a_list(run: Callable[..., None]) -> None:
    async def test(made: Cluster) -> None:
        await made.until(lambda: made.script.asked.count("watch") >= 3)
        await made.touch("postgres-0")
        await made.agrees()
        assert made.seen.lists >= 3
        assert set(made.seen.reasons) == {"silent"}

    run(test, silence=1.1)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            lambda line: b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}\n', id="of a bookmark"
        ),
        pytest.param(
            lambda line: b'{"type":"MODIFIED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"7"}}}\n',
            id="of an object",
        ),
    ],
)
def test_a_version_that_goes_back_ends_in_a_list(run: Callable[..., None], line: Line) -> None:
    script = Script()

    async def test(made: Cluster) -> None:
        await made.agrees()
        await made.until(lambda: "watch" in script.asked)
        script.lines = [line]
        await made.touch("postgres-0")
        await made.until(lambda: made.seen.lists == 2)
        await made.agrees()
        [(why, said)] = made.seen.failures
        assert why == "restored"
        assert "to 7, as after etcd is restored from a backup; listing again" in said

    run(test, script)


def test_watches_that_end_at_once_are_no_hot_loop(run: Callable[..., None]) -> None:
    script = Script()
    script.watches = [lambda _: web.Response(text="", content_type="application/json")] * 1000

    async def test(made: Cluster) -> None:
        await made.agrees()
        await made.until(lambda: script.asked.count("watch") >= 2)
        await asyncio.sleep(1.0)  # the number of requests in a given time is what this is about
        assert script.asked.count("watch") < 10
        script.watches.clear()
        await made.remove("postgres-0")
        await made.agrees()

    run(test, script)


class Stream:
    def __init__(self, *blocks: bytes) -> None:
        self._blocks = blocks

    async def iter_any(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block


async def read(*blocks: bytes, longest: int = 100) -> list[bytes]:
    stream: Any = Stream(*blocks)
    return [line async for line in reflector.lines(stream, longest)]


def test_lines_are_put_together_from_blocks() -> None:
    assert asyncio.run(read(b"on", b"e\ntwo\n\nth", b"ree", b"\n")) == [b"one", b"two", b"three"]


def test_a_line_that_is_too_long_or_cut_off_is_an_error() -> None:
    with pytest.raises(GoneError):
        asyncio.run(read(b"x" * 99, b"x" * 2, b"\n"))
    with pytest.raises(ClientPayloadError):
        asyncio.run(read(b"one\ntw"))
