# SPDX-License-Identifier: Apache-2.0
"""`zonemeter replay`: flows of any time range again, out of the topics or the archive, filtered, to wherever.

Exit status 0 if flows were found, 1 if not, 2 for wrong use. Nothing that runs is disturbed: no consumer group, no
position moves.
"""

import contextlib
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO

from msgspec.structs import replace

from common import clock
from common.amounts import counted
from common.entry_point import entry_point
from common.errors import Nothing, Refusal
from common.terminal import complain
from history.model.filters import Selection
from history.model.hints import why_nothing
from history.model.rollups import Hours, only_flows_pick
from history.model.time_range import TimeRange, timestamp
from history.read import interrupts
from history.read.archive.hours import hour_of
from history.read.archive.opened import ATTEMPTS, FlowArchive, ReadAgain
from history.read.archive.sql import ArchiveQuery
from history.read.batch import COUNTED_SCHEMA, SCHEMA, FlowBatch
from history.read.flows import enriched_rows, rejoined_rows, together
from history.read.progress import Tell, progress
from history.read.rejoin import ReadTally, read_joiner
from history.read.topic_sql import Sieve
from history.replay.diff.run import Diff
from history.replay.files import CsvWriter, JsonLinesWriter, ParquetWriter, Writer, stream_to
from history.replay.settings import ReplaySettings
from history.replay.sum import SumWriter
from history.replay.table import FlowTable
from history.replay.topic import TopicWriter
from sinks.flowlog.archive.archive import FLOWS
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Row

PROG = "zonemeter replay"


@entry_point("replay", ReplaySettings)
def main(settings: ReplaySettings) -> int:
    """Run the command; return its exit status."""
    span = settings.span(PROG, clock.now_ms())
    if settings.output == "parquet" and settings.file is None and sys.stdout.isatty():
        raise Refusal("output = parquet is nothing to read on a terminal; add --file NAME.parquet")
    if settings.diff:
        return _diff(Diff(settings, span, settings.selection()))
    replay = Replay(settings, span, settings.selection())
    try:
        interrupts.run(replay.run())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted{replay.left_behind()}") from None
    return 0


def _diff(diff: Diff) -> int:
    nothing = interrupts.run(diff.run())
    for note in filter(None, [nothing, *diff.notes()]):
        _say(note)
    return 1 if nothing else 0


class Replay:
    """One run of the command."""

    def __init__(self, settings: ReplaySettings, span: TimeRange, selection: Selection) -> None:
        self._settings = settings
        self._span = span
        self._selection = selection
        self._taken = ReadTally()
        self._sieve = Sieve(selection)
        self._why = ""
        self._flows = 0
        self._sums = 0
        self._unlisted = 0
        self._deleted: list[str] = []
        self._schema = SCHEMA
        self._archive = None if settings.archive is None else FlowArchive(settings.archive)

    async def run(self) -> None:
        """Read and write; raises `Nothing`, `Refusal`."""
        writer: Writer | None = None
        with progress("reading") as tell, stream_to(self._settings.file) as stream:
            async with contextlib.AsyncExitStack() as stack:
                batches = await stack.enter_async_context(contextlib.aclosing(self._batches(tell)))
                async for batch in batches:
                    if writer is None:
                        writer = await self._writer(stream, stack)
                    await writer.write(batch)
                    if batch.is_rollup:
                        self._sums += len(batch)
                    else:
                        self._flows += len(batch)
            if writer is None:
                raise Nothing(self._why_nothing())
            await writer.finish()
        for note in self._notes():
            _say(note)

    def left_behind(self) -> str:
        """Say what of an interrupted run is left."""
        if self._settings.to_topic is not None:
            return f": {self._flows:,} flows are in topic {self._settings.to_topic}; readers know repeats by their ids"
        return "" if self._settings.file is None else f": {self._settings.file} was not written"

    async def _writer(self, stream: BinaryIO, stack: contextlib.AsyncExitStack) -> Writer:
        settings = self._settings
        if settings.to_topic is not None:
            writer = await TopicWriter.open(settings, settings.to_topic)
            return await stack.enter_async_context(contextlib.aclosing(writer))
        if settings.sum:
            return SumWriter(self._span, self._source(), settings.output, stream)
        if settings.output == "table":
            return FlowTable(self._span, self._source(), settings.top)
        if settings.output == "csv":
            return CsvWriter(stream, self._schema)
        return ParquetWriter(stream, self._schema) if settings.output == "parquet" else JsonLinesWriter(stream)

    def _source(self) -> str:
        if self._settings.archive is not None:
            return f"archive {self._settings.archive}"
        topics = self._settings.topics
        return f"topic {topics.raw}, joined again" if self._settings.from_raw else f"topic {topics.enriched}"

    async def _batches(self, tell: Tell) -> AsyncGenerator[FlowBatch, None]:
        if self._archive is not None:
            for batch in self._archived(self._archive.location):
                yield batch
            return
        async with contextlib.aclosing(await self._rows()) as batches:
            async for rows in together(batches):
                tell(self._taken.reading)
                if wanted := self._sieve.wanted(rows):
                    yield FlowBatch(self._numbered(wanted))
            self._why = self._sieve.why_nothing()

    def _numbered(self, rows: list[Row[FlatEnd]]) -> list[Row[FlatEnd]]:
        """Return rows with the version of their attribution, if there is one to say."""
        version = self._settings.attribution_version
        if version is None:
            return rows
        return [row._replace(flow=replace(row.flow, attribution_version=version)) for row in rows]

    def _archived(self, location: str) -> Iterator[FlowBatch]:
        """Yield the archive's flows; begin again where it was compacted meanwhile, unless some are out already."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._archive = FlowArchive(location)
                yield from self._of_archive(self._archive)
            except ReadAgain:
                if self._flows or self._sums or attempt == ATTEMPTS:
                    raise
            else:
                return

    def _of_archive(self, archive: FlowArchive) -> Iterator[FlowBatch]:
        why_not = "single flows" if self._settings.to_topic is not None else only_flows_pick(self._selection)
        hours = None if why_not else Hours(self._span)
        with ArchiveQuery(archive, self._span, hours, only_left=True) as query:
            self._unlisted = query.chapter.unlisted
            self._deleted = list(_deleted(query, why_not or "a part of an hour"))
            self._schema = COUNTED_SCHEMA if query.rollups else SCHEMA
            for table in query.rolled_up(self._selection):
                yield FlowBatch(table=table)
            for table in query.tables(self._selection):
                yield FlowBatch(table=table)
            if not (self._flows or self._sums) and (present := query.present(self._selection)).flows:
                self._why = why_nothing(self._selection, present)

    async def _rows(self) -> AsyncGenerator[list[Row[FlatEnd]], None]:
        intake: Intake[FlatEnd] = Intake(flatten)
        if not self._settings.from_raw:
            return enriched_rows(self._settings, intake, [self._span], self._taken)
        settings, taken = self._settings, self._taken
        joiner = await read_joiner(settings, settings.cidr_map, taken)
        return rejoined_rows(settings, intake, [self._span], taken, joiner)

    def _why_nothing(self) -> str:
        deleted = "".join(f"; of the range, {each}" for each in self._deleted)
        if self._why:
            return f"{self._why}{deleted}"
        if self._archive is not None:
            until = timestamp(self._archive.until_ms) if self._archive.until_ms else "nothing"
            return f"no flow in {self._span} is in {self._source()}, which reaches to {until} UTC{deleted}"
        gone = " (its oldest records are gone: is there an --archive?)" if self._taken.reading.cut_off else ""
        return f"no flow in {self._span} is in {self._source()}{gone}; try a longer --since"

    def _notes(self) -> list[str]:
        settings, notes = self._settings, []
        where = (settings.to_topic and f"topic {settings.to_topic}") or settings.file
        if where is not None:
            sums = f" and {counted(self._sums, 'row')} of rollups" if self._sums else ""
            notes.append(f"{self._flows:,} flows{sums} to {where}")
        if self._taken.refused:
            refused = ", ".join(f"{reason} {count}" for reason, count in sorted(self._taken.refused.items()))
            notes.append(f"left out, not to be decoded: {refused}")
        if self._taken.reading.cut_off:
            notes.append("the topic's oldest records are gone, perhaps some of this range: is there an --archive?")
        if self._unlisted:
            notes.append(f"left out: {counted(self._unlisted, 'file')} that no manifest lists")
        notes += [f"of this range, {each}" for each in self._deleted]
        if settings.from_raw and settings.cidr_map is None:
            notes.append("joined without --cidr-map: what only the enricher's map names is external or unknown here")
        return notes


def _deleted(query: ArchiveQuery, why_not: str) -> Iterator[str]:
    """Yield what is to be said of hours whose flows are gone; `why_not`: what rollups that stay unread do not tell."""
    read, left = ({hour_of(path) for path in paths} for paths in (query.rollups, query.chapter.left))
    if read:
        yield (
            f"{_hours(read)} deleted from the archive; what is shown of that is rollups: sums by hour and workload, "
            "without pods, addresses and windows of 10 s"
        )
    if unread := left - read:
        yield f"{_hours(unread)} deleted from the archive; its rollups are kept, and do not tell {why_not}"
    if gone := {hour_of(f"{hour}/") for hour in query.chapter.gone} - left:
        yield f"{FLOWS}/{max(gone)} was deleted from the archive, and perhaps what is older"


def _hours(hours: set[str]) -> str:
    if len(hours) == 1:
        return f"{min(hours)} was"
    return f"{len(hours):,} hours, {min(hours)} to {max(hours)}, were"


def _say(line: str) -> None:
    complain(f"{PROG}: {line}")
