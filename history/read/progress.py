# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr, and only on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from history.read.topic import Reading

Tell = Callable[[Reading], None]


@contextlib.contextmanager
def progress(title: str) -> Iterator[Tell]:
    """Give what to call now and then with how far a reading is; the bar is gone when the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda reading: None
        return
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda reading: bar.update(task, total=reading.records, completed=reading.done)
