# SPDX-License-Identifier: Apache-2.0
"""Publishing a window: its chunks in order, then its entry in the ledger, each acknowledged before the next step."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from collector.attach.addresses import OwnAddresses
from collector.kernel.layout import Rows
from collector.outbox.spool_file import EncodedWindow
from collector.window.encode import ledger_record, raw_chunks
from collector.window.meter import Window
from common.kafka.clients import partition_for
from common.kafka.publish import Record
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.topics import TopicNames

# Chunks sent and awaited together: at most 2 MB in flight, however many flows a window has.
_CHUNKS_AT_ONCE = 4


class RecordPublisher(Protocol):
    """What `common.kafka.publish.Publisher` is to this module."""

    async def publish(self, records: Sequence[Record]) -> object:
        """Return when all are acknowledged; else raise `PublishError`."""


def encoded(window: Window, rows: Rows, own: OwnAddresses | None = None) -> EncodedWindow:
    """Return a window of the kernel's as records to publish; `rows` are its own, and stay as they are.

    `own` are the node's addresses, where they are known as of the window.
    """

    def chunks(repeat: bool) -> Iterator[bytes]:
        return raw_chunks(window.meta, window.record, rows, maybe_repeat=repeat, own=own)

    # The partition is the publisher's to know: how many there are may change before this is published.
    entry = ledger_record(window.meta, window.record, rows, partition=0)
    return EncodedWindow(entry, window.maybe_repeat, chunks)


class WindowPublisher:
    """Publishes windows, each to the partition of the node that counted it."""

    def __init__(self, publisher: RecordPublisher, topics: TopicNames, partitions: int) -> None:
        self._publisher = publisher
        self._topics = topics
        self._partitions = partitions

    async def publish(self, window: EncodedWindow, *, maybe_repeat: bool) -> None:
        """Publish a window whole; after a `PublishError` call again with `maybe_repeat`: parts may have arrived."""
        key, partition = self._place(window.ledger)
        batch: list[Record] = []
        chunks = window.chunks(maybe_repeat)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            batch.append(Record(self._topics.raw, partition, key, chunk, window.ledger.end_ms))
            if len(batch) == _CHUNKS_AT_ONCE:
                await self._publisher.publish(batch)
                batch = []
        await self._publisher.publish(batch)
        await self.publish_ledger(window.ledger)

    async def publish_ledger(self, entry: LedgerRecord) -> None:
        """Publish a window's entry in the ledger alone."""
        _, partition = self._place(entry)
        entry = msgspec.structs.replace(entry, partition=partition)
        record = Record(self._topics.ledger, partition, entry.key, encode_ledger(entry), entry.end_ms)
        await self._publisher.publish([record])

    def _place(self, entry: LedgerRecord) -> tuple[bytes, int]:
        node = entry.node or ""
        return node.encode(), partition_for(node, self._partitions)
