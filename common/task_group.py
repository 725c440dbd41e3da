# SPDX-License-Identifier: Apache-2.0
"""asyncio's task group, with the cancellations of its parent counted as Python 3.13 counts them."""

import asyncio
import sys
from types import TracebackType
from typing import Any


class TaskGroup(asyncio.TaskGroup):  # noqa: TID251 - the one place that knows it
    """As `asyncio.TaskGroup`; to be used in its place.

    A group whose task fails while its block has ended cancels its parent, to wake it. Up to Python 3.12 it never takes
    that back (python/cpython#116720): whatever its parent does for the rest of its life counts as being cancelled, so
    that each `asyncio.timeout` that passes in it ends with `CancelledError` in place of `TimeoutError`. One record
    that Kafka refuses, and the next silence of a broker would end a service, or a task of it without a word.
    """

    _parent_cancel_requested: bool

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        parent = asyncio.current_task()
        assert parent is not None
        # What was requested until now asyncio takes back itself.
        requested = self._parent_cancel_requested
        try:
            return await super().__aexit__(kind, error, trace)
        finally:
            if sys.version_info < (3, 13) and self._parent_cancel_requested and not requested:
                parent.uncancel()
