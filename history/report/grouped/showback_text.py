# SPDX-License-Identifier: Apache-2.0
"""A showback as a table for people: a block for each period, its total first. Pure."""

from collections.abc import Sequence

from common.amounts import fitted, human, labelled, number, scale, three_digits
from history.model.bill import NOTHING, Cost
from history.model.grouping import By, Per
from history.model.time_range import timestamp
from history.report.data import Report
from history.report.grouped.showback import UNATTRIBUTED, Period, periods
from history.report.grouped.sums import SumLine
from prices.book import money


def showback_lines(report: Report, by: By, per: Per) -> list[str]:
    """Return the table: of each period all, its greatest sums, what the rest comes to, and what belongs to nobody."""
    found = periods(report, by, per)
    unit, divisor = scale(max((max(line.sent, line.received) for line in map(_total, found)), default=0))
    rows = [_titles(report, by, per, unit)]
    for period in found:
        rows.append((period.title, *_cells(report, period.all, divisor)))
        shown, rest = period.lines[: report.top], period.lines[report.top :]
        body = [(line.name, [line]) for line in shown]
        body += [(f"{len(rest):,} more", rest)] if rest else []
        body += [(UNATTRIBUTED, list(period.unattributed.values()))] if period.unattributed else []
        rows += [(f"  {name}", *_cells(report, lines, divisor)) for name, lines in body]
    return [*fitted(rows, "<" + ">" * (len(rows[0]) - 1), (0,)), *_notes(found)]


def _notes(found: Sequence[Period]) -> list[str]:
    """Return what belongs to nobody, by why, and which periods are not whole."""
    why: dict[str, int] = {}
    for period in found:
        for reason, line in period.unattributed.items():
            why[reason] = why.get(reason, 0) + line.bytes
    reasons = [f"{reason} {human(size)}" for reason, size in sorted(why.items(), key=lambda item: (-item[1], item[0]))]
    cut = [f"{timestamp(each.from_ms)} - {timestamp(each.to_ms)}" for each in found if not each.is_whole]
    notes = labelled("UNATTRIBUTED", [*reasons, "sent and received"] if reasons else [], 14)
    return notes + labelled("NOT WHOLE", [f"{each}" for each in cut], 14)


def _total(period: Period) -> SumLine:
    return SumLine("", sum(line.sent for line in period.all), sum(line.received for line in period.all))


def _titles(report: Report, by: By, per: Per, unit: str) -> tuple[str, ...]:
    what = f"LABEL {report.label}" if report.label else by.upper()
    titles = (f"BY {what} PER {per.upper()}", f"{unit} sent", "across", f"{unit} received", "across")
    book = report.now.bill.book
    if book is None:
        return titles
    sign = "$" if book.currency == "USD" else book.currency
    return (*titles, f"{sign} sent", f"{sign} received", sign)


def _cells(report: Report, lines: Sequence[SumLine], divisor: int) -> list[str]:
    sizes = (
        sum(line.sent for line in lines),
        sum(line.sent_across for line in lines),
        sum(line.received for line in lines),
        sum(line.received_across for line in lines),
    )
    cells = [three_digits(size / divisor) if size else "-" for size in sizes]
    if report.now.bill.book is None:
        return cells
    costs = [line.cost for line in lines if line.cost is not None]
    cost: Cost = sum(costs, NOTHING)
    amounts = (cost.source, cost.destination, cost.total)
    return cells + [number(money(amount)) if costs else "?" for amount in amounts]
