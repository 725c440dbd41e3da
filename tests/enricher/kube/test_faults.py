# SPDX-License-Identifier: Apache-2.0
"""Whatever the API server does: once it is well again the index is the truth, and a metric says what happened.

While each fault lasts the cluster goes on changing: a pod goes, another takes over its address, a node moves to
another zone, a service selects other pods.
"""

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enricher.kube import reflector
from enricher.kube.reflector import LONGEST_BACKOFF_SECONDS, PODS, new_backoff
from lab.kube.api import serve
from lab.kube.objects import pod_object
from lab.kube.store import Store
from tests.support.enricher.followed import PLAN, Followed, api_with_everything, following
from tests.support.lab.kube_faults import NAMES

POSTGRES = next(pod for pod in PLAN.pods if pod.name == "postgres-0")

# What each fault is counted as, and whether a list of each resource was needed to get over it.
COUNTED_AS = {
    "429": ("429", False),
    "500": ("500", False),
    "503": ("503", False),
    "401": ("401", False),
    "403": ("403", False),
    "text": ("malformed", False),
    "cut": ("network", False),
    "half-line": ("network", False),
    "rubbish-line": ("malformed", True),
    "watch-410": ("gone", True),
    "watch-500": ("500", False),
    "watch-429": ("429", False),
    "list-410": ("gone", True),
    "continue-410": ("gone", True),
    "watch-ends": ("ended", False),
    "reset": ("network", False),
    "unanswered": ("network", False),
    "silence": ("silent", True),
}
LISTS = ("list-410", "continue-410")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test against an API, quickly: small pages, short waits."""
    monkeypatch.setattr(reflector, "PAGE_OBJECTS", 2)
    monkeypatch.setattr(reflector, "PAGE_SECONDS", 2.0)
    monkeypatch.setattr(reflector, "FIRST_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(reflector, "LONGEST_BACKOFF_SECONDS", 0.1)

    def now(test: Callable[[Followed], Awaitable[None]], silence: float = 60) -> None:
        async def inside() -> None:
            api, faults = api_with_everything()
            async with asyncio.timeout(120), serve(api) as port:
                server = f"http://127.0.0.1:{port}"
                async with following(api, faults, tmp_path / "kubeconfig", server, silence) as made:
                    await test(made)

        asyncio.run(inside())

    return now


async def change(made: Followed, turn: int) -> None:
    """Let the cluster go on: deletions, an address taken over, a zone and a selector changed."""
    store = made.api.store
    name = "postgres-0" if turn == 0 else f"takes-over-{turn - 1}"
    store.delete("pods", (POSTGRES.namespace, name), "2026-11-22T09:10:00Z")
    follower = dataclasses.replace(POSTGRES, name=f"takes-over-{turn}")
    store.put("pods", pod_object(PLAN, follower, datetime.now(UTC)))
    node = store.get("nodes", ("", POSTGRES.node))
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = f"zone-{turn}"
    store.put("nodes", node)
    service = store.get("services", (PLAN.services[0].namespace, PLAN.services[0].name))
    service["spec"]["selector"] = {"app": "postgres"} if turn % 2 == 0 else {"app": "nobody"}
    store.put("services", service)
    await made.api.changed()


def test_every_fault_the_lab_knows_is_tried() -> None:
    assert set(COUNTED_AS) == set(NAMES)


@pytest.mark.parametrize("fault", COUNTED_AS)
def test_after_each_fault_the_index_is_the_truth_and_a_metric_says_what_happened(
    run: Callable[..., None], fault: str
) -> None:
    reason, listed = COUNTED_AS[fault]
    resources = ("pods", "nodes", "services")

    async def test(made: Followed) -> None:
        await made.agrees()
        assert all(made.lists(resource) == 1 for resource in resources)
        if fault in LISTS:
            made.faults.begin("watch-410")
        made.faults.begin(fault)
        if fault in ("429", "500", "503", "401", "403", "text", "watch-ends", "reset", "unanswered"):
            made.faults.begin("cut")
        await change(made, 0)
        await made.until(lambda: made.faults.hits[fault] >= 3)
        await change(made, 1)
        if fault not in LISTS:
            await made.until(lambda: all(made.failures(resource, reason) for resource in resources))
        made.faults.heal()
        await made.agrees()
        assert any(made.failures(resource, reason) for resource in resources)
        if not listed and fault not in ("401", "403"):
            # Silence is one second for some; this process may have been stopped for longer.
            await made.until(
                lambda: all(made.lists(resource) == 1 + made.failures(resource, "silent") for resource in resources)
            )
        await change(made, 2)
        await made.agrees()

    run(test, silence=1.0 if fault in ("silence", "unanswered") else 60)


def test_an_object_of_five_megabytes_is_taken_in_by_watch_and_by_list(run: Callable[..., None]) -> None:
    async def test(made: Followed) -> None:
        await made.agrees()
        body = pod_object(PLAN, dataclasses.replace(POSTGRES, name="huge", address_v4="10.9.9.9"), datetime.now(UTC))
        body["metadata"]["annotations"] = {"blob": "x" * 5 * 1024 * 1024}
        made.api.store.put("pods", body)
        await made.api.changed()
        await made.agrees()
        assert made.lists("pods") == 1
        made.faults.begin("watch-410")
        await change(made, 0)
        await made.until(lambda: made.failures("pods", "gone"))
        made.faults.heal()
        await made.agrees()
        assert made.lists("pods") >= 2

    run(test)


def test_what_went_while_versions_expired_is_gone(run: Callable[..., None]) -> None:
    async def test(made: Followed) -> None:
        await made.agrees()
        made.faults.begin("503")
        made.faults.begin("cut")
        await change(made, 0)
        await made.until(lambda: made.failures("pods", "503"))
        made.api.store.compact()
        await change(made, 1)
        made.faults.heal()
        await made.agrees()
        assert made.failures("pods", "gone")

    run(test)


def restored(backup: Store) -> Store:
    """Return a store of which the kubelet has started again what it finds in it."""
    backup.put("pods", backup.get("pods", (POSTGRES.namespace, "postgres-0")))
    return backup


def test_after_etcd_is_restored_what_was_deleted_is_there_again_and_what_was_new_is_not(
    run: Callable[..., None],
) -> None:
    """The API is away, and comes back with an older state: a watch from where it was would hear nothing."""

    async def test(made: Followed) -> None:
        await made.agrees()
        backup = copy.deepcopy(made.api.store)
        await change(made, 0)
        await made.agrees()
        made.faults.begin("503")
        made.faults.begin("cut")
        await change(made, 1)
        await made.until(lambda: all(made.failures(resource, "503") for resource in ("pods", "nodes", "services")))
        made.api.store = restored(backup)
        made.faults.heal()
        await made.agrees()
        assert all(made.failures(resource, "restored") for resource in ("pods", "nodes", "services"))
        assert not made.failures("pods", "silent")

    run(test)


def test_a_watch_that_hears_nothing_of_a_restored_etcd_ends_in_a_list(run: Callable[..., None]) -> None:
    """The connections outlive it: whatever is between us and the API server holds them."""

    async def test(made: Followed) -> None:
        await made.agrees()
        backup = copy.deepcopy(made.api.store)
        await change(made, 0)
        await made.agrees()
        made.api.store = restored(backup)
        await made.agrees()
        assert made.failures("pods", "silent")

    run(test, silence=1.0)


@pytest.mark.parametrize("fault", ["429", "watch-429"])
def test_a_retry_after_is_waited_for(run: Callable[..., None], fault: str) -> None:
    """It says one second, in a header or in an event's Status; without it the waits here are 0.02 to 0.2 s."""

    async def test(made: Followed) -> None:
        await made.agrees()
        made.faults.begin(fault)
        made.faults.begin("cut" if fault == "429" else fault)
        await change(made, 0)
        await made.until(lambda: made.failures("pods", "429"))
        before = made.faults.hits[fault]
        await asyncio.sleep(0.5)  # how many requests come within a time is what this is about
        assert made.faults.hits[fault] <= before + 3

    run(test)


def test_a_bookmark_spares_the_list_when_versions_expire(run: Callable[..., None]) -> None:
    """No pod changes while nodes do: only bookmarks bring the pods' watch on, past what is compacted."""

    async def test(made: Followed) -> None:
        await made.agrees()
        node = made.api.store.get("nodes", ("", POSTGRES.node))
        for number in range(20):
            node["metadata"]["labels"]["touched"] = str(number)
            made.api.store.put("nodes", node)
        await made.api.changed()
        reached = str(made.api.store.version).encode()
        await made.until(lambda: b'"BOOKMARK"' in (line := made.faults.told.get(PODS.path, b"")) and reached in line)
        await asyncio.sleep(0.1)  # sent is not read yet, and nothing shows when it is
        made.api.store.compact()
        made.faults.begin("cut")
        await change(made, 0)
        await made.until(lambda: made.failures("pods", "network"))
        made.faults.heal()
        await made.agrees()
        assert (made.lists("pods"), made.failures("pods", "gone")) == (1, 0)

    run(test)


def test_no_wait_is_longer_than_five_seconds() -> None:
    backoff = new_backoff()
    waits = [backoff.next_seconds(float(now)) for now in range(0, 5000, 5)]
    assert LONGEST_BACKOFF_SECONDS <= max(waits) < 4.5
    assert len(set(waits)) > 900  # jitter
