# SPDX-License-Identifier: Apache-2.0
"""The life of a service: logging, signals, health, one drain budget, exit status.

SIGTERM or SIGINT sets `stopping`, which only sources look at: they stop, what is under way drains, sinks flush,
positions are committed, all within `drain_seconds`; what hangs even then is left. Exit status: 0 after that, 1 for a
crash (an orchestrator restarts us), 2 where only a person can help.
"""

import asyncio
import gc
import logging
import os
import resource
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import Gauge, disable_created_metrics

from common.errors import Refusal, leaves
from common.service import http_server, last_resort, memory
from common.service import log as log_
from common.service.running import Service
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

# After the drain budget, for closing what can be closed; the two together are less than a pod's grace period.
CLOSING_SECONDS = 5.0
# Collect garbage this often and return free memory: Python triggers on allocations, so an idle service would keep
# cycles, such as those that a scrape's connection leaves, for hours.
COLLECT_SECONDS = 60.0
# What a service writes says who talks to whom (docs/security.md): files 0640, directories 0750.
_UMASK = 0o027
# The collector holds two links for each device at hook tc, an enricher a connection to each broker.
_DESCRIPTORS = 65_536


Body = Callable[[Service], Awaitable[None]]


def run(name: str, settings: ServiceSettings, body: Body) -> int:
    """Run `body` until it returns or is told to stop; return the exit status."""
    os.umask(_UMASK)
    _allow_descriptors()
    memory.use_one_arena()
    log_.configure(settings.log_level)
    # Also while the event loop does not come to an end of what it does: see last_resort.py.
    signals = last_resort.Signals(settings.drain_seconds + CLOSING_SECONDS)
    try:
        asyncio.run(_live(name, settings, body, signals))
    except TimeoutError:
        log.exception("did not drain within %s s of being told to stop", settings.drain_seconds)
        return 1
    except Exception as error:
        refusals = [leaf for leaf in leaves(error) if isinstance(leaf, Refusal)]
        for refusal in refusals:
            log.error("%s", refusal)
        if not refusals:
            log.exception("crashed")
        return 2 if refusals else 1
    finally:
        signals.close()
    return 0


def _allow_descriptors() -> None:
    """Raise the limit of open files, which is 1,024 by default for the sake of select(2), as far as is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _live(name: str, settings: ServiceSettings, body: Body, signals: last_resort.Signals) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    service = Service(name, renew_thread=signals.renew_thread)
    build = Gauge(
        "zonemeter_build_info", "1; the version as a label.", ["service", "version"], registry=service.registry
    )
    build.labels(name, version("zonemeter")).set(1)
    loop = asyncio.get_running_loop()
    tasks = Gauge("zonemeter_tasks", "Tasks of the event loop; flat, or something leaks.", registry=service.registry)
    tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    async with asyncio.timeout(None) as budget:

        def stop(heard: str) -> None:
            log.info("stopping", extra={"signal": heard})
            service.stopping.set()
            budget.reschedule(loop.time() + settings.drain_seconds)

        signals.call(loop, stop)
        extra = lambda: service.render() if service.render else b""  # noqa: E731 - set by the body later
        async with http_server.serve(settings.listen, service.health, service.registry, extra):
            service.health.ready("start")
            collecting = asyncio.create_task(_collect(service), name="collect-garbage")
            try:
                await body(service)
            finally:
                collecting.cancel()
    log.info("stopped")


async def _collect(service: Service) -> None:
    while not service.stopping.is_set():
        await service.pause(COLLECT_SECONDS)
        gc.collect()
        memory.trim()
