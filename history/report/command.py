# SPDX-License-Identifier: Apache-2.0
"""`zonemeter report`: what crossed zones in a time range, who sent it to whom, and what it costs.

Exit status 0 for a report, 1 if there is nothing to report or the ledger does not close, 2 for wrong use.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common import clock, terminal
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.checked import checked
from common.input.clusters import OtherClusters, other_clusters
from common.input.durations import Duration, parse_duration
from history.model.grouping import OF_TIME, OWNERS, By, Per, parse_by
from history.model.states.events import known_events
from history.model.time_range import TimeRange
from history.page.bounds import Bounds
from history.range_settings import PricedSettings
from history.read import interrupts
from history.report import machine, text
from history.report.data import Report
from history.report.differences.compare import differences
from history.report.make import make_report, topology_of
from history.report.sources.label_history import read_labels

PROG = "zonemeter report"
# By so long after its end, a window of every node has come in as a rule.
COMING_IN_MS = 30_000
LONGEST_WINDOW_MS = 60_000


class ReportSettings(PricedSettings):
    """Sum up a time range: zones by zones, who sends to whom across them, what it costs, how far to trust it."""

    compare: Duration | None = Field(None, description="compare with the same span this long before, such as 7d")
    by: Annotated[str, checked(parse_by)] | None = Field(
        None,
        description="sum up by namespace, workload, pod, node, zone, port, service, cluster, hour, day, or by a label "
        "of namespaces as label:NAME, instead of pairs",
    )
    per: Per | None = Field(
        None,
        description="with --by namespace, workload, node or label:NAME: who bears what, for each hour, day or month "
        "(UTC); what belongs to nobody is not spread",
    )
    all_clusters: bool = Field(
        False,
        description="also report on the clusters that --other-clusters names; where --archive is ROOT/CLUSTER, "
        "theirs are ROOT/NAME",
    )
    other_clusters: OtherClusters = Field(
        "", description="other clusters on this Kafka, NAME=TOPIC_PREFIX, comma-separated"
    )
    top: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="how many pairs to show (default: 5), or with --by how many sums (default: 30), "
        "with --per of each period; on a page: 500",
    )
    topology: Path | None = Field(
        None, description="with --by label:NAME: a file of states instead of the topology topic"
    )
    output: Literal["table", "json", "csv", "html"] = Field(
        "table",
        description="how to print the answer; html: a page that needs no network; csv with --per: FOCUS 1.3",
    )

    @model_validator(mode="after")
    def _compares_what_can_be(self) -> Self:
        by, label = self.grouping
        if self.compare is not None and by in OF_TIME:
            raise ValueError(f"compare and by = {self.by} contradict each other: no {self.by} is in both ranges")
        if self.per is not None and by not in OWNERS:
            owners = ", ".join(OWNERS[:-1])
            raise ValueError(f"per = {self.per} needs by = {owners} or label:NAME: only these can bear a cost")
        if self.all_clusters and not self.other_clusters:
            raise ValueError("all_clusters needs other_clusters: NAME=TOPIC_PREFIX of each")
        if self.topology is not None and not label:
            raise ValueError("topology only means something with by = label:NAME")
        if self.compare is not None and self.output == "csv":
            raise ValueError("compare and output = csv contradict each other: a CSV is of one range; -o json has both")
        if self.per is not None and self.compare is not None:
            raise ValueError(f"compare and per contradict each other: no {self.per} is in both ranges")
        return self

    @property
    def others(self) -> list["ReportSettings"]:
        """The same for each of the other clusters that are wanted."""
        if not self.all_clusters:
            return []
        found = other_clusters(self.other_clusters, self.topic_prefix)
        return [
            self.model_copy(update={"topic_prefix": prefix, "archive": beside(self.archive, name)})
            for name, prefix in found.items()
            if not self.cluster or name in self.cluster
        ]

    @property
    def grouping(self) -> tuple[By | None, str]:
        """What to sum up by, and the label's name if it is one."""
        return (None, "") if self.by is None else parse_by(self.by)


@entry_point("report", ReportSettings)
def main(settings: ReportSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = clock.now_ms()
    span = settings.span(PROG, now_ms)
    spans = [span] if settings.compare is None else compared(span, settings.compare, now_ms)
    settings.check()
    report = interrupts.run(_make(settings, spans, now_ms))
    terminal.answer(
        settings.output,
        json=lambda: machine.as_dict(report),
        html=lambda: _page(report),
        csv=lambda: machine.as_csv(report),
        table=lambda: text.lines(report),
    )
    closes = report.audit is None or not report.audit.mismatches
    return 0 if closes else 1


async def _make(settings: ReportSettings, spans: list[TimeRange], now_ms: int) -> Report:
    by, name = settings.grouping
    label = await read_labels(settings, settings.topology, name, spans[0]) if name else None
    is_page = settings.output == "html"
    top = settings.top or (Bounds().rows if is_page else None)
    others = settings.others
    report = await make_report(
        settings, spans, now_ms, others=others, compare=settings.compare, by=by, per=settings.per, label=label, top=top
    )
    shows_pairs = settings.output in ("json", "html") or (settings.output == "table" and by is None)
    before = report.before if shows_pairs else None
    if not (is_page or (before is not None and before.summary.metered_ms)):
        return report
    states, note = await topology_of(settings, report)
    report.events_note = note
    if is_page and states is not None:
        report.events, forgotten = known_events(states, report.now.span)
        report.events_note = note or forgotten
    if before is not None:
        report.differences = differences(report, before, states or [], note)
    return report


def compared(span: TimeRange, compare: str, now_ms: int) -> list[TimeRange]:
    """Return the range and the one before it, both without what has not come in from every node yet.

    Raises `Refusal` where that begins before 1970.
    """
    if parse_duration(compare) > span.from_ms:
        raise Refusal(f"compare = {compare!r}: that range begins before 1970; expected a shorter time, such as 7d")
    whole_by_ms = now_ms - COMING_IN_MS
    # A window begins in the range and may end behind it, but by no more than the longest window there is.
    recent = span.to_ms + LONGEST_WINDOW_MS > whole_by_ms
    part = replace(span, ended_by_ms=whole_by_ms) if recent else span
    return [part, part.earlier(parse_duration(compare))]


def beside(archive: str | None, name: str) -> str | None:
    """Return the archive of that name below the same parent."""
    if archive is None:
        return None
    path, mark, options = archive.partition("?") if "://" in archive else (archive, "", "")
    return f"{path.rstrip('/').rpartition('/')[0] or '.'}/{name}{mark}{options}"


def _page(report: Report) -> str:
    from history.report.page import layout  # brings the template engine, which no other answer needs

    return layout.document(report)
