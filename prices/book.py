# SPDX-License-Identifier: Apache-2.0
"""What traffic costs by list price: dated price files, who is billed, exact arithmetic. Pure.

Money is counted in whole subunits, 10^-36 of the currency, so that a byte of any price (at most six decimals, per GB
or GiB) is a whole number of them: sums are exact, in any order, and stay so over restarts. What a file does not
price has no price; it is never taken for free. Discounts, tiers and taxes are not known here.
"""

import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NamedTuple

from schemas.flow import Scope

UNIT_BYTES = {"GB": 10**9, "GiB": 2**30}
SUBUNIT_DIGITS = 36
SUBUNITS = 10**SUBUNIT_DIGITS
# 10^36 / 2^30 is divisible by 10^6 and not by 10^7.
MAX_DECIMALS = 6
# What a month of a projection is, in hours: 365 days / 12, as the clouds' own calculators have it.
MONTH_HOURS = 730


class Side(NamedTuple):
    """What a price may depend on of one end of a flow; "" where it is not known. `name`: of an entry of a CIDR map.

    `external`: it is somebody else's, on the internet, so whatever that side is billed is not on this bill.
    """

    region: str = ""
    name: str = ""
    external: bool = False


@dataclass(frozen=True, slots=True)
class Price:
    """One price: what each side is billed for a unit of traffic of one scope. Globs that are None match everything."""

    scope: Scope
    source: Decimal
    destination: Decimal
    url: str
    unit: str
    source_region: str | None = None
    destination_region: str | None = None
    source_name: str | None = None
    destination_name: str | None = None
    note: str = ""

    @property
    def total(self) -> Decimal:
        """What both sides together are billed for a unit."""
        return self.source + self.destination

    @property
    def rate(self) -> int:
        """What a byte costs both sides together, in subunits."""
        return subunits_per_byte(self.total, self.unit)

    @property
    def billed(self) -> str:
        """Who is billed, in words."""
        sides = [name for name, amount in (("sender", self.source), ("receiver", self.destination)) if amount]
        return " and ".join(sides) or "nobody"

    def matches(self, scope: Scope, source: Side, destination: Side) -> bool:
        """Return whether this is a price of such traffic."""
        return (
            scope == self.scope
            and _fits(self.source_region, source.region)
            and _fits(self.destination_region, destination.region)
            and _fits(self.source_name, source.name)
            and _fits(self.destination_name, destination.name)
        )

    def covers(self, other: "Price") -> bool:
        """Return whether this one, standing first, leaves nothing for the other."""
        mine = (self.source_region, self.destination_region, self.source_name, self.destination_name)
        theirs = (other.source_region, other.destination_region, other.source_name, other.destination_name)
        return self.scope == other.scope and all(a in (None, b) for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One price file. `name`: what it is called by; `zone_pattern`: how zones of this cloud are named, if it says."""

    name: str
    title: str
    currency: str
    unit: str
    as_of: date
    prices: tuple[Price, ...]
    zone_pattern: str | None = None

    def find(self, scope: Scope, source: Side = Side(), destination: Side = Side()) -> Price | None:  # noqa: B008
        """Return the first price that matches, an external side billed nothing; None: this file has no price for it."""
        found = next((price for price in self.prices if price.matches(scope, source, destination)), None)
        # In another scope an external sender is one whose packets a metered node sent on: that leg is billed.
        if found is None or scope != "external":
            return found
        return replace(
            found,
            source=Decimal(0) if source.external else found.source,
            destination=Decimal(0) if destination.external else found.destination,
        )

    def region_of(self, zone: str) -> str | None:
        """Return the region of a zone that is named as this cloud names them, else None."""
        found = re.fullmatch(self.zone_pattern, zone) if self.zone_pattern else None
        return None if found is None else found.groupdict().get("region", "")


def subunits_per_byte(price: Decimal, unit: str) -> int:
    """Return what a byte costs, in subunits: exact for prices of at most six decimals."""
    per_millionth: int = SUBUNITS // 10**MAX_DECIMALS // UNIT_BYTES[unit]
    return int(price.scaleb(MAX_DECIMALS)) * per_millionth


def money(subunits: int) -> Decimal:
    """Return an amount in the currency, exactly."""
    sign, digits, _ = Decimal(subunits).as_tuple()
    return Decimal((sign, digits, -SUBUNIT_DIGITS))


def units(size: int, unit: str) -> Decimal:
    """Return bytes in a unit of prices, exactly."""
    # A byte is a whole number of 10^-30 of either unit.
    sign, digits, _ = Decimal(size * (10**30 // UNIT_BYTES[unit])).as_tuple()
    return Decimal((sign, digits, -30))


def per_month(subunits: int, milliseconds: int) -> int:
    """Return what an amount that came up in so much time would be in a month of 730 h; 0 for no time."""
    return subunits * MONTH_HOURS * 3_600_000 // milliseconds if milliseconds > 0 else 0


def _fits(glob: str | None, value: str) -> bool:
    # Not even "*" meets what is not known: that would be a guess.
    return glob is None or (bool(value) and fnmatchcase(value, glob))
