# SPDX-License-Identifier: Apache-2.0
"""Answers about addresses, kept until what they rest on changes. Pure.

An answer holds for every window within a stretch of time in which nothing that was looked up begins or ends. A change
of an address's owner forgets that address; one of a node, a podCIDR, an IPv6 site or a public /24, on which any may
rest, all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from enricher.index.addresses import pack
from enricher.index.endpoints import Resolved, Watcher
from enricher.index.ownership import Index, Slot

# Entries kept; when there are more, all are dropped and built again.
MAX_KEPT = 131_072
_OF_ONE_ADDRESS = ("pod", "service", "addresses")


T = TypeVar("T", Resolved, Watcher)


class Kept(NamedTuple, Generic[T]):
    """An answer for windows within [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    answer: T


class Memo:
    """The answers by address, as text, and by node that observes; the indexes say what changed."""

    def __init__(self, indexes: Iterable[Index]) -> None:
        self._kept: dict[str, Kept[Resolved]] = {}
        self._watchers: dict[str, Kept[Watcher]] = {}
        # An IPv6 address can be written in several ways.
        self._texts: dict[bytes, list[str]] = {}
        for index in indexes:
            index.listen(self._forget)

    def find(self, addresses: Sequence[str], start_ms: int, end_ms: int) -> list[Resolved | None]:
        """Return what was answered of each, None where that does not hold for [start_ms, end_ms)."""
        return _holding(self._kept, addresses, start_ms, end_ms)

    def watcher(self, name: str, start_ms: int, end_ms: int) -> Watcher | None:
        """Return what was answered of a node that observes, if it holds for [start_ms, end_ms)."""
        return _holding(self._watchers, (name,), start_ms, end_ms)[0]

    def keep(self, address: str, kept: Kept[Resolved]) -> None:
        """Remember an answer."""
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
            self._texts.clear()
        if address not in self._kept:
            packed = pack(address)
            if packed is not None:
                self._texts.setdefault(packed, []).append(address)
        self._kept[address] = kept

    def keep_watcher(self, name: str, kept: Kept[Watcher]) -> None:
        """Remember an answer about a node that observes."""
        if len(self._watchers) >= MAX_KEPT:
            self._watchers.clear()
        self._watchers[name] = kept

    def _forget(self, slot: Slot) -> None:
        kind, value = slot
        if kind in _OF_ONE_ADDRESS and isinstance(value, bytes):
            for text in self._texts.pop(value, ()):
                del self._kept[text]
        else:
            self._kept.clear()
            self._texts.clear()
            self._watchers.clear()


def _holding(kept: Mapping[str, Kept[T]], keys: Sequence[str], start_ms: int, end_ms: int) -> list[T | None]:
    # Of every address of every chunk: a call for each would cost more than the look-up.
    return [
        found.answer
        if (found := kept.get(key)) is not None and found.from_ms <= start_ms and end_ms <= found.to_ms
        else None
        for key in keys
    ]
