# SPDX-License-Identifier: Apache-2.0
"""A report as one page of HTML: `-o html`. Pure. Every number in it is one of the report's JSON, or a sum of such."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.amounts import duration, percent, ranked, short_zones
from history.model.bill import Cost
from history.model.time_range import timestamp
from history.page import sankey
from history.page.bounds import Bounds
from history.page.render import page
from history.report import text
from history.report.data import Cash, PairLine, Report, together
from history.report.page.tables import differences_table, showback_tables, sums_table
from history.report.page.times import over_time
from history.report.page.values import Change, changed
from history.report.page.zones import heat_map
from schemas.flow import Scope

_SCOPES: tuple[tuple[Scope, str], ...] = (
    ("cross_zone", "cross-zone"),
    ("cross_region", "cross-region"),
    ("same_zone", "same zone"),
    ("same_node", "same node"),
    ("unknown", "unknown"),
)


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is called, its bytes, what they cost, and their part of the whole."""

    name: str
    bytes: int
    cost: Cash | None
    share: str = ""
    of: str = ""


@dataclass(frozen=True)
class Pair:
    """A row of the pairs."""

    source: str
    destination: str
    zones: Sequence[tuple[str, str]]
    bytes: int
    cost: Cash | None
    monthly: Cash | None
    change: Change
    received: bool = False


def document(report: Report) -> str:
    """Return the page."""
    return page("report.html.j2", lambda bounds: view(report, bounds))


def view(report: Report, bounds: Bounds) -> dict[str, Any]:
    """Return what the template of a report names."""
    span = report.now.span
    names = ", ".join(sorted(report.summary.clusters))
    return {
        "title": f"{'clusters' if len(report.summary.clusters) > 1 else 'cluster'} {names}",
        "span": str(span),
        "long": duration(span.to_ms - span.from_ms),
        "left_out": "" if span.ended_by_ms is None else timestamp(span.ended_by_ms)[11:],
        "sources": [*report.sources, f"{report.summary.flows:,} flows"],
        "only": text.only(report),
        "prices": text.prices(report),
        "currency": "" if report.now.bill.book is None else report.now.bill.book.sign,
        "trust": text.trust_facts(report),
        "books": _books(report),
        **_answer(report),
        "heat": heat_map(report, bounds),
        "scopes": _scopes(report),
        "times": over_time(report, bounds),
        **_pairs(report, bounds),
        "differences": differences_table(report, bounds),
        "sums": sums_table(report, bounds),
        "showback": showback_tables(report, bounds),
        "unknown": ranked(report.summary.unknown)[: bounds.listed],
        "own": text.own(report),
        "outer": report.summary.outer_bytes,
        "no_price": text.no_price(report),
        "by_tier": text.by_tier(report),
        "assumed": text.assumed(report),
        "next": text.next_commands(report),
    }


def _books(report: Report) -> str:
    """Return what became of the books: `close`, `broken`, or `unread`, which is neither."""
    if report.audit is None:
        return "unread"
    return "broken" if report.audit.mismatches else "close"


def _answer(report: Report) -> dict[str, Any]:
    crossing = report.summary.scopes.get("cross_zone", 0)
    cost = report.now.cash(report.now.cost("cross_zone"))
    return {
        "crossing": crossing,
        "crossing_share": percent(crossing, report.in_region) if report.in_region else "",
        "crossing_cost": cost,
        "crossing_monthly": report.now.monthly(report.now.cost("cross_zone")),
        "basis": text.basis(report),
        "change": text.change_facts(report),
    }


def _scopes(report: Report) -> list[Line]:
    """Return every scope, external traffic by its direction: they add up to all bytes."""
    summary, bill = report.summary, report.now.bill
    found: list[tuple[str, int, Cost | None, Scope]] = [
        (name, summary.scopes.get(scope, 0), bill.by_scope.get(scope), scope) for scope, name in _SCOPES
    ]
    found[2:2] = [
        (name, summary.internet.get(comes_in, 0), bill.internet.get(comes_in), "external")
        for comes_in, name in ((False, "external, out"), (True, "external, in"))
    ]
    total = summary.bytes
    return [
        Line(name, size, report.now.cash(cost), percent(size, total) if size else "\u2013", scope)
        for name, size, cost, scope in found
    ]


def _pairs(report: Report, bounds: Bounds) -> dict[str, Any]:
    pairs = report.pairs()
    shown = pairs[: min(report.top, bounds.rows)]
    rest = pairs[len(shown) :]
    short = short_zones(sorted({zone for pair in pairs for ends in pair.zones for zone in ends}))
    return {
        "pairs": [_pair(report, pair, short) for pair in shown],
        "rest": _pair(report, together(rest), short) if rest else None,
        "rest_count": len(rest),
        "compare": report.compare or "",
        "any_received": any(pair.received for pair in shown),
        "zone_prefix": next((zone[: len(zone) - len(short[zone])] for zone in short), ""),
        "sankey": sankey.draw(list(_bands(report, pairs, bounds))) if pairs else "",
    }


def _pair(report: Report, pair: PairLine, short: Mapping[str, str]) -> Pair:
    return Pair(
        text.name_of(pair.source, pair.nodes[0]),
        text.name_of(pair.destination, pair.nodes[1]),
        sorted((short[source], short[to]) for source, to in pair.zones),
        pair.bytes,
        report.now.cash(pair.cost),
        report.now.monthly(pair.cost),
        changed(report, pair.bytes, pair.before),
        pair.received,
    )


def _bands(report: Report, pairs: Sequence[PairLine], bounds: Bounds) -> Iterator[sankey.Flow]:
    for pair in pairs[: bounds.bands]:
        if pair.bytes:
            cost = report.now.cash(pair.cost)
            yield sankey.Flow(pair.source, pair.destination, pair.bytes, "" if cost is None else cost.shown)
    rest = [pair for pair in pairs[bounds.bands :] if pair.bytes]
    if rest:
        ends = (
            f"{len({pair.source for pair in rest}):,} others",
            f"{len({pair.destination for pair in rest}):,} others",
        )
        yield sankey.Flow(*ends, sum(pair.bytes for pair in rest), f"{len(rest):,} pairs", rest=True)
