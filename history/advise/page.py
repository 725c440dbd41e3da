# SPDX-License-Identifier: Apache-2.0
"""Advice as one page of HTML: each finding with its evidence drawn, then the report of the range. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from common.amounts import counted, percent, short_zones
from history.advise import follow
from history.advise.advice import Advice, Advised, Amount, ZonePair
from history.advise.finding import Finding
from history.page import bars, steps
from history.page.bounds import Bounds
from history.page.render import page
from history.report.data import Cash, Report
from history.report.page import layout as report_page
from prices.book import per_month

_MOST_ZONE_PAIRS = 8
SURE = (
    ("measured", "flows and topology show it, and nothing about it is in doubt"),
    ("likely", "they show it, but a part of it is not known"),
    ("ask", "traffic cannot tell a mistake from a decision: a person has to look"),
)


@dataclass(frozen=True)
class Sum:
    """Bytes with what they cost, and what that is in a month, at the rate of the range."""

    bytes: int
    cost: Cash | None
    monthly: Cash | None
    monthly_bytes: int


@dataclass(frozen=True)
class Shown:
    """One finding."""

    number: int
    finding: Finding
    crossing: Sum
    spared: Sum
    share: str
    elsewhere: Sum | None
    still_crosses: bool
    zones_drawing: Markup | str
    ready_drawing: Markup | str
    manifests: Sequence[str]
    verify: str


def document(report: Report, advice: Advice) -> str:
    """Return the page."""
    return page("advise.html.j2", lambda bounds: view(report, advice, bounds))


def view(report: Report, advice: Advice, bounds: Bounds) -> dict[str, Any]:
    """Return what the template of advice names, beside what that of a report does."""
    told, rest = advice.told[: bounds.findings], advice.told[bounds.findings :]
    unavoidable = sum((amount for _, amount in advice.unavoidable), Amount())
    kinds = {each.finding.sure for each in told}
    return report_page.view(report, bounds) | {
        "all_crossing": _sum(report, advice.crossing),
        "all_spared": _sum(report, advice.spared),
        "spared_share": percent(advice.spared.bytes, advice.crossing.bytes),
        "findings": [_shown(report, advice, each) for each in told],
        "found": counted(len(advice.told), "finding"),
        "rest_findings": counted(len(rest), "more finding") if rest else "",
        "rest_spared": _sum(report, sum((each.spared for each in rest), Amount())),
        "small": advice.left_out(report.now.bill.book),
        "sure": [(word, meaning) for word, meaning in SURE if word in kinds],
        "apply": follow.APPLY,
        "notes": advice.notes,
        "parts": bars.whole(list(_parts(advice)), "parts", "What becomes of the bytes that cross zones")
        if advice.crossing.bytes
        else "",
        "unavoidable": [(why, _sum(report, amount)) for why, amount in advice.unavoidable[: bounds.listed]],
        "all_unavoidable": _sum(report, unavoidable),
    }


def _sum(report: Report, amount: Amount) -> Sum:
    now = report.now
    monthly = per_month(amount.bytes, report.summary.metered_ms)
    return Sum(amount.bytes, now.cash(amount.cost), now.monthly(amount.cost), monthly)


def _shown(report: Report, advice: Advice, each: Advised) -> Shown:
    finding = each.finding
    pairs = each.zones[:_MOST_ZONE_PAIRS]
    return Shown(
        each.number,
        finding,
        _sum(report, each.crossing),
        _sum(report, each.spared),
        percent(each.spared.bytes, advice.crossing.bytes),
        _sum(report, Amount(finding.elsewhere)) if finding.elsewhere else None,
        any(pair.after for pair in pairs),
        bars.rows(list(_bars(pairs)), f"zones-{each.number}", "Bytes by pair of zones") if pairs else "",
        steps.draw(finding.ready, f"ready-{each.number}") if finding.ready else "",
        follow.manifests(each),
        follow.verification(report, each),
    )


def _bars(pairs: Sequence[ZonePair]) -> Iterator[bars.Row]:
    short = short_zones(sorted({zone for pair in pairs for zone in (pair.source, pair.destination)}))
    for pair in pairs:
        parts = [
            bars.Part("bar-spared", pair.bytes - pair.after, "spared at most"),
            bars.Part("bar-crossing", pair.after, "would still cross"),
        ]
        name = f"{short[pair.source]} \u2192 {short[pair.destination]}"
        yield bars.Row(name, [part for part in parts if part.bytes])


def _parts(advice: Advice) -> Iterator[bars.Part]:
    """Yield what becomes of all that crosses zones: what findings spare, what nothing can, and the rest."""
    left = advice.crossing.bytes
    for each in advice.told:
        if each.spared.bytes:
            title = f"spared at most by {each.number}, {each.finding.subject}"
            yield bars.Part("bar-spared", each.spared.bytes, title, str(each.number))
            left -= each.spared.bytes
    forced = sum(amount.bytes for _, amount in advice.unavoidable)
    if forced:
        yield bars.Part("bar-forced", forced, "the price of availability")
    if left - forced > 0:
        yield bars.Part("bar-crossing", left - forced, "would still cross")
