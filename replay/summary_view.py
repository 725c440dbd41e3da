# SPDX-License-Identifier: Apache-2.0
"""How a summary is shown: zones by zones, then the pairs that cross them, in at most 100 columns."""

from rich.console import Console
from rich.table import Table

from common.prices import Price, PriceBook, money, per_month
from replay.summary import Summary

TOP_PAIRS = 5


def print_summary(console: Console, summary: Summary, seconds: float, prices: PriceBook | None = None) -> None:
    """Print rates over `seconds`, in MB/s (10^6 bytes); with `prices`, what crossing zones costs at this rate."""
    rate = 1e6 * seconds
    zones = sorted({zone for pair in summary.zones for zone in pair if zone != "external"})
    columns = [*zones, "external"]
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(" MB/s from \\ to")
    for name in columns:
        table.add_column(name, justify="right")
    for source in columns:
        row = [summary.zones.get((source, destination), 0) / rate for destination in columns]
        if any(row):
            table.add_row(f" {source}", *(f"{value:.2f}" if value else "-" for value in row))
    console.print(table)
    in_region = sum(summary.scopes.get(scope, 0) for scope in ("same_node", "same_zone", "cross_zone"))
    crossing = summary.scopes.get("cross_zone", 0)
    share = f" = {100 * crossing / in_region:.0f} % of in-region" if in_region else ""
    rest = "   ".join(
        f"{scope.replace('_', ' ')} {summary.scopes.get(scope, 0) / rate:.2f}"
        for scope in ("same_zone", "same_node", "cross_region", "external", "unknown")
        if summary.scopes.get(scope, 0) / rate >= 0.005
    )
    console.print(f" cross-zone {crossing / rate:.2f} MB/s{share}   {rest}")
    price = prices.find("cross_zone") if prices else None
    if prices and price:
        console.print(
            f" at this rate ${_monthly(price, crossing, seconds):,.0f} a month "
            f"({prices.title} list price as of {prices.as_of}, {price.total} $/{price.unit}, 730 h)"
        )
    if summary.cross_zone_pairs:
        _print_pairs(console, summary, seconds, price)


def _print_pairs(console: Console, summary: Summary, seconds: float, price: Price | None) -> None:
    ranked = sorted(summary.cross_zone_pairs.items(), key=lambda item: (-item[1], item[0]))
    table = Table(box=None, pad_edge=False, header_style="")
    for title in (" top cross-zone pairs", "", ""):
        table.add_column(title, max_width=36, overflow="ellipsis", no_wrap=True)
    table.add_column("zones", no_wrap=True)
    for title in ("MB/s", "$/month")[: 2 if price else 1]:
        table.add_column(title, justify="right")

    def amounts(size: int) -> list[str]:
        rate = f"{size / (1e6 * seconds):.2f}"
        return [rate, f"{_monthly(price, size, seconds):,.0f}"] if price else [rate]

    for pair, size in ranked[:TOP_PAIRS]:
        zones = f"{pair.source_zone} -> {pair.destination_zone}"
        table.add_row(f" {pair.source}", "->", pair.destination, zones, *amounts(size))
    rest = ranked[TOP_PAIRS:]
    if rest:
        table.add_row(f" {len(rest)} more pairs", "", "", "", *amounts(sum(size for _, size in rest)))
    console.print(table)


def _monthly(price: Price, size: int, seconds: float) -> float:
    return float(money(per_month(size * price.rate, int(seconds * 1000))))
