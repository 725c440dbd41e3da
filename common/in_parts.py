# SPDX-License-Identifier: Apache-2.0
"""Long work on an event loop: it is a generator that yields after each part, and the loop does other things then."""

import asyncio
from collections.abc import Generator
from typing import TypeVar, cast

T = TypeVar("T")


async def in_parts(work: Generator[None, None, T]) -> T:
    """Do work part by part; return what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return cast(T, done.value)
        await asyncio.sleep(0)
