# SPDX-License-Identifier: Apache-2.0
"""What etcd and the API server's watch cache are to a cluster: objects in versions, and the log of their changes.

Pure. Every change gets the next resourceVersion of the whole store; old versions stay readable, and a watch can
begin at them, until `compact` forgets them. HTTP, pages' tokens and JSON envelopes are `kube_api`'s.
Source of the semantics: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
"""

import bisect
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import orjson

RESOURCES = {
    "pods": "Pod",
    "nodes": "Node",
    "services": "Service",
    "namespaces": "Namespace",
    "endpointslices": "EndpointSlice",
}
NAMESPACED = frozenset({"pods", "services", "endpointslices"})

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" where there is none) and name."""


class NotFoundError(Exception):
    """The object does not exist."""


class CompactedError(Exception):
    """The resourceVersion asked for is older than what the store remembers; the message says which."""


class FutureVersionError(Exception):
    """The resourceVersion asked for does not exist yet; the message says which."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log. `encoded` is the object's JSON, the last state for DELETED, with the change's version."""

    version: int
    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: str
    key: Key
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: encoded objects in key order, the version they are true for, the last key if more follow."""

    items: list[bytes]
    version: int
    next_after: Key | None
    remaining: int


class Store:
    """Objects of these resources, as plain Kubernetes JSON without `kind` and `apiVersion`, as in lists."""

    def __init__(self, first_version: int = 1000, history: int = 20_000) -> None:
        """Begin empty; beyond `history` changes the oldest tenth is compacted."""
        self.version = first_version
        self.compacted = first_version
        self._history = history
        self._log: list[Change] = []
        self._versions: dict[str, dict[Key, list[tuple[int, bytes | None]]]] = {name: {} for name in RESOURCES}
        self._sorted: dict[str, list[Key]] = {}

    def put(self, resource: str, body: Object) -> Change:
        """Create an object or replace it; `metadata.resourceVersion` becomes the new version."""
        metadata = body["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        kind: Literal["ADDED", "MODIFIED"] = "MODIFIED" if self._encoded(resource, key) is not None else "ADDED"
        return self._append(kind, resource, key, body)

    def get(self, resource: str, key: Key) -> Object:
        """Return a copy of an object; raises `NotFoundError`."""
        encoded = self._encoded(resource, key)
        if encoded is None:
            raise NotFoundError(f'{resource} "{key[1]}" not found')
        found: Object = orjson.loads(encoded)
        return found

    def delete(self, resource: str, key: Key, deleted_at: str) -> None:
        """Delete an object as a forced delete does; raises `NotFoundError`.

        First MODIFIED with `metadata.deletionTimestamp` (RFC 3339) for a pod, then DELETED.
        """
        body = self.get(resource, key)
        if resource == "pods":
            body["metadata"] |= {"deletionTimestamp": deleted_at, "deletionGracePeriodSeconds": 0}
            self._append("MODIFIED", resource, key, body)
        self._append("DELETED", resource, key, body)

    def page(self, resource: str, version: int | None = None, after: Key | None = None, limit: int = 0) -> Page:
        """List as of a version (None: now), after a key, at most `limit` (0: all).

        Raises `CompactedError` and `FutureVersionError`.
        """
        at = self._readable(version)
        keys = self._keys(resource)
        start = bisect.bisect_right(keys, after) if after else 0
        present = self._present(resource, keys, start, at)
        if not limit:
            return Page([encoded for _, encoded in present], at, None, 0)
        taken = list(islice(present, limit))
        remaining = sum(1 for _ in present)
        return Page([encoded for _, encoded in taken], at, taken[-1][0] if remaining else None, remaining)

    def changes_since(self, version: int, resource: str) -> Iterator[Change]:
        """Iterate the changes of a resource after a version; raises `CompactedError`."""
        if version < self.compacted:
            raise CompactedError(f"too old resource version: {version} ({self.compacted})")
        start = bisect.bisect_right(self._log, version, key=lambda change: change.version)
        for change in islice(self._log, start, None):
            if change.resource == resource:
                yield change

    def compact(self, version: int | None = None) -> None:
        """Forget all versions before one (None: before now)."""
        self.compacted = max(self.compacted, self.version if version is None else min(version, self.version))
        forgotten = bisect.bisect_right(self._log, self.compacted, key=lambda change: change.version)
        for change in self._log[:forgotten]:
            self._trim(change.resource, change.key)
        del self._log[:forgotten]

    def _append(self, kind: Literal["ADDED", "MODIFIED", "DELETED"], resource: str, key: Key, body: Object) -> Change:
        self.version += 1
        stored = copy.copy(body)
        stored["metadata"] = body["metadata"] | {"resourceVersion": str(self.version)}
        change = Change(self.version, kind, resource, key, orjson.dumps(stored))
        states = self._versions[resource]
        if key not in states:
            states[key] = []
            self._sorted.pop(resource, None)
        states[key].append((self.version, None if kind == "DELETED" else change.encoded))
        self._log.append(change)
        if len(self._log) > self._history:
            self.compact(self._log[self._history // 10].version)
        return change

    def _trim(self, resource: str, key: Key) -> None:
        states = self._versions[resource].get(key)
        if not states:
            return
        current = bisect.bisect_right(states, self.compacted, key=lambda state: state[0]) - 1
        del states[: max(0, current)]
        if len(states) == 1 and states[0][1] is None:
            del self._versions[resource][key]
            self._sorted.pop(resource, None)

    def _readable(self, version: int | None) -> int:
        if version is None:
            return self.version
        if version < self.compacted:
            raise CompactedError(f"The resourceVersion for the provided list is too old: {version} ({self.compacted})")
        if version > self.version:
            raise FutureVersionError(f"Too large resource version: {version}, current: {self.version}")
        return version

    def _keys(self, resource: str) -> list[Key]:
        if resource not in self._sorted:
            self._sorted[resource] = sorted(self._versions[resource])
        return self._sorted[resource]

    def _present(self, resource: str, keys: list[Key], start: int, at: int) -> Iterator[tuple[Key, bytes]]:
        for key in islice(keys, start, None):
            if (encoded := self._encoded(resource, key, at)) is not None:
                yield key, encoded

    def _encoded(self, resource: str, key: Key, at: int | None = None) -> bytes | None:
        states = self._versions[resource].get(key)
        if not states:
            return None
        if at is None or states[-1][0] <= at:
            return states[-1][1]
        index = bisect.bisect_right(states, at, key=lambda state: state[0]) - 1
        return states[index][1] if index >= 0 else None
