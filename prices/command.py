# SPDX-License-Identifier: Apache-2.0
"""`zonemeter prices list|check|explain`."""

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from common.amounts import exact, wrapped
from common.entry_point import entry_point
from common.errors import Refusal
from common.input.files import read_named
from common.settings import Settings
from common.terminal import say, write_json
from prices.book import GLOBS, UNIT_BYTES, Price, PriceBook, Side, money
from prices.file import (
    PRICED_SCOPES,
    SHIPPED,
    PricedScope,
    PriceFileError,
    load_prices,
    parse_prices,
    recognise,
    region_of,
    shipped,
)
from schemas.flow import Scope

EXAMPLE_BYTES = 10**12
# In the place of a zone: the end is on the internet.
EXTERNAL: Scope = "external"


class PricesListSettings(Settings):
    """List the price files that come with zonemeter: what a zone crossing costs, whom, as of when, says who."""

    output: Literal["table", "json"] = Field("table", description="how to print the answer")


class PricesCheckSettings(Settings):
    """Check a price file of your own; one line for each error, with its place."""

    file: CliPositionalArg[Path] = Field(description="the file, TOML")


class PricesExplainSettings(Settings):
    """Say how traffic between two zones would be priced, by which price of which file, and who is billed."""

    source_zone: CliPositionalArg[str] = Field(description="the sender's zone, such as eu-west-1a, or external")
    destination_zone: CliPositionalArg[str] = Field(description="the receiver's zone, or external: the internet")
    prices: str | None = Field(None, description="aws, azure, gcp or a file; else the cloud that names its zones so")
    scope: PricedScope | None = Field(None, description="needed only where the names of the zones do not tell")
    source_name: str = Field("", description="what the CIDR map calls the sender, if it is there")
    destination_name: str = Field("", description="what the CIDR map calls the receiver, if it is there")
    output: Literal["table", "json"] = Field("table", description="how to print the answer")


@entry_point("prices list", PricesListSettings)
def list_(settings: PricesListSettings) -> int:
    """Print the shipped files."""
    books = [shipped(name) for name in SHIPPED]
    if settings.output == "json":
        write_json([_book(book) for book in books])
        return 0
    say(f"{'file':<6} {'cloud':<13} {'as of':<11} {'zone crossing':<21} billed")
    for book in books:
        price = book.find("cross_zone")
        if price is not None:
            amount = f"{exact(price.total)} {book.currency} per {book.unit}"
            say(f"{book.name:<6} {book.title:<13} {book.as_of!s:<11} {amount:<21} {price.billed}")
            say(f"       {price.url}")
    say("list prices; for your own: zonemeter prices check FILE, then --prices FILE")
    return 0


@entry_point("prices check", PricesCheckSettings)
def check(settings: PricesCheckSettings) -> int:
    """Check one file; return 1 if anything is wrong with it."""
    try:
        book = parse_prices(read_named("file", settings.file, "a price file"), str(settings.file))
    except PriceFileError as error:
        say(*error.problems)
        return 1
    say(f"{book.name}: {book.title}, {len(book.prices)} prices per {book.unit} in {book.currency} as of {book.as_of}")
    for price in book.prices:
        say(*wrapped(_describe(price, book), "  ", "    "))
    for scope in PRICED_SCOPES:
        if book.match(scope) is None:
            say(f"  {scope}: no general price; what no price matches is reported in bytes only")
    return 0


@entry_point("prices explain", PricesExplainSettings)
def explain(settings: PricesExplainSettings) -> int:
    """Say how traffic between two zones is priced; return 1 if it has no price."""
    if settings.source_zone == settings.destination_zone == EXTERNAL:
        raise Refusal("both ends are external: such traffic is not the cluster's")
    book = _book_for(settings)
    source, destination = _side(settings, book, "source"), _side(settings, book, "destination")
    scope = settings.scope or _scope(settings, source, destination)
    stated = next((price for price in book.prices if price.matches(scope, source, destination)), None)
    price = book.match(scope, source, destination)
    assumed = [] if price is None else _assumed(price, source, destination)
    if settings.output == "json":
        priced = price and _price(price, book)
        write_json({"scope": scope, "file": book.name, "price": priced, "assumed": assumed})
    else:
        _print_explanation(settings, book, scope, price, stated)
        say(*(line for each in assumed for line in wrapped(each, "assumed: ", " " * 9)))
    return 0 if price is not None else 1


def _assumed(price: Price, source: Side, destination: Side) -> list[str]:
    """Return what is taken for granted about the far side: whose bill it is on, and what it is billed."""
    if source.external or destination.external:
        return ["what the far side on the internet is billed is not on your bill"]
    billed = [("sender", source, price.source_name), ("receiver", destination, price.destination_name)]
    most = price.highest
    paying = [each for each, amount in zip(billed, (most.source, most.destination), strict=True) if amount]
    found = [
        f"the {who}, {side.name}, is billed as any other end: no price names it, so `zonemeter bill` may find otherwise"
        for who, side, glob in paying
        if side.name and glob is None
    ]
    return found or (["both sides are on your bill: the far side is not another account's"] if len(paying) > 1 else [])


def _print_explanation(
    settings: PricesExplainSettings, book: PriceBook, scope: Scope, price: Price | None, stated: Price | None
) -> None:
    say(f"{settings.source_zone} -> {settings.destination_zone}: {scope}")
    if price is None or stated is None:
        say(f"{book.name} has no price for it: reported in bytes, never as free; a file of your own can price it")
        return
    number = book.prices.index(stated) + 1
    say(f"price {number} of {book.name} ({book.title}, as of {book.as_of}):")
    say(*wrapped(_describe(price, book), "  ", "    "))
    costs = [f"{money(EXAMPLE_BYTES * each.rate):.2f}" for each in (price, price.highest)[: 1 + price.is_range]]
    unit = "" if book.unit == "GB" else f" = {Decimal(EXAMPLE_BYTES) / UNIT_BYTES[book.unit]:.2f} {book.unit}"
    say(f"1 TB (10^12 bytes{unit}) costs {' to '.join(costs)} {book.currency}; billed: {price.billed}")
    if price.is_range:
        say("by the month's amount, which a flow does not show: a report says the range, and adds it to no sum")
    say(f"source {price.url}")
    if price.note:
        say(*wrapped(price.note, " " * 7, " " * 7))


def _book_for(settings: PricesExplainSettings) -> PriceBook:
    if settings.prices is not None:
        return load_prices(settings.prices)
    zones = [zone for zone in (settings.source_zone, settings.destination_zone) if zone != EXTERNAL]
    book = recognise(zones)
    if book is None:
        raise Refusal(f"{' and '.join(zones)} are zones of no cloud known here; say --prices {'|'.join(SHIPPED)}|FILE")
    return book


def _side(settings: PricesExplainSettings, book: PriceBook, which: str) -> Side:
    zone, name = getattr(settings, f"{which}_zone"), getattr(settings, f"{which}_name")
    if zone == EXTERNAL:
        return Side("", name, external=True)
    return Side(region_of(zone, book) or "", name, zone=zone)


def _scope(settings: PricesExplainSettings, source: Side, destination: Side) -> Scope:
    if source.external or destination.external:
        return EXTERNAL
    if settings.source_zone == settings.destination_zone:
        return "same_zone"
    if not (source.region and destination.region):
        raise Refusal(f"the regions of these zones do not show in their names; say --scope {'|'.join(PRICED_SCOPES)}")
    return "cross_zone" if source.region == destination.region else "cross_region"


def _describe(price: Price, book: PriceBook) -> str:
    limits = [f"{name.replace('_', ' ')} {glob}" for name in GLOBS if (glob := getattr(price, name)) is not None]
    only = f" where {', '.join(limits)}" if limits else ""
    source = _amount(price.source, price.source_highest)
    sides = f"{source} the sender, {_amount(price.destination, price.destination_highest)} the receiver"
    return f"{price.scope}{only}: {sides}, {book.currency} per {book.unit}"


def _amount(lowest: Decimal, highest: Decimal | None) -> str:
    return exact(lowest) if highest is None else f"{exact(lowest)} to {exact(highest)}"


def _book(book: PriceBook) -> dict[str, Any]:
    return {
        "file": book.name,
        "title": book.title,
        "currency": book.currency,
        "unit": book.unit,
        "as_of": str(book.as_of),
        "prices": [_price(price, book) for price in book.prices],
    }


def _price(price: Price, book: PriceBook) -> dict[str, Any]:
    return {
        "scope": price.scope,
        "source": exact(price.source),
        "destination": exact(price.destination),
        "source_highest": price.source_highest and exact(price.source_highest),
        "destination_highest": price.destination_highest and exact(price.destination_highest),
        **{name: getattr(price, name) for name in GLOBS},
        "unit": book.unit,
        "currency": book.currency,
        "billed": price.billed,
        "url": price.url,
        "note": price.note,
    }
