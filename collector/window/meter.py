# SPDX-License-Identifier: Apache-2.0
"""The life of windows in the kernel: activate, flip, freeze, drain, acknowledge, clear; and what a crash left behind.

Every step ends with one write to a pinned map, and a collector killed between any two steps leaves what `recover`
can go on from. Nothing here waits for Kafka: a window is handed out, and handed back when it is safe. All calls
block for milliseconds: call them from a thread, one at a time.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from collector.attach import netfilter, tc
from collector.attach.attachment import Attachment, Missing
from collector.errors import RecordError
from collector.kernel import epoch_record, pins
from collector.kernel.epoch_record import DeviceCounters, EpochRecord, Moment, Phase, Step
from collector.kernel.generation import Generation, Tunnel
from collector.kernel.layout import Rows
from collector.kernel.load_request import Answer
from collector.window.schedule import is_on_time
from schemas.ids import FIRST_SEQUENCE, window_id
from schemas.raw import Hook

log = logging.getLogger(__name__)

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Devices:
    """What the node's devices are good for: uplinks by index, and the outer packets of its tunnels."""

    uplinks: dict[int, str]
    tunnels: dict[Tunnel, int]
    contained: frozenset[str] = frozenset()  # uplinks whose packets another uplink counts too
    outer_ports: frozenset[int] = frozenset()  # ports of bridges that lead out, by index; no uplinks themselves
    unexplained: tuple[str, ...] = ()  # TUN devices that nobody knows the outer packets of
    left_out: int = 0  # uplinks, bridges' ports and looks of outer packets beyond what the maps hold

    @property
    def beside(self) -> list[str]:
        """Return the uplinks whose own counters stand beside the hook's, by name: none counts another one's packets."""
        return sorted(set(self.uplinks.values()) - self.contained)


@dataclass(frozen=True, slots=True)
class Window:
    """A frozen window. `maybe_repeat`: an earlier collector may have published it."""

    generation: Generation
    epoch: int
    record: EpochRecord
    maybe_repeat: bool

    @property
    def meta(self) -> pins.Meta:
        """The generation that counted it."""
        return self.generation.meta

    @property
    def id(self) -> str:
        """The window's id."""
        return window_id(self.meta.origin, self.meta.generation, self.record.sequence)

    def rows(self) -> Rows:
        """Return its rows in their order."""
        return self.generation.drain(self.epoch)


def since_boot_ms() -> int:
    """Return milliseconds since boot, suspended time included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Meter:
    """All generations under one pin directory, seen from the one that counts."""

    def __init__(
        self,
        root: Path,
        counters: Callable[[], dict[str, DeviceCounters]],
        clock_ms: Callable[[], int],
        *,
        use_tcx: bool | None = None,
        deadman_seconds: float = 0,
    ) -> None:
        """`use_tcx` is as `tc.attach` has it; `deadman_seconds` after the last sign of life counting stops (0: not)."""
        self._root = root
        self._use_tcx = use_tcx
        self._deadman_seconds = deadman_seconds
        self._counters = counters
        self._clock_ms = clock_ms
        self._uplinks: list[str] = []
        self._attached_to: set[int] = set()
        self._attachment: Attachment | None = None
        self._missing = Missing()
        self.current: Generation | None = None

    def start(self, answer: Answer, devices: Devices) -> None:
        """Let the generation that the loader gave count, if it does not yet; gapless if another did before.

        Unless that one counted at the other hook: then it is stopped a moment before, never a moment after.
        """
        self.current = self._open(answer.generation)
        hook = self.current.meta.hook
        missing: list[str] = []
        if hook == "netfilter":
            missing = netfilter.attach(self._root)
        elif answer.active:
            known = self.current.uplinks() & set(devices.uplinks)
            missing = [f"tc on device {ifindex}" for ifindex in tc.missing(self._root, known)]
        self.set_devices(devices)
        self.renew()
        if missing and self._counts_at(hook):
            self._note(Missing(detached=tuple(missing)))
        if not answer.active:
            self._activate(self.current)
        self._remove_other_hook(hook)
        self._attachment = Attachment(self._root, answer.generation, hook, use_tcx=self._use_tcx)

    def set_devices(self, devices: Devices) -> None:
        """Hand the uplinks and the tunnels to the program; for hook tc, attach it to the uplinks and only to them.

        In this order: a device that it is attached to is always known to be an uplink.
        """
        wanted, at_tc = set(devices.uplinks), self._counting.meta.hook == "tc"
        self.look()
        self._uplinks = devices.beside[: epoch_record.MAX_UPLINKS]
        if at_tc:
            tc.detach(self._root, but=wanted)
        self._counting.set_uplinks(wanted if at_tc else wanted | devices.outer_ports)
        self._counting.set_tunnels(devices.tunnels)
        if at_tc:
            tc.attach(self._root, wanted, use_tcx=self._use_tcx)
            self._attached_to = wanted - set(tc.missing(self._root, wanted))
        if self._attachment is not None:
            self._attachment.hold()

    def look(self) -> None:
        """Look whether everything is still attached and pinned, and put back what is not; see `take_missing`."""
        if self._attachment is not None:
            self._note(self._attachment.look(self._attached_to))

    def take_missing(self) -> Missing:
        """Return what was found missing since the last call."""
        missing, self._missing = self._missing, Missing()
        return missing

    def renew(self) -> None:
        """Give the kernel a sign of life. What has stopped goes on with the next flip only."""
        self._counting.renew(self._deadman_seconds)

    def unfinished(self) -> Iterator[Window]:
        """Yield the windows that an earlier collector or generation left, in order; `finish` each before the next."""
        for number in pins.generations(self._root):
            if number < self._counting.meta.generation:
                yield from self._leftovers_of_old(number)
        yield from self._leftovers(self._counting, active=True)

    def flip(self, end_ms: int, *, short: bool = False) -> Window:
        """End the open window at `end_ms`, if that is now or was a moment ago, else now; and begin the next.

        The other epoch must be clear. If the dead-man has stopped the program the window ended then, and counting goes
        on with the next.
        """
        self.look()
        generation = self._counting
        epoch = generation.epoch()
        now = self._now()
        # Asked again: since the caller did, the process may have been stopped, or the clock set.
        end = now.at(end_ms) if is_on_time(end_ms, now.wall_ms) else now
        record, end = self._ending(generation.read(epoch), end)
        readings, stopped_ms = self._readings(), self._stopped_ms(generation)
        generation.write(1 - epoch, epoch_record.following(record.sequence + 1, end, readings))
        generation.write(
            epoch, epoch_record.prepared(record, end.wall_ms, readings, short=short, stopped_ms=stopped_ms)
        )
        generation.flip(1 - epoch)
        self.renew()
        if stopped_ms is not None:
            generation.resume()
        return self._freeze(generation, epoch)

    def finish(self, window: Window) -> None:
        """Note that a window is safe, published or on disk, and clear it."""
        window.generation.write(window.epoch, replace(window.record, phase=Phase.ACKED))
        self._clear(window.generation, window.epoch)

    def close(self) -> None:
        """Close what is open; the kernel counts on."""
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None
        if self.current is not None:
            self.current.close()
            self.current = None

    def _note(self, missing: Missing) -> None:
        """Keep what was missing for `take_missing`, and mark the open window if something did not count in it."""
        self._missing += missing
        active = pins.active_generation(self._root) if missing.detached else None
        if active is not None and pins.read_meta(self._root, active):
            with contextlib.closing(self._open(active)) as generation:
                record = generation.read(generation.epoch())
                generation.write(generation.epoch(), replace(record, detached=True))

    @property
    def _counting(self) -> Generation:
        if self.current is None:
            raise RuntimeError("the meter has not been started")
        return self.current

    def _open(self, number: int) -> Generation:
        meta = pins.read_meta(self._root, number)
        if meta is None:
            raise RecordError(f"{pins.generation_dir(self._root, number)} is not whole")
        return Generation(self._root, meta)

    def _readings(self) -> dict[str, DeviceCounters]:
        found = self._counters()
        return {name: found[name] for name in self._uplinks if name in found}

    def _now(self) -> Moment:
        """Read both clocks at one moment: the try that took least, since a process may be stopped in between."""

        def read() -> tuple[int, Moment]:
            boot_ms, wall_ms = since_boot_ms(), self._clock_ms()
            return since_boot_ms() - boot_ms, Moment(wall_ms, boot_ms)

        return min(read() for _ in range(_TRIES))[1]

    @staticmethod
    def _ending(record: EpochRecord, end: Moment) -> tuple[EpochRecord, Moment]:
        ended, end = epoch_record.ending(record, end)
        if ended.clock_step_ms != record.clock_step_ms:
            seconds = (ended.clock_step_ms - record.clock_step_ms) / 1000
            log.warning(
                "the clock was set by %+.1f s; the window under way has the times of the clock as it is", seconds
            )
        return ended, end

    def _stopped_ms(self, generation: Generation) -> int | None:
        now_ms = self._clock_ms()  # first: a window may end too early, not too late
        seconds = generation.stopped_for()
        if seconds is None:
            return None
        log.warning("nothing was counted for %.0f s: no collector had been here for long (--deadman)", seconds)
        return now_ms - math.ceil(seconds * 1000)

    def _activate(self, generation: Generation) -> None:
        readings = self._readings()
        now = self._now()
        active = pins.active_generation(self._root)
        for before in self._whole(active) or self._abandoned(generation.meta.generation):
            epoch = before.epoch()
            record, now = self._ending(before.read(epoch), now)
            stopped_ms = self._stopped_ms(before)
            record = replace(record, detached=record.detached or active is None)
            before.write(epoch, epoch_record.prepared(record, now.wall_ms, readings, short=True, stopped_ms=stopped_ms))
            if active is not None and before.meta.hook != generation.meta.hook:
                pins.deactivate(self._root, before.meta.hook)
            before.close()
        generation.write(generation.epoch(), epoch_record.following(FIRST_SEQUENCE, now, readings))
        pins.activate(self._root, generation.meta.generation, generation.meta.hook)

    def _whole(self, active: int | None) -> list[Generation]:
        return [self._open(active)] if active is not None and pins.read_meta(self._root, active) else []

    def _abandoned(self, before: int) -> list[Generation]:
        """Return the generation that counted until somebody removed its program from its slot, if one did."""
        for number in reversed(pins.generations(self._root)):
            for generation in self._whole(number) if number < before else ():
                record = generation.read(generation.epoch())
                if record.phase is Phase.COUNTING and not record.end_ms:
                    return [generation]
                generation.close()
        return []

    def _counts_at(self, hook: Hook) -> bool:
        active = pins.active_generation(self._root)
        meta = None if active is None else pins.read_meta(self._root, active)
        return meta is not None and meta.hook == hook

    def _remove_other_hook(self, hook: Hook) -> None:
        if hook == "tc":
            pins.remove_hook(self._root, "netfilter")
        else:
            tc.detach(self._root)
            pins.remove_hook(self._root, "tc")

    def _leftovers_of_old(self, number: int) -> Iterator[Window]:
        if pins.read_meta(self._root, number) is None:
            pins.remove_generation(self._root, number)
            return
        generation = self._open(number)
        yield from self._leftovers(generation, active=False)
        generation.remove()

    def _leftovers(self, generation: Generation, *, active: bool) -> Iterator[Window]:
        found = (generation.read(0), generation.read(1))
        for epoch, step in epoch_record.recover(found, generation.epoch(), active=active):
            if step is Step.FREEZE:
                yield self._freeze(generation, epoch)
            elif step is Step.PUBLISH:
                yield Window(generation, epoch, found[epoch], maybe_repeat=True)
            else:
                self._clear(generation, epoch)

    @staticmethod
    def _freeze(generation: Generation, epoch: int) -> Window:
        generation.barrier()
        record = replace(generation.read(epoch), phase=Phase.FROZEN, counters=generation.read_counters(epoch))
        generation.write(epoch, record)
        return Window(generation, epoch, record, maybe_repeat=False)

    @staticmethod
    def _clear(generation: Generation, epoch: int) -> None:
        generation.clear(epoch)
        generation.write(epoch, EpochRecord())
