# SPDX-License-Identifier: Apache-2.0
"""What cells of a page hold: money and changes, exact and as people read them. Pure."""

from typing import NamedTuple

from common.amounts import per_hour
from history.model.bill import Cost
from history.report.data import Report
from history.report.grouped.text import change_of_rate
from prices.book import PriceBook, exact_money, per_month


class Cash(NamedTuple):
    """Money: exact, as JSON has it, and as people read it."""

    exact: str
    shown: str


class Change(NamedTuple):
    """How many more bytes an hour than before, and in words; without a range before neither is shown.

    None: the range before was not metered, so nobody knows.
    """

    bytes_per_hour: int | None
    shown: str


def cash(subunits: int, book: PriceBook) -> Cash:
    """Return an amount of money."""
    return Cash(exact_money(subunits), book.shown(subunits))


def priced(report: Report, cost: Cost | None) -> Cash | None:
    """Return what a cost is in money; None: no price."""
    book = report.now.bill.book
    return None if cost is None or book is None else cash(cost.total, book)


def monthly(report: Report, cost: Cost | None) -> Cash | None:
    """Return what it would be in a month, at the rate of the range; None: no price."""
    book = report.now.bill.book
    if cost is None or book is None:
        return None
    return cash(per_month(cost.total, report.summary.metered_ms), book)


def changed(report: Report, now: int, before: int) -> Change:
    """Return how bytes of the range differ from those of the range before."""
    if report.before is None:
        return Change(0, "")
    if not report.metered_before_ms:
        return Change(None, change_of_rate(now, before, report))
    rates = per_hour(now, report.summary.metered_ms), per_hour(before, report.metered_before_ms)
    return Change(rates[0] - rates[1], change_of_rate(now, before, report))
