# SPDX-License-Identifier: Apache-2.0
"""Where the hops stand: asked by one client, and a group that may not be asked costs the others nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.structs import OffsetAndMetadata

from audit.books import Reconciler
from audit.result import Audit
from common.settings import KafkaSettings
from history.audit import waiting
from tests.support.builders import END_MS, collector_entry, enricher_entry, sink_entry

SETTINGS = KafkaSettings(kafka_bootstrap="127.0.0.1:1")
RAW, ENRICHED = SETTINGS.topics.raw, SETTINGS.topics.enriched
COMMITTED = {
    "zonemeter.enricher": {(RAW, 0): 7, (RAW, 1): -1, (ENRICHED, 0): 9},
    "zonemeter.flowlog": {(ENRICHED, 2): 0},
}


class Admin:
    """Knows two groups, and may not be asked for a third."""

    async def list_consumer_group_offsets(self, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what a group has committed."""
        if group not in COMMITTED:
            raise GroupAuthorizationFailedError(group)
        return {TopicPartition(*place): OffsetAndMetadata(offset, "") for place, offset in COMMITTED[group].items()}


def test_one_client_asks_for_all_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[Admin] = []

    @asynccontextmanager
    async def admin_client(_: KafkaSettings) -> AsyncIterator[Admin]:
        clients.append(Admin())
        yield clients[-1]

    monkeypatch.setattr(waiting, "admin_client", admin_client)
    assert asyncio.run(waiting.positions(SETTINGS)) == {"enricher": {0: 7}, "flowlog": {2: 0}}
    assert len(clients) == 1


def test_what_is_late_of_a_window_shares_one_list_of_its_chunks() -> None:
    """A window may have 65,536 chunks that each of two sinks has yet to take."""
    audit = Audit()
    books, chunks = Reconciler(audit.of), 50
    books.take(collector_entry(1, 100 * chunks, chunks=chunks))
    for chunk in range(chunks):
        books.take(enricher_entry(1, 100, chunk=chunk))
    for sink in ("metrics", "flowlog"):
        books.take(sink_entry(sink, 1, {}))
    late = waiting.late_of(books, 2 * END_MS)
    assert len(late) == 2 * chunks
    assert len({id(each.enriched) for each in late}) == 1
    assert list(late[0].enriched) == list(range(chunks))
