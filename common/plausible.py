# SPDX-License-Identifier: Apache-2.0
"""What can be believed of a window's place and time, given where its node was before. Pure.

A node numbers its windows one after the other, and never faster than the shortest window is long. A forger may claim
any number and any time; what follows from them is bounded here, for all that keep a node's place.
"""

from typing import NamedTuple

# The shortest that a collector can be set to (--window-seconds).
SHORTEST_WINDOW_MS = 1_000
# Windows that may be missing at once although no time has passed: a node's clock may have been set back meanwhile.
MOST_SKIPPED = 1_000
# A generation's number is the node's uptime in seconds when it was made (collector/kernel/loader.py), so the next one
# may be days ahead, and how many is not known here: ten years, which no kernel has been up.
LONGEST_UPTIME_SECONDS = 10 * 365 * 24 * 3_600
# Or it is the next number, where one was made in the same second: how many at once there may be of those.
MOST_GENERATIONS = 100
# How far a node's clock may be ahead without its windows being taken for what they are not.
CLOCK_SLACK_MS = 60_000
# No window is from before 2020: a clock that was never set says 1970 or 2000, and nobody is known as of then.
EARLIEST_MS = 1_577_836_800_000
LATEST_AHEAD_MS = 30 * 24 * 3_600_000
LONGEST_WINDOW_MS = 30 * 24 * 3_600_000


class Place(NamedTuple):
    """Which window of one boot of a node."""

    generation: int
    sequence: int


def why_not_then(start_ms: int, end_ms: int, now_ms: int) -> str | None:
    """Say why no node can have counted from `start_ms` to `end_ms`; None if one can."""
    if start_ms < EARLIEST_MS:
        return f"a window that begins at {start_ms}, before 2020: was the node's clock never set?"
    if end_ms > now_ms + LATEST_AHEAD_MS:
        return f"a window that ends at {end_ms}, more than {LATEST_AHEAD_MS // 86_400_000} days from now"
    if end_ms - start_ms > LONGEST_WINDOW_MS:
        return f"a window of {(end_ms - start_ms) // 86_400_000} days"
    return None


def why_not_there(last: Place, last_end_ms: int, place: Place, now_ms: int) -> str | None:
    """Say why a node that was at `last`, in a window that ended then, cannot be at `place` now; None if it can."""
    if place <= last:
        return None
    if place.generation > max(last.generation + MOST_GENERATIONS, LONGEST_UPTIME_SECONDS):
        return f"generation {place.generation}, where this boot of the node was at {last.generation}"
    same = place.generation == last.generation
    skipped = place.sequence - last.sequence if same else place.sequence
    if skipped > MOST_SKIPPED + max(now_ms - last_end_ms, 0) // SHORTEST_WINDOW_MS:
        where = f"was at {last.sequence}" if same else f"starts again after generation {last.generation}"
        return f"sequence {place.sequence}, where this boot of the node {where}: nobody counts so fast"
    return None


def seen_end_ms(end_ms: int, now_ms: int) -> int:
    """Return until when a node has been seen, by a window that claims to end then."""
    return min(end_ms, now_ms + CLOCK_SLACK_MS)
