# SPDX-License-Identifier: Apache-2.0
"""Flows out of the topics: enriched ones as they are, or raw ones joined once more, each once, in a time range.

Both go through the sinks' own intake, so a repeat is skipped and rubbish refused as the sinks do it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiokafka.structs import ConsumerRecord

from common import clock
from common.settings import KafkaSettings
from enricher.join.flow_json import BLOCK_ROWS
from history.model.time_range import TimeRange
from history.read.rejoin import Joiner, ReadTally, raw_chunk
from history.read.topic import read_topic
from sinks.intake import Intake, Lane, Row, SourceRecord
from sinks.tallies import Tallies

E = TypeVar("E")
Holds = Callable[[int], bool]
# Of rows that are taken together; each takes about a kilobyte.
BATCH_ROWS = 20_000


@dataclass(slots=True)
class _Record:
    """A flow as the intake wants it; its offset is the raw record's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def hold(spans: Sequence[TimeRange]) -> Holds:
    """Return what tells whether a window that starts then is in one of the ranges."""
    if len(spans) == 1:
        return spans[0].holds
    return lambda start_ms: any(span.holds(start_ms) for span in spans)


async def enriched_rows(
    settings: KafkaSettings,
    intake: Intake[E],
    spans: Sequence[TimeRange],
    taken: ReadTally,
    lanes: Mapping[int, Lane] | None = None,
) -> AsyncGenerator[list[Row[E]], None]:
    """Yield the flows of the enriched topic whose windows start in one of `spans`.

    `lanes`: where to go on behind an archive, by partition. Raises `Refusal`.
    """
    known = dict(lanes or {})
    starts = {number: lane.position for number, lane in known.items() if lane.position is not None}
    from_ms = min(span.from_ms for span in spans)
    holds = hold(spans)
    topic = settings.topics.enriched
    async for records in read_topic(settings, topic, from_ms, starts=starts, reading=taken.reading):
        partition = records[0].partition
        lane = known.setdefault(partition, Lane(partition))
        rows = take(intake, lane, records, taken)
        yield [row for row in rows if holds(row.flow.start_ms)]


async def rejoined_rows(
    settings: KafkaSettings, intake: Intake[E], spans: Sequence[TimeRange], taken: ReadTally, joiner: Joiner
) -> AsyncGenerator[list[Row[E]], None]:
    """Yield the flows that the raw topic's windows in `spans` become, joined as of their own time. Raises `Refusal`."""
    lanes: dict[int, Lane] = {}
    from_ms = min(span.from_ms for span in spans)
    holds = hold(spans)
    async for records in read_topic(settings, settings.topics.raw, from_ms, reading=taken.reading):
        lane = lanes.setdefault(records[0].partition, Lane(records[0].partition))
        for record in records:
            for made in _rejoin(record, joiner, holds, taken):
                yield take(intake, lane, made, taken)


async def together(batches: AsyncIterator[list[Row[E]]]) -> AsyncGenerator[list[Row[E]], None]:
    """Yield the rows of several batches at a time."""
    held: list[Row[E]] = []
    async for rows in batches:
        held += rows
        if len(held) >= BATCH_ROWS:
            yield held
            held = []
    if held:
        yield held


def take(intake: Intake[E], lane: Lane, records: Sequence[SourceRecord], taken: ReadTally) -> list[Row[E]]:
    """Return the rows of a partition's next records that were not taken before."""
    batch = intake.take(lane, records, clock.now_ms())
    # Nobody publishes these books; let them not grow.
    lane.books = Tallies()
    taken.repeats += batch.repeats
    taken.refused.update(refused.reason for refused in batch.refused)
    return batch.rows


def _rejoin(record: ConsumerRecord, joiner: Joiner, holds: Holds, taken: ReadTally) -> Iterator[list[_Record]]:
    """Yield what a chunk becomes, so many flows at a time: all of one with long names would take hundreds of MB."""
    chunk = raw_chunk(record, taken.refused)
    if chunk is None or not holds(chunk.start_ms):
        return
    values = joiner.join(chunk, record.partition, record.offset).values
    for first in range(0, len(values), BLOCK_ROWS):
        part = values[first : first + BLOCK_ROWS]
        yield [_Record(record.offset, record.timestamp, record.key, value) for value in part]
