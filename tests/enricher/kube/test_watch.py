# SPDX-License-Identifier: Apache-2.0
"""The reflector against the lab's API, which behaves as a real one, and misbehaves where a test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from common.errors import Refusal
from enricher.kube import reflector
from enricher.kube.client import KubeClient
from enricher.kube.errors import GoneError, KubeError
from enricher.kube.reflector import PODS, Reflector, new_backoff
from enricher.kube.states.objects import Object
from lab.kube.api import ApiSettings, KubeApi, serve, stored
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import objects, pod_object
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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test against an API, quickly: small pages, short back-off."""
    monkeypatch.setattr(reflector, "PAGE_OBJECTS", 5)
    monkeypatch.setattr(reflector, "FIRST_BACKOFF_SECONDS", 0.02)

    def now(
        test: Callable[[Cluster], Awaitable[None]],
        script: Script | None = None,
        token: str = TOKEN,
        silence: float = 60,
    ) -> None:
        async def inside() -> None:
            settings = ApiSettings(TOKEN, bookmark_seconds=0.1 if silence >= 60 else 60)
            async with (
                asyncio.timeout(120),
                following(tmp_path, script or Script(), settings, token, silence) as made,
            ):
                await test(made)

        asyncio.run(inside())

    return now


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


def test_an_expired_continue_token_begins_the_list_anew(run: Callable[..., None]) -> None:
    script = Script()
    body = orjson.dumps({"kind": "Status", "code": 410, "message": "The provided continue parameter is too old"})
    script.lists = [as_usual, status(410, body.decode())]

    async def test(made: Cluster) -> None:
        await made.agrees()
        assert script.asked[:4] == ["list again", "list continued", "list again", "list continued"]
        assert "too old" in made.seen.failures[0][1]

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


@pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        pytest.param(status(503, "no healthy upstream"), "503", "no healthy upstream", id="503 as text"),
        pytest.param(status(429, "slow down", Retry_After="0.1"), "429", "slow down", id="429"),
        pytest.param(
            status(403, orjson.dumps({"message": 'pods is forbidden: User "x" cannot list'}).decode()),
            "403",
            "needs list and watch",
            id="403",
        ),
        pytest.param(lambda _: web.Response(text="<html>"), "malformed", "text/plain where JSON was due", id="text"),
        pytest.param(
            lambda _: web.Response(text="{", content_type="application/json"),
            "malformed",
            "the answer is not a list",
            id="half of a list",
        ),
        pytest.param(
            lambda _: web.Response(body=b'{"metadata":{"resourceVersion":"\xff"}}', content_type="application/json"),
            "malformed",
            "the answer is not a list",
            id="a list that is no UTF-8",
        ),
    ],
)
def test_a_list_that_fails_is_named_and_tried_again(
    run: Callable[..., None], fault: Answer, reason: str, says: str
) -> None:
    script = Script()
    script.lists = [fault]

    async def test(made: Cluster) -> None:
        await made.agrees()
        [(why, line)] = made.seen.failures
        assert why == reason
        assert says in line
        assert line.startswith("Kubernetes API at http://127.0.0.1:")

    run(test, script)


def test_a_list_that_never_comes_is_named() -> None:
    class Silent:
        server = "https://192.0.2.1"

        async def get(self, *_: Any) -> Any:
            raise TimeoutError

    client: Any = Silent()
    with pytest.raises(KubeError, match=r"TimeoutError$"):
        asyncio.run(Reflector(client, PODS, Seen(), Seen(), 1.0)._page({}))


def test_a_wrong_token_is_named_and_read_again_when_it_changes(run: Callable[..., None], tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        await made.until(lambda: made.seen.failures)
        assert made.seen.failures[0][0] == "401"
        assert "not accepted" in made.seen.failures[0][1]
        file = tmp_path / "kubeconfig"
        file.write_bytes(file.read_bytes().replace(b"wrong", TOKEN.encode()))
        await made.agrees()

    run(test, token="wrong")


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
        await asyncio.sleep(1.0)  # the number of requests in a given time is what this is about
        assert 2 <= script.asked.count("watch") < 10
        script.watches.clear()
        await made.remove("postgres-0")
        await made.agrees()

    run(test, script)


def test_an_object_that_cannot_be_read_is_named_and_does_not_count_as_gone(run: Callable[..., None]) -> None:
    script = Script()

    async def test(made: Cluster) -> None:
        await made.agrees()
        body = pod_object(PLAN, next(pod for pod in PLAN.pods if pod.name == "postgres-0"), AT)
        body["status"]["podIPs"] = "rubbish"
        made.api.store.put("pods", body)
        script.lines = [lambda _: None]
        made.api.store.compact()
        await made.api.changed()
        await made.until(lambda: "object" in made.seen.reasons)
        await made.until(lambda: made.seen.lists == 2)
        assert made.seen.dropped == []
        assert len(made.seen.pods) == len(PLAN.pods)

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


def test_backoff_grows_to_its_limit_and_begins_anew_after_health() -> None:
    backoff, now = new_backoff(), 1000.0
    waits = []
    for _ in range(8):
        waits.append(backoff.next_seconds(now))
        now += waits[-1]
    assert 0.8 <= waits[0] <= 1.6
    assert 2 <= waits[-1] <= 4
    assert 0.8 <= backoff.next_seconds(now + 121) <= 1.6


@pytest.mark.parametrize("content", ["", "rubbish: [", "kind: Config\nclusters: []\n"])
def test_a_kubeconfig_with_an_error_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(Refusal, match=str(file)) as caught:
        asyncio.run(KubeClient("kubeconfig", file).open())
    assert "\n" not in str(caught.value)


def test_no_kubeconfig_and_no_pod_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="nowhere"):
        asyncio.run(KubeClient("auto", tmp_path / "nowhere").open())
    with pytest.raises(Refusal, match="the pod's service account"):
        asyncio.run(KubeClient("in-cluster", None).open())
