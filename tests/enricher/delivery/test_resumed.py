# SPDX-License-Identifier: Apache-2.0
"""What is out is read back ahead of raw within a bound, whatever the offset was set to, and from where it goes on."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from enricher.delivery.outgoing import resumed
from enricher.delivery.outgoing.resumed import Page, Resumed
from schemas.flow import Flow, RawPosition
from schemas.raw import RawChunk
from tests.support.enricher.build import chunk, row
from tests.support.sinks.flows import flow

ROWS = 3
PAGE = 50
MOST = 100


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the bound so small that a day is some hundred chunks."""
    monkeypatch.setattr(resumed, "MAX_CHUNKS", MOST)
    monkeypatch.setattr(resumed, "MAX_ROWS", 10 * MOST)


class Output:
    """The output partition: for each raw offset the flows of the chunk that stood there, in the order of `offsets`."""

    def __init__(self, offsets: Sequence[int], rows: int = ROWS) -> None:
        self.flows = [made(offset, number) for offset in offsets for number in range(rows)]
        self.read = 0

    async def pages(self, unread: range) -> AsyncGenerator[Page, None]:
        for start in range(unread.start, unread.stop, PAGE):
            stop = min(start + PAGE, unread.stop)
            self.read += stop - start
            yield [(offset, self.flows[offset]) for offset in range(start, stop)], stop


def raw(offset: int) -> RawChunk:
    return chunk([row("10.42.1.17", "10.42.2.9")] * ROWS, sequence=offset)


def made(offset: int, number: int) -> Flow:
    return flow(id=f"{raw(offset).id}/{number}", raw=RawPosition(0, offset))


async def walked(of: Resumed, offsets: Sequence[int]) -> tuple[dict[int, int], int]:
    """Take the chunks at these raw offsets; return how many flows of each were out, and the most chunks held."""
    found, most = {}, 0
    for offset in offsets:
        out = await of.take(raw(offset), offset)
        found[offset] = 0 if out is None else out.amount.rows
        most = max(most, len(of))
    return found, most


@pytest.mark.parametrize(
    ("out", "start"),
    [
        pytest.param(range(2_000), 0, id="all of it, from the beginning"),
        pytest.param(range(2_000), 1_500, id="the output begins long before raw"),
        pytest.param([*range(500), *range(1_500, 2_000)], 0, id="somebody had skipped more than the bound"),
        pytest.param([n ^ 7 for n in range(2_000)], 0, id="a little out of order"),
        pytest.param([n for n in range(2_000) if n % 5], 0, id="chunks of which nothing is out"),
    ],
)
def test_each_chunk_is_found_once_and_memory_is_bounded(out: Sequence[int], start: int) -> None:
    output = Output(out)
    of = Resumed(output.pages, range(len(output.flows)), range(start, 2_010))
    found, most = asyncio.run(walked(of, range(start, 2_010)))
    there = set(out)
    assert found == {offset: ROWS if offset in there else 0 for offset in range(start, 2_010)}
    assert most <= MOST + PAGE
    assert output.read == len(output.flows), "each flow is read once"


def test_rows_are_bounded_too() -> None:
    output = Output(range(40), rows=200)
    of = Resumed(output.pages, range(len(output.flows)), range(41))
    found, most = asyncio.run(walked(of, range(41)))
    assert found == dict.fromkeys(range(40), 200) | {40: 0}
    assert most <= 10 * MOST // 200 + 2


def test_what_is_committed_is_where_what_raw_still_needs_begins() -> None:
    """A start after any commit finds what the one before would have found."""
    output = Output(range(300))

    async def check() -> None:
        of = Resumed(output.pages, range(len(output.flows)), range(300))
        for offset in range(300):
            assert await of.take(raw(offset), offset) is not None
            # Not committed yet: it is still to be read.
            assert of.committed(offset) == offset * ROWS
        assert of.committed(299) == 299 * ROWS
        assert of.committed(300) is None

    asyncio.run(check())


def test_flows_of_raw_that_was_not_there_yet_take_no_room() -> None:
    """Whoever may write to the output could fill it with them, and what is out would be found no more."""
    output = Output([*range(1_000_000, 1_000_000 + 3 * MOST), *range(50)])
    of = Resumed(output.pages, range(len(output.flows)), range(50))
    found, most = asyncio.run(walked(of, range(50)))
    assert found == dict.fromkeys(range(50), ROWS)
    assert most <= 50
    assert of.committed(49) == (3 * MOST + 49) * ROWS, "nothing else holds the position back"
