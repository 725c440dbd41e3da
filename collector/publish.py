# SPDX-License-Identifier: Apache-2.0
"""Publishing a window: its chunks in order, then its entry in the ledger, each acknowledged before the next step."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from collector.encode import ledger_record, raw_chunks, window_ledger
from collector.layout import Rows
from collector.meter import Window
from common.publish import Record
from schemas.amount import total
from schemas.ledger import encode_ledger
from schemas.raw import WindowLedger
from schemas.topics import TopicNames

log = logging.getLogger(__name__)

# Chunks sent and awaited together: at most 2 MB in flight, however many flows a window has.
_CHUNKS_AT_ONCE = 4


class Publisher(Protocol):
    """What `common.publish.Publisher` is to this module."""

    async def publish(self, records: Sequence[Record]) -> object:
        """Return when all are acknowledged; else raise `PublishError`."""


class WindowPublisher:
    """Publishes one node's windows to its partition."""

    def __init__(self, publisher: Publisher, topics: TopicNames, partition: int) -> None:
        self._publisher = publisher
        self._topics = topics
        self._partition = partition

    async def publish(self, window: Window) -> WindowLedger:
        """Publish a window whole and return its books; after a `PublishError` call again.

        From the second call on its chunks say `maybe_repeat`: some of them may have arrived.
        """
        rows = await asyncio.to_thread(window.rows)
        key = window.meta.node.encode()
        batch: list[Record] = []
        repeat, window.maybe_repeat = window.maybe_repeat, True
        for chunk in raw_chunks(window.meta, window.record, rows, maybe_repeat=repeat):
            batch.append(Record(self._topics.raw, self._partition, key, chunk, window.record.end_ms))
            if len(batch) == _CHUNKS_AT_ONCE:
                await self._publisher.publish(batch)
                batch = []
        await self._publisher.publish(batch)
        await self._publisher.publish([self._ledger(window, rows)])
        return window_ledger(window.record, rows)

    def _ledger(self, window: Window, rows: Rows) -> Record:
        entry = ledger_record(window.meta, window.record, rows, self._partition)
        return Record(self._topics.ledger, self._partition, entry.key, encode_ledger(entry), entry.end_ms)


def is_balanced(books: WindowLedger) -> bool:
    """Tell whether the hook's count is what was put aside, what is in the map and what was lost, to the byte."""
    accounted = books.map + total(books.aside) + total(books.lost)
    return (accounted.bytes, accounted.packets) == (books.hook.bytes, books.hook.packets)
