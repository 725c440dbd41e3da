# SPDX-License-Identifier: Apache-2.0
"""Draws what was sent over time, by scope: a stack for each slot, unmeasured time hatched, changes marked. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from common.amounts import counted, human, scale
from history.model.intervals import joined
from history.model.time_range import timestamp
from history.page import svg
from history.page.scales import ticks, time_ticks
from schemas.flow import Scope

# From the bottom up: what is asked about stands on the axis, where its shape can be seen.
STACKED: tuple[Scope, ...] = ("cross_zone", "cross_region", "external", "unknown", "same_zone", "same_node")
_WIDTH, _HEIGHT = 960, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 6, 30, 46
_LANE = 8
_HOUR_MS = 3_600_000
_LISTED = 6


@dataclass(frozen=True)
class Slot:
    """Bytes by scope in [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    bytes: Mapping[Scope, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())

    def per_hour(self, size: int) -> float:
        """Return bytes as a rate."""
        return size * _HOUR_MS / max(self.to_ms - self.from_ms, 1)


@dataclass(frozen=True)
class Mark:
    """Something that changed, in words."""

    at_ms: int
    text: str


@dataclass(frozen=True)
class Times:
    """What is drawn. `nobody`: time that no node metered; `partly`: time that some did not.

    `before`: slots of the range that this one is compared with, as if they were of now.
    """

    from_ms: int
    to_ms: int
    slots: Sequence[Slot]
    nobody: Sequence[tuple[int, int]] = ()
    partly: Sequence[tuple[int, int]] = ()
    marks: Sequence[Mark] = ()
    before: Sequence[Slot] = ()


def draw(times: Times, name: str = "timeline") -> Markup:
    """Return the drawing."""
    return _Drawing(times, name).svg()


class _Drawing:
    def __init__(self, times: Times, name: str) -> None:
        self._times, self._name = times, name
        self._span = max(times.to_ms - times.from_ms, 1)
        rates = [slot.per_hour(slot.total) for slot in times.slots]
        rates += [slot.per_hour(slot.bytes.get("cross_zone", 0)) for slot in times.before]
        self._ticks = ticks(max(rates, default=0))
        self._floor = _HEIGHT - _BOTTOM
        # A pixel: what lies closer is drawn as one.
        self._pixel_ms = self._span // (_WIDTH - _LEFT - _RIGHT)

    def svg(self) -> Markup:
        parts = [svg.hatching(f"{self._name}-hatch"), *self._axes(), *self._bars(), *self._unmeasured()]
        parts += [*self._line_before(), *self._marks()]
        return svg.drawing(
            self._name, "Bytes over time by scope", self._description(), (_WIDTH, _HEIGHT), parts, "wide"
        )

    def _description(self) -> str:
        slots, times = self._times.slots, self._times
        said = [f"From {timestamp(times.from_ms)} to {timestamp(times.to_ms)} UTC, {counted(len(slots), 'slot')}."]
        if slots:
            most = max(slots, key=lambda slot: slot.per_hour(slot.bytes.get("cross_zone", 0)))
            crossing = human(round(most.per_hour(most.bytes.get("cross_zone", 0))))
            said.append(f"Most crossed zones from {timestamp(most.from_ms)} on: {crossing} an hour.")
        said.append(f"{counted(len(times.marks), 'change')} marked. The numbers are in the table below.")
        return " ".join(said)

    def _x(self, at_ms: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at_ms - self._times.from_ms) / self._span

    def _y(self, rate: float) -> float:
        return self._floor - (self._floor - _TOP) * rate / self._ticks[-1]

    def _axes(self) -> Iterator[Element]:
        unit, divisor = scale(round(self._ticks[-1]))
        for rate in self._ticks:
            y = self._y(rate)
            yield svg.line(_LEFT, y, _WIDTH - _RIGHT, y, "grid" if rate else "axis")
            label = f"{rate / divisor:g} {unit}/h" if rate else "0"
            yield svg.words(_LEFT - 8, y + 4, label, "dim", "end")
        for at_ms, label in time_ticks(self._times.from_ms, self._times.to_ms):
            yield svg.line(self._x(at_ms), self._floor, self._x(at_ms), self._floor + 4, "axis")
            at_edge = self._x(at_ms) > _WIDTH - 30
            yield svg.words(self._x(at_ms), _HEIGHT - 8, label, "dim", "end" if at_edge else "middle")

    def _bars(self) -> Iterator[Element]:
        for slot in self._times.slots:
            left, right = self._x(slot.from_ms), self._x(slot.to_ms)
            gap = min(1.0, (right - left) / 5)
            base, parts, said = 0.0, [], [f"{timestamp(slot.from_ms)} UTC"]
            for scope in STACKED:
                size = slot.bytes.get(scope, 0)
                if size:
                    top = base + slot.per_hour(size)
                    height = self._y(base) - self._y(top)
                    parts.append(svg.rectangle(left, self._y(top), right - left - gap, height, f"scope-{scope}"))
                    said.append(f"{scope.replace('_', '-')} {human(size)}")
                    base = top
            yield svg.titled("g", "\n".join(said), {"class": "slot"}, *parts)

    def _line_before(self) -> Iterator[Element]:
        path, last = "", None
        for slot in self._times.before:
            y = self._y(slot.per_hour(slot.bytes.get("cross_zone", 0)))
            begin, end = self._x(slot.from_ms), self._x(slot.to_ms)
            path += f"{'L' if last == slot.from_ms else 'M'}{begin:.1f},{y:.1f} H{end:.1f} "
            last = slot.to_ms
        if path:
            yield svg.titled("path", "cross-zone before", {"d": path.rstrip(), "class": "before"})

    def _unmeasured(self) -> Iterator[Element]:
        fill = f"url(#{self._name}-hatch)"
        for begin, end in joined(self._times.nobody, self._pixel_ms):
            width = max(self._x(end) - self._x(begin), 1)
            title = f"nothing metered: {timestamp(begin)} - {timestamp(end)[11:]} UTC"
            shape = svg.box(self._x(begin), _TOP, width, self._floor - _TOP)
            yield svg.titled("rect", title, {**shape, "fill": fill, "class": "nobody"})
        for begin, end in joined(self._times.partly, self._pixel_ms):
            width = max(self._x(end) - self._x(begin), 2)
            title = f"not metered on some nodes: {timestamp(begin)} - {timestamp(end)[11:]} UTC"
            shape = svg.box(self._x(begin), self._floor + 6, width, _LANE)
            yield svg.titled("rect", title, {**shape, "fill": fill, "class": "partly"})

    def _marks(self) -> Iterator[Element]:
        groups: list[list[Mark]] = []
        for mark in sorted(self._times.marks, key=lambda mark: mark.at_ms):
            if groups and self._x(mark.at_ms) - self._x(groups[-1][0].at_ms) < 12:
                groups[-1].append(mark)
            else:
                groups.append([mark])
        for group in groups:
            x = self._x(group[0].at_ms)
            said = [f"{timestamp(mark.at_ms)[:16]} {mark.text}" for mark in group[:_LISTED]]
            said += [f"and {len(group) - _LISTED} more"] if len(group) > _LISTED else []
            stem = svg.line(x, _TOP - 8, x, self._floor, "mark-stem")
            head = svg.element("path", {"d": f"M{x - 5:.1f},{_TOP - 16} h10 l-5,8 z", "class": "mark"})
            count = [svg.words(x, _TOP - 19, str(len(group)), "dim small", "middle")] if len(group) > 1 else []
            yield svg.titled("g", "\n".join(said), {"class": "marked"}, stem, head, *count)
