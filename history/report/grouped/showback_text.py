# SPDX-License-Identifier: Apache-2.0
"""A showback as a table for people: a block for each period, its total first. Pure."""

from collections.abc import Sequence

from common.amounts import fitted, human, labelled, number, scale, three_digits
from history.model.grouping import By, Per
from history.model.time_range import timestamp
from history.report.data import Report
from history.report.grouped.showback import UNATTRIBUTED, Period, periods
from history.report.grouped.sums import SumLine, together
from prices.book import money


def showback_lines(report: Report, by: By, per: Per) -> list[str]:
    """Return the table: of each period all, its greatest sums, what the rest comes to, and what belongs to nobody."""
    found = periods(report, by, per)
    totals = [together(period.all, period.title) for period in found]
    unit, divisor = scale(max((max(line.sent, line.received) for line in totals), default=0))
    rows = [_titles(report, by, per, unit)]
    for period, total in zip(found, totals, strict=True):
        rows.append((total.name, *_cells(report, total, divisor)))
        shown, rest = period.lines[: report.top], period.lines[report.top :]
        nobodys = list(period.unattributed.values())
        body = [*shown, *([together(rest, f"{len(rest):,} more")] if rest else [])]
        body += [together(nobodys, UNATTRIBUTED)] if nobodys else []
        rows += [(f"  {line.name}", *_cells(report, line, divisor)) for line in body]
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


def _titles(report: Report, by: By, per: Per, unit: str) -> tuple[str, ...]:
    what = f"LABEL {report.label}" if report.label else by.upper()
    titles = (f"BY {what} PER {per.upper()}", f"{unit} sent", "across", f"{unit} received", "across")
    book = report.now.bill.book
    if book is None:
        return titles
    return (*titles, f"{book.sign} sent", f"{book.sign} received", book.sign)


def _cells(report: Report, line: SumLine, divisor: int) -> list[str]:
    cells = [three_digits(size / divisor) if size else "-" for size in line.sizes(of_ends=True)]
    if report.now.bill.book is None:
        return cells
    cost = line.cost
    return cells + (
        ["?"] * 3 if cost is None else [number(money(amount)) for amount in (cost.source, cost.destination, cost.total)]
    )
