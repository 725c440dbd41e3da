# SPDX-License-Identifier: Apache-2.0
"""Who held one address, when, where the accounts of several objects overlap. Pure.

Nobody tells when an address changes hands. A pod says when it began (before it had its address) and what it had
done by when (its sandbox ready, a container running), and it is seen deleted after it gave its address up. So a
state has bounds: its object got its addresses between `acquired_from` and `acquired_by`, and gave them up between
`released_from` and `to`. What makes bounds useful is that an address has one holder at a time: an object that got
it surely later than another ends the other's time, and begins after the other's last sure moment. What is left of
doubt stays: both may have held it then.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from schemas.topology import TopologyState

FOREVER = 2**63 - 1
_NEVER = -1


class Claim(NamedTuple):
    """One interval of ownership of one slot: `state` may have held it in [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    state: TopologyState


class Stretch(NamedTuple):
    """One state of an object within the time that its successor leaves it."""

    state: TopologyState
    to_ms: int


class Acquired(NamedTuple):
    """When an object got its addresses: between the two, in Unix milliseconds."""

    from_ms: int
    by_ms: int


def acquired(state: TopologyState) -> Acquired:
    """Return when the object got its addresses; one that says nothing had them from its state's beginning on."""
    begin = state.from_ms if state.acquired_from_ms is None else state.acquired_from_ms
    by = state.from_ms if state.acquired_by_ms is None else state.acquired_by_ms
    return Acquired(begin, max(begin, by))


def stretches(states: Sequence[TopologyState]) -> Iterator[Stretch]:
    """Yield each state of one object, in order, with its end: its own, or the beginning of the next state."""
    for position, state in enumerate(states):
        after = states[position + 1].from_ms if position + 1 < len(states) else FOREVER
        yield Stretch(state, min(FOREVER if state.to_ms is None else state.to_ms, after))


def order(state: TopologyState) -> tuple[int, str, int, str]:
    """Return what states are ordered by."""
    # A resourceVersion is opaque; its length comes first only so that equal times order alike everywhere.
    version = state.resource_version
    return state.from_ms, state.uid, len(version), version


def claims(found: Sequence[Stretch]) -> tuple[Claim, ...]:
    """Return when each of the states that name a slot may have held it, oldest first. Some hold it never."""
    if len(found) == 1:
        state, to_ms = found[0]
        return (Claim(state.from_ms, to_ms, state),)
    made = [
        Claim(max(state.from_ms, begin), min(to_ms, end), state)
        for (state, to_ms), (begin, end) in zip(found, _bounds(found), strict=True)
    ]
    made.sort(key=lambda claim: (claim.from_ms, order(claim.state)))
    return tuple(made)


def _bounds(found: Sequence[Stretch]) -> Iterable[tuple[int, int]]:
    """Yield between what times the others let each state hold the slot.

    Of two, one is the later if it was acquired at the earliest when the other was at the latest. Where evidence
    contradicts (two surely held it at once), both keep what they surely held.
    """
    got = [_acquired_within(stretch) for stretch in found]
    left = [min(_NEVER if s.released_from_ms is None else s.released_from_ms, to_ms) for s, to_ms in found]
    by_beginning = sorted(got)
    taken_over = list(accumulate((one.by_ms for one in reversed(by_beginning)), min, initial=FOREVER))[::-1]
    by_end = sorted((one.by_ms, released) for one, released in zip(got, left, strict=True))
    let_go = [_NEVER, *accumulate((released for _, released in by_end), max)]
    ends = [by_ms for by_ms, _ in by_end]
    for (begin, by), released in zip(got, left, strict=True):
        later = bisect.bisect_right(by_beginning, (by, by))
        earlier = bisect.bisect_left(ends, begin) if begin == by else bisect.bisect_right(ends, begin)
        yield min(by, let_go[earlier]), max(released, taken_over[later])


def _acquired_within(stretch: Stretch) -> Acquired:
    """Return when the object got its addresses, if it did so before this state ended."""
    begin, by = acquired(stretch.state)
    return Acquired(begin, max(begin, min(by, stretch.to_ms)))
