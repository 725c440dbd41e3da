# SPDX-License-Identifier: Apache-2.0
"""A benchmark's command: measure, print the table, and write it into its section of docs/benchmarks.md.

    raise SystemExit(report.main("hook", "The hook, per packet", measure))

`measure` is given the number of rounds and returns tables. Between the section's two marker lines everything is
rewritten, the rest of the page is left as it is. Exit status 1 if a target is missed.
"""

import argparse
import datetime
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.measure.figure import Figure
from common.amounts import counted

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
_HEAD = "| what | ours | yardstick | compared: median (range) | target | |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Table:
    """Figures under one heading. `text` says what was measured, what the yardstick is and what it cannot tell.

    `pictures`: SVGs by the names of their files, beside the page.
    """

    title: str
    text: str
    figures: Sequence[Figure] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


Measure = Callable[[int], Sequence[Table]]


def main(name: str, title: str, measure: Measure, argv: Sequence[str] | None = None, rounds: int = 5) -> int:
    """Run `make bench-<name>`; return the exit status."""
    parser = argparse.ArgumentParser(prog=f"bench-{name}", description=title)
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each, in turn")
    parser.add_argument("--no-write", action="store_true", help="print only, leave docs/benchmarks.md as it is")
    wanted = parser.parse_args(argv)
    tables = measure(wanted.rounds)
    body = section(f"make bench-{name}", title, tables, wanted.rounds)
    print(body, end="")
    if not wanted.no_write:
        PAGE.write_text(replaced(PAGE.read_text(), name, body))
        for table in tables:
            for file, picture in table.pictures.items():
                PAGE.with_name(file).write_text(picture)
    return int(any(figure.met() is False for table in tables for figure in table.figures))


def section(command: str, title: str, tables: Sequence[Table], rounds: int) -> str:
    """Return a section in Markdown."""
    today = datetime.datetime.now(datetime.UTC).date()
    parts = [f"## {title}\n", f"`{command}`, {today}, {counted(rounds, 'round')}, on {machine()}.\n"]
    for table in tables:
        parts.append(f"### {table.title}\n\n{table.text.strip()}\n")
        if table.figures:
            parts.append("\n".join([_HEAD, *map(row, table.figures)]) + "\n")
    return "\n".join(parts)


def row(figure: Figure) -> str:
    """Return a figure as a line of the table."""
    compared = figure.compared()
    sign = " x" if figure.is_ratio else f" {figure.unit}"
    spread = f"{number(median(compared))}{sign} ({number(min(compared))} to {number(max(compared))})"
    yardstick = f"{number(median(figure.yardstick))} {figure.unit}" if figure.yardstick else ""
    target, met = "", ""
    if figure.target is not None:
        target = f"{'>=' if figure.target.at_least else '<='} {number(figure.target.bound)}{sign}"
        met = "met" if figure.met() else "**missed**"
    cells = [figure.what, f"{number(median(figure.ours))} {figure.unit}", yardstick, spread, target, met]
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Return a number with three digits that mean something: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def machine() -> str:
    """Say what it ran on: processor, how many of them, kernel."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = found[1].strip() if found else platform.machine()
    return f"{len(os.sched_getaffinity(0))} CPUs ({model}), Linux {platform.release().split('-')[0]}"


def replaced(page: str, name: str, body: str) -> str:
    """Return the page with the section of this name rewritten, or added at its end."""
    begin, end = f"<!-- bench-{name} -->", f"<!-- end of bench-{name} -->"
    written = f"{begin}\n{body.rstrip()}\n{end}\n"
    if begin not in page:
        return f"{page.rstrip()}\n\n{written}"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(f"{end}\n")
    if not found:
        raise ValueError(f"{begin} is not followed by {end}")
    return f"{before}{written}{after}"
