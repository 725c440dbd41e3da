# SPDX-License-Identifier: Apache-2.0
"""A running service as its parts see it: told to stop, ready or not, its metrics.

Commands use it too, to wait for Kafka as a service does: so it imports no HTTP server.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from common.errors import Stopped
from common.service.health import Health

T = TypeVar("T")


@dataclass
class Service:
    """What a service's body gets to work with. `render` may be set to serve further metrics (see http_server.serve).

    `renew_thread`: to be called once the process has given up rights, which the thread for signals would keep.
    """

    name: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    render: Callable[[], bytes] | None = None
    renew_thread: Callable[[], None] = lambda: None

    async def pause(self, seconds: float) -> None:
        """Sleep, or less when asked to stop."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; told to stop before, give it up at once and raise `Stopped`."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped("told to stop")
        finally:
            stop.cancel()
            if not task.done():
                task.add_done_callback(lambda given_up: given_up.cancelled() or given_up.exception())
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
