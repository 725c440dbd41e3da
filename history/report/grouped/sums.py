# SPDX-License-Identifier: Apache-2.0
"""The sums of `zonemeter report --by`: who sent and received how much, or how much went by port or hour. Pure.

Every byte is sent once and received once: each of the two columns adds up to all of the report's bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from history.model.bill import NOTHING, Cost
from history.model.grouping import OF_ENDS, OF_TIME, By, title_of
from history.model.summary import Traffic
from history.report.data import Range, Report


@dataclass(slots=True)
class SumLine:
    """One sum. Of what has no ends (a port, an hour) all is `sent`. `cost`: what this side is billed, None: no price.

    `sent_across`, `received_across`: across zones. `before`: sent and received in the range before.
    """

    name: str
    sent: int = 0
    received: int = 0
    sent_across: int = 0
    received_across: int = 0
    cost: Cost | None = None
    before: int = 0

    @property
    def bytes(self) -> int:
        """What it sent and received."""
        return self.sent + self.received


def sums(report: Report, by: By) -> list[SumLine]:
    """Return the sums, the greatest first; those by time in order of time."""
    lines: dict[str, SumLine] = {}
    for traffic, size in report.summary.traffic.items():
        across = size if traffic.scope == "cross_zone" else 0
        for name, side in _sides(traffic, by):
            line = lines.setdefault(name, SumLine(name))
            if side == "destination":
                line.received += size
                line.received_across += across
            else:
                line.sent += size
                line.sent_across += across
            _bill(line, report.now, traffic, side)
    if report.before is not None:
        for traffic, size in report.before.summary.traffic.items():
            for name, _ in _sides(traffic, by):
                lines.setdefault(name, SumLine(name)).before += size
    if by in OF_TIME:
        return sorted(lines.values(), key=lambda line: line.name)
    return sorted(lines.values(), key=lambda line: (-line.bytes, -line.before, line.name))


def _sides(traffic: Traffic, by: By) -> Iterator[tuple[str, str]]:
    """Yield the sums that traffic goes into, and whether as source, as destination or whole."""
    if by in OF_ENDS:
        yield title_of(by, traffic.groups[0], traffic.source), "source"
        yield title_of(by, traffic.groups[1], traffic.destination), "destination"
    else:
        yield title_of(by, traffic.groups[0], traffic.source), "whole"


def _bill(line: SumLine, part: Range, traffic: Traffic, side: str) -> None:
    cost = part.bill.costs.get(traffic)
    if cost is None:
        return
    if side == "source":
        cost = Cost(source=cost.source)
    elif side == "destination":
        cost = Cost(destination=cost.destination)
    line.cost = (line.cost or NOTHING) + cost
