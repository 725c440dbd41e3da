# SPDX-License-Identifier: Apache-2.0
"""Draws who sends to whom: senders on the left, receivers on the right, a band between them as wide as the bytes. Pure.

Own code: a layout of two columns is these lines; the libraries that do it draw with scripts, which a page without any
could not show.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from common.amounts import human
from history.page import svg

_WIDTH, _COLUMN, _LABEL, _GAP = 960, 8, 286, 8
_BANDS_HIGH, _LEAST_ROW, _EDGE = 300, 36, 8
_LONGEST = 40


@dataclass(frozen=True)
class Flow:
    """Bytes from one to another; `said`: what they cost, or nothing. `rest`: all the pairs that are not shown."""

    source: str
    destination: str
    bytes: int
    said: str = ""
    rest: bool = False


@dataclass
class End:
    """One end in its column: `height` high from `top` on, in a row that is `row` high."""

    name: str
    bytes: int
    rest: bool
    top: float = 0
    height: float = 0
    row: float = 0


@dataclass(frozen=True)
class Band:
    """A flow between two heights, `thick` at both ends."""

    flow: Flow
    left: float
    right: float
    thick: float


@dataclass(frozen=True)
class Layout:
    """Where everything stands."""

    sources: Sequence[End]
    destinations: Sequence[End]
    bands: Sequence[Band]
    height: float


def layout(flows: Sequence[Flow]) -> Layout:
    """Place flows: the greatest senders on top, receivers so that little crosses, the rest at the bottom."""
    total = sum(flow.bytes for flow in flows)
    scale = _BANDS_HIGH / total if total else 0
    sources = _ends(flows, "source")
    destinations = _untangled(flows, sources, _ends(flows, "destination"))
    height = max(_stack(sources, scale), _stack(destinations, scale))
    return Layout(sources, destinations, list(_bands(flows, sources, destinations, scale)), height)


def draw(flows: Sequence[Flow], name: str = "sankey") -> Markup:
    """Return the drawing."""
    placed = layout(flows)
    said = "; ".join(f"{flow.source} to {flow.destination} {human(flow.bytes)}" for flow in flows[:5])
    described = f"{said}. All pairs are in the table below." if flows else "Nothing crossed zones."
    parts = [*map(_band, placed.bands), *_column(placed.sources, left=True), *_column(placed.destinations, left=False)]
    return svg.drawing(name, "Who sends to whom across zones", described, (_WIDTH, placed.height), parts, "wide")


def _ends(flows: Sequence[Flow], side: str) -> list[End]:
    found: dict[tuple[str, bool], End] = {}
    for flow in flows:
        name = flow.source if side == "source" else flow.destination
        found.setdefault((name, flow.rest), End(name, 0, flow.rest)).bytes += flow.bytes
    return sorted(found.values(), key=lambda end: (end.rest, -end.bytes, end.name))


def _untangled(flows: Sequence[Flow], sources: Sequence[End], destinations: list[End]) -> list[End]:
    """Swap neighbours as long as fewer bytes cross each other then; the rest stays at the bottom."""
    rank = {(end.name, end.rest): place for place, end in enumerate(sources)}
    into: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for flow in flows:
        into[flow.destination].append((rank[flow.source, flow.rest], flow.bytes))

    def crossing(upper: End, lower: End) -> int:
        return sum(a * b for at, a in into[upper.name] for below, b in into[lower.name] if below < at)

    count = sum(not end.rest for end in destinations)
    for _ in range(count):
        swapped = False
        for place in range(count - 1):
            upper, lower = destinations[place : place + 2]
            if crossing(lower, upper) < crossing(upper, lower):
                destinations[place : place + 2] = lower, upper
                swapped = True
        if not swapped:
            break
    return destinations


def _stack(ends: Sequence[End], scale: float) -> float:
    """Place ends below each other, each with room for its label; return how high they are together."""
    at = float(_EDGE)
    for end in ends:
        end.height = max(end.bytes * scale, 1)
        end.row = max(end.height, _LEAST_ROW)
        end.top = at + (end.row - end.height) / 2
        at += end.row + _GAP
    return at - _GAP + _EDGE if ends else 2 * _EDGE


def _bands(flows: Sequence[Flow], sources: Sequence[End], destinations: Sequence[End], scale: float) -> Iterator[Band]:
    lefts, rights = ({(end.name, end.rest): end for end in ends} for ends in (sources, destinations))
    ends = [(lefts[flow.source, flow.rest], rights[flow.destination, flow.rest], flow) for flow in flows]
    # Bands leave and arrive in the order of the other column, so that those of one end do not cross each other.
    begins: dict[Flow, float] = {}
    taken: defaultdict[int, float] = defaultdict(float)
    for left, _, flow in sorted(ends, key=lambda each: (each[0].top, each[1].top)):
        begins[flow] = left.top + taken[id(left)]
        taken[id(left)] += flow.bytes * scale
    for _, right, flow in sorted(ends, key=lambda each: (each[1].top, each[0].top)):
        yield Band(flow, begins[flow], right.top + taken[id(right)], flow.bytes * scale)
        taken[id(right)] += flow.bytes * scale


def _band(band: Band) -> Element:
    begin, end, thick = _LABEL + _COLUMN, _WIDTH - _LABEL - _COLUMN, max(band.thick, 0.7)
    middle = (begin + end) / 2
    left, right = band.left, band.right
    path = (
        f"M{begin},{left:.1f} C{middle},{left:.1f} {middle},{right:.1f} {end},{right:.1f} "
        f"v{thick:.1f} C{middle},{right + thick:.1f} {middle},{left + thick:.1f} {begin},{left + thick:.1f} z"
    )
    flow = band.flow
    said = f"{flow.source} -> {flow.destination}\n{human(flow.bytes)}" + (f", {flow.said}" if flow.said else "")
    return svg.titled("path", said, {"d": path, "class": "band rest" if flow.rest else "band"})


def _column(ends: Sequence[End], *, left: bool) -> Iterator[Element]:
    x = _LABEL if left else _WIDTH - _LABEL - _COLUMN
    for end in ends:
        yield svg.rectangle(x, end.top, _COLUMN, end.height, "end rest" if end.rest else "end")
        middle = end.top + end.height / 2
        at, anchor = (x - 10, "end") if left else (x + _COLUMN + 10, "start")
        name = svg.words(at, middle - 2, svg.clipped(end.name, _LONGEST), "name", anchor)
        amount = svg.words(at, middle + 13, human(end.bytes), "dim small", anchor)
        yield svg.titled("g", end.name, {}, name, amount)
