# SPDX-License-Identifier: Apache-2.0
"""The time of day, as all rooms write it."""

import time


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
