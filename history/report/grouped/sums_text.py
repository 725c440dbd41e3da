# SPDX-License-Identifier: Apache-2.0
"""The sums of `zonemeter report --by` as a table for people. Pure."""

from common.amounts import fitted, number, scale, three_digits
from history.model.grouping import OF_ENDS, OF_TIME, By
from history.report.data import Report
from history.report.grouped.sums import SumLine, sums, together
from prices.book import money


def sum_lines(report: Report, by: By) -> list[str]:
    """Return the table: the greatest sums, what the rest comes to, and all; of hours and days, each."""
    found = sums(report, by)
    shown = found if by in OF_TIME else found[: report.top]
    rest = found[len(shown) :]
    unit, divisor = scale(max((max(line.sent, line.received) for line in found), default=0))
    body = [*shown, *([together(rest, f"{len(rest):,} more")] if rest else []), together(found, "all")]
    rows = [_titles(report, by, unit), *((line.name, *_cells(report, by, line, divisor)) for line in body)]
    return fitted(rows, "<" + ">" * (len(rows[0]) - 1), (0,))


def _titles(report: Report, by: By, unit: str) -> tuple[str, ...]:
    titles = [
        f"BY {f'LABEL {report.label}' if report.label else by.upper()}",
        f"{unit} sent" if by in OF_ENDS else unit,
        "across zones",
    ]
    if by in OF_ENDS:
        titles += [f"{unit} received", "across zones"]
    book = report.now.bill.book
    if book is not None:
        titles.append(book.sign)
    return (*titles, f"vs {report.compare}") if report.before is not None else tuple(titles)


def _cells(report: Report, by: By, line: SumLine, divisor: int) -> list[str]:
    cells = [three_digits(size / divisor) if size else "-" for size in line.sizes(of_ends=by in OF_ENDS)]
    if report.now.bill.book is not None:
        cells.append("?" if line.cost is None else number(money(line.cost.total)))
    if report.before is not None:
        cells.append(change_of_rate(line.bytes, line.before, report))
    return cells


def change_of_rate(now: int, before: int, report: Report) -> str:
    """Return how bytes per metered hour changed: the two ranges need not have been metered for equally long.

    "?" where the range before was not metered at all: nobody knows what was sent then.
    """
    if not report.metered_before_ms:
        return "?"
    if not before:
        return "new" if now else "-"
    if not now:
        return "gone"
    now, before = now * report.metered_before_ms, before * report.summary.metered_ms
    change = 100 * (now - before) / before
    return f"{change:+.0f} %" if abs(change) < 1000 else f"x {now / before:,.0f}"
