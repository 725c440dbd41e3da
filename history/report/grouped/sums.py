# SPDX-License-Identifier: Apache-2.0
"""The sums of `zonemeter report --by`: who sent and received how much, or how much went by port or hour. Pure.

Every byte is sent once and received once: each of the two columns adds up to all of the report's bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from history.model.bill import Cost, sum_costs
from history.model.grouping import OF_ENDS, OF_TIME, By, title_of
from history.model.summary import Traffic
from history.report.data import Report


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

    def add(self, side: str, size: int, *, crosses: bool, cost: Cost | None) -> None:
        """Add what it sent (`source`), received (`destination`) or, if it has no ends, all; `cost`: of that alone."""
        across = size if crosses else 0
        if side == "destination":
            self.received += size
            self.received_across += across
        else:
            self.sent += size
            self.sent_across += across
        self.cost = sum_costs((self.cost, cost))

    def sizes(self, *, of_ends: bool) -> list[int]:
        """Return the amounts that a table shows: sent, of that across zones, and with ends the same of received."""
        sent = [self.sent, self.sent_across]
        return [*sent, self.received, self.received_across] if of_ends else sent


def together(lines: Sequence[SumLine], name: str = "") -> SumLine:
    """Return what sums come to together."""
    return SumLine(
        name,
        sum(line.sent for line in lines),
        sum(line.received for line in lines),
        sum(line.sent_across for line in lines),
        sum(line.received_across for line in lines),
        sum_costs(line.cost for line in lines),
        sum(line.before for line in lines),
    )


def with_rest(lines: Sequence[SumLine], most: int) -> list[SumLine]:
    """Return the first of some sums, and what the rest comes to as one more."""
    rest = lines[most:]
    return [*lines[:most], *([together(rest, f"{len(rest):,} more")] if rest else [])]


def sums(report: Report, by: By) -> list[SumLine]:
    """Return the sums, the greatest first; those by time in order of time."""
    lines: dict[str, SumLine] = {}
    for traffic, size in report.summary.traffic.items():
        cost = report.now.bill.costs.get(traffic)
        for name, side in _sides(traffic, by):
            line = lines.setdefault(name, SumLine(name))
            line.add(side, size, crosses=traffic.scope == "cross_zone", cost=None if cost is None else cost.of(side))
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
