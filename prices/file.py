# SPDX-License-Identifier: Apache-2.0
"""Reads a price file, TOML, and says everything that is wrong with it, each with its place.

A file that could mislead is refused whole: a price without a source, one that can never apply, a typing error in a
name. docs/prices.md describes the format.
"""

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from common import toml
from common.errors import Refusal
from common.files import read_bounded
from prices.book import MAX_DECIMALS, UNIT_BYTES, Price, PriceBook
from schemas.flow import Scope

SHIPPED = ("aws", "azure", "gcp")
PRICED_SCOPES = tuple(scope for scope in get_args(Scope) if scope != "unknown")
HIGHEST_PRICE = 1000
# Each price is compared with all before it, and the place of each error is looked for.
MAX_PRICES = 1000
MAX_PROBLEMS = 100

_GLOBS = ("source_region", "destination_region", "source_name", "destination_name")
_TOP = ("title", "currency", "unit", "as_of", "zone_pattern", "price")
_IN_PRICE = ("scope", "source", "destination", "url", "note", *_GLOBS)


class PriceFileError(ValueError):
    """A price file that cannot be used; `problems` has one line for each error, `file:line: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems[0])
        self.problems = problems


def parse_prices(content: bytes, name: str) -> PriceBook:
    """Read a price file; raise `PriceFileError` with all that is wrong with it."""
    try:
        document = toml.parse(content, parse_float=Decimal)
    except ValueError as error:
        raise PriceFileError([f"{name}: {error}"]) from error
    reader = _Reader(name, content.decode())
    book = reader.book(document)
    if reader.problems:
        raise PriceFileError([line for _, line in sorted(reader.problems)])
    return book


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
    path = Path(which)
    try:
        return parse_prices(read_bounded(path), which)
    except OSError as error:
        raise Refusal(
            f"prices = {which!r}: {error.strerror}; expected {', '.join(SHIPPED)} or a file of that kind"
        ) from error
    except PriceFileError as error:
        more = f" (and {len(error.problems) - 1} more: zonemeter prices check {which})" if error.problems[1:] else ""
        raise Refusal(f"prices: {error.problems[0]}{more}") from error


class _Reader:
    """One pass over one file, noting what is wrong on the way; a wrong value is read as some right one."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = text.splitlines()
        self.problems: list[tuple[int, str]] = []

    def book(self, document: dict[str, Any]) -> PriceBook:
        self._check_names(document, _TOP, None)
        unit = self._choice(document, "unit", tuple(UNIT_BYTES), None)
        tables = document.get("price", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._note(None, "price", "expected [[price]] tables")
            tables = []
        if len(tables) > MAX_PRICES:
            self._note(None, "price", f"{len(tables):,} prices; expected at most {MAX_PRICES:,}")
            tables = []
        prices = [self._price(table, number, unit) for number, table in enumerate(tables)]
        self._check_reach(prices)
        return PriceBook(
            name=self._name,
            title=self._text(document, "title", None) or "",
            currency=self._matching(document, "currency", r"[A-Z]{3}", "three capital letters, such as USD"),
            unit=unit,
            as_of=self._date(document),
            prices=tuple(prices),
            zone_pattern=self._pattern(document),
        )

    def _price(self, table: dict[str, Any], number: int, unit: str) -> Price:
        self._check_names(table, _IN_PRICE, number)
        scope: Any = self._choice(table, "scope", PRICED_SCOPES, number)
        globs = {name: self._text(table, name, number, needed=False) for name in _GLOBS}
        url = self._text(table, "url", number) or ""
        if url and not re.match(r"https?://\S+$", url):
            self._note(number, "url", f"{url!r}: expected the address of the page that states this price")
        return Price(
            scope=scope,
            source=self._amount(table, "source", number),
            destination=self._amount(table, "destination", number),
            url=url,
            unit=unit,
            note=self._text(table, "note", number, needed=False) or "",
            **globs,
        )

    def _check_names(self, table: dict[str, Any], known: tuple[str, ...], number: int | None) -> None:
        for key in table:
            if key not in known:
                self._note(number, key, f"no such name here; expected {', '.join(known)}")

    def _check_reach(self, prices: list[Price]) -> None:
        if not any(price.scope == "cross_zone" for price in prices):
            self._note(None, "price", "no price of scope cross_zone")
        for later, price in enumerate(prices):
            for earlier in range(later):
                if prices[earlier].covers(price):
                    self._note(later, "scope", f"never applies: price {earlier + 1} stands first and covers it")
                    break

    def _amount(self, table: dict[str, Any], key: str, number: int) -> Decimal:
        value = table.get(key)
        if value is None:
            self._note(number, key, "is missing; write 0 if that side is not billed")
            return Decimal(0)
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
            said = str(value) if isinstance(value, Decimal) else repr(value)
            self._note(number, key, f"{said}: expected a number")
            return Decimal(0)
        amount = Decimal(value)
        if not 0 <= amount <= HIGHEST_PRICE:
            self._note(number, key, f"{amount}: expected 0 to {HIGHEST_PRICE}")
        elif amount != round(amount, MAX_DECIMALS):
            self._note(number, key, f"{amount}: at most {MAX_DECIMALS} decimals, so that sums are exact")
        else:
            return amount
        return Decimal(0)

    def _text(self, table: dict[str, Any], key: str, number: int | None, *, needed: bool = True) -> str | None:
        value = table.get(key)
        if value is None:
            if needed:
                self._note(number, key, "is missing")
            return None
        if not isinstance(value, str) or not value or not value.isprintable():
            self._note(number, key, f"{value!r}: expected one line of text")
            return None
        return value

    def _choice(self, table: dict[str, Any], key: str, choices: tuple[str, ...], number: int | None) -> str:
        value = self._text(table, key, number)
        if value is not None and value not in choices:
            reason = "unknown traffic has no price: it may be anything; " if value == "unknown" else ""
            self._note(number, key, f"{value!r}: {reason}expected one of {', '.join(choices)}")
        return value if value in choices else choices[0]

    def _matching(self, table: dict[str, Any], key: str, pattern: str, expected: str) -> str:
        value = self._text(table, key, None)
        if value is not None and not re.fullmatch(pattern, value):
            self._note(None, key, f"{value!r}: expected {expected}")
        return value or ""

    def _date(self, document: dict[str, Any]) -> date:
        value = document.get("as_of")
        if type(value) is not date:
            said = "is missing" if value is None else f"{value!r}"
            self._note(None, "as_of", f"{said}: expected a date without quotes, such as 2026-11-01")
            return date.min
        return value

    def _pattern(self, document: dict[str, Any]) -> str | None:
        value = self._text(document, "zone_pattern", None, needed=False)
        if value is not None:
            try:
                groups = re.compile(value).groupindex
            except re.error as error:
                self._note(None, "zone_pattern", f"{value!r}: no regular expression: {error}")
                return None
            if "region" not in groups:
                self._note(None, "zone_pattern", f"{value!r}: has no group (?P<region>...)")
        return value

    def _note(self, number: int | None, key: str, text: str) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            return
        price = "" if number is None else f"price {number + 1}: "
        line = self._line(number, key)
        self.problems.append((line, f"{self._name}:{line}: {price}{key}: {text}"))

    def _line(self, number: int | None, key: str) -> int:
        """Return the line of a name within the top of the file or a price's table, else the line where that begins."""
        headers = [at for at, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*price\s*\]\]", line)]
        bounds = [0, *headers, len(self._lines)]
        part = 0 if number is None else min(number + 1, len(bounds) - 2)
        begin, end = bounds[part], bounds[part + 1]
        for at in range(begin, end):
            if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", self._lines[at]):
                return at + 1
        return begin + 1
