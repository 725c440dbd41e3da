# SPDX-License-Identifier: Apache-2.0
"""The one form that is made of the lines of every bill, and what a kind of bill says about itself. Pure.

    provider, account, start_ms, end_ms, kind, name, amount, unit_bytes, cost, currency, resource, region, charge, final

`kind`: `out` and `in` are billed for crossing zones; `both` is, where the line does not say which way; `regional`
stands under the same meter and did not cross zones, or not by a private address; `apart` is other transfer. `name` says
which of the last two. `unit_bytes`: what one of `amount` is; NULL where a cloud's "GB" may be 10^9 bytes or 2^30, 0 for
what is not an amount of bytes. `charge` is `usage`, or what else the line is, such as a credit. `final`: NULL where the
bill does not say.
"""

from collections.abc import Callable
from dataclasses import dataclass

from history.bill.formats.columns import Columns

FORM = (
    *("provider", "account", "start_ms", "end_ms", "kind", "name", "amount", "unit_bytes", "cost", "currency"),
    *("resource", "region", "charge", "final"),
)
CROSSING = ("out", "in", "both")

_POWERS = {
    1: ("b", "byte", "bytes"),
    2**10: ("kib", "kibibyte", "kibibytes"),
    2**20: ("mib", "mebibyte", "mebibytes"),
    2**30: ("gib", "gibibyte", "gibibytes"),
    2**40: ("tib", "tebibyte", "tebibytes"),
}
_UNSAID = ("gb", "gigabyte", "gigabytes")


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of bill. `form`: SQL for each of `FORM`, out of a file's columns; it says which of them it needs.

    `resource`: the column that names what a line is billed to; without it only sums can be compared.
    """

    name: str
    form: Callable[[Columns], dict[str, str]]
    resource: tuple[str, ...]

    def needed(self, columns: Columns) -> dict[str, bool]:
        """Return the columns that it needs, by their first names, and whether they are there."""
        asked = Columns(columns.known)
        self.form(asked)
        return asked.needed


def unit_bytes(unit: str) -> str:
    """Return SQL for what a unit of that name, SQL for text, is in bytes."""
    known = " ".join(f"WHEN lower({unit}) IN {names} THEN {size}" for size, names in _POWERS.items())
    return f"CASE {known} WHEN lower({unit}) IN {_UNSAID} THEN CAST(NULL AS BIGINT) ELSE 0 END"
