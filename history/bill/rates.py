# SPDX-License-Identifier: Apache-2.0
"""Makes a price file of what a bill charged: the effective rate of each region, discounts included. Pure.

A rate is what was charged for all bytes that crossed zones, divided by them, to six decimals, as price files have it.
What the bill says nothing of, traffic within a zone, is as in the cloud's own file. Of a side that its cloud bills and
of which this bill has nothing no rate is known; a region with such a side gets no price.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

from common.errors import Refusal
from history.bill.books.sums import Billed, Quantity
from history.bill.books.unit import Unit
from history.model.time_range import TimeRange, timestamp
from prices.book import MAX_DECIMALS, UNIT_BYTES, Price, PriceBook
from prices.file import PriceFileError, parse_prices, shipped

_SOURCES = {
    "aws": "https://docs.aws.amazon.com/cur/latest/userguide/cur-data-transfers-charges.html",
    "gcp": "https://cloud.google.com/billing/docs/how-to/export-data-bigquery",
    "azure": "https://learn.microsoft.com/azure/cost-management-billing/costs/tutorial-improved-exports",
}
_FREE = ("same_zone", "same_node")


@dataclass(frozen=True, slots=True)
class Rate:
    """What a unit cost in one region, sent and received; None: nothing was billed there that says it."""

    region: str
    source: Decimal | None
    destination: Decimal | None

    @property
    def is_whole(self) -> bool:
        """Whether both sides are known, as a price needs them."""
        return self.source is not None and self.destination is not None


def rates(billed: Billed, unit: Unit) -> list[Rate]:
    """Return the effective rates, by region; of a region nothing of which was billed there is none.

    Where the bill counts bytes they are by the unit in which its cloud states its prices.
    """
    found: list[Rate] = []
    unit = priced_unit(billed, unit)
    if not billed.is_separable:
        return found
    listed = next(price for price in shipped(billed.provider).prices if price.scope == "cross_zone")
    for region, each in sorted(billed.rates.items()):
        source, destination = (_rate(quantity, unit) for quantity in (each.out, each.into))
        if source is not None or destination is not None:
            found.append(Rate(region, _or_free(source, listed.source), _or_free(destination, listed.destination)))
    return found


def _or_free(rate: Decimal | None, listed: Decimal) -> Decimal | None:
    """Return a side's rate: 0 where nothing was billed because its cloud does not bill that side."""
    return Decimal(0) if rate is None and not listed else rate


def priced_unit(billed: Billed, unit: Unit) -> Unit:
    """Return the unit that rates are by."""
    if unit.how_sure != "known":
        return unit
    return replace(unit, bytes=UNIT_BYTES[shipped(billed.provider).unit])


def price_file(billed: Billed, unit: Unit, span: TimeRange) -> bytes:
    """Return a price file that `--prices` takes; raise `Refusal` where the bill charges nothing that it could have."""
    if not billed.is_separable:
        raise Refusal("write_prices: this bill does not tell what crossed zones from other regional transfer")
    found = rates(billed, unit)
    if not found:
        raise Refusal("write_prices: nothing that crossed zones was billed in this range, so it has no rate")
    if not any(rate.is_whole for rate in found):
        raise Refusal("write_prices: only one side of what crossed zones was billed in this range: a price needs both")
    book, unit = shipped(billed.provider), priced_unit(billed, unit)
    content = "\n".join(_lines(billed, unit, span, found, book)).encode()
    try:
        parse_prices(content, "write_prices")
    except PriceFileError as error:
        raise Refusal(f"write_prices: a rate of this bill fits no price file: {error.problems[0]}") from error
    return content


def _lines(billed: Billed, unit: Unit, span: TimeRange, found: list[Rate], book: PriceBook) -> Iterator[str]:
    yield f"# Effective rates of a bill, {span}, made by zonemeter bill --write-prices."
    yield f"# The unit is {unit.name}: {_how_sure(unit)}."
    yield f'title = "{book.title}, as billed"'
    yield f'currency = "{billed.currency}"'
    yield f'unit = "{unit.name}"'
    yield f"as_of = {datetime.fromtimestamp((span.to_ms - 1) / 1000, UTC).date()}"
    if book.zone_pattern:
        yield f"zone_pattern = '{book.zone_pattern}'"
    for rate in found:
        if rate.source is None or rate.destination is None:
            side = "sent" if rate.source is None else "received"
            yield from ("", f"# No price of {_text(rate.region)}: nothing {side} was billed there.")
            continue
        yield from ("", "[[price]]", 'scope = "cross_zone"')
        if rate.region:
            yield f"source_region = {_text(rate.region)}"
        yield f"source = {rate.source:f}"
        yield f"destination = {rate.destination:f}"
        yield f'url = "{_SOURCES[billed.provider]}"'
        yield f'note = "billed / used, {timestamp(span.from_ms)[:10]} to {timestamp(span.to_ms - 1)[:10]}"'
    for price in (price for price in book.prices if price.scope in _FREE and price.source_name is None):
        yield from _shipped(price)
    yield ""


def _shipped(price: Price) -> Iterator[str]:
    yield from ("", "[[price]]", f'scope = "{price.scope}"')
    yield f"source = {price.source:f}"
    yield f"destination = {price.destination:f}"
    yield f'url = "{price.url}"'
    yield 'note = "list price: not in the bill"'


def _rate(quantity: Quantity, unit: Unit) -> Decimal | None:
    size = quantity.size(unit.bytes)
    if size <= 0:
        return None
    exact = quantity.cost * unit.bytes / size
    return exact.quantize(Decimal(1).scaleb(-MAX_DECIMALS), ROUND_HALF_UP)


def _how_sure(unit: Unit) -> str:
    how = {"known": "the bill says so", "given": "given by --unit"}
    return how.get(unit.how_sure, f"{unit.how_sure}, by comparison with what was metered")


def _text(value: str) -> str:
    """Return text as a TOML string; of a region nothing but letters, digits and hyphens is taken literally."""
    return '"' + "".join(c if c.isascii() and (c.isalnum() or c == "-") else "?" for c in value) + '"'
