# SPDX-License-Identifier: Apache-2.0
"""The collector's loop: wait for the boundary, flip, hand over, clear; beside it, follow the node's devices.

One window at a time is in the kernel and not safe yet. While neither Kafka nor the disk takes it the other epoch
counts on, and the next window is longer; nothing is lost unless that map fills up.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, get_args

from collector.attach import addresses, hook, netlink
from collector.attach.addresses import Address, OwnAddresses
from collector.attach.attachment import Missing
from collector.host import preflight
from collector.kernel import layout, pinned
from collector.kernel.epoch_record import MAX_UPLINKS
from collector.kernel.load_request import Answer, Request, load
from collector.kernel.networks import parse_networks
from collector.metrics import CollectorMetrics
from collector.outbox.outbox import Outbox
from collector.outbox.publish import RecordPublisher, WindowPublisher, encoded
from collector.outbox.spool import Spool, directory_for
from collector.settings import CollectorSettings, parse_ports
from collector.window import devices
from collector.window.coverage import WindowCoverage, of_window
from collector.window.meter import Devices, Meter, Window, since_boot_ms
from collector.window.schedule import is_on_time, next_boundary
from common.clock import now_ms
from common.service.running import Service
from schemas.raw import Hook

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_DEVICES_SETTLE_SECONDS = 0.5
_DEVICES_EVERY_SECONDS = 60.0
_LISTED, _LISTED_UPLINKS = 5, 64
# Of a window's length, how long Kafka has for it before it is spooled: what is left is for writing it.
_PATIENCE = 0.5


async def load_program(settings: CollectorSettings, boot_id: str) -> tuple[Hook, Answer]:
    """Choose the hook and load what is not loaded yet; raise `Refusal`."""
    choice = hook.choose(settings.hook, await asyncio.to_thread(hook.look))
    if choice.why:
        log.warning("hook tc, since %s; docs/counting.md says what it does not see", choice.why)
    return choice.hook, await load(_request(settings, boot_id, choice.hook))


def take_over_program(settings: CollectorSettings, boot_id: str) -> tuple[Hook, Answer]:
    """Find what another process loaded for these settings, at the hook that it chose; raise `Refusal`."""
    hooks: tuple[Hook, ...] = get_args(Hook) if settings.hook == "auto" else (settings.hook,)
    at, answer = pinned.take_over([_request(settings, boot_id, each) for each in hooks])
    preflight.check_capabilities(Path("/proc/thread-self/status").read_text(), at)
    return at, answer


def _request(settings: CollectorSettings, boot_id: str, at: Hook) -> Request:
    return Request(
        pin_dir=str(settings.pin_dir),
        cluster=settings.cluster,
        node=settings.node,
        boot_id=boot_id,
        map_memory=int(settings.map_memory),
        ports=settings.ports,
        service_ports=sorted(parse_ports(settings.service_ports)),
        hook=at,
        cluster_cidrs=sorted(map(str, parse_networks(settings.cluster_cidrs))),
        external_addresses=settings.external_addresses,
    )


class Collector:
    """One node's collector; `publisher` may be any that keeps the promise of `common.kafka.publish.Publisher`."""

    def __init__(self, settings: CollectorSettings, service: Service, publisher: RecordPublisher) -> None:
        self._settings = settings
        self._service = service
        self._metrics = CollectorMetrics(service.registry, layout.entries_for(settings.map_memory), settings.spool_size)
        windows = WindowPublisher(publisher, settings.topics, settings.partitions)
        spool = Spool(directory_for(settings.spool_dir, settings.pin_dir), settings.spool_size)
        self._outbox = Outbox(service, windows, spool, self._metrics, settings.window_seconds * _PATIENCE)
        self._meter = Meter(settings.pin_dir, netlink.device_counters, now_ms, deadman_seconds=settings.deadman_seconds)
        self._one_call = threading.Lock()
        self._devices_changed = asyncio.Event()
        self._devices: Devices | None = None
        # The node's addresses as they were read when the open window began; None: they were not.
        self._addresses: frozenset[bytes] | None = None
        self._covered_badly = False

    async def attach(self, boot_id: str) -> Hook:
        """Load what is not loaded yet and let it count; return the hook it counts at. Raises `LoadError`."""
        self._service.health.waiting("attach", "loading the kernel side")
        if self._settings.load == "never":
            at, answer = await asyncio.to_thread(take_over_program, self._settings, boot_id)
        else:
            at, answer = await load_program(self._settings, boot_id)
        self._devices = await asyncio.to_thread(self._read_devices)
        await self._call(self._meter.start, answer, self._devices)
        if not answer.active:  # else the open window began under an earlier collector
            found = await asyncio.to_thread(self._read_addresses)
            self._addresses = None if found is None else addresses.packed(found)
        self._say_devices(self._devices)
        self._say_missing(self._meter.take_missing())
        await self._outbox.open()
        log.info("counting", extra={"hook": at, "generation": answer.generation, "reused": answer.active})
        self._service.health.ready("attach")
        return at

    async def close(self) -> None:
        """Give back what is open; the kernel counts on."""
        self._outbox.say_left()
        await self._call(self._meter.close)

    async def close_windows(self) -> None:
        """Hand over what an earlier collector left, then a window at each boundary, then the open one, cut short."""
        unfinished = self._meter.unfinished()
        while window := await self._call(next, unfinished, None):
            if window.id == self._outbox.found_id:  # its collector died before it could clear the map
                await self._call(self._meter.finish, window)
            else:
                await self._hand_over(window, await asyncio.to_thread(self._own_of_earlier, window))
        while (end_ms := await self._next_end_ms()) is not None:
            window = await self._call(self._meter.flip, end_ms)
            own = await asyncio.to_thread(self._own_of, window)
            self._say_missing(self._meter.take_missing())
            await self._hand_over(window, own)
        window = await self._call(lambda: self._meter.flip(now_ms(), short=True))
        await self._hand_over(window, await asyncio.to_thread(self._own_of, window))
        await self._outbox.drain()

    async def send(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Publish what was handed over, forever, once `ready` has returned; return when told to stop before that."""
        await self._outbox.send(ready)

    async def watch_devices(self) -> None:
        """Notice when devices or default routes change, forever."""
        while True:
            try:
                async for _ in netlink.changes():
                    self._devices_changed.set()
            except OSError as error:  # messages were lost, or there is no socket to be had: read afresh
                log.debug("rtnetlink: %s", error)
                await asyncio.sleep(_DEVICES_SETTLE_SECONDS)
                self._devices_changed.set()

    async def follow_devices(self) -> None:
        """Hand changed uplinks to the kernel, soon after a change and from time to time, forever.

        Each time the kernel gets its sign of life too: also while a window waits for Kafka and none is closed.
        """
        while True:
            try:
                await asyncio.wait_for(self._devices_changed.wait(), _DEVICES_EVERY_SECONDS)
                await asyncio.sleep(_DEVICES_SETTLE_SECONDS)
            except TimeoutError:
                log.debug("reading the devices afresh")
            self._devices_changed.clear()
            await self._call(self._meter.renew)
            try:
                found = await asyncio.to_thread(self._read_devices)
            except OSError as error:
                self._service.health.waiting("devices", f"{error}: new devices and routes are not seen")
                self._devices_changed.set()
                continue
            self._service.health.ready("devices")
            if found != self._devices:
                self._devices = found
                await self._call(self._meter.set_devices, found)
                self._say_devices(found)

    async def _call(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Take one step of the meter in a thread; a step goes on to its end also when this coroutine is cancelled."""

        def alone() -> T:
            with self._one_call:
                return step(*args, **kwargs)

        return await asyncio.to_thread(alone)

    async def _next_end_ms(self) -> int | None:
        """Wait until the open window ends and return when that is; None when told to stop."""
        window_ms = self._settings.window_seconds * 1000
        while not self._service.stopping.is_set():
            end_ms = next_boundary(now_ms(), window_ms)
            await self._service.pause((end_ms - now_ms()) / 1000)
            if self._service.stopping.is_set():
                return None
            if is_on_time(end_ms, now_ms()):
                return end_ms
        return None

    async def _hand_over(self, window: Window, own: OwnAddresses | None) -> None:
        rows = await self._call(window.rows)
        ready = encoded(window, rows, own)
        self._compare(of_window(ready.ledger))
        published = await self._outbox.settle(ready)
        await self._call(self._meter.finish, window)
        seconds = (window.record.end_ms - window.record.start_ms) / 1000
        say = log.warning if seconds > self._settings.window_seconds else log.debug
        extra = {"sequence": window.record.sequence, "generation": window.meta.generation, "seconds": seconds}
        say("window published" if published else "window spooled", extra=extra)

    def _compare(self, found: WindowCoverage) -> None:
        for way, ratio in found.ratios().items():
            self._metrics.coverage.labels(way).set(ratio)
        problem = found.problem()
        if problem is not None and not self._covered_badly:
            log.warning("%s: %s", *problem)
        self._covered_badly = problem is not None

    def _own_of(self, window: Window) -> OwnAddresses | None:
        """Return the node's addresses as of a window that ended just now; None if they cannot be read."""
        began, found = self._addresses, self._read_addresses()
        self._addresses = None if found is None else addresses.packed(found)
        if found is None:
            return None
        uplinks = self._devices.uplinks if self._devices is not None else {}
        throughout = _since_its_beginning(window, found) if began is None else began & addresses.packed(found)
        return OwnAddresses(throughout, addresses.told(found, uplinks))

    def _own_of_earlier(self, window: Window) -> OwnAddresses | None:
        """Return what is known of the node's addresses in a window that an earlier collector ended."""
        found = self._read_addresses()
        return None if found is None else OwnAddresses(_since_its_beginning(window, found), None)

    def _read_addresses(self) -> list[Address] | None:
        try:
            return addresses.read()
        except OSError as error:
            log.warning("%s; a window does not say which addresses are this node's", error)
            return None

    def _read_devices(self) -> Devices:
        patterns = [pattern.strip() for pattern in self._settings.uplinks.split(",") if pattern.strip()]
        return devices.read(patterns, parse_ports(self._settings.tunnel_ports))

    def _say_missing(self, missing: Missing) -> None:
        self._metrics.removed.labels("pin").inc(len(missing.pins))
        self._metrics.removed.labels("attachment").inc(len(missing.detached))
        if missing.pins:
            where = {"dir": str(self._settings.pin_dir), "pins": missing.pins[:_LISTED]}
            log.warning("somebody removed %d pins; they are back, nothing was missed", len(missing.pins), extra=where)
        if missing.detached:
            log.error(
                "somebody detached what counts; it is attached again, and the window's time counts as unmeasured",
                extra={"detached": missing.detached[:_LISTED]},
            )
        if missing.wrong:
            self._service.health.waiting("attached", missing.wrong)
        else:
            self._service.health.ready("attached")

    def _say_devices(self, found: Devices) -> None:
        self._metrics.uplinks.set(len(found.uplinks))
        if found.uplinks:
            names = sorted(found.uplinks.values())
            log.info("uplinks", extra={"devices": len(names), "names": names[:_LISTED_UPLINKS]})
        else:
            log.warning("no uplink found: all traffic counts as sent from here; --uplinks names them")
        if found.unexplained:
            log.warning(
                "what carries the packets of these TUN devices is not known, and counts beside them as the host's: "
                "name its UDP ports (--tunnel-ports)",
                extra={"names": found.unexplained},
            )
        if unwatched := found.beside[MAX_UPLINKS:]:
            names = unwatched[:_LISTED_UPLINKS]
            log.warning("too many uplinks: the coverage does not look at %d", len(unwatched), extra={"names": names})
        if found.left_out:
            log.error(
                "too many uplinks or tunnels: %d are left out; what comes in over such an uplink counts as sent from "
                "here, and a tunnel's outer packets beside its inner ones: --uplinks names those that matter",
                found.left_out,
            )


def _since_its_beginning(window: Window, found: list[Address]) -> frozenset[bytes]:
    """Return which addresses the node has had since a window began that nobody here saw begin."""
    began_ms = window.record.start_boot_ms
    return addresses.there_for(found, since_boot_ms() - began_ms) if began_ms else frozenset()
