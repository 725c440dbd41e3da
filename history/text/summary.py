# SPDX-License-Identifier: Apache-2.0
"""How a summary is shown: zones by zones, then the pairs that cross them, as wide as the page. Pure.

Lines of text and no markup: a name out of a record is shown as it is, whatever stands in it.
"""

from collections.abc import Sequence

from common import page
from common.amounts import columns, counted, currency_sign, fitted, human, labelled, ranked, short_zones, shorten
from common.terminal import command
from history.model.bill import NOTHING, Bill, Cost, price_summary, sum_costs
from history.model.summary import EXTERNAL, Pair, Summary, by, pair_of
from prices.book import PriceBook, money, per_month
from prices.file import is_shipped
from schemas.flow import Scope

TOP_PAIRS = 5
# Of a pair's two zones, where neither is short.
MOST_ZONES = 26


def summary_lines(summary: Summary, seconds: float, prices: PriceBook | None = None, top: int = TOP_PAIRS) -> list[str]:
    """Return rates over `seconds`, in MB/s (10^6 bytes); with `prices`, what crossing zones costs at this rate."""
    rate = 1e6 * seconds
    lines = [*_zones(summary, rate), *_scopes(summary, rate)]
    if not summary.scopes.get("cross_zone"):
        return lines
    bill = price_summary(summary, prices)
    if prices is not None:
        lines += labelled("", [_cost(bill, prices, seconds)], 1)
    return [*lines, *_pairs(summary, seconds, bill, top)]


def _cost(bill: Bill, prices: PriceBook, seconds: float) -> str:
    """Say what crossing zones costs a month, by which prices; what of it has no price is in no sum, and said."""
    cost, general = bill.by_scope.get("cross_zone"), prices.find("cross_zone")
    each = f", {general.total} {prices.sign}/{general.unit}" if general else ""
    kind = f"{prices.title} list price" if is_shipped(prices) else f"{prices.title}, prices of your own file,"
    unpriced = bill.unpriced.get("cross_zone", 0)
    rest = f"; {human(unpriced)} in this window has no price" if unpriced else ""
    return f"at this rate {_monthly(cost, prices, seconds)} a month ({kind} as of {prices.as_of}{each}, 730 h){rest}"


def _zones(summary: Summary, rate: float) -> list[str]:
    sums = summary.zones
    zones = sorted({zone for pair in sums for zone in pair if zone != EXTERNAL})
    names = [*zones, EXTERNAL]
    rows = [
        (f" {source}", *(f"{size / rate:.2f}" if (size := sums.get((source, to), 0)) else "-" for to in names))
        for source in names
        if any(sums.get((source, to)) for to in names)
    ]
    short = short_zones(zones)
    for head in (names, [short.get(name, name) for name in names]):
        table = columns([(" MB/s from \\ to", *head), *rows], "<" + ">" * len(names))
        if max(map(len, table)) <= page.current().table:
            return table
    return [f" {len(zones)} zones, too many to lay out here: {command('report')} lists them"]


def _scopes(summary: Summary, rate: float) -> list[str]:
    scopes = summary.scopes
    crossing = scopes.get("cross_zone", 0)
    in_region = crossing + scopes.get("same_node", 0) + scopes.get("same_zone", 0)
    share = f" = {100 * crossing / in_region:.0f} % of in-region" if in_region else ""
    others: tuple[Scope, ...] = ("same_zone", "same_node", "cross_region", "external", "unknown")
    rest = [
        f"{scope.replace('_', ' ')} {size / rate:.2f}"
        for scope in others
        if (size := scopes.get(scope, 0)) / rate >= 0.005
    ]
    return labelled("", [f"cross-zone {crossing / rate:.2f} MB/s{share}", *rest], 1)


def _pairs(summary: Summary, seconds: float, bill: Bill, top: int) -> list[str]:
    pairs = ranked(summary.cross_zone_pairs)
    prices, costs = bill.book, by(pair_of, bill.costs, NOTHING)

    def amounts(pairs: Sequence[tuple[Pair, int]]) -> list[str]:
        rate = f"{sum(size for _, size in pairs) / (1e6 * seconds):.2f}"
        if prices is None:
            return [rate]
        return [rate, _monthly(sum_costs(costs.get(pair) for pair, _ in pairs), prices, seconds, sign="")]

    titles = ["MB/s"] if prices is None else ["MB/s", f"{prices.sign}/month"]
    short = short_zones(sorted({zone for pair in summary.zones for zone in pair if zone != EXTERNAL}))
    rows = [(" top cross-zone pairs", "", "", "zones", *titles)]
    rows += [
        (f" {pair.source}", "->", pair.destination, _places(pair, short), *amounts([(pair, size)]))
        for pair, size in pairs[:top]
    ]
    rest = pairs[top:]
    if rest:
        rows.append((f" {counted(len(rest), 'more pair')}", "", "", "", *amounts(rest)))
    return fitted(rows, "<<<<" + ">" * len(titles))


def _places(pair: Pair, short: dict[str, str]) -> str:
    return shorten(f"{short[pair.source_zone]} -> {short[pair.destination_zone]}", MOST_ZONES)


def _monthly(cost: Cost | None, prices: PriceBook, seconds: float, sign: str | None = None) -> str:
    if cost is None:
        return "?"
    monthly = float(money(per_month(cost.total, int(seconds * 1000))))
    return f"{currency_sign(prices.currency) if sign is None else sign}{monthly:,.0f}"
