# SPDX-License-Identifier: Apache-2.0
from typing import Any

import orjson
import pytest

from lab.kube.store import CompactedError, FutureVersionError, NotFoundError, Store

AT = "2026-11-22T09:00:00Z"


def pod(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop"}, "status": fields}


def names(items: list[bytes]) -> list[str]:
    return [orjson.loads(item)["metadata"]["name"] for item in items]


def filled(count: int = 5, history: int = 100) -> Store:
    store = Store(first_version=1000, history=history)
    for number in range(count):
        store.put("pods", pod(f"p{number}"))
    return store


def test_every_change_has_the_next_version_of_the_whole_store() -> None:
    store = filled(2)
    changed = store.put("nodes", {"metadata": {"name": "n"}})
    assert (changed.version, changed.kind, store.version) == (1003, "ADDED", 1003)
    assert store.get("nodes", ("", "n"))["metadata"]["resourceVersion"] == "1003"
    assert store.put("nodes", {"metadata": {"name": "n"}}).kind == "MODIFIED"


def test_pages_come_from_one_snapshot_whatever_changes_between_them() -> None:
    store = filled(5)
    first = store.page("pods", limit=2)
    assert (names(first.items), first.version, first.remaining) == (["p0", "p1"], 1005, 3)
    store.delete("pods", ("shop", "p2"), AT)
    store.put("pods", pod("p3", phase="Failed"))
    store.put("pods", pod("p25"))
    second = store.page("pods", version=first.version, after=first.next_after, limit=2)
    assert names(second.items) == ["p2", "p3"]
    assert orjson.loads(second.items[1])["status"] == {}
    last = store.page("pods", version=first.version, after=second.next_after, limit=2)
    assert (names(last.items), last.next_after) == (["p4"], None)
    assert names(store.page("pods").items) == ["p0", "p1", "p25", "p3", "p4"]


def test_a_forced_delete_is_modified_with_its_time_and_then_deleted() -> None:
    store = filled(1)
    store.delete("pods", ("shop", "p0"), AT)
    modified, deleted = store.changes_since(1001, "pods")
    assert (modified.kind, deleted.kind) == ("MODIFIED", "DELETED")
    last = orjson.loads(deleted.encoded)["metadata"]
    assert (last["deletionTimestamp"], last["resourceVersion"]) == (AT, "1003")
    with pytest.raises(NotFoundError):
        store.get("pods", ("shop", "p0"))
    with pytest.raises(NotFoundError):
        store.delete("pods", ("shop", "p0"), AT)


def test_compaction_forgets_versions_and_keeps_the_present() -> None:
    store = filled(3)
    store.delete("pods", ("shop", "p1"), AT)
    store.compact()
    with pytest.raises(CompactedError):
        list(store.changes_since(1004, "pods"))
    with pytest.raises(CompactedError):
        store.page("pods", version=1004)
    assert list(store.changes_since(1005, "pods")) == []
    assert names(store.page("pods", version=1005).items) == ["p0", "p2"]


def test_the_log_compacts_itself_beyond_its_bound() -> None:
    store = filled(1, history=20)
    for number in range(50):
        store.put("pods", pod("p0", number=number))
    assert 1000 < store.compacted < store.version - 10
    assert len(list(store.changes_since(store.compacted, "pods"))) <= 20
    assert store.get("pods", ("shop", "p0"))["status"] == {"number": 49}


def test_a_version_to_come_is_refused() -> None:
    with pytest.raises(FutureVersionError, match="Too large resource version: 2000"):
        filled(1).page("pods", version=2000)
