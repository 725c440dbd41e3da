# SPDX-License-Identifier: Apache-2.0
"""The heat map of a report's page: zones by zones. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.amounts import human
from history.model.bill import sum_costs
from history.model.summary import EXTERNAL
from history.page.bounds import Bounds
from history.page.scales import LEVELS, level
from history.report.data import Cash, Report


@dataclass(frozen=True)
class Square:
    """One cell of the heat map. `level`: 0 to `LEVELS`; `within`: both zones are the same."""

    bytes: int
    cost: Cash | None
    level: int
    within: bool


def heat_map(report: Report, bounds: Bounds) -> dict[str, Any]:
    """Return zones by zones: the greatest, by what they exchange with others; without external ends."""
    sizes = {pair: size for pair, size in report.summary.zones.items() if EXTERNAL not in pair}
    costs = {pair: cost for pair, cost in report.now.zone_costs.items() if pair in sizes}
    is_priced = any(cost.total for cost in costs.values())
    weights = {pair: costs[pair].total if pair in costs else 0 for pair in sizes} if is_priced else dict(sizes)
    of_zone: dict[str, int] = {}
    for pair, weight in weights.items():
        for zone in pair:
            of_zone[zone] = of_zone.get(zone, 0) + (weight if pair[0] != pair[1] else 0)
    shown = sorted(sorted(of_zone, key=lambda zone: (-of_zone[zone], zone))[: bounds.zones])
    most = max((weight for pair, weight in weights.items() if pair[0] != pair[1] and {*pair} <= {*shown}), default=0)

    def total(pairs: Sequence[tuple[str, str]]) -> Square:
        size = sum(sizes.get(pair, 0) for pair in pairs)
        return Square(size, report.now.cash(sum_costs(map(costs.get, pairs))), 0, within=False)

    squares = {}
    for pair in ((source, to) for source in shown for to in shown):
        shade = 0 if pair[0] == pair[1] else level(weights.get(pair, 0), most)
        squares[pair] = Square(sizes.get(pair, 0), report.now.cash(costs.get(pair)), shade, pair[0] == pair[1])
    book = report.now.bill.book
    return {
        "zones": shown,
        "rows": [(zone, [squares[zone, to] for to in shown], total([(zone, to) for to in shown])) for zone in shown],
        "totals": [total([(source, to) for source in shown]) for to in shown],
        "total": total([(source, to) for source in shown for to in shown]),
        "priced": is_priced,
        "left_out": len(of_zone) - len(shown),
        "rest": total([pair for pair in sizes if not {*pair} <= {*shown}]),
        "levels": range(1, LEVELS + 1),
        "most": "" if not most else book.shown(most) if is_priced and book is not None else human(most),
    }
