# SPDX-License-Identifier: Apache-2.0
"""What becomes of a closed window: published while the kernel still holds it, else spooled; in order, whichever way.

Two coroutines share the work. `settle` is called once for each window and returns when it is safe: acknowledged by
Kafka, or on disk. `send` publishes what is oldest, until told to stop. A window that Kafka has not acknowledged after
`patience` is spooled, and one that comes while others wait is spooled at once; so the kernel's map is free again
before the next window ends, and what is in memory is one window at most. Where the disk does not take a window it
stays in the kernel, and the next one is longer.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import msgspec

from collector.metrics import CollectorMetrics
from collector.outbox.publish import WindowPublisher
from collector.outbox.spool import Entry, Spool, SpoolError
from collector.outbox.spool_file import DamagedError, EncodedWindow, read, read_head
from common.errors import PublishError, Stopped
from common.service.backoff import Backoff
from common.service.running import Service
from schemas.amount import NOTHING

log = logging.getLogger(__name__)

_DISK_AGAIN_SECONDS = 5.0
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(slots=True, eq=False)
class _Held:
    """The window that the kernel still holds; `entry` once it is on disk as well."""

    window: EncodedWindow
    published: bool = False
    attempted: bool = False
    entry: Entry | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Outbox:
    """The windows of one collector on their way to Kafka."""

    def __init__(
        self,
        service: Service,
        publisher: WindowPublisher,
        spool: Spool,
        metrics: CollectorMetrics,
        patience_seconds: float,
    ) -> None:
        self._service = service
        self._publisher = publisher
        self._spool = spool
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self.found_id: str | None = None  # of the window spooled last by an earlier life: the kernel may still hold it
        self._held: _Held | None = None
        self._attempted: Entry | None = None  # the spooled window that there was an attempt to publish
        self._more = asyncio.Event()
        self._progress = asyncio.Event()
        self._sends = True
        self._backoff = Backoff()

    async def open(self) -> None:
        """Take over what an earlier collector spooled. Without a usable disk windows wait in the kernel alone."""
        try:
            await asyncio.to_thread(self._spool.open)
        except SpoolError as error:
            log.warning("%s: while Kafka is away windows grow in the kernel instead", error)
            self._metrics.spool_usable.set(0)
            return
        self._metrics.spool_usable.set(1)
        # Before anything is sent: a window that is published leaves the spool.
        self.found_id = await asyncio.to_thread(self._spool.newest_id)
        self._show()
        if waiting := self._spool.windows():
            log.info("windows of an earlier collector are in the spool", extra={"windows": waiting})

    async def settle(self, window: EncodedWindow) -> bool:
        """Return when a window is safe; True if Kafka has it, False if it is on disk. One at a time."""
        held = self._held = _Held(window)
        self._more.set()
        if self._spool.windows() == 0 and self._sends:
            await self._wait(held, self._patience_seconds)
        while not held.published:
            if await self._to_disk(held):
                break
            await self._wait(held, _DISK_AGAIN_SECONDS)
        self._held = None
        self._service.health.ready("spool")
        self._show()
        return held.published

    async def send(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Publish what is oldest, once `ready` has returned, until told to stop."""
        try:
            await ready()
            while True:
                await self._send_next()
        except Stopped:
            log.info("told to stop while Kafka is away")
        finally:
            self._sends = False
            self._progress.set()
            if self._held is not None:
                self._held.changed.set()

    async def drain(self) -> None:
        """Return when nothing waits in the spool any more, or nobody sends."""
        while self._sends and self._spool.windows():
            self._progress.clear()
            await self._progress.wait()

    def say_left(self) -> None:
        """Say what is not published."""
        if self._held is not None:
            log.warning("stopped before a window was safe; the kernel keeps it and counts on")
        if left := self._spool.windows():
            log.warning("windows stay in the spool; the next collector publishes them", extra={"windows": left})

    async def _wait(self, held: _Held, seconds: float) -> None:
        try:
            await asyncio.wait_for(held.changed.wait(), seconds)
        except TimeoutError:
            log.debug("not published within %s s", seconds)

    async def _to_disk(self, held: _Held) -> bool:
        window = replace(held.window, maybe_repeat=held.window.maybe_repeat or held.attempted)
        try:
            entry = await asyncio.to_thread(self._spool.add, window)
        except SpoolError as error:
            self._metrics.spool_failures.inc()
            self._metrics.spool_usable.set(0)
            self._service.health.waiting("spool", f"{error}: windows grow in the kernel until Kafka takes them")
            return False
        self._metrics.spool_usable.set(1)
        if held.published:  # meanwhile
            await self._remove(entry)
            return True
        self._spool.append(entry)
        held.entry = entry
        self._metrics.spooled.inc()
        if held.attempted:
            self._attempted = entry
        self._more.set()
        return True

    async def _send_next(self) -> None:
        self._more.clear()
        entry, held = self._spool.oldest(), self._held
        try:
            if entry is not None:
                await self._send_spooled(entry)
            elif held is not None and not held.published:
                await self._send_held(held)
            else:
                del held  # a window of 100,000 flows is 6 MB, and the next may be long in coming
                await self._more.wait()
                return
        except PublishError as error:
            self._metrics.retries.inc()
            self._service.health.waiting("publish", f"Kafka does not take windows: {error}; counting goes on")
            await self._service.pause(self._backoff.next_seconds(asyncio.get_running_loop().time()))
        else:
            self._backoff.well()
            self._service.health.ready("publish")

    async def _send_held(self, held: _Held) -> None:
        repeat, held.attempted = held.window.maybe_repeat or held.attempted, True
        await self._publisher.publish(held.window, maybe_repeat=repeat)
        held.published = True
        held.changed.set()
        self._metrics.published(held.window.ledger)
        if held.entry is not None:
            await self._remove(held.entry)

    async def _send_spooled(self, entry: Entry) -> None:
        try:
            window = await asyncio.to_thread(read, entry.path)
            repeat = window.maybe_repeat or entry.found or entry == self._attempted
            self._attempted = entry
            await self._publisher.publish(window, maybe_repeat=repeat)
        except (DamagedError, OSError) as error:
            _try_again_if_out_of_resources(error)
            await self._set_aside(entry, error)
            return
        self._metrics.published(window.ledger)
        await self._remove(entry)

    async def _remove(self, entry: Entry) -> None:
        await asyncio.to_thread(self._spool.remove, entry)
        self._show()

    async def _set_aside(self, entry: Entry, error: Exception) -> None:
        """Keep a file that cannot be read, and put what it held into the ledger as lost, if it still says."""
        log.error("%s is damaged, its window is lost: %s", entry.path, error)
        try:
            head = await asyncio.to_thread(read_head, entry.path)
        except OSError as unreadable:  # the disk does not give it back, or somebody removed it
            _try_again_if_out_of_resources(unreadable)
            head = None
        if head is not None:
            lost = head.ledger.lost | {"spool_damaged": head.ledger.given}
            entry_lost = msgspec.structs.replace(head.ledger, given=NOTHING, lost=lost, chunks=0)
            await self._publisher.publish_ledger(entry_lost)
            self._metrics.lost_bytes.labels("spool_damaged").inc(head.ledger.given.bytes)
            self._metrics.lost_packets.labels("spool_damaged").inc(head.ledger.given.packets)
        self._metrics.spool_damaged.inc()
        await asyncio.to_thread(self._spool.set_aside, entry)
        self._show()

    def _show(self) -> None:
        self._progress.set()
        self._metrics.spool_windows.set(self._spool.windows())
        self._metrics.spool_bytes.set(self._spool.used())


def _try_again_if_out_of_resources(error: Exception) -> None:
    """Raise `PublishError` if this process could not read a file that may well be whole."""
    if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
        raise PublishError(str(error)) from error
