# SPDX-License-Identifier: Apache-2.0
"""Closed windows on disk while Kafka does not take them: a bounded directory, one file a window, oldest first.

    000000000007.window         a window, whole: written as .part, synced, renamed, the directory synced
    000000000008.window.part    one that was being written when its collector died: the kernel still holds it
    000000000003.damaged        one that could not be read: kept for a person to look at

Numbers only grow, also from one life of the node to the next, so the order of files is the order of windows. Only one
collector has a directory: it is the pin directory's, which is locked. All calls block; `add` and `remove` may come from
different threads.
"""

import contextlib
import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from collector.outbox import spool_file
from collector.outbox.spool_file import DamagedError, EncodedWindow, SpoolHead
from common.errors import Refusal
from common.input.files import create_own, sync_directory

log = logging.getLogger(__name__)

_WINDOW, _PART, _DAMAGED = ".window", ".window.part", ".damaged"


class SpoolError(Exception):
    """A window cannot be spooled now; its text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A spooled window. `found`: an earlier collector left it, and may have published it."""

    path: Path
    size: int
    found: bool


class Spool:
    """The directory of one collector; at most `limit` bytes of files."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._other_bytes = 0
        self._next = 0  # until it is open

    def open(self) -> None:
        """Take over what is there; raise `SpoolError` if the directory cannot be had, for as long as this one lives.

        A directory that is there and cannot be read is a `Refusal`: what lies in it would come after newer windows.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(self._line(error)) from error
        try:
            self._check_owner()
            self._scan()
        except OSError as error:
            raise Refusal(f"{self._line(error)}; unpublished windows may lie there") from error

    def windows(self) -> int:
        """Return how many windows wait."""
        return len(self._entries)

    def used(self) -> int:
        """Return the bytes of all files."""
        with self._lock:
            return sum(entry.size for entry in self._entries) + self._other_bytes

    def oldest(self) -> Entry | None:
        """Return the window whose turn it is."""
        with self._lock:
            return self._entries[0] if self._entries else None

    def newest_id(self) -> str | None:
        """Return the id of the last window, None if there is none or its file is damaged.

        What the kernel still holds of that window is cleared: so the file is read to its end first.
        """
        with self._lock:
            last = self._entries[-1] if self._entries else None
        try:
            return None if last is None else spool_file.read(last.path).ledger.id
        except (DamagedError, OSError) as error:  # it will be set aside when it is its turn
            log.warning("%s cannot be read: %s", last and last.path, error)
            return None

    def add(self, window: EncodedWindow) -> Entry:
        """Return when a window is on disk to stay; raise `SpoolError` if it cannot be, and leave nothing of it.

        It does not wait with the others yet: `append` or `remove` it.
        """
        if not self._next:
            raise SpoolError(f"spool_dir = {str(self.directory)!r}: it could not be had at the start")
        path = self.directory / f"{self._next:012d}{_WINDOW}"
        part = path.with_suffix(_PART)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have cleaned up
            size = self._write(part, window)
            part.rename(path)
            sync_directory(self.directory)
        except OSError as error:
            for left in (part, path):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
            raise SpoolError(self._line(error)) from error
        self._next += 1
        return Entry(path, size, found=False)

    def append(self, entry: Entry) -> None:
        """Let what `add` wrote wait for its turn, behind all others."""
        with self._lock:
            self._entries.append(entry)

    def remove(self, entry: Entry) -> None:
        """Take a published window out. Where the file cannot be removed the next collector publishes it as a repeat."""
        self._forget(entry)
        try:
            entry.path.unlink(missing_ok=True)
            sync_directory(self.directory)
        except OSError as error:
            log.warning("%s: it is published, and stays as a repeat", self._line(error))
            with self._lock:
                self._other_bytes += entry.size

    def set_aside(self, entry: Entry) -> None:
        """Keep a damaged file for a person, out of the way."""
        self._forget(entry)
        try:
            entry.path.rename(entry.path.with_suffix(_DAMAGED))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s: %s stays, and the next collector finds it damaged again", self._line(error), entry.path)
        with self._lock:
            self._other_bytes += entry.size

    def _forget(self, entry: Entry) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._entries.remove(entry)

    def _write(self, part: Path, window: EncodedWindow) -> int:
        room = self.limit - self.used()
        with create_own(part) as file:
            head = SpoolHead(window.ledger, window.maybe_repeat)
            spool_file.write(file, head, _within(room, file, window.chunks(False)))
            file.flush()
            _check(room, file)
            os.fsync(file.fileno())
            return file.tell()

    def _check_owner(self) -> None:
        """Raise `Refusal` if others can write there: windows in any node's name would be published from it."""
        found, uid = self.directory.stat(), os.geteuid()
        if found.st_uid not in (0, uid):
            who = f"it belongs to uid {found.st_uid}, not to uid {uid}"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            who = f"others can write there (mode {stat.S_IMODE(found.st_mode):04o})"
        else:
            return
        raise Refusal(
            f"spool_dir = {str(self.directory)!r}: {who}, and what lies there is published; look at its files, then "
            f"chown {uid} and chmod 700 it, or give another --spool-dir"
        )

    def _scan(self) -> None:
        entries: list[Entry] = []
        other = highest = 0
        for path in sorted(self.directory.iterdir()):
            number, dot, kind = path.name.partition(".")
            kind = dot + kind
            if kind not in (_WINDOW, _PART, _DAMAGED) or not number.isdecimal():
                continue
            highest = max(highest, int(number))
            size = path.lstat().st_size
            if kind == _WINDOW:
                entries.append(Entry(path, size, found=True))
            elif kind == _DAMAGED:
                other += size
            else:
                log.warning("%s was not finished: its window is still in the kernel, or was lost with it", path)
                with contextlib.suppress(OSError):
                    path.unlink()
        with self._lock:
            self._entries, self._other_bytes, self._next = entries, other, highest + 1

    def _line(self, error: OSError) -> str:
        why = f"full, {self.limit} bytes (--spool-size)" if error.errno == errno.EDQUOT else error.strerror
        return f"spool_dir = {str(self.directory)!r}: {why}"


def directory_for(spool_dir: Path, pin_dir: Path) -> Path:
    """Return the directory of the collector with this pin directory: it may share `spool_dir` with others."""
    return spool_dir / str(pin_dir).strip("/").replace("/", "-")


def _within(room: int, file: IO[bytes], chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks, and stop where the file has come to more than `room`: a window may be larger than the limit."""
    for chunk in chunks:
        _check(room, file)
        yield chunk


def _check(room: int, file: IO[bytes]) -> None:
    if file.tell() > room:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
