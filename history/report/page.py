# SPDX-License-Identifier: Apache-2.0
"""A report as one page of HTML: `-o html`. Pure. Every number in it is one of the report's JSON, or a sum of such."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.amounts import duration, exact, human, per_hour, percent, short_zones
from history.model.bill import Cost
from history.model.grouping import OF_ENDS, OF_TIME
from history.model.summary import EXTERNAL
from history.model.time_range import timestamp
from history.page import sankey, timeline
from history.page.bounds import Bounds
from history.page.render import page
from history.page.scales import LEVELS, between, level
from history.report import showback, text
from history.report.data import PairLine, Range, Report
from history.report.sums import SumLine, sums
from history.report.sums_text import change_of_rate
from prices.book import PriceBook, money, per_month
from schemas.flow import Scope

_SCOPES: tuple[tuple[Scope, str], ...] = (
    ("cross_zone", "cross-zone"),
    ("cross_region", "cross-region"),
    ("same_zone", "same zone"),
    ("same_node", "same node"),
    ("unknown", "unknown"),
)


class Cash(NamedTuple):
    """Money: exact, as JSON has it, and as people read it."""

    exact: str
    shown: str


class Change(NamedTuple):
    """How many more bytes an hour than before, and in words; without a range before neither is shown."""

    bytes_per_hour: int
    shown: str


@dataclass(frozen=True)
class Square:
    """One cell of the heat map. `level`: 0 to `LEVELS`; `within`: both zones are the same."""

    bytes: int
    cost: Cash | None
    level: int
    within: bool


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
        "currency": _currency(report.now.bill.book),
        "trust": text.trust_facts(report),
        "books": _books(report),
        **_answer(report),
        "heat": _heat(report, bounds),
        "scopes": _scopes(report),
        "times": _times(report, bounds),
        **_pairs(report, bounds),
        "sums": _sums(report, bounds),
        "showback": _showback(report, bounds),
        "unknown": sorted(report.summary.unknown.items(), key=lambda item: (-item[1], item[0]))[: bounds.listed],
        "own": text.own(report),
        "outer": report.summary.outer_bytes,
        "no_price": text.no_price(report),
        "by_tier": text.by_tier(report),
        "assumed": text.assumed(report),
        "next": text.next_commands(report),
    }


def cash(subunits: int, book: PriceBook) -> Cash:
    """Return an amount of money."""
    return Cash(exact(money(subunits)), text.dollars_of(subunits, book))


def _books(report: Report) -> str:
    """Return what became of the books: `close`, `broken`, or `unread`, which is neither."""
    if report.audit is None:
        return "unread"
    return "broken" if report.audit.mismatches else "close"


def _answer(report: Report) -> dict[str, Any]:
    crossing = report.summary.scopes.get("cross_zone", 0)
    cost = _cash(report, report.now.cost("cross_zone"))
    return {
        "crossing": crossing,
        "crossing_share": percent(crossing, report.in_region) if report.in_region else "",
        "crossing_cost": cost,
        "crossing_monthly": _monthly(report, report.now.cost("cross_zone")),
        "basis": text.basis(report),
        "change": text.change_facts(report),
    }


def _cash(report: Report, cost: Cost | None) -> Cash | None:
    book = report.now.bill.book
    return None if cost is None or book is None else cash(cost.total, book)


def _monthly(report: Report, cost: Cost | None) -> Cash | None:
    book = report.now.bill.book
    if cost is None or book is None:
        return None
    return cash(per_month(cost.total, report.summary.metered_ms), book)


def _heat(report: Report, bounds: Bounds) -> dict[str, Any]:
    """Return zones by zones: the greatest, by what they exchange with others; without external ends."""
    sizes = {pair: size for pair, size in report.summary.zones.items() if EXTERNAL not in pair}
    costs = {pair: cost for pair, cost in report.now.zone_costs.items() if pair in sizes}
    priced = any(cost.total for cost in costs.values())
    weights = {pair: costs[pair].total if pair in costs else 0 for pair in sizes} if priced else dict(sizes)
    of_zone: dict[str, int] = {}
    for pair, weight in weights.items():
        for zone in pair:
            of_zone[zone] = of_zone.get(zone, 0) + (weight if pair[0] != pair[1] else 0)
    shown = sorted(sorted(of_zone, key=lambda zone: (-of_zone[zone], zone))[: bounds.zones])
    most = max((weight for pair, weight in weights.items() if pair[0] != pair[1] and {*pair} <= {*shown}), default=0)

    def total(pairs: Sequence[tuple[str, str]]) -> Square:
        held = [costs[pair] for pair in pairs if pair in costs]
        cost = sum((each.total for each in held), 0)
        size = sum(sizes.get(pair, 0) for pair in pairs)
        return Square(size, _cash(report, Cost(cost)) if held else None, 0, within=False)

    squares = {}
    for pair in ((source, to) for source in shown for to in shown):
        shade = 0 if pair[0] == pair[1] else level(weights.get(pair, 0), most)
        squares[pair] = Square(sizes.get(pair, 0), _cash(report, costs.get(pair)), shade, pair[0] == pair[1])
    book = report.now.bill.book
    return {
        "zones": shown,
        "rows": [(zone, [squares[zone, to] for to in shown], total([(zone, to) for to in shown])) for zone in shown],
        "totals": [total([(source, to) for source in shown]) for to in shown],
        "total": total([(source, to) for source in shown for to in shown]),
        "priced": priced,
        "left_out": len(of_zone) - len(shown),
        "rest": total([pair for pair in sizes if not {*pair} <= {*shown}]),
        "levels": range(1, LEVELS + 1),
        "most": "" if not most else text.dollars_of(most, book) if priced and book is not None else human(most),
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
        Line(name, size, _cash(report, cost), percent(size, total) if size else "\u2013", scope)
        for name, size, cost, scope in found
    ]


def _times(report: Report, bounds: Bounds) -> dict[str, Any]:
    summary, span = report.summary, report.now.span
    nobody = _nobody(report.now)
    slots, rows = _slots(report.now, nobody), []
    scopes = [scope for scope in timeline.STACKED if summary.scopes.get(scope)]
    for at_ms, slot in slots.items():
        begin = timestamp(span.slot_at(at_ms)[0])[: 16 if span.slot_ms % 60_000 == 0 else 19]
        rows.append((begin, [slot.bytes.get(scope, 0) for scope in scopes], slot.total))
    gaps = [] if report.audit is None else report.audit.gaps
    events = report.events or []
    drawn = timeline.Times(
        span.from_ms,
        span.to_ms,
        list(slots.values()),
        nobody,
        [(max(gap.from_ms, span.from_ms), min(gap.to_ms, span.to_ms)) for gap in gaps],
        [timeline.Mark(event.at_ms, f"{event.what} {event.subject}: {event.detail}") for event in events],
        list(_slots_before(report)),
    )
    return {
        "drawing": timeline.draw(drawn),
        "scopes": scopes,
        "rows": rows,
        "events": events[: bounds.changes],
        "more_events": max(len(events) - bounds.changes, 0),
        "events_note": report.events_note,
        "gaps": sorted(gaps, key=lambda gap: (gap.from_ms, gap.node))[: bounds.listed],
        "more_gaps": max(len(gaps) - bounds.listed, 0),
    }


def _nobody(part: Range) -> list[tuple[int, int]]:
    return between(list(part.summary.windows), part.span.from_ms, part.span.to_ms)


def _slots(part: Range, nobody: Sequence[tuple[int, int]]) -> dict[int, timeline.Slot]:
    """Return the slots of a range, by when they begin."""
    held: dict[int, dict[Scope, int]] = {}
    for (at_ms, scope), size in sorted(part.summary.slots.items()):
        held.setdefault(at_ms, {})[scope] = size
    return {at: timeline.Slot(*_metered(part.span.slot_at(at), nobody), sizes) for at, sizes in held.items()}


def _slots_before(report: Report) -> Iterator[timeline.Slot]:
    if report.before is not None:
        later = report.now.span.from_ms - report.before.span.from_ms
        for slot in _slots(report.before, _nobody(report.before)).values():
            yield timeline.Slot(slot.from_ms + later, slot.to_ms + later, slot.bytes)


def _metered(slot: tuple[int, int], nobody: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return a slot without the time at its ends that nobody metered: its bytes are not of that."""
    begin, end = slot
    for since, until in nobody:
        if since <= begin < until < end:
            begin = until
        elif begin < since < end <= until:
            end = since
    return begin, end


def _pairs(report: Report, bounds: Bounds) -> dict[str, Any]:
    pairs = report.pairs()
    shown = pairs[: min(report.top, bounds.rows)]
    rest = pairs[len(shown) :]
    short = short_zones(sorted({zone for pair in pairs for ends in pair.zones for zone in ends}))
    return {
        "pairs": [_pair(report, pair, short) for pair in shown],
        "rest": _rest(report, rest) if rest else None,
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
        _cash(report, pair.cost),
        _monthly(report, pair.cost),
        _change(report, pair.bytes, pair.before),
        pair.received,
    )


def _rest(report: Report, pairs: Sequence[PairLine]) -> Pair:
    costs = [pair.cost for pair in pairs if pair.cost is not None]
    cost = Cost(sum(each.total for each in costs)) if costs else None
    size, before = sum(pair.bytes for pair in pairs), sum(pair.before for pair in pairs)
    change = _change(report, size, before)
    return Pair("", "", (), size, _cash(report, cost), _monthly(report, cost), change)


def _change(report: Report, now: int, before: int) -> Change:
    if report.before is None:
        return Change(0, "")
    rates = per_hour(now, report.summary.metered_ms), per_hour(before, report.metered_before_ms)
    return Change(rates[0] - rates[1], change_of_rate(now, before, report))


def _bands(report: Report, pairs: Sequence[PairLine], bounds: Bounds) -> Iterator[sankey.Flow]:
    for pair in pairs[: bounds.bands]:
        if pair.bytes:
            cost = _cash(report, pair.cost)
            yield sankey.Flow(pair.source, pair.destination, pair.bytes, "" if cost is None else cost.shown)
    rest = [pair for pair in pairs[bounds.bands :] if pair.bytes]
    if rest:
        ends = (
            f"{len({pair.source for pair in rest}):,} others",
            f"{len({pair.destination for pair in rest}):,} others",
        )
        yield sankey.Flow(*ends, sum(pair.bytes for pair in rest), f"{len(rest):,} pairs", rest=True)


def _sums(report: Report, bounds: Bounds) -> dict[str, Any] | None:
    """Return the sums of `--by`."""
    if report.by is None or report.per is not None:
        return None
    found = sums(report, report.by)
    most = bounds.rows if report.by in OF_TIME else min(report.top, bounds.rows)
    shown, rest = found[:most], found[most:]
    rows = [_sum(report, line.name, [line]) for line in shown]
    return {
        "by": report.by_what,
        "of_ends": report.by in OF_ENDS,
        "rows": rows,
        "rest": _sum(report, f"{len(rest):,} more", rest) if rest else None,
        "all": _sum(report, "all", found),
    }


def _sum(report: Report, name: str, lines: Sequence[SumLine]) -> dict[str, Any]:
    costs = [line.cost for line in lines if line.cost is not None]
    sizes = [sum(line.sent for line in lines), sum(line.sent_across for line in lines)]
    if report.by in OF_ENDS:
        sizes += [sum(line.received for line in lines), sum(line.received_across for line in lines)]
    before = sum(line.before for line in lines)
    return {
        "name": name,
        "sizes": sizes,
        "cost": _cash(report, Cost(sum(cost.total for cost in costs))) if costs else None,
        "change": _change(report, sum(line.bytes for line in lines), before),
    }


def _showback(report: Report, bounds: Bounds) -> dict[str, Any] | None:
    """Return the periods of `--per`: so many owners of each that all periods fit."""
    if report.by is None or report.per is None:
        return None
    found = showback.periods(report, report.by, report.per)
    shown = found[: bounds.rows]
    most = min(report.top, max(bounds.rows // max(len(shown), 1), 1))
    return {
        "by": report.by_what,
        "per": report.per,
        "periods": [_period(report, period, most) for period in shown],
        "left_out": len(found) - len(shown),
    }


def _period(report: Report, period: showback.Period, most: int) -> dict[str, Any]:
    rest = period.lines[most:]
    rows = [_sum(report, line.name, [line]) for line in period.lines[:most]]
    rows += [_sum(report, f"{len(rest):,} more", rest)] if rest else []
    rows += [_sum(report, f"{showback.UNATTRIBUTED} {why}", [line]) for why, line in period.unattributed.items()]
    part = "" if period.is_whole else f"{timestamp(period.from_ms)[:16]} to {timestamp(period.to_ms)[:16]}"
    return {"title": period.title, "part": part, "rows": rows, "all": _sum(report, "all", period.all)}


def _currency(book: PriceBook | None) -> str:
    return "" if book is None else "$" if book.currency == "USD" else book.currency
