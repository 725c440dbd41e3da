# SPDX-License-Identifier: Apache-2.0
"""Draws how many ready end points each zone had over time: a row for each zone, as high as its number. Pure."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from markupsafe import Markup

from history.model.states.ready import Step, least
from history.model.time_range import timestamp
from history.page import svg
from history.page.scales import time_ticks

_WIDTH, _ROW, _FULL, _LEFT, _RIGHT, _BOTTOM = 460, 34, 22, 104, 30, 22
MOST_ZONES = 8
_MOST_STEPS = 300


def draw(steps: Sequence[Step], name: str) -> Markup:
    """Return the drawing of steps without a gap; of many zones those with most end points are drawn."""
    return _Drawing(steps, name).svg()


class _Drawing:
    def __init__(self, steps: Sequence[Step], name: str) -> None:
        self._steps, self._name, self._last = _thinned(steps), name, steps[-1].zones
        self._from_ms, self._to_ms = steps[0].from_ms, steps[-1].to_ms
        counts: dict[str, int] = {}
        for step in steps:
            counts |= {zone: max(count, counts.get(zone, 0)) for zone, count in step.zones.items()}
        self._left_out = max(len(counts) - MOST_ZONES, 0)
        self._zones = sorted(sorted(counts, key=lambda zone: (-counts[zone], zone))[:MOST_ZONES])
        self._most = max(counts.values(), default=1)

    def svg(self) -> Markup:
        parts = [part for row, zone in enumerate(self._zones) for part in self._row(row, zone)]
        height = len(self._zones) * _ROW + _BOTTOM
        ends = ", ".join(f"{zone or 'zone not known'} {self._last.get(zone, 0)}" for zone in self._zones)
        more = f"; {self._left_out} more zones are not drawn" if self._left_out else ""
        said = f"Until {timestamp(self._to_ms)[:16]} UTC; at the end: {ends or 'none'}{more}."
        title = "Ready end points by zone over time"
        return svg.drawing(self._name, title, said, (_WIDTH, height), [*parts, *self._axis(height)])

    def _x(self, at_ms: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at_ms - self._from_ms) / max(self._to_ms - self._from_ms, 1)

    def _row(self, row: int, zone: str) -> Iterator[Element]:
        floor = (row + 1) * _ROW - 4
        yield svg.words(_LEFT - 8, floor - 3, svg.clipped(zone or "?", 15), "", "end")
        yield svg.line(_LEFT, floor, _WIDTH - _RIGHT, floor, "axis")
        for begin, end, count in self._stretches(zone):
            height = _FULL * count / self._most
            title = f"{zone or '?'}: {count} from {timestamp(begin)[:16]} to {timestamp(end)[:16]} UTC"
            shape = svg.box(self._x(begin), floor - height, self._x(end) - self._x(begin), height)
            yield svg.titled("rect", title, {**shape, "class": "ready"})
        yield svg.words(_WIDTH - _RIGHT + 6, floor - 3, str(self._last.get(zone, 0)), "strong")

    def _stretches(self, zone: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for step in self._steps:
            count = step.zones.get(zone, 0)
            if found and found[-1][2] == count and found[-1][1] == step.from_ms:
                found[-1] = found[-1][0], step.to_ms, count
            elif count:
                found.append((step.from_ms, step.to_ms, count))
        return found

    def _axis(self, height: float) -> Iterator[Element]:
        marks = time_ticks(self._from_ms, self._to_ms)
        for at_ms, label in marks[:: max(1, -(-len(marks) // 5))]:
            x = self._x(at_ms)
            yield svg.words(x, height - 4, label, "dim small", "middle")


def _thinned(steps: Sequence[Step]) -> Sequence[Step]:
    """Return steps that can be told apart: of what lies in one the least, which is what clients could rely on."""
    if len(steps) <= _MOST_STEPS:
        return steps
    begin, end = steps[0].from_ms, steps[-1].to_ms
    edges = [begin + (end - begin) * number // _MOST_STEPS for number in range(_MOST_STEPS + 1)]
    return [Step(at, until, least(steps, at, until)) for at, until in pairwise(edges) if at < until]
