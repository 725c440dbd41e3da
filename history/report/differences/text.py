# SPDX-License-Identifier: Apache-2.0
"""What makes two ranges differ, as a table for people, with what changed then under each pair. Pure."""

from collections.abc import Iterator

from common.amounts import counted, fitted, labelled, scale, three_digits
from history.model.states.events import Event
from history.model.time_range import timestamp
from history.report.data import Report

# Of a pair; the document for programs has them all.
MOST_CHANGES = 3
EXPLAINED = (
    "by volume: more or less is sent; by zones: another part of it crosses zones. "
    "then: what changed at an end of the pair; it need not be the cause"
)


def difference_lines(report: Report) -> list[str]:
    """Return the table, with an empty line behind it; nothing where there is nothing to compare, or sums are shown."""
    found = report.differences
    if found is None or report.by is not None:
        return []
    if not found.pairs:
        return ["WHAT DIFFERS  no pair sends another amount across zones", ""]
    unit, divisor = scale(max(max(each.bytes_per_hour, each.bytes_per_hour_before) for each in found.pairs))
    rows = [
        ("WHAT DIFFERS", "", "", f"{unit}/h", "was", "by volume", "by zones"),
        *(
            (
                each.source,
                "->",
                each.destination,
                *(three_digits(rate / divisor) for rate in (each.bytes_per_hour, each.bytes_per_hour_before)),
                *(_signed(change, divisor) for change in (each.by_volume, each.by_zones)),
            )
            for each in found.pairs
        ),
    ]
    title, *table = fitted(rows, "<<<>>>>")
    lines = [title]
    for line, pair in zip(table, found.pairs, strict=True):
        lines += [line, *(row for change in _changes(pair.changed) for row in labelled("", [change], 4))]
    if found.more:
        lines.append(f"{counted(found.more, 'pair')} more")
    for note in (EXPLAINED, found.note):
        lines += labelled("", [note], 2)
    return [*lines, ""]


def _changes(changed: list[Event]) -> Iterator[str]:
    for event in changed[:MOST_CHANGES]:
        yield f"then: {timestamp(event.at_ms)[:16]} {event.what} {event.subject}: {event.detail}"
    if not changed:
        yield "nothing is known to have changed at either end"
    elif len(changed) > MOST_CHANGES:
        yield f"and {counted(len(changed) - MOST_CHANGES, 'change')} more"


def _signed(change: int | None, divisor: int) -> str:
    if change is None:
        return "?"
    return f"{'-' if change < 0 else '+'}{three_digits(abs(change) / divisor)}"
