# SPDX-License-Identifier: Apache-2.0
"""Bytes, money and time as people read them, and columns of text as wide as the page (common/page.py). Pure."""

import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from common import page

K = TypeVar("K", bound=Any)

# Of a name in a table that must be narrower: so far first; where the gaps have given way too, further.
LEAST_NAME, LEAST_OF_ALL = 12, 6
_SHELL_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|[^ ])+""")
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def scale(largest: int) -> tuple[str, int]:
    """Return the unit, and how many bytes it is, in which the largest of some amounts has one to three digits."""
    power = 0
    while largest >= 1000 ** (power + 1) and power < len(UNITS) - 1:
        power += 1
    return UNITS[power], 1000**power


def human(size: int) -> str:
    """Return bytes in a unit of their own: 6.20 TB, 30.0 GB, 900 B."""
    unit, divisor = scale(size)
    return f"{size} B" if divisor == 1 else f"{three_digits(size / divisor)} {unit}"


def three_digits(value: float) -> str:
    """Return a number with three significant digits, more before the point where it has them, two behind it at most."""
    if 0 < value < 0.005:
        return "<0.01"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def currency_sign(currency: str) -> str:
    """Return what stands before an amount: $, or three letters and a space."""
    return "$" if currency == "USD" else f"{currency} "


def dollars(amount: Decimal, currency: str = "USD") -> str:
    """Return money: $1,330 or $12.34 or $0.0012; three-letter codes for other currencies."""
    sign = currency_sign(currency)
    if 0 < amount < Decimal("0.0001"):
        return f"<{sign}0.0001"
    return sign + number(amount)


def number(amount: Decimal) -> str:
    """Return an amount of money without its currency, to the cent; what is less than ten cents to two digits."""
    if amount >= Decimal("999.5"):
        return f"{amount:,.0f}"
    if amount >= Decimal("0.095") or amount == 0:
        return f"{amount:.2f}"
    return f"{float(amount):.2g}" if amount >= Decimal("0.0001") else "<0.0001"


def exact(amount: Decimal) -> str:
    """Return a number whole, as programs read it: without an exponent, and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(milliseconds: int) -> str:
    """Return a time span, rounded to what it shows: 24 h, 1 h 05 m, 35 s."""
    seconds = (milliseconds + 500) // 1000
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes} m" + (f" {rest:02} s" if rest else "")
    hours, minutes = divmod((seconds + 30) // 60, 60)
    return f"{hours} h" + (f" {minutes:02} m" if minutes else "")


def per_hour(size: int, milliseconds: int) -> int:
    """Return bytes per hour, rounded; 0 over no time."""
    return (size * 3_600_000 + milliseconds // 2) // milliseconds if milliseconds else 0


def percent(part: int, whole: int) -> str:
    """Return a share with the digits that matter; never 100 or 0 unless it is exactly that."""
    if whole == 0:
        return "0 %"
    share = 100 * part / whole
    if part not in (0, whole) and not 0.01 <= share <= 99.99:
        return "<0.01 %" if share < 1 else ">99.99 %"
    return f"{share:.2f} %" if 0 < share < 1 or 99 < share < 100 else f"{share:.1f} %"


def counted(number: int, thing: str) -> str:
    """Return how many there are of something: 1 window, 3 windows."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def shorten(text: str, width: int) -> str:
    """Return a text of at most so many characters: what is too long loses its middle, which tells least.

    Where names are to be whole, that is the text itself.
    """
    if len(text) <= width or page.current().whole:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}" if width > 4 else text[:width]


def short_zones(zones: Sequence[str]) -> dict[str, str]:
    """Return for each zone its name without what all of them begin with: eu-west-1a and eu-west-1b are a and b."""
    prefix = os.path.commonprefix(list(zones)) if len(set(zones)) > 1 else ""  # noqa: RUF071 - characters, no paths
    return {zone: zone[len(prefix) :] or zone for zone in zones}


def labelled(label: str, facts: Sequence[str], indent: int = 9, gap: str = "   ") -> list[str]:
    """Return facts behind a label, as many to a line as fit; one that fits on no line goes on on the next.

    Lines break between words alone: a number or a name stays whole, or loses its middle where it fits on no line.
    """
    width = page.current().prose
    rows: list[str] = []
    wrapped = False
    for fact in filter(None, facts):
        if rows and not wrapped and len(rows[-1]) + len(gap) + len(fact) <= width:
            rows[-1] += gap + fact
            continue
        words = " ".join(shorten(word, width - indent) for word in fact.split())
        parts = textwrap.wrap(words, width - indent, break_long_words=False, break_on_hyphens=False)
        wrapped = len(parts) > 1
        rows += [f"{'' if rows or number else label:<{indent}}{part}" for number, part in enumerate(parts)]
    return rows


def wrapped(text: str, first: str, rest: str) -> list[str]:
    """Return a text as lines that begin so; what has no space to break at goes beyond the page rather than break."""
    width = page.current().prose
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]


def command_lines(words: str, indent: int) -> list[str]:
    """Return a command line as it can be pasted, continued where it is too long for one line, and in no quoted word."""
    rows = [""]
    for word in _SHELL_WORD.findall(words):
        if rows[-1] and indent + len(rows[-1]) + 1 + len(word) > page.current().prose - 2:
            rows[-1] += " \\"
            rows.append("   ")
        rows[-1] += (" " if rows[-1].strip() else "") + word
    return rows


def commands(label: str, lines: Iterable[str], indent: int) -> list[str]:
    """Return command lines behind a label, below each other."""
    rows = [row for line in lines for row in command_lines(line, indent)]
    return [f"{'' if number else label:<{indent}}{row}" for number, row in enumerate(rows)]


def ranked(sums: Mapping[K, int]) -> list[tuple[K, int]]:
    """Return sums with their names, the greatest first; of equal ones in the order of the names."""
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and how many more there are: a, b and 3 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def columns(rows: Sequence[Sequence[str]], align: str, gap: str = "  ") -> list[str]:
    """Return rows as lines, each column as wide as its widest; `align`: "<" or ">" for each."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(align))] if rows else []
    return [
        gap.join(f"{cell:{way}{width}}" for cell, way, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def fitted(rows: Sequence[Sequence[str]], align: str, names: Sequence[int] = (0, 2), gap: str = "  ") -> list[str]:
    """Return rows as lines that fit the page: the columns `names` give way alike where they must, then the gaps."""
    longest = [max((len(row[place]) for row in rows), default=0) for place in range(len(align))]
    if page.current().whole:
        return columns(rows, align, gap)
    width, gap = _name_width(longest, names, gap)
    cut = [[shorten(cell, width) if at in names else cell for at, cell in enumerate(row)] for row in rows]
    return columns(cut, align, gap)


def _name_width(longest: Sequence[int], names: Sequence[int], gap: str) -> tuple[int, str]:
    """Return how long names may be, and the gap between columns."""
    whole = max(longest[place] for place in names)
    for least, between in ((LEAST_NAME, gap), (LEAST_NAME, " "), (LEAST_OF_ALL, " ")):
        width = whole
        while width > least and _table_width(longest, names, width, between) > page.current().table:
            width -= 1
        if _table_width(longest, names, width, between) <= page.current().table:
            return width, between
    return LEAST_OF_ALL, " "


def _table_width(longest: Sequence[int], names: Sequence[int], width: int, gap: str) -> int:
    cells = (min(long, width) if place in names else long for place, long in enumerate(longest))
    return sum(cells) + len(gap) * (len(longest) - 1)
