# SPDX-License-Identifier: Apache-2.0
"""Draws bytes as bars: one of parts, and rows to be compared. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from common.amounts import human
from history.page import svg

_WIDTH, _HIGH = 960, 30
_ROWS_WIDTH, _ROW, _BAR, _LABEL, _NUMBER = 460, 24, 14, 104, 66
_LEAST_LABEL = 18


class Part(NamedTuple):
    """A part of a bar: `kind` is its class; `label` is written on it where it is wide enough; `title`: in words."""

    kind: str
    bytes: int
    title: str
    label: str = ""


class Row(NamedTuple):
    """A bar with its name."""

    name: str
    parts: Sequence[Part]


def whole(parts: Sequence[Part], name: str, title: str) -> Markup:
    """Draw one bar of parts."""
    total = max(sum(part.bytes for part in parts), 1)
    drawn, at = [], 0.0
    for part in parts:
        width = _WIDTH * part.bytes / total
        shape = svg.rectangle(at, 0, max(width - 1.5, 0.5), _HIGH, part.kind)
        label = [svg.words(at + width / 2, _HIGH / 2 + 4, part.label, "on-bar", "middle")] if part.label else []
        shown = label if width >= _LEAST_LABEL else []
        drawn.append(svg.titled("g", f"{part.title}: {human(part.bytes)}", {}, shape, *shown))
        at += width
    said = "; ".join(f"{part.title} {human(part.bytes)}" for part in parts)
    return svg.drawing(name, title, f"{said}.", (_WIDTH, _HIGH), drawn)


def rows(found: Sequence[Row], name: str, title: str) -> Markup:
    """Draw bars below each other, each with its sum."""
    most = max((sum(part.bytes for part in row.parts) for row in found), default=0)
    drawn = [part for place, row in enumerate(found) for part in _row(row, place, max(most, 1))]
    said = "; ".join(f"{row.name} {human(sum(part.bytes for part in row.parts))}" for row in found)
    return svg.drawing(name, title, f"{said}.", (_ROWS_WIDTH, len(found) * _ROW), drawn)


def _row(row: Row, place: int, most: int) -> Iterator[Element]:
    top, at = place * _ROW + (_ROW - _BAR) / 2, float(_LABEL)
    yield svg.words(_LABEL - 8, top + 11, svg.clipped(row.name, 15), "", "end")
    for part in row.parts:
        width = (_ROWS_WIDTH - _LABEL - _NUMBER) * part.bytes / most
        shape = svg.box(at, top, width, _BAR)
        yield svg.titled("rect", f"{row.name}, {part.title}: {human(part.bytes)}", {**shape, "class": part.kind})
        at += width
    yield svg.words(at + 6, top + 11, human(sum(part.bytes for part in row.parts)), "strong")
