# SPDX-License-Identifier: Apache-2.0
"""Reads a page back, strictly: every element is closed where it should be, or it raises."""

from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, SubElement

_VOID = {"meta", "input", "br", "hr", "link", "img", "wbr"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        made = SubElement(self._open[-1], tag, {name: value or "" for name, value in attrs})
        if tag not in _VOID:
            self._open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        last = self._open[-1]
        if len(last):
            last[-1].tail = (last[-1].tail or "") + data
        else:
            last.text = (last.text or "") + data

    def close(self) -> None:
        super().close()
        assert self._open == [self.root]


def parsed(document: str) -> Element:
    """Return the elements of a page; attributes and tags in lower case."""
    reader = _Reader()
    reader.feed(document)
    reader.close()
    return reader.root


def by_id(page: Element, name: str) -> Element:
    """Return the one element with this id."""
    (found,) = [each for each in page.iter() if each.get("id") == name]
    return found


def text_of(element: Element) -> str:
    """Return all text in an element, white space as one blank."""
    return " ".join("".join(element.itertext()).split())


def values(element: Element) -> list[str]:
    """Return the exact values in an element, in order: what `data` elements have."""
    return [each.attrib["value"] for each in element.iter("data")]


def rows(table: Element, part: str = "tbody") -> Iterator[Element]:
    """Yield the rows of a table's part."""
    for section in table.iter(part):
        yield from section.iter("tr")
