# SPDX-License-Identifier: Apache-2.0
"""What was compared: a row each, printed when it is known and once more in the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from common import terminal


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    expected: str
    seen: str
    ok: bool

    def line(self) -> str:
        """Return it as a line of the table."""
        return f"{self.what:<58} {self.expected:<28} {self.seen:<44} {'ok' if self.ok else 'FAILED'}"


@dataclass
class Table:
    """The rows so far."""

    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, expected: object, seen: object, ok: bool | None = None) -> None:
        """Add a row; without `ok` what was seen has to be what was expected."""
        row = Row(what, str(expected), str(seen), seen == expected if ok is None else ok)
        self.rows.append(row)
        terminal.complain(row.line())

    def within(self, what: str, most_seconds: float, seconds: float) -> None:
        """Add a row about how long something took."""
        self.add(what, f"at most {most_seconds:.0f} s", f"{seconds:.0f} s", seconds <= most_seconds)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Do a part of the test; one that fails is a row, and does not end the others."""
        begun = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a part that fails must not end the others
            self.add(name, "done", " ".join(f"{type(error).__name__}: {error}".split())[:1000], ok=False)
        terminal.complain(f"{name}: {time.monotonic() - begun:.0f} s")

    def lines(self) -> list[str]:
        """Return the whole table."""
        head = f"{'what':<58} {'expected':<28} {'seen':<44} ok"
        return [head, *(row.line() for row in self.rows)]

    @property
    def ok(self) -> bool:
        """Whether everything was as expected."""
        return bool(self.rows) and all(row.ok for row in self.rows)
