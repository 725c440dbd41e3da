# SPDX-License-Identifier: Apache-2.0
"""Reads a price file, TOML, and says everything that is wrong with it, each with its place.

A file that could mislead is refused whole: a price without a source, one that can never apply, a typing error in a
name. docs/prices.md describes the format.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from common.errors import Refusal
from common.input import toml
from common.input.files import read_named
from prices.book import MAX_DECIMALS, UNIT_BYTES, Price, PriceBook

SHIPPED = ("aws", "azure", "gcp")
PricedScope = Literal["same_node", "same_zone", "cross_zone", "cross_region", "external"]
PRICED_SCOPES: tuple[PricedScope, ...] = get_args(PricedScope)
# What clouds price by the month's amount.
BY_TIER: tuple[PricedScope, ...] = ("cross_region", "external")
HIGHEST_PRICE = 1000
# Each price is compared with all before it, and the place of each error is looked for.
MAX_PRICES = 1000
MAX_PROBLEMS = 100

_A_NUMBER = f"expected a number from 0 to {HIGHEST_PRICE} with at most {MAX_DECIMALS} decimals, so that sums are exact"
# By key; of all others, "one line of text".
_EXPECTED = {
    "unit": f"expected one of {', '.join(UNIT_BYTES)}",
    "currency": "expected three capital letters, such as USD",
    "as_of": "expected a date without quotes, such as 2026-11-01",
    "price": f"expected [[price]] tables, at most {MAX_PRICES:,}",
    "scope": f"expected one of {', '.join(PRICED_SCOPES)}; unknown traffic has no price: it may be anything",
    "source": f"{_A_NUMBER}; 0 if that side is not billed; by tier [LOWEST, HIGHEST]",
    "destination": f"{_A_NUMBER}; 0 if that side is not billed; by tier [LOWEST, HIGHEST]",
    "url": "expected the address of the page that states this price",
}


class PriceFileError(ValueError):
    """A price file that cannot be used; `problems` has one line for each error, `file:line: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems[0])
        self.problems = problems


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("expected one line of text")
    return value


def _zone_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groupindex
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if "region" not in groups:
        raise ValueError("has no group (?P<region>...)")
    return value


Line = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
_amount: TypeAdapter[Decimal] = TypeAdapter(
    Annotated[
        Decimal,
        Field(strict=True, ge=0, le=HIGHEST_PRICE, decimal_places=MAX_DECIMALS),
        BeforeValidator(lambda value: Decimal(value) if type(value) is int else value),
    ]
)


class Amount(NamedTuple):
    """What one side is billed for a unit; `highest`: if it depends on a tier, then the other is the lowest."""

    lowest: Decimal
    highest: Decimal | None = None


def _amounts(value: Any) -> Amount:
    """Return a number or a range of two."""
    if not isinstance(value, list):
        return Amount(_amount.validate_python(value))
    if len(value) != 2:
        raise ValueError("expected [LOWEST, HIGHEST], the prices of the cheapest and the dearest tier")
    lowest, highest = map(_amount.validate_python, value)
    if lowest >= highest:
        raise ValueError("expected [LOWEST, HIGHEST], the lowest first")
    return Amount(lowest, highest)


Amounts = Annotated[Amount, PlainValidator(_amounts)]


class _PriceTable(BaseModel, extra="forbid"):
    scope: PricedScope
    source: Amounts
    destination: Amounts
    url: Annotated[Line, Field(pattern=r"^https?://\S+$")]
    note: Line = ""
    source_region: Line | None = None
    destination_region: Line | None = None
    source_name: Line | None = None
    destination_name: Line | None = None
    source_zone: Line | None = None
    destination_zone: Line | None = None

    def price(self, unit: str) -> Price:
        """Return the price."""
        values = dict(self) | {
            "source": self.source.lowest,
            "source_highest": self.source.highest,
            "destination": self.destination.lowest,
            "destination_highest": self.destination.highest,
        }
        return Price(unit=unit, **values)


class _PriceFile(BaseModel, extra="forbid"):
    title: Line
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    unit: Literal["GB", "GiB"]
    as_of: Annotated[date, Field(strict=True)]
    zone_pattern: Annotated[Line, AfterValidator(_zone_pattern)] | None = None
    price: Annotated[list[_PriceTable], Field(max_length=MAX_PRICES)] = []


def parse_prices(content: bytes, name: str) -> PriceBook:
    """Read a price file; raise `PriceFileError` with all that is wrong with it."""
    try:
        document = toml.parse(content, parse_float=Decimal)
    except ValueError as error:
        raise PriceFileError([f"{name}: {error}"]) from error
    try:
        file = _PriceFile.model_validate(document)
    except ValidationError as error:
        wrong = [_said(each) for each in error.errors(include_url=False)[:MAX_PROBLEMS]]
        raise PriceFileError(_placed(wrong, content.decode(), name)) from error
    prices = tuple(table.price(file.unit) for table in file.price)
    if wrong := list(_out_of_reach(prices))[:MAX_PROBLEMS]:
        raise PriceFileError(_placed(wrong, content.decode(), name))
    return PriceBook(name, file.title, file.currency, file.unit, file.as_of, prices, file.zone_pattern)


def recognise(zones: Iterable[str]) -> PriceBook | None:
    """Return the shipped file of the one cloud that names all of these zones so; None if none or several do."""
    names = set(zones)
    found = [book for book in map(shipped, SHIPPED) if all(book.region_of(name) is not None for name in names)]
    return found[0] if names and len(found) == 1 else None


def is_shipped(book: PriceBook) -> bool:
    """Return whether a price file is one that comes with zonemeter: list prices of a cloud."""
    return book.name in SHIPPED


def region_of(zone: str, book: PriceBook) -> str | None:
    """Return a zone's region by how the price file says that zones are named, else by how the clouds name theirs."""
    books = (book, *map(shipped, SHIPPED))
    return next((region for each in books if (region := each.region_of(zone)) is not None), None)


def shipped(name: str) -> PriceBook:
    """Return one of the files that come with zonemeter."""
    return parse_prices(resources.files("prices").joinpath(f"data/{name}.toml").read_bytes(), name)


def load_prices(which: str) -> PriceBook:
    """Return the price file of that name (aws, azure, gcp) or at that path; raise `Refusal` naming the first error."""
    if which in SHIPPED:
        return shipped(which)
    try:
        return parse_prices(read_named("prices", Path(which), f"{', '.join(SHIPPED)} or a file of that kind"), which)
    except PriceFileError as error:
        more = f" (and {len(error.problems) - 1} more: zonemeter prices check {which})" if error.problems[1:] else ""
        raise Refusal(f"prices: {error.problems[0]}{more}") from error


# What is wrong: the price's number, if it is in one, the key, and what is wrong with that.
_Wrong = tuple[int | None, str, str]


def _said(error: ErrorDetails) -> _Wrong:
    number = next((part for part in error["loc"] if isinstance(part, int)), None)
    key = [str(part) for part in error["loc"] if not isinstance(part, int)][-1]
    value, expected = error["input"], _EXPECTED.get(key, "expected one line of text")
    if error["type"] == "missing":
        return number, key, f"is missing: {expected}"
    if error["type"] == "extra_forbidden":
        known = _PriceFile.model_fields if number is None else _PriceTable.model_fields
        return number, key, f"no such name here; expected {', '.join(known)}"
    if error["type"] == "too_long":
        return number, key, f"{len(value):,} prices; {expected}"
    if error["type"] == "value_error":
        expected = str(error["ctx"]["error"])
    return number, key, f"{_shown(value)}: {expected}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value) if isinstance(value, Decimal) else repr(value)


def _out_of_reach(prices: Sequence[Price]) -> Iterator[_Wrong]:
    if not any(price.scope == "cross_zone" for price in prices):
        yield None, "price", "no price of scope cross_zone"
    for later, price in enumerate(prices):
        if price.is_range and price.scope not in BY_TIER:
            yield later, "scope", f"a range is for {' or '.join(BY_TIER)}: no cloud prices {price.scope} by tier"
        first = next((number for number, earlier in enumerate(prices[:later], 1) if earlier.covers(price)), None)
        if first is not None:
            yield later, "scope", f"never applies: price {first} stands first and covers it"


def _placed(wrong: Iterable[_Wrong], text: str, name: str) -> list[str]:
    """Return a line for each thing that is wrong, with its place, in the order of the file."""
    lines = text.splitlines()
    headers = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[\s*price\s*\]\]", line)]
    placed = [
        (_line_of(number, key, lines, [0, *headers, len(lines)]), number, key, what) for number, key, what in wrong
    ]
    return [
        f"{name}:{line}: {'' if number is None else f'price {number + 1}: '}{key}: {what}"
        for line, number, key, what in sorted(placed, key=lambda each: each[0])
    ]


def _line_of(number: int | None, key: str, lines: Sequence[str], bounds: Sequence[int]) -> int:
    """Return the line of a key within the top of the file or a price's table, else the line where that begins."""
    part = 0 if number is None else min(number + 1, len(bounds) - 2)
    for at in range(bounds[part], bounds[part + 1]):
        if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", lines[at]):
            return at + 1
    return bounds[part] + 1
