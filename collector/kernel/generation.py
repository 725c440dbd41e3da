# SPDX-License-Identifier: Apache-2.0
"""One generation's pinned maps, opened: two flow maps, their records and counters, and the sets the program asks.

To each flow map belong the entries that each CPU has of its own; one flow can be there and in the map. Draining copies
them all into numpy, the map by batches, adds up what is of one flow, and never deletes; clearing is a step of its own,
taken once the window is safe.
"""

import errno
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collector.kernel import bpf_syscall as sys_bpf
from collector.kernel import epoch_record, pins
from collector.kernel.epoch_record import EpochRecord, Tally
from collector.kernel.layout import (
    CONTROL,
    COUNTER_ROOM,
    COUNTERS,
    DEADMAN,
    FAST_TAKEN,
    KEY,
    TALLY,
    TUNNEL_KEY,
    UPLINK_SLOTS,
    Rows,
    converted,
    dtype_of,
    fast_entry,
    uplink_slots,
)

_MAPS = (
    "flows0",
    "flows1",
    "fast0",
    "fast1",
    "counters",
    "control",
    "uplinks",
    "uplink_slots",
    "tunnels",
    "records",
    "deadline",
    "deadman",
)
_BARRIER = ("barrier", "barrier_element")
_FIRST = bytes(4)
_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_BATCH = 16_384
_TRY_AGAIN = (errno.EBUSY, errno.EDEADLK, errno.ETIMEDOUT, errno.EAGAIN)

Tunnel = tuple[int, int, int]  # protocol, port, 1 if the port is this node's side


class Generation:
    """The maps of one generation. `close` gives the file descriptors back, the pins stay."""

    def __init__(self, root: Path, meta: pins.Meta) -> None:
        self.root = root
        self.meta = meta
        directory = pins.generation_dir(root, meta.generation)
        # An earlier version's generation lacks the sets that this one asks; only its windows are of interest then.
        paths = [directory / name for name in _MAPS] + [root / name for name in _BARRIER]
        self._fds = {path.name: sys_bpf.obj_get(str(path)) for path in paths if path.exists()}
        self._key = dtype_of(meta.layout["key"]) if meta.layout else KEY
        self._record = dtype_of(meta.layout["record"]) if meta.layout else epoch_record.RECORD
        self._cpus = possible_cpus_here()

    def close(self) -> None:
        """Close the file descriptors."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def remove(self) -> None:
        """Unpin it all; for a generation whose windows are published."""
        self.close()
        pins.remove_generation(self.root, self.meta.generation)

    def epoch(self) -> int:
        """Return the epoch that the program adds to while this generation is active, 0 or 1."""
        return int(self._control()["epoch"][0]) & 1

    def flip(self, epoch: int) -> None:
        """Let the program add to `epoch`; programs under way may still add to the other until `barrier`."""
        control = self._control()
        control["epoch"] = epoch
        sys_bpf.map_update(self._fds["control"], _FIRST, control.tobytes())

    def renew(self, seconds: float) -> None:
        """Let the program count for so long from now, 0 forever, unless it has stopped already."""
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9) if seconds else 0
        sys_bpf.map_update(self._fds["deadline"], _FIRST, until.to_bytes(8, "little"))

    def stopped_for(self) -> float | None:
        """Return how many seconds ago the dead-man stopped the program, None if it counts."""
        if "deadman" not in self._fds:
            return None
        state = np.frombuffer(sys_bpf.map_lookup(self._fds["deadman"], _FIRST, DEADMAN.itemsize), DEADMAN)[0]
        if not state["stopped_ns"]:
            return None
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(state["stopped_ns"])) / 1e9

    def resume(self) -> None:
        """Let a program count again that the dead-man has stopped; renew first."""
        sys_bpf.map_update(self._fds["deadman"], _FIRST, bytes(DEADMAN.itemsize))

    def barrier(self) -> None:
        """Wait until no program that began before this call is running (maybe_wait_bpf_programs() in syscall.c)."""
        outer, element = (self._fds[name] for name in _BARRIER)
        sys_bpf.map_update(outer, _FIRST, element.to_bytes(4, "little"))

    def read(self, epoch: int) -> EpochRecord:
        """Return an epoch's pinned record."""
        return epoch_record.decode(self._lookup("records", _index(epoch), self._record.itemsize), self._record)

    def write(self, epoch: int, record: EpochRecord) -> None:
        """Pin an epoch's record, whole or not at all."""
        sys_bpf.map_update(self._fds["records"], _index(epoch), epoch_record.encode(record, self._record))

    def read_counters(self, epoch: int) -> tuple[Tally, ...]:
        """Return bytes and packets of every counter of `layout`, summed over CPUs."""
        found = []
        for counter in range(COUNTERS):
            raw = sys_bpf.map_lookup(
                self._fds["counters"], _index(epoch * COUNTER_ROOM + counter), TALLY.itemsize * self._cpus
            )
            per_cpu = np.frombuffer(raw, TALLY)
            found.append((int(per_cpu["bytes"].sum()), int(per_cpu["packets"].sum())))
        return tuple(found)

    def drain(self, epoch: int) -> Rows:
        """Return all rows of an epoch's map (dtype `layout.ROW`), sorted by the bytes of their keys.

        Those of another version's map stand in that version's order: it may have published some of their chunks.
        """
        parts = [self._fast_rows(epoch), *self._batches(epoch)]
        rows = np.concatenate(parts)
        parts.clear()  # sorting takes as much again
        return converted(add_up(sort_rows(rows)))

    def _fast(self, epoch: int) -> NDArray[np.void]:
        """Return the CPUs' own entries of an epoch, as they lie in the kernel's memory: none before there were any."""
        entry = fast_entry(self._key)
        fd = self._fds.get(f"fast{epoch}")
        if fd is None:
            return np.empty(0, entry)
        return np.frombuffer(mmap.mmap(fd, sys_bpf.map_entries(fd) * entry.itemsize), entry)

    def _fast_rows(self, epoch: int) -> Rows:
        found = self._fast(epoch)
        found = found.take(np.flatnonzero(found["state"] == FAST_TAKEN))
        rows = np.empty(len(found), np.dtype([("key", self._key), ("tally", TALLY)]))
        rows["key"], rows["tally"] = found["key"], found["tally"]
        return rows

    def _batches(self, epoch: int) -> Iterator[Rows]:
        """Yield all of an epoch's map, in parts of whole buckets; what was yielded may be deleted meanwhile."""
        fd = self._fds[f"flows{epoch}"]
        cursor: int | None = None
        room = _BATCH
        while True:
            keys, tallies = np.empty(room, self._key), np.empty(room, TALLY)
            try:
                count, cursor = sys_bpf.lookup_batch(fd, cursor, keys.ctypes.data, tallies.ctypes.data, room)
            except OSError as error:
                room = _after(error, room)
                continue
            part = np.empty(count, np.dtype([("key", self._key), ("tally", TALLY)]))
            part["key"], part["tally"] = keys[:count], tallies[:count]
            yield part
            if cursor is None:
                return

    def clear(self, epoch: int) -> None:
        """Empty an epoch's map and counters; for one that nobody adds to and whose window is safe."""
        found = True
        while found:
            found = False
            for rows in self._batches(epoch):
                self._delete(epoch, rows)
                found = found or len(rows) > 0
        self._fast(epoch).view("u1")[:] = 0
        zero = bytes(TALLY.itemsize * self._cpus)
        for counter in range(COUNTERS):
            sys_bpf.map_update(self._fds["counters"], _index(epoch * COUNTER_ROOM + counter), zero)

    def _delete(self, epoch: int, rows: Rows) -> None:
        keys = np.ascontiguousarray(rows["key"])
        done = 0
        while done < len(keys):
            done += sys_bpf.delete_batch(self._fds[f"flows{epoch}"], keys[done:].ctypes.data, len(keys) - done)

    def uplinks(self) -> set[int]:
        """Return the uplinks that the program knows, by index."""
        return {int.from_bytes(key, "little") for key in sys_bpf.map_keys(self._fds["uplinks"], 4)}

    def set_uplinks(self, wanted: set[int]) -> None:
        """Make the set of uplinks these ifindexes, at most `MOST_UPLINKS`, adding before removing."""
        fd = self._fds["uplinks"]
        present = self.uplinks()
        for ifindex in wanted - present:
            sys_bpf.map_update(fd, ifindex.to_bytes(4, "little"), b"\1")
        has = uplink_slots(wanted)
        for slot in {known % UPLINK_SLOTS for known in wanted | present}:
            sys_bpf.map_update(self._fds["uplink_slots"], _index(slot), _index(has[slot]))
        for ifindex in present - wanted:
            sys_bpf.map_delete(fd, ifindex.to_bytes(4, "little"))

    def set_tunnels(self, wanted: dict[Tunnel, int]) -> None:
        """Make these, at most `MOST_TUNNELS`, the tunnels whose outer packets are marked, with their encapsulation."""
        fd = self._fds["tunnels"]
        keys = {
            np.array((port, protocol, local), TUNNEL_KEY).tobytes(): encapsulation
            for (protocol, port, local), encapsulation in wanted.items()
        }
        for key, encapsulation in keys.items():
            sys_bpf.map_update(fd, key, bytes([encapsulation]))
        for key in set(sys_bpf.map_keys(fd, TUNNEL_KEY.itemsize)) - keys.keys():
            sys_bpf.map_delete(fd, key)
        control = self._control()
        control["tunnels"] = len(keys)
        sys_bpf.map_update(self._fds["control"], _FIRST, control.tobytes())

    def _control(self) -> NDArray[np.void]:
        # Of another version's only the beginning is of interest, the epoch.
        found = self._lookup("control", _FIRST, CONTROL.itemsize)
        control: NDArray[np.void] = np.frombuffer(found, CONTROL).copy()
        return control[:1]

    def _lookup(self, name: str, key: bytes, size: int) -> bytes:
        """Return the first `size` bytes of a value: the kernel writes all of it, and another version's is longer."""
        fd = self._fds[name]
        return sys_bpf.map_lookup(fd, key, max(sys_bpf.map_value_size(fd), size))[:size]


def sort_rows(rows: Rows) -> Rows:
    """Return rows in the order of their keys' bytes: the same set gives the same order, whatever the map's was."""
    keys = np.ascontiguousarray(rows["key"])
    size = 8 if keys.dtype.itemsize % 8 == 0 else 4  # this version's is; a compiler pads to 4 at least
    words = keys.view(f">u{size}").reshape(len(rows), keys.dtype.itemsize // size)
    # Most words are the same in all keys, such as what stands before an IPv4 address; native words sort faster.
    telling = [word.astype(np.uint64) for word in words.T[::-1] if (word != word[:1]).any()]
    # Not rows[...]: numpy takes twenty times as long for a dtype within a dtype.
    return rows.take(np.lexsort(telling)) if telling else rows


def add_up(rows: Rows) -> Rows:
    """Return sorted rows with one for each key: what several have of it is added."""
    if len(rows) < 2:
        return rows
    words = np.ascontiguousarray(rows["key"]).view("<u4").reshape(len(rows), -1)
    first = np.flatnonzero(np.append(True, (words[1:] != words[:-1]).any(axis=1)))
    if len(first) == len(rows):
        return rows
    added = rows.take(first)
    for name in TALLY.names or ():
        added["tally"][name] = np.add.reduceat(rows["tally"][name], first)
    return added


def possible_cpus_here() -> int:
    """Return the number of possible CPUs of this machine."""
    return possible_cpus(_POSSIBLE_CPUS.read_text())


def possible_cpus(text: str) -> int:
    """Return the number of possible CPUs from the kernel's list, such as "0-3,8-11": per-CPU maps are for so many."""
    return sum(1 + int(last or first) - int(first) for first, _, last in (p.partition("-") for p in text.split(",")))


def _index(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _after(error: OSError, room: int) -> int:
    """Return the room for the next try; a bucket can hold more than a batch, or be busy for a moment."""
    if error.errno == errno.ENOSPC:
        return room * 2
    if error.errno not in _TRY_AGAIN:
        raise error
    time.sleep(0.001)
    return room
