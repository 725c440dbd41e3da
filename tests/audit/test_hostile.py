# SPDX-License-Identifier: Apache-2.0
"""Hostile ledger records through the books: refused or taken, in little memory, and the audit goes on."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from audit.books import Reconciler, conclude
from audit.result import Audit
from audit.rolling import Rolling
from schemas.errors import DecodeError
from schemas.ledger import decode_ledger, encode_ledger
from schemas.raw import MAX_CHUNKS
from tests.support.builders import END_MS, START_MS, amount, collector_entry, enricher_entry, sink_entry
from tests.support.hostile import EXAMPLES, hostile

ENTRIES = [
    collector_entry(1, 1_000),
    enricher_entry(1, 1_000, senders={"node-b1": amount(5)}, foreign_source={"node-b1": amount(5)}),
    replace(enricher_entry(1, 1_000, aside={"repeat": amount(1_000)}), id="lab/node-a1/5be6c2f0a91d/1/1/0@7"),
    sink_entry("flowlog", 1, {1: 1_000, 2: 500}),
    sink_entry("metrics", 1, {1: 1_000}),
]


@EXAMPLES
@given(st.lists(hostile(*map(encode_ledger, ENTRIES)), min_size=1, max_size=12))
def test_the_books_take_or_refuse_and_go_on(values: list[bytes]) -> None:
    rolling = Rolling(3_600_000)
    rolling.move(END_MS + 60_000)
    audit = Audit()
    all_books = [Reconciler(audit.of), Reconciler(rolling.sums_of, rolling.wants)]
    for value in [*map(encode_ledger, ENTRIES), *values]:
        for books in all_books:
            try:
                books.take(decode_ledger(value))
            except DecodeError:
                continue
            books.settle(0)
    conclude(all_books[0], audit, START_MS)
    rolling.recent(all_books[1], START_MS)
    list(all_books[1].expire(END_MS + 1_000_000))
    assert 0 <= audit.ratio <= 1


def test_a_window_of_as_many_chunks_as_there_can_be_costs_little() -> None:
    entry = replace(collector_entry(1, 1_000), chunks=MAX_CHUNKS)
    tracemalloc.start()
    try:
        audit = Audit()
        books = Reconciler(audit.of)
        books.take(decode_ledger(encode_ledger(entry)))
        conclude(books, audit, 2 * END_MS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024
    assert "of 65536 not enriched" in audit.shortfalls[0].why


def test_more_chunks_than_there_can_be_are_refused() -> None:
    for chunks in (MAX_CHUNKS + 1, 2**53 - 1, -1):
        value = encode_ledger(replace(collector_entry(1, 1_000), chunks=chunks))
        try:
            decode_ledger(value)
        except DecodeError as error:
            assert error.reason == "schema_mismatch"
        else:
            raise AssertionError(chunks)
