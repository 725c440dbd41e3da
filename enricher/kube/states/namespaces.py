# SPDX-License-Identifier: Apache-2.0
"""Reads a namespace into its state: those of its labels that were asked for. Pure."""

import sys
from collections.abc import Collection

from enricher.kube.states.fields import changed_ms
from enricher.kube.states.objects import Namespace
from schemas.topology import MAX_LABEL_VALUE, TopologyState


def namespace_state(namespace: Namespace, names: Collection[str], seen_ms: int) -> TopologyState:
    """Return a namespace's state: its labels of these names, None where it has none, as of when it last changed.

    What it had before that nobody knows.
    """
    meta = namespace.metadata
    return TopologyState(
        kind="namespace",
        uid=meta.uid,
        resource_version=meta.resource_version,
        name=sys.intern(meta.name),
        from_ms=changed_ms(namespace, seen_ms),
        labels={name: value and sys.intern(value) for name, value in _wanted(namespace, names) if _fits(value)} or None,
    )


def left_out(namespace: Namespace, names: Collection[str]) -> list[str]:
    """Return what is left out of a namespace's state because no object can have it: `labels`."""
    return [] if all(_fits(value) for _, value in _wanted(namespace, names)) else ["labels"]


def _wanted(namespace: Namespace, names: Collection[str]) -> list[tuple[str, str | None]]:
    labels = namespace.metadata.labels or {}
    return [(name, labels.get(name)) for name in sorted(names)]


def _fits(value: str | None) -> bool:
    return value is None or len(value) <= MAX_LABEL_VALUE
