# SPDX-License-Identifier: Apache-2.0
"""Intervals of time, [from, to): put together, and what lies between them. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def joined(spans: Iterable[Span], least: int = 0) -> list[Span]:
    """Return intervals in order; those that overlap, touch, or lie no further apart than `least`, as one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + least:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def between(covered: Sequence[Span], within: Span) -> list[Span]:
    """Return what of an interval none of these covers; they are `joined`."""
    found, (at, until) = [], within
    for begin, end in covered[max(bisect_left(covered, (at, at)) - 1, 0) :]:
        if begin >= until:
            break
        if begin > at:
            found.append((at, begin))
        at = max(at, end)
    return [*found, (at, until)] if at < until else found


def length_of(spans: Iterable[Span]) -> int:
    """Return how long intervals are together, each moment once."""
    return sum(end - begin for begin, end in joined(spans))
