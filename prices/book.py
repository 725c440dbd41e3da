# SPDX-License-Identifier: Apache-2.0
"""What traffic costs by list price: dated price files, who is billed, exact arithmetic. Pure.

Money is counted in whole subunits, 10^-36 of the currency, so that a byte of any price (at most six decimals, per GB
or GiB) is a whole number of them: sums are exact, in any order, and stay so over restarts. What a file does not
price has no price; it is never taken for free. Discounts and taxes are not known here, nor in which tier an account is:
a price by tier is a range, from the lowest tier's to the highest tier's, and never one number.
"""

import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NamedTuple

from common.amounts import currency_sign, dollars, exact
from schemas.flow import Scope

UNIT_BYTES = {"GB": 10**9, "GiB": 2**30}
SUBUNIT_DIGITS = 36
SUBUNITS = 10**SUBUNIT_DIGITS
# 10^36 / 2^30 is divisible by 10^6 and not by 10^7.
MAX_DECIMALS = 6
# The fields of a price that say what traffic it is for, beside its scope: globs.
GLOBS = (
    *("source_region", "destination_region", "source_name", "destination_name"),
    *("source_zone", "destination_zone"),
)
# What a month of a projection is, in hours: 365 days / 12, as the clouds' own calculators have it.
MONTH_HOURS = 730


class Side(NamedTuple):
    """What a price may depend on of one end of a flow; "" where it is not known. `name`: of an entry of the CIDR map.

    `external`: it is somebody else's, on the internet, so whatever that side is billed is not on this bill.
    """

    region: str = ""
    name: str = ""
    external: bool = False
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """One price: what each side is billed for a unit of traffic of one scope. Globs that are None match everything.

    `source_highest`, `destination_highest`: where it depends on a tier, the highest; then `source` or `destination` is
    the lowest.
    """

    scope: Scope
    source: Decimal
    destination: Decimal
    url: str
    unit: str
    source_region: str | None = None
    destination_region: str | None = None
    source_name: str | None = None
    destination_name: str | None = None
    source_zone: str | None = None
    destination_zone: str | None = None
    note: str = ""
    source_highest: Decimal | None = None
    destination_highest: Decimal | None = None

    @property
    def is_range(self) -> bool:
        """Whether it depends on a tier, which a flow does not show."""
        return self.source_highest is not None or self.destination_highest is not None

    @property
    def highest(self) -> "Price":
        """The same price in the highest tier."""
        source = self.source if self.source_highest is None else self.source_highest
        destination = self.destination if self.destination_highest is None else self.destination_highest
        return replace(self, source=source, destination=destination, source_highest=None, destination_highest=None)

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
        most = self.highest
        sides = [name for name, amount in (("sender", most.source), ("receiver", most.destination)) if amount]
        return " and ".join(sides) or "nobody"

    def matches(self, scope: Scope, source: Side, destination: Side) -> bool:
        """Return whether this is a price of such traffic."""
        return (
            scope == self.scope
            and _fits(self.source_region, source.region)
            and _fits(self.destination_region, destination.region)
            and _fits(self.source_name, source.name)
            and _fits(self.destination_name, destination.name)
            and _fits(self.source_zone, source.zone)
            and _fits(self.destination_zone, destination.zone)
        )

    def covers(self, other: "Price") -> bool:
        """Return whether this one, standing first, leaves nothing for the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in GLOBS)
        return self.scope == other.scope and all(_covers(mine, theirs) for mine, theirs in pairs)


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

    @property
    def sign(self) -> str:
        """What heads a column of its money: $, or three letters."""
        return currency_sign(self.currency).strip()

    def shown(self, subunits: int) -> str:
        """Return an amount of its money as people read it: $12.34."""
        return dollars(money(subunits), self.currency)

    def find(self, scope: Scope, source: Side = Side(), destination: Side = Side()) -> Price | None:  # noqa: B008
        """Return the first price that matches, if it is one number; None: this file has none for it."""
        found = self.match(scope, source, destination)
        return None if found is None or found.is_range else found

    def match(self, scope: Scope, source: Side = Side(), destination: Side = Side()) -> Price | None:  # noqa: B008
        """Return the first price that matches, a range too, an external side billed nothing; None: there is none."""
        found = next((price for price in self.prices if price.matches(scope, source, destination)), None)
        # In another scope an external sender is one whose packets a metered node sent on: that leg is billed.
        if found is None or scope != "external":
            return found
        return replace(
            found,
            source=Decimal(0) if source.external else found.source,
            destination=Decimal(0) if destination.external else found.destination,
            source_highest=None if source.external else found.source_highest,
            destination_highest=None if destination.external else found.destination_highest,
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


def exact_money(subunits: int) -> str:
    """Return an amount in the currency as programs read it."""
    return exact(money(subunits))


def units(size: int, unit: str) -> Decimal:
    """Return bytes in a unit of prices, exactly."""
    # A byte is a whole number of 10^-30 of either unit.
    sign, digits, _ = Decimal(size * (10**30 // UNIT_BYTES[unit])).as_tuple()
    return Decimal((sign, digits, -30))


def per_month(amount: int, milliseconds: int) -> int:
    """Return what an amount, of money or of bytes, that came up in so much time would be in 730 h; 0 for no time."""
    return amount * MONTH_HOURS * 3_600_000 // milliseconds if milliseconds > 0 else 0


def _fits(glob: str | None, value: str) -> bool:
    # Not even "*" meets what is not known: that would be a guess.
    return glob is None or (bool(value) and fnmatchcase(value, glob))


def _covers(glob: str | None, other: str | None) -> bool:
    """Return whether all that another glob meets is sure to meet this one: it is the same, or says one thing alone."""
    if glob is None or glob == other:
        return True
    if other is None:
        return False
    return glob == "*" or (not _SPECIAL.intersection(other) and fnmatchcase(other, glob))


_SPECIAL = frozenset("*?[")
