# SPDX-License-Identifier: Apache-2.0
"""When windows end: at multiples of their length in Unix time, the same on every node. Pure."""

# A flip this late still counts as on time, in milliseconds; later, the window goes on to the next boundary.
LATE_MS = 1000


def next_boundary(now_ms: int, window_ms: int) -> int:
    """Return the first boundary after `now_ms`, in Unix milliseconds."""
    return (now_ms // window_ms + 1) * window_ms


def is_on_time(boundary_ms: int, now_ms: int) -> bool:
    """Return whether a flip now may end its window at `boundary_ms`: not before it, and only just after it.

    A clock that stepped, or a process that was stopped, wakes elsewhere.
    """
    return 0 <= now_ms - boundary_ms <= LATE_MS
