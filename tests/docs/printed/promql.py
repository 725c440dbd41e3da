# SPDX-License-Identifier: Apache-2.0
"""The PromQL that the documents print: in blocks marked so, in blocks that are indented, in `code` within a line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docs.printed.commands import DOCUMENTS

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_METRIC = re.compile(r"\b(?:zonemeter_[a-z_]+|pod_cross_zone_[a-z_]+|kubecost_[a-z_]+)\b")
# `name{label,label}` says which labels there are, `name_*` is several, and a lone name is no query.
_LISTED = re.compile(r"\w+\*?(?:\{[\w,]*\})?")


@dataclass(frozen=True)
class Printed:
    """One query, and where it is printed."""

    expression: str
    place: str


def printed_queries() -> list[Printed]:
    """Return all of them."""
    return [
        Printed(found.replace("\\|", "|").strip(), document.name)
        for document in DOCUMENTS
        for found in _candidates(document.read_text())
        if _METRIC.search(found) and not _LISTED.fullmatch(found.strip())
    ]


def _candidates(text: str) -> Iterator[str]:
    yield from (block[3] for block in _BLOCK.finditer(text) if block[2] == "promql")
    rest = _BLOCK.sub("", text)
    yield from _INDENTED.findall(rest)
    yield from _CODE.findall(_INDENTED.sub("", rest))
