# SPDX-License-Identifier: Apache-2.0
"""A report laid out for people: the answer first, then how far to trust it, then what next. Pure."""

from shlex import quote

from common import page
from common.amounts import (
    columns,
    commands,
    counted,
    dollars,
    duration,
    fitted,
    human,
    labelled,
    number,
    per_hour,
    percent,
    ranked,
    scale,
    short_zones,
    shorten,
    three_digits,
)
from common.terminal import command
from history.audit import text as audit_text
from history.model.time_range import timestamp
from history.report.data import PairLine, Report, together
from history.report.differences.text import difference_lines
from history.report.grouped.text import change_of_rate, showback_lines, sum_lines
from prices.book import money, per_month
from prices.file import SHIPPED, is_shipped
from schemas.flow import Scope


def lines(report: Report) -> list[str]:
    """Return the report's lines."""
    parts = [head(report, "zonemeter report"), trust(report), "", *_answer(report), "", *_zones(report)]
    table = _table(report)
    parts += [
        "",
        *table,
        "",
        *difference_lines(report),
        *_small_print(report),
        *([] if report.simulated else commands("next", next_commands(report), 7)),
    ]
    flat = [line for part in parts for line in ([part] if isinstance(part, str) else part)]
    return [line.rstrip() for line in flat]


def _table(report: Report) -> list[str]:
    if report.by is None:
        return _pairs(report)
    if report.per is None:
        return sum_lines(report, report.by)
    return showback_lines(report, report.by, report.per)


def head(report: Report, title: str) -> list[str]:
    """Return what was read, under the name of the command."""
    span = report.now.span
    names = sorted(report.summary.clusters)
    clusters = f"cluster{'s' if len(names) > 1 else ''} {', '.join(names)}"
    long = duration(span.to_ms - span.from_ms)
    first = labelled(title, [shorten(clusters, 26), f"{span} ({long})"], len(title) + 3)
    found = [*first, *labelled("source", [*report.sources, f"{report.summary.flows:,} flows"])]
    if span.ended_by_ms is not None:
        left_out = f"windows that ended after {timestamp(span.ended_by_ms)[11:]}: some nodes' may still be on their way"
        found += labelled("left out", [left_out])
    found += labelled("changed", [report.simulated])
    found += labelled("only", only(report))
    return found + labelled("prices", prices(report))


def only(report: Report) -> list[str]:
    """Return what narrows it."""
    return [_only(name, values) for name, values in report.filters.items()]


def _only(name: str, values: list[str]) -> str:
    listed = ", ".join(values)
    if name == "min-bytes":
        return f"flows of at least {human(int(listed))}"
    if name in ("cluster", "scope", "direction", "port"):
        return f"{name} {listed}"
    return f"{_WAYS.get(name, f'from or to {name}')} {listed}"


_WAYS = {"source": "from", "destination": "to"}


def prices(report: Report) -> list[str]:
    """Return which prices, and why these."""
    book = report.now.bill.book
    if book is None:
        asked = report.prices_why == "none, as asked"
        return [report.prices_why, "" if asked else f"--prices {'|'.join(SHIPPED)}|FILE adds dollars"]
    price = book.find("cross_zone")
    each = "" if price is None else f"{dollars(price.total, book.currency)} per {book.unit} across zones"
    others = sum(other.scope == "cross_zone" for other in book.prices) - 1
    if each and others > 0:
        each += f", {counted(others, 'exception')}"
    who = "" if price is None else f"billed: {price.billed}"
    title = shorten(book.title, 30) + (" list prices" if is_shipped(book) else ", a file of your own,")
    return [f"{title} as of {book.as_of} ({report.prices_why})", each, who]


def trust(report: Report) -> list[str]:
    """Return how far to trust it, as lines."""
    return labelled("trust", trust_facts(report))


def trust_facts(report: Report) -> list[str]:
    """Return how far to trust it: how much was metered of how many nodes, what was lost, what is not known."""
    refused = [f"{counted(report.refused, 'record')} not to be decoded"] if report.refused else []
    summary = report.summary
    return [*audit_text.trust_facts(report.audit, report.trust_note, summary.scopes, len(summary.observers)), *refused]


def _answer(report: Report) -> list[str]:
    crossing = report.summary.scopes.get("cross_zone", 0)
    facts = [f"{human(crossing)}"]
    if report.in_region:
        facts.append(f"{percent(crossing, report.in_region)} of in-region")
    cost = report.now.cost("cross_zone")
    if (cash := report.now.cash(cost)) and (month := report.now.monthly(cost)):
        facts += [cash.shown, f"= {month.shown} a month at this rate"]
    change = change_facts(report)
    found = labelled("CROSS-ZONE", [*facts, *change[:1]], 13)
    return found + [line for note in [basis(report), *change[1:]] for line in labelled("", [note], 13)]


def basis(report: Report) -> str:
    """Return what the answer is computed from."""
    book = report.now.bill.book
    span = report.now.span
    metered = f"{duration(report.summary.metered_ms)} of {duration(span.to_ms - span.from_ms)} metered"
    if book is None or report.now.cost("cross_zone") is None:
        return metered
    kind = "list prices, no discounts" if is_shipped(book) else "prices of your own file"
    return f"over {metered}; a month is 730 h; {kind}"


def change_facts(report: Report) -> list[str]:
    """Return how the bytes across zones changed, and what is to be known about that."""
    before = report.before
    if before is None:
        return []
    if not before.summary.metered_ms:
        return [f"nothing was metered {report.compare} before"]
    now, then = report.summary.metered_ms, before.summary.metered_ms
    sizes = [each.summary.scopes.get("cross_zone", 0) for each in (report.now, before)]
    against = "on what was measured" if report.simulated else f"on {report.compare} before"
    rates = [f"{human(per_hour(size, metered))}/h" for size, metered in zip(sizes, (now, then), strict=True)]
    change = [f"{change_of_rate(sizes[0], sizes[1], report)} {against}: {rates[0]}, was {rates[1]}"]
    if duration(now) != duration(then):
        change.append(f"rates: over {duration(now)} metered now, over {duration(then)} metered {report.compare} before")
    nodes, nodes_then = len(report.summary.observers), len(before.summary.observers)
    if nodes != nodes_then:
        metered = f"{counted(nodes, 'node')} metered now, {nodes_then:,} {report.compare} before"
        change.append(f"{metered}: what others send is in no rate")
    if not before.whole:
        change.append(f"some of what was metered {report.compare} before is gone: its rate is of what is left")
    return change


def _zones(report: Report) -> list[str]:
    matrix = report.zone_matrix()
    zones = sorted({zone for pair in matrix for zone in pair})
    unit, divisor = scale(max([*matrix.values(), *report.summary.scopes.values()], default=0))
    side = _other_traffic(report, unit, divisor)
    body = [
        (source, *(three_digits(size / divisor) if (size := matrix.get((source, to), 0)) else "-" for to in zones))
        for source in zones
    ]
    most, short = page.current().table, short_zones(zones)
    for names in (zones, [short[zone] for zone in zones]):
        table = columns([(f"{unit} from \\ to", *names), *body], "<" + ">" * len(zones))
        width = max(map(len, table)) + 5
        if width + max(map(len, side)) <= most:
            break
    else:
        if width > most:
            table = _zone_list(matrix, divisor, unit, report.top)
        return [*table, "", *side]
    rows = max(len(table), len(side))
    table += [""] * (rows - len(table))
    side += [""] * (rows - len(side))
    return [f"{left:<{width}}{right}" for left, right in zip(table, side, strict=True)]


def _zone_list(matrix: dict[tuple[str, str], int], divisor: int, unit: str, top: int) -> list[str]:
    """Return the zones as a list, where there are too many for a matrix."""
    pairs = ranked({pair: size for pair, size in matrix.items() if pair[0] != pair[1]})
    rows = [(source, "->", to, three_digits(size / divisor)) for (source, to), size in pairs[:top]]
    rest = sum(size for _, size in pairs[top:])
    more = [(f"{len(pairs) - top} more", "", "", three_digits(rest / divisor))] if len(pairs) > top else []
    return fitted([("zones", "", "", unit), *rows, *more], "<<<>")


def _other_traffic(report: Report, unit: str, divisor: int) -> list[str]:
    summary, bill = report.summary, report.now.bill
    found = [(name, summary.scopes.get(scope, 0), bill.by_scope.get(scope)) for scope, name in _OTHERS]
    # What goes out to the internet is billed, what comes in mostly not: two sums.
    found[-1:-1] = [
        (name, summary.internet.get(comes_in, 0), bill.internet.get(comes_in))
        for comes_in, name in ((False, "external out"), (True, "external in"))
    ]
    rows = [("other traffic", unit, "")]
    for name, size, cost in found:
        if size:
            cash = report.now.cash(cost) if cost is not None and cost.total else None
            rows.append((name, three_digits(size / divisor), cash.shown if cash else ""))
    return columns(rows, "<><")


_OTHERS: tuple[tuple[Scope, str], ...] = (
    ("same_node", "same node"),
    ("same_zone", "same zone"),
    ("cross_region", "cross-region"),
    ("unknown", "unknown"),
)


def _pairs(report: Report) -> list[str]:
    pairs = report.pairs()
    if not pairs:
        return ["TOP PAIRS    nothing crossed zones"]
    shown, rest = pairs[: report.top], pairs[report.top :]
    unit, divisor = scale(max(pair.bytes for pair in pairs))
    short = short_zones(sorted({zone for pair in pairs for places in pair.zones for zone in places}))
    rows = [
        ("TOP PAIRS", "", "", "zones", unit, *_cost_titles(report)),
        *(
            (
                name_of(pair.source, pair.nodes[0]) + ("*" if pair.received else ""),
                "->",
                name_of(pair.destination, pair.nodes[1]),
                shorten(_places(pair, short), 12),
                three_digits(pair.bytes / divisor),
                *_cost_cells(report, pair),
            )
            for pair in shown
        ),
    ]
    if rest:
        others = together(rest)
        size = three_digits(others.bytes / divisor)
        rows.append((f"{len(rest):,} more", "", "", "", size, *_cost_cells(report, others)))
    table = fitted(rows, "<<<<" + ">" * (len(rows[0]) - 4))
    if any(pair.received for pair in shown):
        note = "* counted on receipt: the sender has no collector; what it is billed is assumed, not verified"
        table += labelled("", [note], 2 if len(note) > page.current().prose else 0)
    return table


def _cost_titles(report: Report) -> list[str]:
    titles = []
    if report.now.bill.book is not None:
        sign = report.now.bill.book.sign
        titles += [sign, f"{sign}/month"]
    return [*titles, f"vs {report.compare}"] if report.before is not None else titles


def _cost_cells(report: Report, pair: PairLine) -> list[str]:
    cost, cells = pair.cost, []
    if report.now.bill.book is not None:
        amounts = () if cost is None else (cost.total, per_month(cost.total, report.summary.metered_ms))
        cells += [number(money(amount)) for amount in amounts] or ["?", "?"]
    if report.before is not None:
        cells.append(change_of_rate(pair.bytes, pair.before, report))
    return cells


def _small_print(report: Report) -> list[str]:
    found = []
    found += labelled("UNKNOWN", [f"{reason} {human(size)}" for reason, size in ranked(report.summary.unknown)], 13)
    found += labelled("METER'S OWN", own(report), 13)
    if report.summary.outer_bytes:
        outer = f"{human(report.summary.outer_bytes)} in outer packets, whose inner ones are counted: in no sum"
        found += labelled("OVERLAY", [outer], 13)
    found += labelled("NO PRICE", no_price(report), 13)
    found += labelled("BY TIER", by_tier(report), 13)
    found += labelled("ASSUMED", assumed(report), 13)
    return [*found, ""] if found else []


def own(report: Report) -> list[str]:
    """Return what the meter itself sent; that nothing is known of it is said, unless only a namespace was asked for."""
    size, crossing, cost = report.own_traffic()
    if not size:
        brokers = ", ".join(f"{address}:{port}" for address, port in sorted(report.own.brokers)[:3])
        told = f"known by namespace {report.own.namespace} and Kafka at {brokers or 'an unknown address'} (--own-kafka)"
        return [] if report.filters else ["none seen", told]
    facts = [human(size), f"{human(crossing)} of it across zones"]
    book, total = report.now.bill.book, report.now.cost("cross_zone")
    if book is not None and cost.total and total is not None and total.total:
        facts.append(f"{book.shown(cost.total)}, {percent(cost.total, total.total)} of the above")
    return [*facts, "included above"]


def no_price(report: Report) -> list[str]:
    """Return what is not in the cost."""
    bill = report.now.bill
    if bill.book is None:
        return []
    sizes = sorted(bill.unpriced.items())
    unpriced = [f"{scope.replace('_', '-')} {human(size)}" for scope, size in sizes if size and scope != "unknown"]
    return [f"{', '.join(unpriced)}: not in the cost"] if unpriced else []


def by_tier(report: Report) -> list[str]:
    """Return what costs so much or so much, by the month's amount, which nobody here knows."""
    bill = report.now.bill
    if bill.book is None:
        return []
    return [
        f"{scope.replace('_', '-')} {human(each.bytes)}: {bill.book.shown(each.lowest)} to "
        f"{bill.book.shown(each.highest)}, lowest to highest tier: not in the cost"
        for scope, each in sorted(bill.by_tier.items())
    ]


def assumed(report: Report) -> list[str]:
    """Return what of the cost is billed to far sides as to any other end, though nobody has verified that."""
    bill = report.now.bill
    if bill.book is None or not bill.assumed:
        return []
    return [f"{bill.book.shown(bill.assumed)} of the cost is the far side's, in the CIDR map: as any other end's"]


def next_commands(report: Report) -> list[str]:
    """Return commands that lead on from here."""
    where = report.range_flags + report.flags
    wishes = []
    if report.audit is not None and report.audit.mismatches:
        wishes.append(command(f"audit {report.range_flags}{report.kafka_flags}"))
    if report.summary.scopes.get("unknown", 0):
        wishes.append(command(f"replay {where} --scope unknown"))
    if report.audit is not None and "vpc_unmapped" in report.summary.unknown:
        wishes.append(command(f"cidrs suggest {report.range_flags}{report.kafka_flags}"))
    if report.now.bill.book is None:
        wishes.append(command(f"report {where} --prices aws"))
    else:
        wishes.append(command("prices list"))
    if report.before is None:
        wishes.append(command(f"report {where}{report.priced_flags} --compare 7d"))
    by = f"label:{report.label}" if report.by == "label" else report.by
    summed = f" --by {quote(by)}" if by else ""
    per = f" --per {report.per}" if report.per else ""
    wishes.append(command(f"report {where}{report.priced_flags}{summed}{per} -o csv"))
    return wishes


def name_of(label: str, nodes: set[str]) -> str:
    """Return what one end of a pair is called: the node, if it is one, else how many."""
    if not nodes:
        return label
    return next(iter(nodes)) if len(nodes) == 1 else f"{len(nodes)} nodes"


def _places(pair: PairLine, short: dict[str, str]) -> str:
    if not pair.zones:
        return "-"
    sources, destinations = (sorted({short.get(places[side], "?") for places in pair.zones}) for side in (0, 1))
    if len(sources) * len(destinations) > 3:
        return f"{len(pair.zones)} pairs"
    return f"{','.join(sources)} -> {','.join(destinations)}"
