# SPDX-License-Identifier: Apache-2.0
"""`zonemeter audit`: read the ledger of a time range, reconcile it, say what it comes to.

Exit status 0 if every byte that the hook saw is accounted for, or waits in Kafka for a hop that is behind; 1 if not (or
nothing was seen, or a node's name is abused, or what was read back by --deep is not what the ledger says), 2 for wrong
use.
"""

from collections.abc import Collection
from typing import Literal

from aiokafka.structs import ConsumerRecord
from pydantic import Field

from audit.books import Reconciler, conclude
from audit.result import MAX_LISTED, Audit
from common import clock
from common.amounts import first_few
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.locations import Location
from common.settings import KafkaSettings
from common.terminal import complain, say, write_json
from history.audit import explain, text
from history.audit.deep.facts import Deep, Wanted
from history.audit.waiting import late_of, positions, waiting
from history.model.time_range import TimeRange
from history.range_settings import SpanSettings
from history.read import interrupts
from history.read.rejoin import states_of
from history.read.topic import Reading, read_topic
from schemas.errors import DecodeError
from schemas.ids import Origin
from schemas.ledger import read_ledger
from schemas.topology import TopologyState

# The latest that a window may arrive at the last hop and still be called in flight: the window itself is over;
# the enricher waits 2 s at most for its index, each hop commits about once a second, a sink's cut may take longer.
DEFAULT_SETTLE_SECONDS = 90.0
# Windows that fit are let go of once so many are open, but for those of the last minutes of what was read so far: the
# flow log is first heard of when its first file is cut, and is held to what is open then.
_SETTLE_WHEN_OPEN = 20_000
_FIRST_MARGIN_MS, _MARGIN_MS = 300_000, 30_000


class AuditSettings(SpanSettings):
    """Reconcile, window by window, what the hook saw with what every later hop took."""

    cluster: str | None = Field(None, min_length=1, description="only this cluster's windows")
    node: str | None = Field(None, min_length=1, description="only this node's windows")
    by: Literal["hop", "node"] = Field("hop", description="what the table's rows are")
    output: Literal["table", "json"] = Field("table", description="how to print the answer")
    settle_seconds: float = Field(
        DEFAULT_SETTLE_SECONDS, ge=0, description="a window younger than this that has not arrived is in flight"
    )
    deep: bool = Field(False, description="also read the raw and enriched topics, and --archive, and compare them")
    archive: Location | None = Field(
        None, description="with --deep: the flow log, a directory or URI as zonemeter run flowlog --output has it"
    )


@entry_point("audit", AuditSettings)
def main(settings: AuditSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = clock.now_ms()
    if settings.archive is not None and not settings.deep:
        raise Refusal("--archive is read with --deep only")
    span = settings.span("zonemeter audit", now_ms)
    asked = _Asked(settings, span)
    audit, explained, found = interrupts.run(_look(asked, now_ms))
    if settings.output == "json":
        answer = text.as_dict(audit, explained, found)
        write_json(answer)
    elif asked.nothing(audit) and (found is None or not found.findings):
        complain(f"zonemeter audit: {asked.why_nothing()}")
    else:
        say(*text.lines(audit, span, by=settings.by, explained=explained, deep=found))
    return 0 if audit.closes and not audit.is_forged and (found is None or not found.faults) else 1


class _Asked:
    """Which windows are asked for, and whose others there are in the range, for the hint if there is none."""

    def __init__(self, settings: AuditSettings, span: TimeRange) -> None:
        self.settings, self.span = settings, span
        self.wanted = Wanted(span, settings.cluster, settings.node)
        self._others: set[str] = set()

    def holds(self, origin: Origin, start_ms: int) -> bool:
        if self.wanted.holds(origin, start_ms):
            return True
        if self.span.holds(start_ms) and len(self._others) < MAX_LISTED:
            self._others.add(f"{origin.cluster}/{origin.node}")
        return False

    def nothing(self, audit: Audit) -> bool:
        return not (
            audit.windows or audit.in_flight or audit.late_windows or audit.seen.bytes or audit.refused or audit.gaps
        )

    def why_nothing(self) -> str:
        if not self._others:
            return f"no window in {self.span}: is a collector running? try a longer --since"
        wanted = [f"{name} {value}" for name in ("cluster", "node") if (value := getattr(self.settings, name))]
        there = first_few(sorted(self._others), text.LONGEST_LIST)
        return f"no window of {', '.join(wanted)} in {self.span}; there are {there}"


async def _look(asked: _Asked, now_ms: int) -> tuple[Audit, list[str], Deep | None]:
    settings, span = asked.settings, asked.span
    audit = await _reconcile(asked, now_ms)
    explained = await explain.explain(settings, span, audit)
    if not settings.deep:
        return audit, explained, None
    from history.audit.deep.look import look  # what reads Parquet is not installed everywhere

    return audit, explained, await look(settings, asked.wanted, settings.archive)


async def audit_range(settings: AuditSettings, span: TimeRange, now_ms: int) -> Audit:
    """Read ledger and topology and reconcile the windows that start in `span`; raise `Refusal` if that cannot be."""
    return await _reconcile(_Asked(settings, span), now_ms)


async def audit_of(
    settings: KafkaSettings, span: TimeRange, now_ms: int, clusters: Collection[str]
) -> tuple[Audit | None, str]:
    """Return the books of a range, or why there are none. A cluster's are asked for if there is only one."""
    kafka = settings.model_dump(include=set(KafkaSettings.model_fields))
    cluster = next(iter(clusters)) if len(clusters) == 1 else None
    try:
        audit = await audit_range(AuditSettings(**kafka, cluster=cluster), span, now_ms)
    except Refusal as error:
        return None, f"the ledger was not read: {error}"
    if not audit.windows and not audit.in_flight and not audit.late_windows:
        return None, "the ledger holds nothing of this range any more"
    return audit, ""


async def _reconcile(asked: _Asked, now_ms: int) -> Audit:
    settings, span = asked.settings, asked.span
    audit = Audit()

    def refused(message: ConsumerRecord[bytes, bytes], error: DecodeError) -> None:
        if len(audit.refused) < MAX_LISTED:
            audit.refused.append(f"{message.topic} partition {message.partition} offset {message.offset}: {error}")

    group = f"{settings.topic_prefix}flowlog"
    books = Reconciler(audit.of, asked.holds, group)
    stands = await positions(settings)
    reading = Reading()
    async for batch in read_topic(settings, settings.topics.ledger, span.from_ms, reading=reading):
        for message in batch:
            if message.value is not None:
                try:
                    books.take(read_ledger(message.value, message.key, message.partition))
                except DecodeError as error:
                    refused(message, error)
        trim(books)
    books.settle()
    nodes = [state async for state in states_of(settings, "node", refused) if _within(state, settings, span)]
    settled_before_ms = now_ms - int(settings.settle_seconds * 1000)
    late = late_of(books, settled_before_ms)
    there = await waiting(settings, stands, late)
    conclude(books, audit, settled_before_ms, nodes or None, there, reading.whole)
    if settings.node is not None:
        audit.senders.clear()  # whether another node counted what it sent is in that node's windows, not in these
    return audit


def trim(books: Reconciler) -> None:
    """Let go of windows that fit, where many are open."""
    books.trim(_FIRST_MARGIN_MS if books.absent else _MARGIN_MS, _SETTLE_WHEN_OPEN)


def _within(state: TopologyState, settings: AuditSettings, span: TimeRange) -> bool:
    return settings.node in (None, state.name) and span.meets(state.from_ms, state.to_ms)
