# SPDX-License-Identifier: Apache-2.0
"""Drawings as SVG in a page. Pure.

Elements are made by the standard library's ElementTree, which escapes text and attributes; colours are classes of the
style sheet, since the page's policy allows no style in an element.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

from common.terminal import plain

Attributes = Mapping[str, str | float]


def element(tag: str, attributes: Attributes, *children: Element, text: str = "") -> Element:
    """Return an element; numbers to a tenth.

    What a terminal would obey, hide or put elsewhere is a "?" in a page, too.
    """
    made = Element(tag, {name: _value(value) for name, value in attributes.items()})
    made.text = plain(text) or None
    made.extend(children)
    return made


def titled(tag: str, title: str, attributes: Attributes, *children: Element) -> Element:
    """Return an element that says this when it is pointed at; each line of the title is one."""
    named = element("title", {})
    named.text = "\n".join(map(plain, title.split("\n")))
    return element(tag, attributes, named, *children)


def drawing(
    name: str, title: str, description: str, size: tuple[float, float], parts: Sequence[Element], kind: str = ""
) -> Markup:
    """Return a drawing, `size` wide and high, with a title and its text alternative; `name`: for ids, one in a page."""
    width, height = size
    attributes = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "class": f"drawing {kind}".rstrip(),
    }
    named = element("title", {"id": f"{name}-title"}, text=title)
    described = element("desc", {"id": f"{name}-desc"}, text=description)
    text = tostring(
        element("svg", attributes, named, described, *parts), encoding="unicode", short_empty_elements=False
    )
    # What comes out of ElementTree is escaped; tests/history/page/test_hostile.py has what it was tried with.
    return Markup(text)  # noqa: S704


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Element:
    """Return a rectangle."""
    return element("rect", box(x, y, width, height) | {"class": kind})


def box(x: float, y: float, width: float, height: float) -> dict[str, str | float]:
    """Return where a rectangle stands, as attributes."""
    return {"x": x, "y": y, "width": max(width, 0), "height": max(height, 0)}


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    """Return a line."""
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Element:
    """Return text that begins, ends or is centred at a point."""
    return element("text", {"x": x, "y": y, "class": kind, "text-anchor": anchor}, text=text)


def clipped(text: str, most: int) -> str:
    """Return a text of at most so many characters: what is too long loses its middle, which tells least."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (most - 1 - head) :]}"


def hatching(name: str) -> Element:
    """Return the pattern of what was not measured; its fill is `url(#NAME)`."""
    stripe = element("path", {"d": "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2", "class": "hatch-line"})
    tile: Attributes = {"id": name, "width": 6, "height": 6, "patternUnits": "userSpaceOnUse"}
    return element("defs", {}, element("pattern", tile, rectangle(0, 0, 6, 6, "hatch-ground"), stripe))


def _value(value: str | float) -> str:
    return plain(value) if isinstance(value, str) else f"{round(value, 1):g}"
