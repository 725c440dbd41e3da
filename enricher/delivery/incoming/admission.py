# SPDX-License-Identifier: Apache-2.0
"""Whose chunks are taken: those of every node that Kubernetes knows, and of some that it does not. Pure.

A name costs memory here and in all that comes after, and a series in the metrics; and anyone who may write to the raw
topic can make names up. Nodes of the cluster find room whatever anybody else writes.
"""

from enricher.index.ownership import Index
from enricher.index.tenancy import FOREVER
from schemas.errors import DecodeError

# Nodes that Kubernetes does not know (machines outside of it, nodes not seen yet), at a time.
MAX_STRANGERS = 2_000
# A stranger that was silent for so long makes room.
IDLE_MS = 3_600_000


class Nodes:
    """What a process remembers of names."""

    def __init__(self, index: Index) -> None:
        self._index = index
        # In the order in which they were heard of last.
        self._strangers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._strangers)

    def admit(self, node: str, now_ms: int) -> None:
        """Note that a chunk of that node came; raise `DecodeError` if there is no room for its name."""
        if self._index.owners(("name", node), 0, FOREVER):
            self._strangers.pop(node, None)
            return
        if self._strangers.pop(node, None) is None and len(self._strangers) >= MAX_STRANGERS:
            oldest, heard_ms = next(iter(self._strangers.items()))
            if now_ms - heard_ms < IDLE_MS:
                raise DecodeError(
                    "too_many_names", f"Kubernetes does not know node {node!r}, nor {MAX_STRANGERS} others that sent"
                )
            del self._strangers[oldest]
        self._strangers[node] = now_ms
