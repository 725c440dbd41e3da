# SPDX-License-Identifier: Apache-2.0
"""Raw chunks of a range, each once: what is kept to know a repeat does not grow with the range."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from common import clock
from common.settings import KafkaSettings
from history.cidrs import dry_run
from history.model.time_range import TimeRange
from history.read.rejoin import ReadTally
from schemas.raw import RawChunk
from tests.support.enricher.build import END, START, encoded, row

SPAN = TimeRange(START, START + 86_400_000)
ROWS = [row("10.42.1.17", "10.9.7.4")]


def record(sequence: int, node: str = "node-a1", partition: int = 0, **head: Any) -> Any:
    ms = 10_000 * sequence
    value = encoded(ROWS, node=node, sequence=sequence, start_ms=START + ms, end_ms=END + ms, **head)
    return SimpleNamespace(partition=partition, key=node.encode(), value=value)


async def chunks(monkeypatch: pytest.MonkeyPatch, records: Iterator[Any], taken: ReadTally) -> AsyncIterator[RawChunk]:
    async def read_topic(*_: Any, **__: Any) -> AsyncIterator[list[Any]]:
        for each in records:
            yield [each]

    monkeypatch.setattr(dry_run, "read_topic", read_topic)
    monkeypatch.setattr(clock, "now_ms", lambda: SPAN.to_ms)
    async for chunk in dry_run.chunks(KafkaSettings(), SPAN, (), taken):
        yield chunk


def read(monkeypatch: pytest.MonkeyPatch, records: list[Any]) -> tuple[list[str], ReadTally]:
    taken = ReadTally()

    async def inside() -> list[str]:
        return [chunk.id.partition("/")[2] async for chunk in chunks(monkeypatch, iter(records), taken)]

    return asyncio.run(inside()), taken


def test_each_chunk_once_whichever_node_sent_it_and_whatever_came_between(monkeypatch: pytest.MonkeyPatch) -> None:
    once = [record(number, node) for number in (1, 2, 3) for node in ("node-a1", "node-b1")]
    again = [record(2, maybe_repeat=True), record(3, "node-b1", maybe_repeat=True)]
    parts = [record(4, chunk=number, chunks=2) for number in (0, 1)]
    found, taken = read(monkeypatch, [*once, *again, *parts, *parts, record(9)])
    assert len(found) == len(set(found)) == len(once) + len(parts) + 1
    assert taken.repeats == len(again) + len(parts)


def test_a_number_made_up_makes_no_repeat_of_the_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = read(monkeypatch, [record(1), record(2, generation=10**15), record(3), record(4)])
    assert [int(each.split("/")[3]) for each in found] == [1, 3, 4]
    assert (taken.repeats, taken.refused) == (0, {"implausible": 1})


def test_what_is_kept_does_not_grow_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[int, int] = {}

    async def inside() -> None:
        read = 0
        async for _ in chunks(monkeypatch, (record(number) for number in range(4_000)), ReadTally()):
            read += 1
            if read in (500, 4_000):
                gc.collect()
                held[read] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        asyncio.run(inside())
    finally:
        tracemalloc.stop()
    # An id of each would be some 100 bytes.
    assert held[4_000] - held[500] < 10 * 3_500
