# SPDX-License-Identifier: Apache-2.0
"""Runs a command's coroutine so that Ctrl-C ends it soon, also in the middle of a long step or a blocked write.

A cancellation takes effect when the task next waits. Where that does not happen within a moment (DuckDB adding up a
day, a pipe that nobody reads), the step itself is interrupted.
"""

import asyncio
import gc
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from common.gc_settings import THRESHOLDS

T = TypeVar("T")

PATIENCE_SECONDS = 0.5


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it and return its result; raise `KeyboardInterrupt` on SIGINT, when all is cleaned up."""
    gc.set_threshold(*THRESHOLDS)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)

        def cancel() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            task.cancel()

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGALRM, _interrupt_step)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
            loop.call_soon_threadsafe(cancel)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            with of_database():
                return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, before)


@contextmanager
def of_database() -> Iterator[None]:
    """Make a `KeyboardInterrupt` of what DuckDB raises where a signal ended its query: a `RuntimeError` of its own."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error


@contextmanager
def kept() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on Ctrl-C, at the latest at the block's end.

    For work outside of `run`: what guesses a file's format takes whatever is raised meanwhile for a wrong guess.
    """
    hit = False

    def note(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal hit
        hit = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        with of_database():
            yield
    except Exception as error:  # whatever DuckDB makes of being interrupted
        if hit:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if hit:
        raise KeyboardInterrupt


def _interrupt_step(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
