# SPDX-License-Identifier: Apache-2.0
"""The API as kubernetes_asyncio sees it: its client, raw responses, a kubeconfig file."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from lab.kube.api import ApiSettings, KubeApi, serve, stored
from lab.kube.kubeconfig import kubeconfig
from lab.kube.objects import objects, pod_object, service_object
from lab.stories import found, shop
from tests.support.lab.faulty_api import Faults, FaultyApi

PLAN = shop()
AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
TOKEN = "lab-token"


class Cluster:
    def __init__(self, api: KubeApi, core: Any, url: str) -> None:
        self.api = api
        self.store = api.store
        self.core = core
        self.url = url

    async def pages(self, resource: str = "pod", **query: Any) -> Any:
        listed = getattr(self.core, f"list_{resource}_for_all_namespaces", None) or self.core.list_node
        response = await listed(_preload_content=False, **query)
        answer = orjson.loads(await response.read())
        return response.status, answer

    async def watch(self, **query: Any) -> list[dict[str, Any]]:
        response = await self.core.list_pod_for_all_namespaces(
            watch=True, _preload_content=False, _request_timeout=120, **query
        )
        with contextlib.closing(response):
            assert response.status == 200
            return [orjson.loads(line) async for line in response.content]

    async def remove(self, name: str) -> None:
        self.store.delete("pods", ("shop", name), "2026-11-22T09:10:00Z")
        await self.api.changed()


@contextlib.asynccontextmanager
async def cluster(
    directory: Path, settings: ApiSettings, token: str = TOKEN, faults: Faults | None = None
) -> AsyncIterator[Cluster]:
    store = stored(objects(PLAN, AT))
    api = KubeApi(store, settings) if faults is None else FaultyApi(store, settings, faults)
    async with serve(api) as port:
        file = directory / "kubeconfig"
        file.write_bytes(kubeconfig(f"http://127.0.0.1:{port}", token))
        configuration = client.Configuration()
        await config.load_kube_config(str(file), client_configuration=configuration)
        async with client.ApiClient(configuration) as connection:
            yield Cluster(api, client.CoreV1Api(connection), f"http://127.0.0.1:{port}")


def run(
    directory: Path,
    test: Callable[[Cluster], Awaitable[None]],
    settings: ApiSettings | None = None,
    token: str = TOKEN,
    faults: Faults | None = None,
) -> None:
    async def inside() -> None:
        async with asyncio.timeout(120), cluster(directory, settings or ApiSettings(TOKEN), token, faults) as made:
            await test(made)

    asyncio.run(inside())


def test_a_list_in_pages_is_a_snapshot(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        status, page = await made.pages(limit=7)
        version = page["metadata"]["resourceVersion"]
        assert (status, page["kind"], page["metadata"]["remainingItemCount"]) == (200, "PodList", 9)
        names = [item["metadata"]["name"] for item in page["items"]]
        await made.remove("postgres-0")
        while token := page["metadata"].get("continue"):
            _, page = await made.pages(limit=7, _continue=token)
            assert page["metadata"]["resourceVersion"] == version
            names += [item["metadata"]["name"] for item in page["items"]]
        assert sorted(names) == sorted(pod.name for pod in PLAN.pods)
        _, after = await made.pages()
        assert len(after["items"]) == len(PLAN.pods) - 1

    run(tmp_path, test)


def test_objects_are_what_the_packages_models_read(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        pods = (await made.core.list_pod_for_all_namespaces()).items
        api = next(pod for pod in pods if pod.metadata.labels["app"] == "api")
        owner = api.metadata.owner_references[0]
        assert (owner.kind, owner.name) == ("ReplicaSet", f"api-{api.metadata.labels['pod-template-hash']}")
        assert [entry.ip for entry in api.status.pod_ips] == ["10.42.2.10", "fd42:2::10"]
        assert api.status.start_time == AT
        node = next(node for node in (await made.core.list_node()).items if node.metadata.name == "node-b1")
        assert node.metadata.labels["topology.kubernetes.io/zone"] == "lab-1b"
        assert node.spec.pod_cidrs == ["10.42.3.0/24", "fd42:3::/64"]
        service = (await made.core.list_service_for_all_namespaces()).items[0]
        assert (service.spec.cluster_ips, service.spec.selector) == (["10.96.0.10", "fd96::10"], {"app": "api"})
        one = next(pod for pod in pods if pod.metadata.name == "postgres-0")
        assert one.metadata.owner_references[0].kind == "StatefulSet"

    run(tmp_path, test)


def test_a_service_that_keeps_traffic_in_the_zone_says_so() -> None:
    plan = found()
    specs = {service.name: service_object(plan, service, AT)["spec"] for service in plan.services}
    close = {name for name, spec in specs.items() if spec.get("trafficDistribution") == "PreferClose"}
    assert close == {"api", "cart", "postgres"}


def test_resource_version_zero_ignores_the_limit(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        _, listed = await made.pages(limit=2, resource_version="0")
        assert len(listed["items"]) == len(PLAN.pods)
        assert "continue" not in listed["metadata"]

    run(tmp_path, test)


def test_a_watch_goes_on_from_a_list(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        _, listed = await made.pages()
        watching = asyncio.create_task(
            made.watch(resource_version=listed["metadata"]["resourceVersion"], timeout_seconds=1)
        )
        pod = pod_object(PLAN, PLAN.pods[0], AT)
        pod["status"]["phase"] = "Succeeded"
        made.store.put("pods", pod)
        await made.api.changed()
        await made.remove("postgres-0")
        events = await watching
        assert [event["type"] for event in events] == ["MODIFIED", "MODIFIED", "DELETED"]
        assert events[0]["object"]["kind"] == "Pod"
        assert events[0]["object"]["status"]["phase"] == "Succeeded"
        assert "deletionTimestamp" in events[1]["object"]["metadata"]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
        assert versions == sorted(set(versions))

    run(tmp_path, test)


def test_a_watch_from_nowhere_begins_with_what_is_there(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        events = await made.watch(timeout_seconds=1)
        assert {event["type"] for event in events} == {"ADDED"}
        assert len(events) == len(PLAN.pods)

    run(tmp_path, test)


def test_a_streaming_list_ends_with_its_bookmark(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        events = await made.watch(
            timeout_seconds=1,
            send_initial_events=True,
            resource_version_match="NotOlderThan",
            allow_watch_bookmarks=True,
        )
        assert [event["type"] for event in events] == ["ADDED"] * len(PLAN.pods) + ["BOOKMARK"]
        assert events[-1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}

    run(tmp_path, test)


def test_bookmarks_come_at_their_period_and_before_the_end_if_the_version_moved(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        start = str(made.store.version)
        watching = asyncio.create_task(
            made.watch(resource_version=start, allow_watch_bookmarks=True, timeout_seconds=1)
        )
        made.store.put("nodes", {"metadata": {"name": "node-x"}})  # moves the version, says nothing about pods
        await made.api.changed()
        events = await watching
        assert [event["type"] for event in events] == ["BOOKMARK"]
        assert events[0]["object"]["metadata"]["resourceVersion"] == str(made.store.version)
        assert await made.watch(resource_version=start, timeout_seconds=1) == []

    run(tmp_path, test, ApiSettings(TOKEN, bookmark_seconds=0.3))
    run(tmp_path, test, ApiSettings(TOKEN, bookmark_seconds=60))


def test_a_watch_too_old_is_a_200_and_an_error_event_with_410(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        start = str(made.store.version)
        made.store.put("nodes", {"metadata": {"name": "node-x"}})
        made.store.compact()
        (event,) = await made.watch(resource_version=start, timeout_seconds=5)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")

    run(tmp_path, test)


def test_an_expired_continue_is_an_http_410_with_a_way_on(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        _, page = await made.pages(limit=10)
        await made.remove("postgres-0")
        made.store.compact()
        status, gone = await made.pages(limit=10, _continue=page["metadata"]["continue"])
        assert (status, gone["kind"], gone["code"], gone["reason"]) == (410, "Status", 410, "Expired")
        status, rest = await made.pages(_continue=gone["metadata"]["continue"])
        assert (status, len(page["items"]) + len(rest["items"])) == (200, len(PLAN.pods) - 1)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        pytest.param({"resource_version": "99999"}, 504, "Timeout", id="a version to come"),
        pytest.param({"resource_version": "1", "resource_version_match": "Exact"}, 410, "Expired", id="too old"),
        pytest.param({"resource_version": "x"}, 400, "BadRequest", id="no version"),
        pytest.param({"resource_version_match": "Exact"}, 422, "Invalid", id="match of nothing"),
        pytest.param({"_continue": "!!"}, 400, "BadRequest", id="no token"),
        pytest.param({"field_selector": "spec.nodeName=a"}, 400, "BadRequest", id="selectors are refused"),
    ],
)
def test_errors_are_status_objects(tmp_path: Path, query: dict[str, str], code: int, reason: str) -> None:
    async def test(made: Cluster) -> None:
        status, answer = await made.pages(**query)
        assert (status, answer["kind"], answer["code"], answer["reason"]) == (code, "Status", code, reason)

    run(tmp_path, test)


def test_a_wrong_token_is_a_401(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        with pytest.raises(ApiException) as raised:
            await made.core.list_node()
        assert raised.value.status == 401
        assert orjson.loads(raised.value.body or b"")["reason"] == "Unauthorized"

    run(tmp_path, test, token="wrong")


def test_the_control_path_changes_the_cluster(tmp_path: Path) -> None:
    async def test(made: Cluster) -> None:
        start = str(made.store.version)
        pod = pod_object(PLAN, PLAN.pods[0], AT)
        pod["metadata"]["name"] = "extra"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(made.url, headers=headers) as session:
            for method, path, body, expected in (
                ("PUT", "/lab/pods/shop/extra", orjson.dumps(pod), 200),
                ("DELETE", "/lab/pods/shop/extra", b"", 200),
                ("DELETE", "/lab/pods/shop/extra", b"", 404),
                ("PUT", "/lab/pods/shop/other", orjson.dumps(pod), 400),
                ("PUT", "/lab/pods/shop/extra", b"[", 400),
                ("PUT", "/lab/secrets/shop/extra", orjson.dumps(pod), 404),
            ):
                async with session.request(method, path, data=body) as response:
                    assert response.status == expected
        events = await made.watch(resource_version=start, timeout_seconds=1)
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]

    run(tmp_path, test)


class Refuses:
    """Too many requests, until told otherwise; then every watch is cut in its second line."""

    def __init__(self) -> None:
        self.busy = True
        self.lines = 0

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=429, text="slow down", headers={"Retry-After": "1"}) if self.busy else None

    async def line(self, request: web.Request, line: bytes) -> bytes | None:
        self.lines += 1
        return line if self.lines == 1 else None


def test_faults_stand_between_the_api_and_its_clients(tmp_path: Path) -> None:
    faults = Refuses()

    async def test(made: Cluster) -> None:
        with pytest.raises(ApiException) as raised:
            await made.core.list_node()
        assert raised.value.status == 429
        faults.busy = False
        with pytest.raises(aiohttp.ClientError):
            await made.watch(timeout_seconds=5)
        assert faults.lines == 2

    run(tmp_path, test, faults=faults)
