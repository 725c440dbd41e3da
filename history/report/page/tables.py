# SPDX-License-Identifier: Apache-2.0
"""The tables of a report's page that not every report has: differences, sums, a showback. Pure."""

from typing import Any

from common.amounts import human
from history.model.grouping import OF_ENDS, OF_TIME
from history.model.time_range import timestamp
from history.page.bounds import Bounds
from history.report.data import Report
from history.report.differences.text import EXPLAINED, MOST_CHANGES
from history.report.grouped import showback
from history.report.grouped.sums import SumLine, sums, together, with_rest
from history.report.page.values import changed


def differences_table(report: Report, bounds: Bounds) -> dict[str, Any] | None:
    """Return what makes this range differ from the one before, pair by pair."""
    found = report.differences
    if found is None:
        return None
    shown = found.pairs[: bounds.listed]
    return {
        "rows": [
            (each, _signed(each.by_volume), _signed(each.by_zones), each.changed[:MOST_CHANGES]) for each in shown
        ],
        "more": found.more + len(found.pairs) - len(shown),
        "explained": EXPLAINED,
        "note": found.note if found.note != report.events_note else "",
    }


def _signed(bytes_per_hour: int | None) -> str:
    if bytes_per_hour is None:
        return "?"
    if not bytes_per_hour:
        return "\u2013"
    sign = "\u2212" if bytes_per_hour < 0 else "+"
    return f"{sign}{human(abs(bytes_per_hour))}"


def sums_table(report: Report, bounds: Bounds) -> dict[str, Any] | None:
    """Return the sums of `--by`."""
    if report.by is None or report.per is not None:
        return None
    found = sums(report, report.by)
    most = bounds.rows if report.by in OF_TIME else min(report.top, bounds.rows)
    shown, rest = found[:most], found[most:]
    rows = [_sum(report, line) for line in shown]
    return {
        "by": report.by_what,
        "of_ends": report.by in OF_ENDS,
        "rows": rows,
        "rest": _sum(report, together(rest, f"{len(rest):,} more")) if rest else None,
        "all": _sum(report, together(found, "all")),
    }


def _sum(report: Report, line: SumLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "sizes": line.sizes(of_ends=report.by in OF_ENDS),
        "cost": report.now.cash(line.cost),
        "change": changed(report, line.bytes, line.before),
    }


def showback_tables(report: Report, bounds: Bounds) -> dict[str, Any] | None:
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
    lines = with_rest(period.lines, most)
    lines += [together([line], f"{showback.UNATTRIBUTED} {why}") for why, line in period.unattributed.items()]
    rows = [_sum(report, line) for line in lines]
    part = "" if period.is_whole else f"{timestamp(period.from_ms)[:16]} to {timestamp(period.to_ms)[:16]}"
    return {"title": period.title, "part": part, "rows": rows, "all": _sum(report, together(period.all, "all"))}
