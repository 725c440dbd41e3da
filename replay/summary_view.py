# SPDX-License-Identifier: Apache-2.0
"""How a summary is shown: zones by zones, then the pairs that cross them, in at most 100 columns. Pure.

Lines of text and no markup: a name out of a record is shown as it is, whatever stands in it.
"""

from common.prices import Price, PriceBook, money, per_month
from replay.amounts import WIDTH, columns, counted, fitted, short_zones, shorten
from replay.summary import EXTERNAL, Pair, Summary
from schemas.flow import Scope

TOP_PAIRS = 5
# Of a pair's two zones, where neither is short.
MOST_ZONES = 26


def summary_lines(summary: Summary, seconds: float, prices: PriceBook | None = None) -> list[str]:
    """Return rates over `seconds`, in MB/s (10^6 bytes); with `prices`, what crossing zones costs at this rate."""
    rate = 1e6 * seconds
    price = prices.find("cross_zone") if prices else None
    crossing = summary.scopes.get("cross_zone", 0)
    lines = [*_zones(summary, rate), *_scopes(summary, rate)]
    if prices and price:
        lines.append(
            f" at this rate ${_monthly(price, crossing, seconds):,.0f} a month "
            f"({prices.title} list price as of {prices.as_of}, {price.total} $/{price.unit}, 730 h)"
        )
    return [*lines, *_pairs(summary, seconds, price)] if crossing else lines


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
        if max(map(len, table)) <= WIDTH:
            return table
    return [f" {len(zones)} zones, too many to lay out here: zonemeter report lists them"]


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
    return ["   ".join([f" cross-zone {crossing / rate:.2f} MB/s{share}", *rest])]


def _pairs(summary: Summary, seconds: float, price: Price | None) -> list[str]:
    ranked = sorted(summary.cross_zone_pairs.items(), key=lambda item: (-item[1], item[0]))

    def amounts(size: int) -> list[str]:
        rate = f"{size / (1e6 * seconds):.2f}"
        return [rate, f"{_monthly(price, size, seconds):,.0f}"] if price else [rate]

    titles = ["MB/s", "$/month"][: 2 if price else 1]
    short = short_zones(sorted({zone for pair in summary.zones for zone in pair if zone != EXTERNAL}))
    rows = [(" top cross-zone pairs", "", "", "zones", *titles)]
    rows += [
        (f" {pair.source}", "->", pair.destination, _places(pair, short), *amounts(size))
        for pair, size in ranked[:TOP_PAIRS]
    ]
    rest = ranked[TOP_PAIRS:]
    if rest:
        rows.append((f" {counted(len(rest), 'more pair')}", "", "", "", *amounts(sum(size for _, size in rest))))
    return fitted(rows, "<<<<" + ">" * len(titles))


def _places(pair: Pair, short: dict[str, str]) -> str:
    return shorten(f"{short[pair.source_zone]} -> {short[pair.destination_zone]}", MOST_ZONES)


def _monthly(price: Price, size: int, seconds: float) -> float:
    return float(money(per_month(size * price.rate, int(seconds * 1000))))
