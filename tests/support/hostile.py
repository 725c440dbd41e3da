# SPDX-License-Identifier: Apache-2.0
"""Records as somebody might write them who means no good, or whose program is broken: Hypothesis strategies.

Either rubbish from the start, or a valid record in which something is changed: a value, a field taken out or put in,
bytes. Most of what is dangerous is nearly right.
"""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

# Enough to meet every field with every kind of value many times over a few runs; the seed is Hypothesis's own.
EXAMPLES = settings(max_examples=80)

INTEGERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30]),
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "/", "a/b", "\x00", "\n", "\ud800", "\u202e", "\x1b[2J", "9" * 5_000, "x" * 70_000, "../../etc"]
    ),
    st.integers(0, 10**20).map(str),
)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def encoded(document: Any) -> bytes:
    """Return JSON as Python writes it: with NaN, Infinity, lone surrogates (escaped) and integers of any size."""
    return json.dumps(document, separators=(",", ":")).encode()


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document."""
    inner: Any = ()
    if isinstance(document, dict | list):
        inner = document.items() if isinstance(document, dict) else enumerate(document)
    return [here, *(place for key, value in inner for place in places(value, (*here, key)))]


@st.composite
def spoilt(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return a valid record with up to three changes."""
    document = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    value = encoded(document)
    cut = draw(st.one_of(st.none(), st.none(), st.integers(0, len(value))))
    value = value if cut is None else value[:cut]
    flips = draw(st.lists(st.tuples(st.integers(0, max(len(value) - 1, 0)), st.integers(0, 255)), max_size=2))
    changed = bytearray(value)
    for at, byte in flips if draw(st.booleans()) and value else []:
        changed[at] = byte
    return bytes(changed)


def hostile(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Return rubbish, and spoilt copies of valid records."""
    return st.one_of(st.binary(max_size=200), VALUES.map(encoded), *(spoilt(each) for each in valid))


def _changed(draw: st.DrawFn, document: Any) -> Any:
    path = draw(st.sampled_from(places(document)))
    if not path:
        return draw(VALUES)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    kind = draw(st.sampled_from(["replace", "replace", "remove", "add", "repeat"]))
    if kind == "replace":
        # Most of what does harm has the right type.
        same = {int: INTEGERS, str: TEXTS}.get(type(parent[key]), VALUES)
        parent[key] = draw(st.one_of(same, VALUES))
    elif kind == "remove":
        del parent[key]
    elif isinstance(parent, list):
        parent.extend(parent[key : key + 1] * draw(st.sampled_from([1, 1_000])))
    else:
        parent[draw(TEXTS)] = draw(VALUES)
    return document
