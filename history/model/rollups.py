# SPDX-License-Identifier: Apache-2.0
"""Which questions rollups answer to the byte as flows do, and for which hours of a range. Pure.

A rollup holds the sums of one hour by workload, zones, scope, direction and port (docs/archive.md). What a question
tells apart, or picks out, that a rollup has summed up is asked of flows.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal

from history.model.end_names import Choice, is_network, reads_as_network, side_columns, workload_columns
from history.model.filters import Selection
from history.model.grouping import By, Per
from history.model.states.labels import LabelTime
from history.model.time_range import TimeRange, timestamp

# What rollups of hours are summed up by again, the longest first. A week begins where a slot of a report does, which is
# on a Thursday: so it is in one slot, as a month would not be.
Length = Literal["week", "day"]
LENGTHS_MS: dict[Length, int] = {"week": 7 * 86_400_000, "day": 86_400_000}
_SHORTER: dict[Length, set[str | None]] = {"week": {"hour", "day"}, "day": {"hour"}}
_HOUR_MS = 3_600_000
# So much after its hour may a window end that a rollup has summed up with others.
SLACK_MS = 60_000


def only_flows_tell(selection: Selection, span: TimeRange, by: By | None) -> str:
    """Return what of a question rollups do not tell, as people say it; "" where they tell all of it."""
    if by in ("pod", "node"):
        return f"--by {by}"
    coarse = span.slot_ms % _HOUR_MS == 0
    return only_flows_pick(selection) or ("" if coarse else f"time in less than hours, as over {span}")


def only_flows_pick(selection: Selection) -> str:
    """Return which filter picks by what rollups have summed up, as people say it; "" where none does."""
    sides = (*selection.sources, *selection.destinations)
    asked = {
        "--pod": selection.pods,
        "--address": selection.addresses,
        "--min-bytes": selection.min_bytes,
        "one node, pod or prefix": _picks_finer(
            choice for text in selection.workloads for choice in workload_columns(text)
        ),
        "a source or destination that may be a pod, a node or an address": any(map(is_network, sides))
        or _picks_finer(side_columns(sides)),
    }
    return next((what for what, given in asked.items() if given), "")


def _picks_finer(choices: Iterable[Choice]) -> bool:
    """Return whether an end may be picked by what a rollup has summed up."""
    return any(
        "pod" in choice
        or "node" in choice
        or (choice.get("kind") == "external" and reads_as_network(str(choice.get("name", ""))))
        for choice in choices
    )


def lengths_that_tell(span: TimeRange, by: By | None, per: Per | None) -> list[Length]:
    """Return what else a question is told by that hours' rollups tell: those of weeks, those of days."""
    return [length for length, ms in LENGTHS_MS.items() if span.slot_ms % ms == 0 and not {by, per} & _SHORTER[length]]


class Hours:
    """The hours of a range for which rollups may stand. `labels`: what the question joins with the flows.

    `lengths`: of what longer times rollups may, too. `per`: the periods that traffic is told apart by.
    """

    def __init__(
        self,
        span: TimeRange,
        labels: Sequence[LabelTime] = (),
        *,
        lengths: Sequence[Length] = (),
        per: Per | None = None,
    ) -> None:
        self.lengths = lengths
        self._span = span
        self._per = per
        self._changes = sorted({at for time in labels for at in (time.from_ms, time.to_ms)})

    def holds(self, part: TimeRange) -> bool:
        """Return whether an hour, a day or a week lies in the range whole and in one period, and no label changes."""
        span, ended_by_ms = self._span, part.to_ms + SLACK_MS
        if part.from_ms < span.from_ms or part.to_ms > span.to_ms:
            return False
        if span.ended_by_ms is not None and ended_by_ms > span.ended_by_ms:
            return False
        if self._per == "month" and timestamp(part.from_ms)[:7] != timestamp(part.to_ms - 1)[:7]:
            return False
        after = bisect_right(self._changes, part.from_ms)
        return after == len(self._changes) or self._changes[after] > ended_by_ms
