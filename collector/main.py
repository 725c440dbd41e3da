# SPDX-License-Identifier: Apache-2.0
"""The collector's wiring: checks of the host, the lock, the loader, then the tasks of `collect.Collector`.

It does not join, resolve or aggregate anything, and it never touches a packet: while it is away, the kernel counts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from collector.collect import Collector, load_program
from collector.host import locks, preflight, privileges
from collector.settings import CollectorSettings
from common.entry_point import entry_point
from common.errors import Refusal, Stopped
from common.kafka import clients
from common.kafka.publish import Publisher
from common.service import lifecycle as service_
from common.service import log as log_
from common.service import memory
from common.service.running import Service
from common.task_group import TaskGroup
from common.terminal import say

log = logging.getLogger(__name__)

# Of the drain budget this much is for giving everything back, or half of it if it is short: a producer whose broker
# is away takes 2 s to close.
_CLOSING_SECONDS = 5.0


async def run(settings: CollectorSettings, service: Service) -> None:
    """Count and publish until told to stop; raise `Refusal` where nothing can be done."""
    service.health.starting("publish", "not connected to Kafka yet")
    boot_id = check(settings)
    clients.client_options(settings)  # refuses what cannot work before anything is attached
    names = settings.topics
    with locks.pin_directory(settings.pin_dir), locks.node_name(settings.cluster, settings.node):
        publisher = Publisher(service, settings)
        collector = Collector(settings, service, publisher)
        try:
            with _threads_of_its_own():
                hook = await collector.attach(boot_id)
            privileges.keep_only(privileges.needed_to_stay(hook, privileges.effective()))
            service.renew_thread()
            wanted = dict.fromkeys((names.raw, names.ledger), settings.partitions)

            async def reached() -> None:
                # Connected now, not with the first window: told to stop before that one ends, it must still get away.
                await clients.wait_for_topics(service, settings, wanted)
                await publisher.start()
                service.health.ready("publish")

            async with TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(collector.watch_devices(), name="watch-devices"),
                    tasks.create_task(collector.follow_devices(), name="follow-devices"),
                    tasks.create_task(collector.send(reached), name="send"),
                    tasks.create_task(clients.watch_topics(service, settings, wanted), name="watch-topics"),
                    tasks.create_task(_give_up(service, settings.drain_seconds), name="give-up"),
                ]
                await collector.close_windows()
                for helper in helpers:
                    helper.cancel()
        except* Stopped:
            log.info("the drain budget is gone")
        finally:
            await collector.close()
            await publisher.close()


@contextlib.contextmanager
def _threads_of_its_own() -> Iterator[None]:
    """Let what runs in threads meanwhile use threads that end with the block: they keep the rights they began with."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(thread_name_prefix="attach") as threads:
        loop.set_default_executor(threads)
        try:
            yield
        finally:
            loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="collector"))


def check(settings: CollectorSettings) -> str:
    """Return the id of this boot; raise `Refusal` where this host or these settings do not allow to count."""
    preflight.check_host(loads=settings.load != "never")
    preflight.check_bpffs(settings.pin_dir)
    check_folding(settings)
    return preflight.read_boot_id(settings.boot_id_file)


def check_folding(settings: CollectorSettings) -> None:
    """Raise `Refusal` where addresses would be folded and nobody said which are the cluster's own."""
    if settings.external_addresses != "full" and not settings.cluster_cidrs:
        raise Refusal(
            f"external_addresses = {settings.external_addresses!r}: cluster_cidrs is empty; name the networks of pods "
            "and nodes there, so that none of them that has a public address is folded"
        )


def load_only(settings: CollectorSettings) -> int:
    """Load the program for a collector to come, say so, and return the exit status; raise `Refusal`."""
    log_.configure(settings.log_level)
    boot_id = check(settings)
    with locks.pin_directory(settings.pin_dir):
        hook, answer = asyncio.run(load_program(settings, boot_id))
    how = "was there already" if answer.active else "is loaded"
    say(f"{settings.pin_dir}: the program for hook {hook}, generation {answer.generation}, {how}")
    return 0


async def _give_up(service: Service, drain_seconds: float) -> None:
    """End what is still being published before the drain budget is gone; the records know how far it is."""
    await service.stopping.wait()
    await asyncio.sleep(max(drain_seconds - _CLOSING_SECONDS, drain_seconds / 2))
    raise Stopped("the drain budget is gone")


@entry_point("run collector", CollectorSettings)
def main(settings: CollectorSettings) -> int:
    """`zonemeter run collector`; return the exit status."""
    if settings.load == "only":
        return load_only(settings)
    memory.map_large_blocks()
    return service_.run("collector", settings, lambda service: run(settings, service))
