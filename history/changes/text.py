# SPDX-License-Identifier: Apache-2.0
"""Changes laid out for people, and as JSON. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from common.amounts import dollars, fitted, human, labelled, percent
from history.changes.effects import Effect, Volume
from history.model.time_range import timestamp
from history.report import machine as report_machine
from history.report.data import Report
from history.report.text import head, trust
from prices.book import MONTH_HOURS, SUBUNITS


def lines(report: Report, changed: Sequence[Effect]) -> list[str]:
    """Return the lines: each change with the part of its traffic that crosses zones, before and after."""
    found = [*head(report, "zonemeter changes"), *trust(report), ""]
    note = labelled("", [report.events_note], 0) if report.events_note else []
    if not changed:
        none = "nothing changed" if not note else "nothing is known to have changed"
        return [*found, f"{none}: no workload came, went or moved, and no Service was told otherwise", *note]
    rows = [("when, UTC", "what", "of what", "in detail", "crossing", "effect a month")]
    for effect in changed:
        event = effect.event
        rows.append(
            (
                timestamp(event.at_ms)[:16],
                event.what,
                str(event.subject),
                event.detail,
                f"{_part(effect.before)} -> {_part(effect.after)}",
                _effect(report, effect),
            )
        )
    return [
        *(line.rstrip() for line in [*found, *fitted(rows, "<<<<>>", names=(2, 3))]),
        "",
        "crossing: the part of its traffic within the region that crosses zones, from the change before to the next",
        "effect: what crosses more (+) or less (-) than with the part of before, at the volume of after",
        *note,
    ]


def as_dict(report: Report, changed: Sequence[Effect]) -> dict[str, Any]:
    """Return the document: the report of the range, and what changed in it."""
    return report_machine.as_dict(report) | {
        "changes": [
            {
                **report_machine.event_dict(effect.event),
                "before": _volume(effect.before),
                "after": _volume(effect.after),
                "effect_bytes_per_hour": None if effect.bytes_per_hour is None else round(effect.bytes_per_hour),
                "effect_cost_per_month": None if (cost := _monthly(effect)) is None else f"{cost:.4f}",
            }
            for effect in changed
        ],
        "changes_note": report.events_note,
    }


def _volume(volume: Volume) -> dict[str, Any]:
    return {"seconds": volume.milliseconds / 1000, "bytes": volume.bytes, "cross_zone_bytes": volume.crossing}


def _part(volume: Volume) -> str:
    return percent(volume.crossing, volume.bytes) if volume.bytes else "-"


def _effect(report: Report, effect: Effect) -> str:
    rate, cost, book = effect.bytes_per_hour, _monthly(effect), report.now.bill.book
    if rate is None:
        return "not known"
    sign = "+" if rate >= 0 else "-"
    if cost is None or book is None:
        return f"{sign}{human(round(abs(rate) * MONTH_HOURS))}"
    return f"{sign}{dollars(abs(cost), book.currency)}"


def _monthly(effect: Effect) -> Decimal | None:
    if effect.bytes_per_hour is None or effect.cost_per_byte is None:
        return None
    return Decimal(effect.bytes_per_hour * MONTH_HOURS * effect.cost_per_byte) / Decimal(SUBUNITS)
