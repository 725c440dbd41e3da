# SPDX-License-Identifier: Apache-2.0
"""A report for programs: one JSON document, or one CSV row for each kind of traffic. Bytes are exact integers."""

from collections.abc import Iterator
from typing import Any

from audit.result import covered
from common.amounts import per_hour
from common.terminal import cell, csv_text
from history.model.bill import Bill, Cost
from history.model.grouping import OF_ENDS, By, Per
from history.model.states.events import Event
from history.model.summary import Summary, Traffic
from history.model.time_range import rfc3339
from history.report.data import Difference, PairLine, Range, Report
from history.report.grouped.focus import focus_rows
from history.report.grouped.showback import periods
from history.report.grouped.sums import SumLine, sums, together
from prices.book import MONTH_HOURS, exact_money, per_month
from prices.file import is_shipped
from schemas.flow import SCOPES

CSV_COLUMNS = (
    "scope",
    "source",
    "source_zone",
    "destination",
    "destination_zone",
    "counted_on_receipt",
    "meters_own",
    "bytes",
    "cost_source",
    "cost_destination",
    "currency",
)


def as_dict(report: Report) -> dict[str, Any]:
    """Return the whole report as plain JSON types; money is text, exact, in the price file's currency."""
    document = _range(report.now)
    document |= {
        "namespaces": report.filters.get("namespace", []),
        "filters": report.filters,
        "sources": report.sources,
        "prices": _prices(report),
        "trust": _trust(report),
        "top_pairs": [_pair(pair, report) for pair in report.pairs()[: report.top]],
        "meters_own": _own(report),
    }
    if report.by is not None and report.per is not None:
        document["showback"] = _showback(report, report.by, report.per)
    elif report.by is not None:
        document["by"] = {"what": report.by_what, "sums": [_sum(line, report) for line in sums(report, report.by)]}
    if report.before is not None:
        document["before"] = _range(report.before) | {"how_long": report.compare, "whole": report.before.whole}
    if report.differences is not None:
        document["differences"] = [_difference(each) for each in report.differences.pairs]
        document["differences_note"] = report.differences.note
    return document


def as_csv(report: Report) -> str:
    """Return a row for each kind of traffic, or each sum, the greatest first; a cost is empty without a price.

    Of a showback: rows in the shape of FOCUS.
    """
    if report.by is None:
        return csv_text(_traffic_rows(report))
    if report.per is None:
        return csv_text(_sum_rows(report, report.by))
    return csv_text(focus_rows(report, report.by, report.per))


def _traffic_rows(report: Report) -> Iterator[tuple[str | int, ...]]:
    yield CSV_COLUMNS
    bill = report.now.bill
    currency = "" if bill.book is None else bill.book.currency
    for traffic, size in sorted(report.summary.traffic.items(), key=_greatest_first):
        cost = bill.costs.get(traffic)
        source, destination = traffic.source, traffic.destination
        yield (
            traffic.scope,
            *map(cell, (source.label, source.zone, destination.label, destination.zone)),
            *(str(flag).lower() for flag in (traffic.received, report.own.tells(source, destination))),
            size,
            *(("", "") if cost is None else (exact_money(cost.source), exact_money(cost.destination))),
            currency,
        )


def _greatest_first(row: tuple[Traffic, int]) -> tuple[object, ...]:
    """Order rows the same way wherever they were read from."""
    (scope, source, destination, received, *_), size = row
    return (-size, scope, source.label, source.zone, destination.label, destination.zone, received)


def _sum_rows(report: Report, by: By) -> Iterator[tuple[str | int, ...]]:
    of_ends = by in OF_ENDS
    amounts = ("sent_bytes", "received_bytes", "cross_zone_sent_bytes", "cross_zone_received_bytes")
    yield (report.by_what, *(amounts if of_ends else ("bytes", "cross_zone_bytes")), "cost", "currency")
    book = report.now.bill.book
    for line in sums(report, by):
        sizes = (line.sent, line.received, line.sent_across, line.received_across)
        cost = "" if line.cost is None else exact_money(line.cost.total)
        yield (cell(line.name), *(sizes if of_ends else sizes[::2]), cost, "" if book is None else book.currency)


def _sum(line: SumLine, report: Report) -> dict[str, Any]:
    sizes = _sizes(line) if report.by in OF_ENDS else {"bytes": line.sent, "cross_zone_bytes": line.sent_across}
    found: dict[str, Any] = {"name": line.name, **sizes}
    if report.before is not None:
        found["bytes_before"] = line.before
    return found if line.cost is None else found | {"cost": exact_money(line.cost.total)}


def _showback(report: Report, by: By, per: Per) -> dict[str, Any]:
    return {
        "by": report.by_what,
        "per": per,
        "periods": [
            {
                "from": rfc3339(period.from_ms),
                "to": rfc3339(period.to_ms),
                "whole": period.is_whole,
                **_amounts(together(period.all)),
                "sums": [{"name": line.name, **_amounts(line)} for line in period.lines],
                "unattributed": {
                    **_amounts(together(list(period.unattributed.values()))),
                    "why": {why: _amounts(line) for why, line in period.unattributed.items()},
                },
            }
            for period in periods(report, by, per)
        ],
    }


def _amounts(line: SumLine) -> dict[str, Any]:
    """Return bytes, and what either side is billed, where anything of it has a price."""
    if line.cost is None:
        return _sizes(line)
    cost = {"cost": line.cost.total, "cost_sent": line.cost.source, "cost_received": line.cost.destination}
    return _sizes(line) | {name: exact_money(subunits) for name, subunits in cost.items()}


def _sizes(line: SumLine) -> dict[str, Any]:
    return {
        "sent_bytes": line.sent,
        "received_bytes": line.received,
        "cross_zone_sent_bytes": line.sent_across,
        "cross_zone_received_bytes": line.received_across,
    }


def _range(part: Range) -> dict[str, Any]:
    summary, bill, costs = part.summary, part.bill, part.zone_costs
    return {
        "from": rfc3339(part.span.from_ms),
        "to": rfc3339(part.span.to_ms),
        "windows_ended_by": None if part.span.ended_by_ms is None else rfc3339(part.span.ended_by_ms),
        "clusters": sorted(summary.clusters),
        "nodes": len(summary.observers),
        "metered_seconds": summary.metered_ms / 1000,
        "flows": summary.flows,
        "bytes": summary.bytes,
        "overlay_outer_bytes": summary.outer_bytes,
        "scopes": {
            scope: {
                "bytes": size,
                "bytes_per_hour": per_hour(size, summary.metered_ms),
                **_cost(bill.by_scope.get(scope), summary, bill),
            }
            for scope, size in sorted(summary.scopes.items())
        },
        "external": {
            way: {"bytes": summary.internet.get(comes_in, 0), **_cost(bill.internet.get(comes_in), summary, bill)}
            for way, comes_in in (("out", False), ("in", True))
        },
        "zones": [
            {"from": pair[0], "to": pair[1], "bytes": size, **_cost(costs.get(pair), summary, bill)}
            for pair, size in sorted(summary.zones.items())
        ],
        "over_time": [_slot(part, at_ms) for at_ms in sorted({at_ms for at_ms, _ in summary.slots})],
        "unknown": dict(sorted(summary.unknown.items())),
        "unpriced": dict(sorted(bill.unpriced.items())),
        "by_tier": {
            scope: {
                "bytes": each.bytes,
                "cost_lowest": exact_money(each.lowest),
                "cost_highest": exact_money(each.highest),
            }
            for scope, each in sorted(bill.by_tier.items())
        },
    }


def _slot(part: Range, at_ms: int) -> dict[str, Any]:
    from_ms, to_ms = part.span.slot_at(at_ms)
    sizes = ((scope, part.summary.slots.get((at_ms, scope), 0)) for scope in SCOPES)
    return {"from": rfc3339(from_ms), "to": rfc3339(to_ms), "bytes": {scope: size for scope, size in sizes if size}}


def _cost(cost: Cost | None, summary: Summary, bill: Bill) -> dict[str, Any]:
    if cost is None or bill.book is None:
        return {}
    return {
        "cost": exact_money(cost.total),
        "cost_source": exact_money(cost.source),
        "cost_destination": exact_money(cost.destination),
        "cost_per_month": exact_money(per_month(cost.total, summary.metered_ms)),
    }


def _prices(report: Report) -> dict[str, Any]:
    book = report.now.bill.book
    if book is None:
        return {"file": None, "why": report.prices_why}
    return {
        "file": book.name,
        "why": report.prices_why,
        "title": book.title,
        "as_of": str(book.as_of),
        "unit": book.unit,
        "currency": book.currency,
        "month_hours": MONTH_HOURS,
        "assumed_far_side": exact_money(report.now.bill.assumed),
        "kind": "list prices, without discounts" if is_shipped(book) else "prices of a file of one's own",
    }


def _trust(report: Report) -> dict[str, Any]:
    audit, summary = report.audit, report.summary
    unknown = summary.scopes.get("unknown", 0)
    found: dict[str, Any] = {
        "unknown_ratio": unknown / summary.bytes if summary.bytes else 0.0,
        "records_refused": report.refused,
    }
    if audit is None:
        return found | {"ledger": None, "why": report.trust_note}
    return found | {
        "coverage": covered(audit.coverage.values()),
        "ledger": audit.ratio,
        "ledger_closes": not audit.mismatches,
        "unaccounted_bytes": audit.unaccounted_bytes,
        "windows_in_flight": audit.in_flight,
        "windows_late": audit.late_windows,
        "nodes_metered": sorted(audit.nodes_metered),
        "nodes_in_cluster": None if audit.nodes_in_cluster is None else sorted(audit.nodes_in_cluster),
        "unmeasured_seconds": audit.unmeasured_ms / 1000,
        "unmeasured_at_least": audit.unmeasured_at_least,
        "unmeasured": [
            {
                "node": gap.node,
                "from": rfc3339(gap.from_ms),
                "to": None if gap.to_ms is None else rfc3339(gap.to_ms),
                "why": gap.why,
            }
            for gap in audit.gaps
        ],
    }


def _pair(pair: PairLine, report: Report) -> dict[str, Any]:
    before: dict[str, int] = {}
    if report.before is not None:
        before["bytes_before"] = pair.before
        before["bytes_per_hour"] = per_hour(pair.bytes, report.summary.metered_ms)
        before["bytes_per_hour_before"] = per_hour(pair.before, report.metered_before_ms)
    return {
        "source": pair.source,
        "destination": pair.destination,
        "zones": [{"from": source, "to": destination} for source, destination in sorted(pair.zones)],
        "bytes": pair.bytes,
        "counted_on_receipt": pair.received,
        **_cost(pair.cost, report.summary, report.now.bill),
        **before,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "source": difference.source,
        "destination": difference.destination,
        "bytes_per_hour": difference.bytes_per_hour,
        "bytes_per_hour_before": difference.bytes_per_hour_before,
        "by_volume_bytes_per_hour": difference.by_volume,
        "by_zones_bytes_per_hour": difference.by_zones,
        "changed": [event_dict(each) for each in difference.changed],
    }


def event_dict(event: Event) -> dict[str, Any]:
    """Return a change of the topology as every answer prints it."""
    return {"at": rfc3339(event.at_ms), "what": event.what, "subject": str(event.subject), "detail": event.detail}


def _own(report: Report) -> dict[str, Any]:
    size, crossing, cost = report.own_traffic()
    found: dict[str, Any] = {"bytes": size, "cross_zone_bytes": crossing}
    return found if report.now.bill.book is None else found | {"cost": exact_money(cost.total)}
