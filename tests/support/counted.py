# SPDX-License-Identifier: Apache-2.0
"""How much work something is, in lines executed: unlike time, that is the same on every machine."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines(work: Callable[[], object]) -> int:
    """Return how many lines were executed meanwhile, those of loops once for each time round."""
    count = 0

    def note(_frame: FrameType, event: str, _what: Any) -> Any:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
