# SPDX-License-Identifier: Apache-2.0
"""What cells of a page hold beside money: changes, exact and as people read them. Pure."""

from typing import NamedTuple

from common.amounts import per_hour
from history.report.data import Report
from history.report.grouped.text import change_of_rate


class Change(NamedTuple):
    """How many more bytes an hour than before, and in words; without a range before neither is shown.

    None: the range before was not metered, so nobody knows.
    """

    bytes_per_hour: int | None
    shown: str


def changed(report: Report, now: int, before: int) -> Change:
    """Return how bytes of the range differ from those of the range before."""
    if report.before is None:
        return Change(0, "")
    if not report.metered_before_ms:
        return Change(None, change_of_rate(now, before, report))
    rates = per_hour(now, report.summary.metered_ms), per_hour(before, report.metered_before_ms)
    return Change(rates[0] - rates[1], change_of_rate(now, before, report))
