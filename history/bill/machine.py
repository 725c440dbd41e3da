# SPDX-License-Identifier: Apache-2.0
"""A comparison with a bill for programs: one JSON document, or a CSV row for each period, resource and way.

Bytes are exact integers, money is text, exact, in the bill's currency.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from common.amounts import exact
from common.terminal import cell, csv_text
from history.bill.answer import Answer
from history.bill.books.compare import Sum
from history.bill.books.sums import Quantity
from history.bill.rates import priced_unit
from history.model.time_range import rfc3339


def as_dict(answer: Answer) -> dict[str, Any]:
    """Return the whole answer as plain JSON types."""
    billed, found, trust = answer.billed, answer.found, answer.trust
    unit, unit_name = found.unit.bytes, priced_unit(billed, found.unit).name
    return {
        "from": rfc3339(answer.span.from_ms),
        "to": rfc3339(answer.span.to_ms),
        "clusters": answer.clusters,
        "bill": {
            "format": billed.title,
            "provider": billed.provider,
            "files": billed.files,
            "lines": billed.lines,
            "period_seconds": billed.period_ms // 1000,
            "from": rfc3339(billed.from_ms),
            "to": rfc3339(billed.to_ms),
            "currency": billed.currency,
            "final": billed.is_final,
            "names_resources": billed.names_resources,
            "accounts": {name: _quantity(each, unit) for name, each in billed.accounts.items()},
            "cost": exact(answer.cost),
            "charges": {name: _quantity(each, unit) for name, each in billed.charges.items()},
            "apart": {name: _quantity(each, unit) for name, each in billed.apart.items()},
            "other_resources": {name: _quantity(each, unit) for name, each in billed.others.items()},
        },
        "unit": {"name": found.unit.name, **asdict(found.unit)},
        "sources": answer.sources,
        "notes": answer.notes,
        "trust": {
            "ledger": None if answer.audit is None else answer.audit.ratio,
            "why": trust.why_none,
            "unmetered_nodes": sorted(trust.unmetered),
            "unmeasured_seconds": {
                node: sum(end - start for start, end in gaps) / 1000 for node, gaps in sorted(trust.unmeasured.items())
            },
            "unmeasured_at_least": trust.unmeasured_at_least,
            "lost_ratio": dict(sorted(trust.lost.items())),
            "unknown_bytes": answer.scopes.get("unknown", 0),
        },
        "metered_bytes": found.metered,
        "billed_bytes": found.billed,
        "explained_bytes": found.explained,
        "unexplained_bytes": found.unexplained,
        "unexplained_percent": 100 * found.off,
        "tolerance_percent": answer.tolerance,
        "within_tolerance": answer.within_tolerance,
        "reasons": [asdict(reason) for reason in found.reasons],
        "ways": {way: _sum(each) for way, each in found.ways.items()},
        "periods": [{"from": rfc3339(period)} | _sum(each) for period, each in found.periods.items()],
        "resources": [
            {"resource": name, "nodes": found.names.get(name, [])} | _sum(each)
            for name, each in sorted(found.resources.items())
        ],
        "in_and_out_differ_by": answer.uneven,
        "relayed_bytes": answer.metered.relayed,
        "far_side_bytes": dict(sorted(answer.metered.far.items())),
        "rates": [
            {
                "region": rate.region,
                "unit": unit_name,
                "source": None if rate.source is None else exact(rate.source),
                "destination": None if rate.destination is None else exact(rate.destination),
            }
            for rate in answer.rates
        ],
    }


def as_csv(answer: Answer) -> str:
    """Return a row for each period and resource together, and one for each reason; names are never formulas."""
    return csv_text(_rows(answer))


def _rows(answer: Answer) -> Iterator[tuple[str | int, ...]]:
    found = answer.found
    yield ("what", "name", "metered_bytes", "billed_bytes", "unexplained_bytes")
    yield ("total", "", found.metered, found.billed, found.unexplained)
    for way, each in found.ways.items():
        yield ("way", way, *_numbers(each))
    for reason in found.reasons:
        yield ("reason", cell(": ".join(filter(None, (reason.why, reason.detail)))), "", reason.bytes, "")
    for period, each in found.periods.items():
        yield ("period", rfc3339(period), *_numbers(each))
    for name, each in sorted(found.resources.items()):
        yield ("resource", cell(name), *_numbers(each))


def _numbers(each: Sum) -> tuple[int, int, int]:
    return each.metered, each.billed, each.unexplained


def _sum(each: Sum) -> dict[str, int]:
    return {"metered_bytes": each.metered, "billed_bytes": each.billed, "unexplained_bytes": each.unexplained}


def _quantity(each: Quantity, unit: int) -> dict[str, Any]:
    return {"bytes": each.size(unit), "cost": exact(each.cost), "lines": each.lines}
