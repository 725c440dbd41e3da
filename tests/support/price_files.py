# SPDX-License-Identifier: Apache-2.0
"""Price files of a test's own."""

import json


def price_file(*prices: dict[str, str | float], currency: str = "USD", unit: str = "GB") -> str:
    """Return a file of these prices in this order; of a price its conditions and amounts are given."""
    lines = ['title = "Mine"', f'currency = "{currency}"', f'unit = "{unit}"', "as_of = 2026-11-01"]
    for price in prices:
        lines += ["[[price]]", *(f"{key} = {json.dumps(value)}" for key, value in price.items())]
        lines.append('url = "https://intranet/prices"')
    return "\n".join(lines) + "\n"


def with_free_pair(**where: str) -> str:
    """Return a file in which crossing zones costs both sides, but where `where` says it is free to the sender."""
    both: dict[str, str | float] = {"scope": "cross_zone", "source": 0.01, "destination": 0.01}
    return price_file({"scope": "cross_zone", **where, "source": 0, "destination": 0.01}, both)
