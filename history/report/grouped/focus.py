# SPDX-License-Identifier: Apache-2.0
"""A showback as CSV in the shape of FOCUS 1.3, the FinOps Open Cost and Usage Specification. Pure.

Each charge here is one side of the traffic of one scope at one price in one period, and its rows are its split by who
is to bear it. So within a charge the price is one, and a share of the bytes is the same share of the money. Only the
columns that can be filled truthfully are there: nothing was billed, so there is no BilledCost and no EffectiveCost.
https://focus.finops.org/focus-specification/v1-3/, columns Allocated*.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

import orjson

from common.amounts import exact
from common.terminal import cell
from history.model.bill import NOTHING, Pricer
from history.model.grouping import By, Owner, Per
from history.model.time_range import rfc3339
from history.report.data import Report
from history.report.grouped.showback import Side, bounds, shares
from prices.book import exact_money, units
from prices.file import is_shipped
from schemas.flow import Scope

COLUMNS = (
    *("ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeDescription"),
    *("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit"),
    *("ListUnitPrice", "ListCost", "ContractedUnitPrice", "ContractedCost", "BillingCurrency"),
    *("AllocatedMethodId", "AllocatedMethodDetails", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags"),
    *("x_Scope", "x_Side", "x_WhyUnattributed"),
)
# docs/showback.md is the documentation of the method that the specification asks for.
METHOD = "zonemeter-metered-bytes"
# Of a share: so many decimals, of which the shares of a charge add up to exactly 1.
_RATIO_DIGITS = 12
_WAYS: dict[Side, tuple[str, str]] = {"source": ("sender", "sent"), "destination": ("receiver", "received")}


class Charge(NamedTuple):
    """What is split. `price`: what this side is billed for a unit; None: no price."""

    begin_ms: int
    side: Side
    scope: Scope
    price: Decimal | None


def focus_rows(report: Report, by: By, per: Per) -> Iterator[tuple[str | int, ...]]:
    """Yield the header and a row for each owner's share of each charge; what has no bytes has no row."""
    yield COLUMNS
    pricer = Pricer(report.now.bill.book)
    charges: dict[Charge, dict[Owner, tuple[int, int]]] = defaultdict(dict)
    for share in shares(report, by):
        price = pricer.price(share.traffic)
        unit_price = None if price is None else price.source if share.side == "source" else price.destination
        split = charges[Charge(share.begin_ms, share.side, share.traffic.scope, unit_price)]
        size, cost = split.get(share.owner, (0, 0))
        split[share.owner] = (size + share.bytes, cost + (share.cost or NOTHING).total)
    for charge, split in sorted(charges.items(), key=lambda item: _order(item[0])):
        ratios = _ratios({owner: size for owner, (size, _) in split.items()})
        for owner in sorted(ratios, key=lambda owner: (not owner.name, -split[owner][0], owner)):
            yield _row(report, per, charge, owner, *split[owner], ratios[owner])


def _row(
    report: Report, per: Per, charge: Charge, owner: Owner, size: int, cost: int, ratio: Decimal
) -> tuple[str | int, ...]:
    from_ms, to_ms = bounds(report, per, charge.begin_ms)
    who, way = _WAYS[charge.side]
    details = f'{{"Elements":[{{"AllocatedRatio":{exact(ratio)},"UsageUnit":"B","UsageQuantity":{size}}}]}}'
    return (
        *(rfc3339(from_ms), rfc3339(to_ms), "Usage", f"{charge.scope.replace('_', '-')} traffic {way}"),
        *(size, "B"),
        *_money(report, charge, size, cost),
        *(METHOD, details, cell(owner.name), cell(owner.name), _tags(report, owner)),
        *(charge.scope, who, cell(owner.why)),
    )


def _money(report: Report, charge: Charge, size: int, cost: int) -> tuple[str, ...]:
    """Return the columns from PricingQuantity on: list prices of a cloud's, contracted ones of a file of one's own."""
    book = report.now.bill.book
    if book is None or charge.price is None:
        return ("",) * 7
    quantity = exact(units(size, book.unit))
    amounts = (exact(charge.price), exact_money(cost))
    both = (*amounts, "", "") if is_shipped(book) else ("", "", *amounts)
    return (quantity, book.unit, *both, book.currency)


def _tags(report: Report, owner: Owner) -> str:
    return orjson.dumps({report.label: owner.name}).decode() if report.label and owner.name else ""


def _ratios(split: Mapping[Owner, int]) -> dict[Owner, Decimal]:
    """Return each owner's part of the bytes, rounded so that they add up to exactly 1: by largest remainder."""
    total, whole = sum(split.values()), 10**_RATIO_DIGITS
    parts = {owner: divmod(size * whole, total) for owner, size in split.items() if size}
    missing = whole - sum(part for part, _ in parts.values())
    first = set(sorted(parts, key=lambda owner: (-parts[owner][1], owner))[:missing])
    return {owner: Decimal(part + (owner in first)).scaleb(-_RATIO_DIGITS) for owner, (part, _) in parts.items()}


def _order(charge: Charge) -> tuple[object, ...]:
    return (charge.begin_ms, charge.scope, charge.side == "destination", charge.price is None, charge.price or 0)
