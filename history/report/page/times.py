# SPDX-License-Identifier: Apache-2.0
"""What a report's page shows over time. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from history.model.intervals import between, joined
from history.model.time_range import timestamp
from history.page import timeline
from history.page.bounds import Bounds
from history.report.data import Range, Report
from schemas.flow import Scope


def over_time(report: Report, bounds: Bounds) -> dict[str, Any]:
    """Return the drawing, its numbers, and what it marks."""
    summary, span = report.summary, report.now.span
    nobody = _nobody(report.now)
    slots, rows = _slots(report.now, nobody), []
    scopes = [scope for scope in timeline.STACKED if summary.scopes.get(scope)]
    for at_ms, slot in slots.items():
        begin = timestamp(span.slot_at(at_ms)[0])[: 16 if span.slot_ms % 60_000 == 0 else 19]
        rows.append((begin, [slot.bytes.get(scope, 0) for scope in scopes], slot.total))
    gaps = [] if report.audit is None else report.audit.gaps
    events = report.events or []
    drawn = timeline.Times(
        span.from_ms,
        span.to_ms,
        list(slots.values()),
        nobody,
        [(max(gap.from_ms, span.from_ms), min(gap.to_ms, span.to_ms)) for gap in gaps if gap.to_ms is not None],
        [timeline.Mark(event.at_ms, f"{event.what} {event.subject}: {event.detail}") for event in events],
        list(_slots_before(report)),
    )
    return {
        "drawing": timeline.draw(drawn),
        "scopes": scopes,
        "rows": rows,
        "events": events[: bounds.changes],
        "more_events": max(len(events) - bounds.changes, 0),
        "events_note": report.events_note,
        "gaps": sorted(gaps, key=lambda gap: (gap.from_ms, gap.node))[: bounds.listed],
        "more_gaps": max(len(gaps) - bounds.listed, 0),
    }


def _nobody(part: Range) -> list[tuple[int, int]]:
    return between(joined(part.summary.windows), (part.span.from_ms, part.span.to_ms))


def _slots(part: Range, nobody: Sequence[tuple[int, int]]) -> dict[int, timeline.Slot]:
    """Return the slots of a range, by when they begin."""
    held: dict[int, dict[Scope, int]] = {}
    for (at_ms, scope), size in sorted(part.summary.slots.items()):
        held.setdefault(at_ms, {})[scope] = size
    return {at: timeline.Slot(*_metered(part.span.slot_at(at), nobody), sizes) for at, sizes in held.items()}


def _slots_before(report: Report) -> Iterator[timeline.Slot]:
    if report.before is not None:
        later = report.now.span.from_ms - report.before.span.from_ms
        for slot in _slots(report.before, _nobody(report.before)).values():
            yield timeline.Slot(slot.from_ms + later, slot.to_ms + later, slot.bytes)


def _metered(slot: tuple[int, int], nobody: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return a slot without the time at its ends that nobody metered: its bytes are not of that."""
    begin, end = slot
    for since, until in nobody:
        if since <= begin < until < end:
            begin = until
        elif begin < since < end <= until:
            end = since
    return begin, end
