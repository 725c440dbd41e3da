# SPDX-License-Identifier: Apache-2.0
"""Differences for people and for programs: a table, JSON, CSV. Pure. Money is rounded in the table only."""

from collections.abc import Iterator, Sequence
from typing import Any

from common.amounts import counted, dollars, fitted, human, labelled, number, short_zones
from common.terminal import cell, csv_text
from history.replay.diff.differences import SAME, Amounts, Attribution, Difference, Differences, codes
from history.replay.diff.reasons import WORDS
from prices.book import exact_money, money

_AMOUNTS = ("flows", "bytes", "cost_recorded", "cost_rejoined")
CSV_COLUMNS = (
    *("kind", "why", "columns", *_AMOUNTS, "currency"),
    *(f"{side}_{name}" for side in ("recorded", "rejoined") for name in Attribution._fields),
)


def as_lines(found: Differences, head: Sequence[str], sides: Sequence[str], currency: str, top: int) -> list[str]:
    """Return a table of the greatest differences. `sides`: where the recorded flows are from, and the others."""
    rows = [row for row in found.ordered if row[0] != SAME]
    shown = rows[:top]
    same = found.found.get(SAME, Amounts())
    totals = ((found.recorded, found.recorded.cost_recorded), (found.rejoined, found.rejoined.cost_rejoined))
    lines = labelled("zonemeter replay --diff", head, 26)
    for label, side, (amount, cost) in zip(("recorded", "joined again"), sides, totals, strict=True):
        spent = [] if cost is None else [dollars(money(cost), currency)]
        lines += labelled(label, [side, counted(amount.flows, "flow"), human(amount.bytes), *spent], 14)
    lines += labelled("the same", [counted(same.flows, "flow"), human(same.bytes)], 14)
    if not rows:
        return [*lines, "", "Nothing differs."]
    # What both sides call alike, differs in a column that the table does not show.
    zones = {
        zone for row, _ in shown for said in row[3:5] if said for zone in (said.source_zone, said.destination_zone)
    }
    short = short_zones(sorted(filter(None, zones)))
    body: list[tuple[str, ...]] = [("bytes", "", "scope", "zones", "from", "", "to", currency, "why")]
    for row, amounts in shown:
        body += _cells(row, amounts, short)
    more = [f"and {len(rows) - len(shown):,} smaller ones; -o csv or json has them all"] if rows[top:] else []
    legend = [f"{code}: {WORDS[code]}" for code in codes(row for row, _ in shown)]
    return [*lines, "", *fitted(body, "><<<<<<><", (4, 6), gap=" "), *more, "", *legend]


def as_dict(found: Differences, currency: str) -> dict[str, Any]:
    """Return everything as plain JSON types; money is text, exact."""
    totals = {
        "recorded": (found.recorded, found.recorded.cost_recorded),
        "rejoined": (found.rejoined, found.rejoined.cost_rejoined),
    }
    return {
        **{
            name: {"flows": amount.flows, "bytes": amount.bytes} | ({} if cost is None else {"cost": exact_money(cost)})
            for name, (amount, cost) in totals.items()
        },
        "currency": currency or None,
        "differences": list(as_rows(found)),
    }


def as_rows(found: Differences) -> Iterator[dict[str, Any]]:
    """Yield each row as plain JSON types, the greatest first, what is the same last."""
    for row, amounts in found.ordered:
        costs = {"cost_recorded": amounts.cost_recorded, "cost_rejoined": amounts.cost_rejoined}
        sides = {"recorded": row.recorded, "rejoined": row.rejoined}
        yield {
            "kind": row.kind,
            "why": list(row.why),
            "columns": list(row.columns),
            "flows": amounts.flows,
            "bytes": amounts.bytes,
            **{name: exact_money(cost) for name, cost in costs.items() if cost is not None},
            **{name: said._asdict() for name, said in sides.items() if said is not None},
        }


def as_csv(found: Differences, currency: str) -> str:
    """Return every row as CSV, with a header; what a row does not have is empty."""
    rows: list[Sequence[object]] = [CSV_COLUMNS]
    for row, amounts in found.ordered:
        costs = ("" if cost is None else exact_money(cost) for cost in (amounts.cost_recorded, amounts.cost_rejoined))
        said = (cell(text) for side in (row.recorded, row.rejoined) for text in (side or Attribution(*[""] * 5)))
        why = (", ".join(row.why), ", ".join(row.columns))
        rows.append((row.kind, *why, amounts.flows, amounts.bytes, *costs, currency, *said))
    return csv_text(rows)


def _cells(row: Difference, amounts: Amounts, short: dict[str, str]) -> list[tuple[str, ...]]:
    """Return two lines of the table: what was recorded, and what is joined now."""
    hidden = f" ({', '.join(row.columns)})" if row.columns and row.recorded == row.rejoined else ""
    sides = (("was", row.recorded, amounts.cost_recorded), ("is", row.rejoined, amounts.cost_rejoined))
    lines = []
    for word, said, cost in sides:
        spent = "" if cost is None else number(money(cost))
        if said is None:
            lines.append((word, "nothing", "", "", "", "", spent))
        else:
            ends = ((said.source_zone, said.source), (said.destination_zone, said.destination))
            zones = ">".join(short.get(zone, "ext" if name.startswith("external") else "?") for zone, name in ends)
            lines.append((word, said.scope, zones, said.source, "->", said.destination, spent))
    return [(human(amounts.bytes), *lines[0], ", ".join(row.why) + hidden), ("", *lines[1], "")]
