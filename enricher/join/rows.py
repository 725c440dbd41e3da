# SPDX-License-Identifier: Apache-2.0
"""Rows of a raw chunk, by number: what some of them come to, whole or by a key. Pure.

Sums are Python's: a usual node's chunk has some 35 rows, and numpy's own cost of a call is then many times that of the
work. Of 2,000 rows it takes no longer either.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

from schemas.amount import NOTHING, Amount
from schemas.raw import DIRECTIONS, RawChunk

Key = TypeVar("Key", bound=object)

EGRESS, INGRESS, RELAY = range(len(DIRECTIONS))

# Row numbers, each once, ascending unless said otherwise.
Rows = Sequence[int]


def amount_of(chunk: RawChunk, rows: Rows) -> Amount:
    """Return what these rows come to."""
    if not rows:
        return NOTHING
    if len(rows) == len(chunk.src):
        return Amount(sum(chunk.bytes), sum(chunk.packets), len(rows))
    return Amount(sum(map(chunk.bytes.__getitem__, rows)), sum(map(chunk.packets.__getitem__, rows)), len(rows))


def amounts_by(chunk: RawChunk, rows: Rows, keys: Sequence[Key]) -> dict[Key, Amount]:
    """Return what rows come to by their keys, one a row."""
    if not rows:
        return {}
    distinct = set(keys)
    if len(distinct) == 1:
        return {distinct.pop(): amount_of(chunk, rows)}
    return {key: amount_of(chunk, of) for key, of in grouped(rows, keys).items()}


def grouped(rows: Rows, keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Return rows by their keys, one a row."""
    found: defaultdict[Key, list[int]] = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        found[key].append(row)
    return found
