# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report`: what crossed zones in a time range, who sent it to whom, and what it costs.

Exit status 0 for a report, 1 if there is nothing to report or the ledger does not close, 2 for wrong use.
"""

import gc
import time
from dataclasses import replace
from shlex import quote
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from audit.result import Audit
from common import terminal
from common.amounts import counted
from common.durations import Duration, parse_duration
from common.entry_point import entry_point
from common.errors import Refusal
from common.settings import HostPorts, KafkaSettings
from common.terminal import command
from history.audit.command import AuditSettings, audit_range
from history.model.bill import price_summary
from history.model.grouping import OF_TIME, By
from history.model.hints import Present, why_nothing
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.range_settings import SHORTCUTS, RangeSettings
from history.read import interrupts
from history.read.progress import progress
from history.report import machine, text
from history.report.data import Range, Report
from history.report.gather import Gatherer
from history.report.own_traffic import find_own
from prices.book import PriceBook
from prices.file import SHIPPED, load_prices, recognise
from sinks.gc_settings import THRESHOLDS

PROG = "zonemeter report"
NO_PRICES = "none"
TOP_PAIRS, TOP_SUMS = 5, 30
# By so long after its end, a window of every node has come in as a rule.
COMING_IN_MS = 30_000
LONGEST_WINDOW_MS = 60_000


class ReportSettings(RangeSettings):
    """Sum up a time range: zones by zones, who sends to whom across them, what it costs, how far to trust it."""

    model_config = SettingsConfigDict(cli_shortcuts=SHORTCUTS)

    prices: str | None = Field(
        None, description="aws, azure, gcp, a file, or none; else the cloud that names its zones as these are named"
    )
    compare: Duration | None = Field(None, description="compare with the same span this long before, such as 7d")
    by: By | None = Field(
        None, description="sum up by namespace, workload, pod, node, zone, port, service, hour or day, instead of pairs"
    )
    top: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="how many pairs to show (default: 5), or with --by how many sums (default: 30)",
    )
    output: Literal["table", "json", "csv"] = Field("table", description="how to print the answer")
    own_namespace: str = Field("zonemeter", description="the namespace whose traffic is the meter's own")
    own_kafka: HostPorts | None = Field(
        None, description="Kafka as the collectors reach it, to tell their traffic; else as Kafka calls itself"
    )

    @model_validator(mode="after")
    def _compares_what_can_be(self) -> Self:
        if self.compare is not None and self.by in OF_TIME:
            raise ValueError(f"compare and by = {self.by} contradict each other: no {self.by} is in both ranges")
        return self


@entry_point("report", ReportSettings)
def main(settings: ReportSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    span = settings.span(PROG, now_ms)
    spans = [span] if settings.compare is None else compared(span, settings.compare, now_ms)
    if settings.prices not in (None, NO_PRICES, *SHIPPED):
        load_prices(str(settings.prices))  # what is wrong with it, before anything is read
    settings.selection()  # so is this
    gc.set_threshold(*THRESHOLDS)
    report, nothing = interrupts.run(_report(settings, spans, now_ms))
    if nothing:
        _say(nothing)
        return 1
    _print(report, settings.output)
    closes = report.audit is None or not report.audit.mismatches
    return 0 if closes else 1


def compared(span: TimeRange, compare: str, now_ms: int) -> list[TimeRange]:
    """Return the range and the one before it, both without what has not come in from every node yet."""
    whole_by_ms = now_ms - COMING_IN_MS
    # A window begins in the range and may end behind it, but by no more than the longest window there is.
    recent = span.to_ms + LONGEST_WINDOW_MS > whole_by_ms
    part = replace(span, ended_by_ms=whole_by_ms) if recent else span
    return [part, part.earlier(parse_duration(compare))]


async def _report(settings: ReportSettings, spans: list[TimeRange], now_ms: int) -> tuple[Report, str]:
    """Return the report, and why there is none if there is none."""
    own = await find_own(settings, settings.own_namespace, settings.own_kafka)
    ends = Parties(own.brokers)
    with progress("reading flows") as tell:
        gathered = await Gatherer(settings, spans, ends, settings.by).gather(tell)
    summary = gathered.summaries[0]
    book, why = _prices(settings.prices, summary)
    ranges = [
        Range(span, each, price_summary(each, book), whole)
        for span, each, whole in zip(spans, gathered.summaries, gathered.whole, strict=True)
    ]
    report = Report(
        now=ranges[0],
        before=ranges[1] if len(ranges) > 1 else None,
        compare=settings.compare,
        sources=gathered.sources,
        prices_why=why,
        own=own,
        top=settings.top or (TOP_PAIRS if settings.by is None else TOP_SUMS),
        by=settings.by,
        filters={name: list(map(str, values)) for name, values in settings.selection().given() if values},
        range_flags=_range_flags(settings),
        flags=_flags(settings),
        kafka_flags=_kafka_flags(settings),
        refused=gathered.refused,
    )
    if not summary.flows:
        return report, _why_nothing(settings, report, gathered.present)
    report.audit, report.trust_note = await _audit(settings, spans[0], now_ms, summary)
    return report, ""


async def _audit(settings: ReportSettings, span: TimeRange, now_ms: int, summary: Summary) -> tuple[Audit | None, str]:
    """Return the books of the range, or why there are none. A cluster's are asked for if there is only one."""
    kafka = settings.model_dump(include=set(KafkaSettings.model_fields))
    cluster = next(iter(summary.clusters)) if len(summary.clusters) == 1 else None
    try:
        audit = await audit_range(AuditSettings(**kafka, cluster=cluster), span, now_ms)
    except Refusal as error:
        return None, f"the ledger was not read: {error}"
    if not audit.windows and not audit.in_flight:
        return None, "the ledger holds nothing of this range any more"
    return audit, ""


def _prices(which: str | None, summary: Summary) -> tuple[PriceBook | None, str]:
    if which == NO_PRICES:
        return None, "none, as asked"
    if which is not None:
        return load_prices(which), "as asked"
    zones = sorted({end.zone for key in summary.traffic for end in (key.source, key.destination) if end.zone})
    book = recognise(zones)
    if book is not None:
        return book, "by the zones' names"
    return None, f"none: {f'zones such as {zones[0]} are of no one cloud known here' if zones else 'no zone is known'}"


def _why_nothing(settings: ReportSettings, report: Report, present: Present) -> str:
    selection = settings.selection()
    if present.flows and not selection.is_any:
        return why_nothing(selection, present)
    sources = list(report.sources)
    if report.refused:
        sources.append(f"{counted(report.refused, 'record')} could not be decoded: {command('dead-letters list')}")
    return f"no flow in {report.now.span} ({'; '.join(sources)}); try a longer --since"


def _range_flags(settings: ReportSettings) -> str:
    """Return the flags that name the range, as they were given."""
    given = (("--since", settings.since), ("--from", settings.from_time), ("--to", settings.to_time))
    return " ".join(f"{flag} {value}" for flag, value in given if value is not None) or "--since 1h"


def _flags(settings: ReportSettings) -> str:
    """Return the other flags that say what was read, as they were given."""
    filters = "".join(
        f" {'-n' if name == 'namespace' else f'--{name}'} {quote(','.join(map(str, values)))}"
        for name, values in settings.selection().given()
        if values
    )
    archive = "" if settings.archive is None else f" --archive {quote(settings.archive)}"
    return filters + archive + _kafka_flags(settings)


def _kafka_flags(settings: ReportSettings) -> str:
    given = (("--kafka-bootstrap", "kafka_bootstrap"), ("--topic-prefix", "topic_prefix"))
    return "".join(f" {flag} {value}" for flag, name in given if (value := _unless_default(settings, name)))


def _unless_default(settings: ReportSettings, name: str) -> str:
    value = getattr(settings, name)
    return "" if value == ReportSettings.model_fields[name].default else str(value)


def _print(report: Report, output: str) -> None:
    if output == "json":
        terminal.write_json(machine.as_dict(report))
    elif output == "csv":
        terminal.data().write(machine.as_csv(report).encode())
    else:
        terminal.say(*text.lines(report))


def _say(line: str) -> None:
    terminal.complain(f"{PROG}: {line}")
