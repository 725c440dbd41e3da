# SPDX-License-Identifier: Apache-2.0
"""Sums up time ranges out of the archive and the topic: what is archived from there, the rest from the topic.

The newest manifest of each partition says where in the topic its rows end, and which flow was the last of each node:
so nothing is counted twice and nothing is left out between the two.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from common.amounts import counted
from common.errors import Refusal
from history.model.evidence import Evidence
from history.model.grouping import By, Per
from history.model.hints import Present
from history.model.party import Parties
from history.model.rollups import Hours, lengths_that_tell, only_flows_tell
from history.model.states.labels import LabelTime
from history.model.summary import Summary
from history.model.time_range import TimeRange, timestamp
from history.range_settings import RangeSettings
from history.read.archive.hours import hour_of
from history.read.archive.opened import ATTEMPTS, FlowArchive, ReadAgain
from history.read.archive.sql import ArchiveQuery
from history.read.database import open_database
from history.read.flow_sql import FlowQuery
from history.read.flows import enriched_rows
from history.read.progress import Tell
from history.read.rejoin import ReadTally
from history.read.topic_sql import TopicRows
from sinks.flowlog.archive.archive import FLOWS
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Lane


@dataclass
class Gathered:
    """What was read: a summary for each range, and from where, in words.

    `present`: the values in the first range, if nothing matched. `refused`: records that cannot
    be decoded.
    """

    summaries: list[Summary]
    whole: list[bool]
    sources: list[str] = field(default_factory=list)
    present: Present = field(default_factory=Present)
    refused: int = 0

    def merge(self, other: "Gathered") -> None:
        """Add what was read of another cluster."""
        for own, added in zip(self.summaries, other.summaries, strict=True):
            own.merge(added)
        self.whole = [own and added for own, added in zip(self.whole, other.whole, strict=True)]
        self.sources += other.sources
        self.present.merge(other.present)
        self.refused += other.refused


class Gatherer:
    """Reads several time ranges in one pass."""

    def __init__(
        self,
        settings: RangeSettings,
        spans: Sequence[TimeRange],
        ends: Parties,
        by: By | None = None,
        per: Per | None = None,
        labels: Sequence[LabelTime] = (),
        evidence: Evidence | None = None,
        *,
        rollups: bool = False,
    ) -> None:
        """`evidence`: of the first range, if that is wanted too. `rollups`: read them where they tell the same."""
        self._by, self._per, self._labels = by, per, labels
        self._evidence = evidence
        self._settings = settings
        self._spans = spans
        self._ends = ends
        self._selection = settings.selection()
        self._rollups = rollups
        self.gathered = Gathered([Summary() for _ in spans], [True for _ in spans])

    async def gather(self, tell: Tell) -> Gathered:
        """Read everything; raises `Refusal`."""
        location = self._settings.archive
        if location is None:
            await self._read_topic({}, 0, tell)
            return self.gathered
        archive = self._read_archive(location)
        if archive.topics != {self._settings.topics.enriched}:
            self._source(f"its topic, {', '.join(sorted(archive.topics))}, is not the one of these settings: not read")
            return self.gathered
        try:
            await self._read_topic(archive.lanes(), archive.attribution_version, tell)
        except Refusal as error:
            self._source(f"no topic: {error}")
        return self.gathered

    def _read_archive(self, location: str) -> FlowArchive:
        """Read the archive, from the beginning again where it was compacted meanwhile; return it as it was read."""
        for _ in range(ATTEMPTS):
            archive = FlowArchive(location)
            try:
                self._sum_up(archive)
            except ReadAgain as changed:
                why = changed
                self.gathered = Gathered([Summary() for _ in self._spans], [True for _ in self._spans])
                if self._evidence is not None:
                    self._evidence.cells.clear()
            else:
                return archive
        raise why

    def _sum_up(self, archive: FlowArchive) -> None:
        unlisted, deleted = 0, ""
        rolled_up: set[str] = set()
        flows: set[str] = set()
        for number, span in enumerate(self._spans):
            with ArchiveQuery(archive, span, self._hours(span)) as query:
                self._add(number, query)
                unlisted += query.chapter.unlisted
                self.gathered.whole[number] &= not query.deleted
                rolled_up.update(map(hour_of, query.rollups))
                flows.update(map(hour_of, query.flows))
                if not number and query.deleted:
                    deleted = f"of this range, {query.deleted} was deleted from it, and perhaps what is older"
                    deleted += self._kept(query)
        until = timestamp(archive.until_ms) if archive.until_ms else "the beginning"
        of_what = f": rollups of {counted(len(rolled_up), 'hour')}, flows of {len(flows):,}" if rolled_up else ""
        left_out = f" ({counted(unlisted, 'file')} that no manifest lists left out)" if unlisted else ""
        version = f", attribution_version {archive.attribution_version}," if archive.attribution_version else ""
        self._source(f"archive {self._settings.archive}{version} to {until}{of_what}{left_out}")
        if deleted:
            self._source(deleted)

    def _hours(self, span: TimeRange) -> Hours | None:
        """Return the hours of a range whose rollups tell all that is asked."""
        if not self._rollups or only_flows_tell(self._selection, span, self._by):
            return None
        lengths = lengths_that_tell(span, self._by, self._per)
        return Hours(span, self._labels, lengths=lengths, per=self._per)

    def _kept(self, query: ArchiveQuery) -> str:
        """Say why the rollups of the newest hour that was deleted were not read, if they are kept."""
        if query.deleted not in {f"{FLOWS}/{hour_of(path)}" for path in query.chapter.left}:
            return ""
        what = only_flows_tell(self._selection, query.span, self._by) or "a part of an hour"
        return f"; its rollups are kept, and do not tell {what}"

    async def _read_topic(self, lanes: dict[int, Lane], attribution_version: int, tell: Tell) -> None:
        taken = ReadTally()
        intake: Intake[FlatEnd] = Intake(flatten, attribution_version=attribution_version)
        flows = enriched_rows(self._settings, intake, self._spans, taken, lanes)
        count, held = 0, TopicRows()
        with open_database() as database:
            async with contextlib.aclosing(flows) as batches:
                async for rows in batches:
                    tell(taken.reading)
                    count += len(rows)
                    held.add(rows)
                    if held.is_full:
                        self._add_rows(held, database)
            self._add_rows(held, database)
        self.gathered.refused = taken.refused.total()
        topic = self._settings.topics.enriched
        if not lanes:
            self._source(f"topic {topic}")
        elif count:
            self._source(f"topic {topic} for {count:,} flows not archived yet")
        if taken.reading.cut_off:
            self._note_what_is_gone()

    def _add_rows(self, rows: TopicRows, database: duckdb.DuckDBPyConnection) -> None:
        for number, span in enumerate(self._spans):
            self._add(number, rows.query(database, span))
        rows.clear()

    def _add(self, number: int, query: FlowQuery) -> None:
        summary = self.gathered.summaries[number]
        if self._evidence is not None and not number:
            query.gather(self._ends, self._evidence, summary, self._selection)
        else:
            query.summarise(self._ends, summary, self._selection, self._by, self._per, self._labels)
        if not number and not summary.flows:
            self.gathered.present.merge(query.present(self._selection))

    def _note_what_is_gone(self) -> None:
        """Say from when on the topic holds records, where the range begins before that."""
        for number, (span, summary) in enumerate(zip(self._spans, self.gathered.summaries, strict=True)):
            first_ms = min((start for start, _ in summary.windows), default=span.to_ms)
            if first_ms > span.from_ms + 60_000:
                self.gathered.whole[number] = False
                if number == 0:
                    self._source(f"older records are gone: it begins at {timestamp(first_ms)}")

    def _source(self, words: str) -> None:
        self.gathered.sources.append(words)
