# SPDX-License-Identifier: Apache-2.0
"""Who bears what of the traffic, period by period (`zonemeter report --by --per`). Pure.

Each byte is sent once and received once, and each side bears what the price file bills that side: so the shares of
either side add up to all bytes, and those of both to all money. What belongs to nobody is a share of its own, by why;
it is never spread over the others.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from history.model.bill import Cost
from history.model.grouping import By, Owner, Per, owner_of, period_end, period_title
from history.model.summary import Traffic
from history.report.data import Report
from history.report.grouped.sums import SumLine

Side = Literal["source", "destination"]
UNATTRIBUTED = "(unattributed)"


class Share(NamedTuple):
    """One side of one kind of traffic in one period. `cost`: what this side is billed; None: no price."""

    begin_ms: int
    owner: Owner
    side: Side
    traffic: Traffic
    bytes: int
    cost: Cost | None


@dataclass(slots=True)
class Period:
    """What of a period lies in the range, [from_ms, to_ms).

    `lines`: a sum for each owner, the greatest first. `unattributed`: the sums of what belongs to nobody, by why.
    """

    title: str
    from_ms: int
    to_ms: int
    is_whole: bool
    lines: list[SumLine] = field(default_factory=list)
    unattributed: dict[str, SumLine] = field(default_factory=dict)

    @property
    def all(self) -> list[SumLine]:
        """All sums; together they are the period's traffic."""
        return [*self.lines, *self.unattributed.values()]


def shares(report: Report, by: By) -> Iterator[Share]:
    """Yield both sides of all traffic."""
    for traffic, size in report.summary.traffic.items():
        cost = report.now.bill.costs.get(traffic)
        sides: tuple[Side, Side] = ("source", "destination")
        for side, group, end in zip(sides, traffic.groups, (traffic.source, traffic.destination), strict=True):
            amount = None if cost is None else cost.of(side)
            yield Share(traffic.period_ms, owner_of(by, group, end), side, traffic, size, amount)


def periods(report: Report, by: By, per: Per) -> list[Period]:
    """Return the periods of which there is traffic, in order of time."""
    found: dict[int, dict[Owner, SumLine]] = defaultdict(dict)
    for share in shares(report, by):
        owner = share.owner
        line = found[share.begin_ms].setdefault(owner, SumLine(owner.name or UNATTRIBUTED))
        line.add(share.side, share.bytes, crosses=share.traffic.scope == "cross_zone", cost=share.cost)
    return [_period(report, per, begin_ms, lines) for begin_ms, lines in sorted(found.items())]


def bounds(report: Report, per: Per, begin_ms: int) -> tuple[int, int]:
    """Return what of a period lies in the range."""
    span = report.now.span
    return max(begin_ms, span.from_ms), min(period_end(per, begin_ms), span.to_ms)


def _period(report: Report, per: Per, begin_ms: int, lines: dict[Owner, SumLine]) -> Period:
    from_ms, to_ms = bounds(report, per, begin_ms)
    is_whole = (from_ms, to_ms) == (begin_ms, period_end(per, begin_ms))
    period = Period(period_title(per, begin_ms), from_ms, to_ms, is_whole)
    ordered = sorted(lines.items(), key=lambda item: (-item[1].bytes, item[0]))
    period.lines = [line for owner, line in ordered if owner.name]
    period.unattributed = {owner.why: line for owner, line in ordered if not owner.name}
    return period
