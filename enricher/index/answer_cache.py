# SPDX-License-Identifier: Apache-2.0
"""Answers about addresses, kept until what they rest on changes. Pure.

An answer holds for every window within a stretch of time in which nothing that was looked up begins or ends. A change
of an address's owner forgets that address; one of a node, a podCIDR, an IPv6 site or a public /24, on which any may
rest, all.
"""

from collections.abc import Iterable
from typing import NamedTuple

from enricher.index.addresses import pack
from enricher.index.endpoints import Resolved
from enricher.index.ownership import Index, Slot

# Entries kept; when there are more, all are dropped and built again.
MAX_KEPT = 131_072
_OF_ONE_ADDRESS = ("pod", "service", "addresses")


class KeptAnswer(NamedTuple):
    """An answer for windows within [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    answer: Resolved


class Memo:
    """The answers by address, as text; the indexes say what changed."""

    def __init__(self, indexes: Iterable[Index]) -> None:
        self._kept: dict[str, KeptAnswer] = {}
        # An IPv6 address can be written in several ways.
        self._texts: dict[bytes, list[str]] = {}
        for index in indexes:
            index.listen(self._forget)

    def find(self, address: str, start_ms: int, end_ms: int) -> Resolved | None:
        """Return what was answered, if it holds for [start_ms, end_ms)."""
        kept = self._kept.get(address)
        if kept is None or start_ms < kept.from_ms or kept.to_ms < end_ms:
            return None
        return kept.answer

    def keep(self, address: str, kept: KeptAnswer) -> None:
        """Remember an answer."""
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
            self._texts.clear()
        if address not in self._kept:
            packed = pack(address)
            if packed is not None:
                self._texts.setdefault(packed, []).append(address)
        self._kept[address] = kept

    def _forget(self, slot: Slot) -> None:
        kind, value = slot
        if kind in _OF_ONE_ADDRESS and isinstance(value, bytes):
            for text in self._texts.pop(value, ()):
                del self._kept[text]
        else:
            self._kept.clear()
            self._texts.clear()
