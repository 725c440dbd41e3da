# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT, also for a process whose event loop no longer answers: after the grace period it ends.

The kernel tells us of a signal through a file descriptor (`signal.set_wakeup_fd`), and a thread of its own reads that.
asyncio's own handlers run in the loop: a loop that is busy would hear of nothing. What is durable is whole at any
moment, so ending at once costs no more than the SIGKILL that would come otherwise.

What this cannot end: C code that never lets go of Python's lock and began before the signal came. There the SIGKILL of
the supervisor that started the process is the last resort.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# For the last line; whatever stands in its way, a full pipe or a lock, must not keep the process.
_LAST_LINE_SECONDS = 1.0
_FRAMES = 8
# No signal has this number.
_ENOUGH = b"\0"


class Signals:
    """Hears of signals from now on, in the main thread of the process only, until closed.

    `grace_seconds` after the first one the process ends, unless closed before.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._main = threading.get_ident()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._heard: str | None = None
        self._tell: Callable[[str], None] | None = None
        self._reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._writer = writer
        self._before = {number: signal.signal(number, _nothing) for number in SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._thread = self._start()

    def call(self, loop: asyncio.AbstractEventLoop, stop: Callable[[str], None]) -> None:
        """Have `stop` called in `loop` with the name of the first signal, also of one that came before."""

        def tell(name: str) -> None:
            try:
                loop.call_soon_threadsafe(stop, name)
            except RuntimeError:  # closed: it is over already
                return

        with self._lock:
            self._tell = tell
            if self._heard is not None:
                tell(self._heard)

    def renew_thread(self) -> None:
        """Listen in a thread that the calling one starts now: a thread keeps the rights that its parent had."""
        self._writer.send(_ENOUGH)
        while self._thread.is_alive():
            self._thread.join(0.05)
            if self._heard is not None:  # the end has begun: that thread watches over it
                return
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Restore what was, and end the process no more: it ends by itself."""
        self._closed.set()
        self._writer.setblocking(True)
        faulthandler.cancel_dump_traceback_later()
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _listen(self) -> None:
        while heard := self._reader.recv(1):
            if heard == _ENOUGH:
                return
            if heard[0] in SIGNALS:
                break
        else:
            return
        # Behind the line below: this timer needs no lock of Python's, and so ends what holds that from now on, too.
        faulthandler.dump_traceback_later(self._grace_seconds + 2 * _LAST_LINE_SECONDS, exit=True, file=sys.stderr)
        with self._lock:
            self._heard = signal.Signals(heard[0]).name
            if self._tell is not None:
                self._tell(self._heard)
        if not self._closed.wait(self._grace_seconds):
            self._end_at_once()

    def _end_at_once(self) -> None:
        line = threading.Thread(target=self._say, name="last-line", daemon=True)
        line.start()
        line.join(_LAST_LINE_SECONDS)
        os._exit(1)

    def _say(self) -> None:
        log.error(
            "did not end within %.0f s of being told to stop: ending at once; it was at %s",
            *(self._grace_seconds, where(self._main)),
        )


def where(thread: int) -> str:
    """Return where a thread is: its innermost calls, the last one first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way, in spite of its name
    calls = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
    return " < ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in reversed(calls))


def _nothing(number: int, frame: object) -> None:
    """Do nothing: the thread does it.  A handler has to be there, or the process would end."""
