# SPDX-License-Identifier: Apache-2.0
"""The sums of `zonemeter report --by` as a table for people; of a showback, a block for each period. Pure."""

from collections import Counter
from collections.abc import Sequence

from common.amounts import fitted, human, labelled, number, ranked, scale, three_digits
from history.model.grouping import OF_ENDS, OF_TIME, By, Per
from history.model.time_range import timestamp
from history.report.data import Report
from history.report.grouped.showback import UNATTRIBUTED, Period, periods
from history.report.grouped.sums import SumLine, sums, together, with_rest
from prices.book import money


def sum_lines(report: Report, by: By) -> list[str]:
    """Return the table: the greatest sums, what the rest comes to, and all; of hours and days, each."""
    found = sums(report, by)
    unit, divisor = _scale(found)
    titles = [f"{unit} sent" if by in OF_ENDS else unit, "across zones"]
    titles += [f"{unit} received", "across zones"] if by in OF_ENDS else []
    book = report.now.bill.book
    titles += [book.sign] if book is not None else []
    titles += [f"vs {report.compare}"] if report.before is not None else []
    body = [*with_rest(found, len(found) if by in OF_TIME else report.top), together(found, "all")]
    return _table([(_what(report, by), *titles), *((line.name, *_sum(report, by, line, divisor)) for line in body)])


def showback_lines(report: Report, by: By, per: Per) -> list[str]:
    """Return the table: of each period all, its greatest sums, what the rest comes to, and what belongs to nobody."""
    found = periods(report, by, per)
    totals = [together(period.all, period.title) for period in found]
    unit, divisor = _scale(totals)
    titles = [f"{unit} sent", "across", f"{unit} received", "across"]
    book = report.now.bill.book
    titles += [f"{book.sign} sent", f"{book.sign} received", book.sign] if book is not None else []
    rows = [(f"{_what(report, by)} PER {per.upper()}", *titles)]
    for period, total in zip(found, totals, strict=True):
        rows.append((total.name, *_share(report, total, divisor)))
        body = with_rest(period.lines, report.top)
        nobodys = list(period.unattributed.values())
        body += [together(nobodys, UNATTRIBUTED)] if nobodys else []
        rows += [(f"  {line.name}", *_share(report, line, divisor)) for line in body]
    return [*_table(rows), *_notes(found)]


def _what(report: Report, by: By) -> str:
    return f"BY {f'LABEL {report.label}' if report.label else by.upper()}"


def _scale(lines: Sequence[SumLine]) -> tuple[str, int]:
    return scale(max((max(line.sent, line.received) for line in lines), default=0))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return fitted(rows, "<" + ">" * (len(rows[0]) - 1), (0,))


def _sizes(line: SumLine, divisor: int, *, of_ends: bool) -> list[str]:
    return [three_digits(size / divisor) if size else "-" for size in line.sizes(of_ends=of_ends)]


def _sum(report: Report, by: By, line: SumLine, divisor: int) -> list[str]:
    cells = _sizes(line, divisor, of_ends=by in OF_ENDS)
    if report.now.bill.book is not None:
        cells.append("?" if line.cost is None else number(money(line.cost.total)))
    if report.before is not None:
        cells.append(change_of_rate(line.bytes, line.before, report))
    return cells


def _share(report: Report, line: SumLine, divisor: int) -> list[str]:
    cells, cost = _sizes(line, divisor, of_ends=True), line.cost
    if report.now.bill.book is None:
        return cells
    amounts = (
        ["?"] * 3 if cost is None else [number(money(each)) for each in (cost.source, cost.destination, cost.total)]
    )
    return cells + amounts


def _notes(found: Sequence[Period]) -> list[str]:
    """Return what belongs to nobody, by why, and which periods are not whole."""
    why: Counter[str] = Counter()
    for period in found:
        why.update({reason: line.bytes for reason, line in period.unattributed.items()})
    reasons = [f"{reason} {human(size)}" for reason, size in ranked(why)]
    cut = [f"{timestamp(each.from_ms)} - {timestamp(each.to_ms)}" for each in found if not each.is_whole]
    notes = labelled("UNATTRIBUTED", [*reasons, "sent and received"] if reasons else [], 14)
    return notes + labelled("NOT WHOLE", cut, 14)


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
