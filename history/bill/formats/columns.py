# SPDX-License-Identifier: Apache-2.0
"""A file's columns, and how SQL refers to one of them, by any of the names that exports give it. Pure.

Names are compared without regard to case. `usage.amount` is a column of that name, one called usage_amount, or the
field `amount` of a column `usage`: BigQuery's exports nest, its CSV cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns: by name in lower case, the SQL that names it.

    `needed`: of what a kind of bill cannot do without, by its first name, whether it is there.
    """

    known: Mapping[str, str]
    needed: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, nested: Sequence[tuple[str, Sequence[str]]]) -> "Columns":
        """Return those of a file: each column's name, and the names of its fields if it has any."""
        known: dict[str, str] = {}
        for name, fields in nested:
            for inner in fields:
                known.setdefault(f"{name}.{inner}".lower(), f"{_quoted(name)}.{_quoted(inner)}")
        for name, fields in nested:
            if not fields:
                known[name.lower()] = _quoted(name)
        return cls(known)

    def need(self, *names: str) -> tuple[str, ...]:
        """Note that a bill of this kind has one of these; return them."""
        self.needed[names[0]] = self.find(*names) is not None
        return names

    def find(self, *names: str) -> str | None:
        """Return what SQL calls the first of these that there is."""
        for name in names:
            for spelt in (name, name.replace(".", "_")):
                if (found := self.known.get(spelt.lower())) is not None:
                    return found
        return None

    def text(self, *names: str) -> str:
        """Return SQL for the first of these as text, empty where it is not there or has no value."""
        found = self.find(*names)
        return "''" if found is None else f"coalesce(CAST({found} AS VARCHAR), '')"

    def first(self, *names: str) -> str:
        """Return SQL for the first of these that has a value, as text; empty if none has."""
        found = [f"nullif({self.text(name)}, '')" for name in names if self.find(name) is not None]
        return f"coalesce({', '.join([*found, chr(39) * 2])})"

    def number(self, *names: str) -> str:
        """Return SQL for the first of these as an exact number; NULL where it cannot be read."""
        found = self.find(*names)
        return "NULL" if found is None else f"TRY_CAST({found} AS DECIMAL(38, 12))"

    def time_ms(self, *names: str) -> str:
        """Return SQL for the first of these as Unix milliseconds, UTC; NULL where it cannot be read.

        The forms: a timestamp, RFC 3339, BigQuery's "2026-11-01 07:00:00 UTC", Azure's 11/01/2026.
        """
        found = self.find(*names)
        if found is None:
            return "NULL"
        text = f"replace(CAST({found} AS VARCHAR), ' UTC', 'Z')"
        american = f"epoch_ms(try_strptime({text}, '%m/%d/%Y'))"
        return f"coalesce(epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ)), {american})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
