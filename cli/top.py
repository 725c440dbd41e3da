# SPDX-License-Identifier: Apache-2.0
"""`zonemeter top`: a table per window as the flows come in; on a terminal each takes the place of the one before."""

import asyncio
import contextlib
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
from common.settings import KafkaSettings
from common.terminal import command, complain, plain, say, write_json
from history.model.filters import Selection
from history.read.live import LiveWindow, follow
from history.read.topic_sql import Sieve
from history.text.live import as_dict, as_lines
from history.text.summary import TOP_PAIRS
from prices.file import load_prices

NO_FLOWS = "no flows for {:.0f} s: " + command("doctor says what is wrong")

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
    quiet_seconds: float = Field(30.0, gt=0, description="after this long without flows, say so; with --once, end")


@entry_point("top", TopSettings)
def main(settings: TopSettings) -> int:
    """Run the command until Ctrl-C, or for one window."""
    prices = None if settings.prices is None else load_prices(settings.prices)
    with shown(settings.output, lambda window: as_lines(window, prices, settings.top)) as show:
        return asyncio.run(_run(settings, show))


async def _run(settings: TopSettings, show: Show) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
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
            elif time.monotonic() - quiet_since > settings.quiet_seconds:
                why = sieve.why_nothing("so far") or NO_FLOWS.format(settings.quiet_seconds)
                complain(f"zonemeter top: {why}")
                if settings.once:
                    return 1
                quiet_since = time.monotonic()
    return 0


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
