# SPDX-License-Identifier: Apache-2.0
"""`zonemeter top`: a table per window as the flows come in; on a terminal each takes the place of the one before."""

import asyncio
import contextlib
import math
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.live import Live
from rich.text import Text

from common import page
from common.entry_point import entry_point
from common.input.durations import Duration, parse_duration
from common.settings import KafkaSettings
from common.terminal import command, complain, plain, say, write_json
from history.model.filters import Selection
from history.read.live import LiveWindow, follow
from history.read.topic_sql import Sieve
from history.text.live import as_dict, as_lines
from history.text.summary import TOP_PAIRS
from prices.file import load_prices

NO_FLOWS = "no flows for {:.0f} s: " + command("doctor says what is wrong")

# How long it may take to end.
_STUCK_SECONDS = 30

Show = Callable[[LiveWindow], None]


class TopSettings(KafkaSettings):
    """Show each window as it comes in: zones by zones, the top pairs across zones, what is unknown, the lag."""

    once: bool = Field(False, description="show one window and end; exit status 1 if none comes")
    namespace: str | None = Field(None, min_length=1, description="only flows with an end in this namespace")
    cluster: str | None = Field(None, min_length=1, description="only this cluster's flows")
    prices: str | None = Field(None, description="aws, azure, gcp or a file: what crossing zones costs at this rate")
    top: int = Field(TOP_PAIRS, ge=1, le=10_000, description="how many pairs to show")
    output: Literal["table", "json"] = Field("table", description="how to show a window; json: one object a line")
    window_seconds: int = Field(10, ge=1, le=60, description="the collectors' --window-seconds")
    run_for: Duration | None = Field(
        None, description="end after this long, such as 1h: a run in a pod does not notice that nobody is watching"
    )
    quiet_seconds: float = Field(30.0, gt=0, description="after this long without flows, say so; with --once, end")


@entry_point("top", TopSettings)
def main(settings: TopSettings) -> int:
    """Run the command until Ctrl-C, for one window, or as long as it may."""
    prices = None if settings.prices is None else load_prices(settings.prices)
    with shown(settings.output, lambda window: as_lines(window, prices, settings.top)) as show:
        return asyncio.run(_run(settings, show))


async def _run(settings: TopSettings, show: Show) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    if settings.run_for is not None:
        _end_after(parse_duration(settings.run_for) / 1000, stopping)
    quiet_since = time.monotonic()
    sieve = Sieve(
        Selection(
            namespaces=[settings.namespace] if settings.namespace else [],
            clusters=[settings.cluster] if settings.cluster else [],
        )
    )
    windows = follow(settings, settings.window_seconds * 1000, sieve, stopping)
    async with contextlib.aclosing(windows):
        async for window in windows:
            if window is not None:
                show(window)
                if settings.once:
                    return 0
                quiet_since = time.monotonic()
            elif _nobody_reads():
                return 0
            elif time.monotonic() - quiet_since > settings.quiet_seconds:
                why = sieve.why_nothing("so far") or NO_FLOWS.format(settings.quiet_seconds)
                complain(f"zonemeter top: {why}")
                if settings.once:
                    return 1
                quiet_since = time.monotonic()
    return 0


def _end_after(seconds: float, stopping: asyncio.Event) -> None:
    """Set `stopping` after so long; end at once some time later, should it hang in a pipe that nobody empties."""
    asyncio.get_running_loop().call_later(seconds, stopping.set)
    signal.alarm(math.ceil(seconds) + _STUCK_SECONDS)


def _nobody_reads() -> bool:
    """Return whether stdout is a pipe whose reader is gone, which else only shows with the next window."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in asked.poll(0))


@contextlib.contextmanager
def shown(output: str, lines_of: Callable[[LiveWindow], list[str]]) -> Iterator[Show]:
    """Give what shows a window: in place on a terminal, else one after the other."""
    if output == "json":
        yield lambda window: write_json(as_dict(window), indent=False, flush=True)
    elif sys.stdout.isatty():
        # What is higher than the terminal ends in "...": lines that have scrolled away cannot be written over.
        with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="ellipsis") as live:

            def refresh(window: LiveWindow) -> None:
                with page.laid_out(page.terminal_width()):  # it may have been made wider or narrower
                    text = "\n".join(map(plain, lines_of(window)))
                live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)

            yield refresh
    else:
        yield lambda window: say(*lines_of(window), "", flush=True)
