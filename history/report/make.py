# SPDX-License-Identifier: Apache-2.0
"""Makes a report: reads the range, prices it, and asks the ledger how far to trust it."""

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

from audit.result import Audit
from common.amounts import counted
from common.errors import Nothing, Refusal
from common.terminal import command
from history.audit.command import audit_of
from history.model.bill import price_summary
from history.model.evidence import Evidence
from history.model.grouping import By, Per
from history.model.hints import Present, why_nothing
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import TimeRange
from history.range_settings import NO_PRICES, PricedSettings
from history.read.progress import progress
from history.read.rejoin import ReadTally, read_topology
from history.report.data import Range, Report
from history.report.sources.gather import Gatherer
from history.report.sources.label_history import LabelHistory
from history.report.sources.own_traffic import find_own
from prices.book import PriceBook
from prices.file import load_prices, recognise
from schemas.topology import TopologyState

TOP_PAIRS, TOP_SUMS = 5, 30


async def make_report(
    settings: PricedSettings,
    spans: list[TimeRange],
    now_ms: int,
    *,
    others: Sequence[PricedSettings] = (),
    compare: str | None = None,
    by: By | None = None,
    per: Per | None = None,
    label: LabelHistory | None = None,
    top: int | None = None,
    since: str = "1h",
    evidence: Evidence | None = None,
) -> Report:
    """Return the report; fill the evidence for advice, if that is wanted. Raises `Nothing`, `Refusal`.

    `label`: what it is summed up by, if it is a label. `compare`: how long before the first of the ranges the second
    lies. `since`: where the settings name no range. `others`: the same settings for other clusters, whose flows are
    reported with this one's.
    """
    own = await find_own(settings, settings.own_namespace, settings.own_kafka)
    ends = Parties(own.brokers)
    with progress("reading flows") as tell:
        labels = label.times if label else ()
        parts = [
            await Gatherer(each, spans, ends, by, per, labels, evidence, rollups=each.rollups).gather(tell)
            for each in (settings, *others)
        ]
    found = [set(part.summaries[0].clusters) for part in parts]
    gathered = parts[0]
    for part in parts[1:]:
        gathered.merge(part)
    summary = gathered.summaries[0]
    clusters = set().union(*(each.clusters for each in gathered.summaries))
    if label is not None and len(clusters) > 1:
        there = ", ".join(sorted(clusters))
        raise Refusal(
            f"by = label:{label.name}: flows of several clusters are in the range, {there}, and namespaces are known "
            "by name alone; say --cluster NAME"
        )
    book, why = _prices(settings.prices, summary)
    ranges = [
        Range(span, each, price_summary(each, book), whole)
        for span, each, whole in zip(spans, gathered.summaries, gathered.whole, strict=True)
    ]
    report = Report(
        now=ranges[0],
        before=ranges[1] if len(ranges) > 1 else None,
        compare=compare,
        sources=[*gathered.sources, *([label.source] if label else [])],
        prices_why=why,
        own=own,
        top=top or (TOP_PAIRS if by is None else TOP_SUMS),
        by=by,
        per=per,
        label=label.name if label else "",
        filters={name: list(map(str, values)) for name, values in settings.selection().given() if values},
        range_flags=_range_flags(settings, since),
        flags=_flags(settings),
        kafka_flags=_kafka_flags(settings),
        priced_flags=_not_default(settings, "prices", "own_namespace", "own_kafka"),
        refused=gathered.refused,
    )
    if not summary.flows:
        raise Nothing(_why_nothing(settings, report, gathered.present))
    books = [
        await audit_of(each, spans[0], now_ms, clusters)
        for each, clusters in zip((settings, *others), found, strict=True)
        if clusters
    ]
    report.audit, report.trust_note = _together(books)
    return report


def _together(books: Sequence[tuple[Audit | None, str]]) -> tuple[Audit | None, str]:
    """Return the books of several clusters as one, or why one's are not known."""
    whole, why = books[0]
    for audit, missing in books[1:]:
        if whole is None or audit is None:
            return None, why or missing
        _add_cluster(whole, audit)
    return whole, why


def _add_cluster(whole: Audit, other: Audit) -> None:
    """Add the books of another cluster: sums, and what a report says of nodes. Theirs are CLUSTER/NODE then."""
    name = ",".join(sorted({cluster for cluster, _ in other.nodes}))
    whole.merge(other)
    whole.nodes_metered |= {f"{name}/{node}" for node in other.nodes_metered}
    theirs = None if other.nodes_in_cluster is None else {f"{name}/{node}" for node in other.nodes_in_cluster}
    known = whole.nodes_in_cluster is not None and theirs is not None
    whole.nodes_in_cluster = {*(whole.nodes_in_cluster or ()), *(theirs or ())} if known else None
    whole.gaps += (replace(gap, node=f"{name}/{gap.node}") for gap in other.gaps)
    whole.gaps_cut |= other.gaps_cut
    whole.in_flight += other.in_flight
    whole.late_windows += other.late_windows


async def topology_of(settings: PricedSettings, report: Report) -> tuple[list[TopologyState] | None, str]:
    """Return the states of the topology, or why they are not known; the note may say that some are missing."""
    unknown = "what changed in the cluster is not marked"
    if len(set().union(*(each.summary.clusters for each in report.ranges))) > 1:
        return None, f"{unknown}: the range holds several clusters, and the topology is of one; say --cluster NAME"
    taken = ReadTally()
    try:
        states = await read_topology(settings, taken)
    except Refusal as error:
        return None, f"{unknown}: {error}"
    if not states:
        return None, f"{unknown}: topic {settings.topics.topology} holds nothing"
    refused = taken.refused.total()
    note = f"{counted(refused, 'record')} of the topology could not be decoded: a change may be missing"
    return states, note if refused else ""


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


def _why_nothing(settings: PricedSettings, report: Report, present: Present) -> str:
    selection = settings.selection()
    if present.flows and not selection.is_any:
        return why_nothing(selection, present)
    sources = list(report.sources)
    if report.refused:
        sources.append(f"{counted(report.refused, 'record')} could not be decoded: {command('dead-letters list')}")
    return f"no flow in {report.now.span} ({'; '.join(sources)}); try a longer --since"


def _range_flags(settings: PricedSettings, since: str) -> str:
    """Return the flags that name the range, as they were given."""
    given = (("--since", settings.since), ("--from", settings.from_time), ("--to", settings.to_time))
    return " ".join(f"{flag} {quote(value)}" for flag, value in given if value is not None) or f"--since {since}"


def _flags(settings: PricedSettings) -> str:
    """Return the other flags that say what was read, as they were given."""
    filters = "".join(
        f" {'-n' if name == 'namespace' else f'--{name}'} {quote(','.join(map(str, values)))}"
        for name, values in settings.selection().given()
        if values
    )
    archive = "" if settings.archive is None else f" --archive {quote(settings.archive)}"
    return filters + archive + _kafka_flags(settings)


def _kafka_flags(settings: PricedSettings) -> str:
    return _not_default(settings, "kafka_bootstrap", "topic_prefix")


def _not_default(settings: PricedSettings, *names: str) -> str:
    """Return the flags of these settings, but for those that have their default."""
    given = {name: getattr(settings, name) for name in names}
    return "".join(
        f" --{name.replace('_', '-')} {quote(str(value))}"
        for name, value in given.items()
        if value != PricedSettings.model_fields[name].default
    )
