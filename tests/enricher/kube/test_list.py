# SPDX-License-Identifier: Apache-2.0
"""The lists of the reflector, and how it reaches the API: what fails is named, and tried again or refused."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from common.errors import Refusal
from enricher.kube.client import KubeClient
from enricher.kube.errors import KubeError
from enricher.kube.reflector import PODS, Reflector, new_backoff
from lab.kube.objects import pod_object
from tests.support.enricher.watched import (
    AT,
    PLAN,
    TOKEN,
    Answer,
    Cluster,
    Script,
    Seen,
    as_usual,
    status,
)


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
