# SPDX-License-Identifier: Apache-2.0
"""Detached processes of a lab: started with a log file, found again and stopped by pid and start time.

Each writes its own `/proc/PID/stat` into a record before it becomes the command, so that there is no moment at
which a process runs that no record names, whatever is killed when. Nothing is ever stopped by its name.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

# $1 is the record. The shell's pid and start time are the command's: exec changes neither.
_RECORD_AND_EXEC = 'read -r stat <"/proc/$$/stat" && printf "%s\\n" "$stat" >"$1" && shift && exec "$@"'
_STAT_START_TIME = 22  # proc(5), counted from 1
_STAT_SESSION = 6
_LOG_LINES = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started once: `start_time` is in clock ticks since boot."""

    role: str
    pid: int
    start_time: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[_STAT_START_TIME - 1]) == self.start_time and fields[2] not in "ZX"


class Processes:
    """The processes of one lab. `directory` holds `ROLE.stat` and `ROLE.log`; `environment` is added to this one's."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._environment = environment or {}

    def start(self, role: str, argv: Sequence[str]) -> Process:
        """Start a command in a session of its own; output goes to its log."""
        self._directory.mkdir(parents=True, exist_ok=True)
        record = self._directory / f"{role}.stat"
        record.unlink(missing_ok=True)
        log = str(self.log(role))
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _RECORD_AND_EXEC, "sh", str(record), *argv],
            {**os.environ, **self._environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
        fields = _stat(pid)
        assert fields is not None  # a child stays in /proc until it is waited for
        return Process(role, pid, int(fields[_STAT_START_TIME - 1]))

    def call(self, role: str, argv: Sequence[str], seconds: float) -> None:
        """Run a command to its end; raises `LabError` with its last words if it fails or takes longer."""
        process = self.start(role, argv)
        handle = _open(process)
        if handle is not None:
            late = _wait({process: handle}, seconds)
            os.close(handle)
            if late:
                self.kill(process)
                raise LabError(f"{role}: not done after {seconds:.0f} s: {self.last_words(role)}")
        _, status = os.waitpid(process.pid, 0)
        self._bury(process)
        if status != 0:
            raise LabError(f"{role}: failed: {self.last_words(role)}")

    def recorded(self) -> list[Process]:
        """Return every process that was started here and not stopped here, running or not, by role."""
        found = []
        for record in sorted(self._directory.glob("*.stat")):
            fields = _fields(record.read_text())
            if fields:
                found.append(Process(record.stem, int(fields[0]), int(fields[_STAT_START_TIME - 1])))
        return found

    def log(self, role: str) -> Path:
        """Return where a role's output goes."""
        return self._directory / f"{role}.log"

    def last_words(self, role: str) -> str:
        """Return the end of a role's log as one line, stack traces left out."""
        try:
            text = self.log(role).read_text(errors="replace")
        except FileNotFoundError:
            return "no log"
        lines = [line for line in text.splitlines() if line and not line[0].isspace()]
        return " | ".join(lines[-_LOG_LINES:]) or "empty log"

    def stop(self, processes: Iterable[Process], term_seconds: float) -> list[str]:
        """SIGTERM them all, SIGKILL those left after the timeout, with children; return the roles killed."""
        stopping = list(processes)
        waiting = {process: handle for process in stopping if (handle := _open(process)) is not None}
        for handle in waiting.values():
            _send(handle, signal.SIGTERM)
        late = _wait(waiting, term_seconds)
        for process in late:
            _send(waiting[process], signal.SIGKILL)
        _wait({process: waiting[process] for process in late}, term_seconds)
        for handle in waiting.values():
            os.close(handle)
        for process in stopping:
            self._bury(process)
        return [process.role for process in late]

    def kill(self, process: Process) -> None:
        """SIGKILL one process and its children, and wait until it is gone."""
        handle = _open(process)
        if handle is not None:
            _send(handle, signal.SIGKILL)
            _wait({process: handle}, 10)
            os.close(handle)
        self._bury(process)

    def _bury(self, process: Process) -> None:
        _kill_session(process)
        with contextlib.suppress(ChildProcessError):  # raised where another process started it
            os.waitpid(process.pid, os.WNOHANG)
        (self._directory / f"{process.role}.stat").unlink(missing_ok=True)


def _open(process: Process) -> int | None:
    """Return a pidfd of a process that still runs; from here on its pid cannot be another's."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.alive:
        return handle
    os.close(handle)
    return None


def _send(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return


def _wait(handles: Mapping[Process, int], seconds: float) -> list[Process]:
    """Wait until all have ended or the time is over; return who has not."""
    left = {handle: process for process, handle in handles.items()}
    poller = select.poll()
    for handle in left:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left and (remaining := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(remaining * 1000):
            poller.unregister(handle)
            del left[handle]
    return list(left.values())


def _kill_session(leader: Process) -> None:
    """Kill what a dead leader left in its session; while any of it lives, the kernel gives the pid to nobody."""
    if leader.alive or _stat(leader.pid, living=True) is not None:
        return
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name), living=True) if entry.name.isdecimal() else None
        if fields and int(fields[_STAT_SESSION - 1]) == leader.pid:
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _stat(pid: int, living: bool = False) -> list[str] | None:
    try:
        fields = _fields(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if living and fields and fields[2] in "ZX" else fields or None


def _fields(stat: str) -> list[str]:
    """Split a line of /proc/PID/stat; the command in parentheses may hold spaces and parentheses."""
    before, _, after = stat.rpartition(")")
    pid, _, command = before.partition(" (")
    fields = [pid, command, *after.split()]
    return fields if len(fields) > _STAT_START_TIME else []
