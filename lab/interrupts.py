# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM as cancellation, so that the code that was making a lab gets to take it down."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_interruptible(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; the first SIGINT or SIGTERM cancels it, later ones are ignored while it cleans up.

    Raises `KeyboardInterrupt` after a coroutine that was cancelled so.
    """

    async def inside() -> T:
        task = asyncio.current_task()
        assert task is not None
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            if not cancelled:
                cancelled = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, cancel)
        return await main

    try:
        return asyncio.run(inside())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
