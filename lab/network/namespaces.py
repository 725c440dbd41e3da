# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by name: entering one, running a command or writing a sysctl inside, listing and removing.

A socket belongs to the namespace in which it was made, no matter who uses it later: that is how one process serves
every pod. Entering concerns the calling thread only (setns(2)).
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab.errors import LabError

DIRECTORY = Path("/run/netns")

# 0.1 ms at rest, 17 ms were seen while namespaces came and went beside it.
_LOCAL_SECONDS = 30
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def run(argv: Iterable[str], stdin: str = "") -> str:
    """Run a command to its end and return its output; raises `LabError` with its first line of complaint."""
    command = list(argv)
    try:
        # Of a group of its own: Ctrl-C is for the lab's maker, which finishes what is half done and then ends.
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, process_group=0)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]}: command not found; scripts/setup installs what the lab needs") from error
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"{' '.join(command)}: {complaint[0] if complaint else f'status {done.returncode}'}")
    return done.stdout


def ip_batch(lines: Iterable[str], namespace: str | None = None) -> None:
    """Run lines of `ip -batch`, in a namespace or in this thread's; stops at the first that fails.

    An IPv6 address that a line adds without duplicate address detection can be reached when this returns.
    """
    commands = list(lines)
    run([*_ip(namespace), "-batch", "-"], "\n".join(commands) + "\n")
    if added := {at for line in commands if (at := _added_at_once(line))}:
        _wait_until_local(added, namespace)


def move(namespace: str) -> None:
    """Be in a namespace from now on, this thread and those that it starts; raises `LabError` if there is none."""
    try:
        there = os.open(DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise LabError(f"namespace {namespace}: not there; is the lab up?") from error
    try:
        _setns(there)
    finally:
        os.close(there)


@contextlib.contextmanager
def enter(namespace: str) -> Iterator[None]:
    """Be in a namespace for the length of a block that must not await; raises `LabError` if there is none."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        move(namespace)
        try:
            yield
        finally:
            _setns(here)
    finally:
        os.close(here)


def make_socket(namespace: str | None, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket that lives in a namespace, None for this thread's."""
    with enter(namespace) if namespace else contextlib.nullcontext():
        made = socket.socket(family, kind)
    made.setblocking(False)
    return made


def write_sysctls(values: Mapping[str, int | str]) -> None:
    """Write sysctls of this thread's network namespace, by path below /proc/sys/net."""
    for name, value in values.items():
        try:
            Path("/proc/sys/net", name).write_text(f"{value}")
        except OSError as error:
            raise LabError(f"sysctl net/{name}={value}: {error.strerror}") from error


def with_prefix(prefix: str) -> list[str]:
    """Return the names of the namespaces that belong to a lab."""
    if not DIRECTORY.is_dir():
        return []
    return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(f"{prefix}-"))


def _ip(namespace: str | None) -> list[str]:
    return ["ip", "-n", namespace] if namespace else ["ip"]


def _added_at_once(line: str) -> tuple[str, str] | None:
    """Return the IPv6 address and the device of a line that adds one without duplicate address detection."""
    match line.split():
        case ["addr", "add", address, "dev", device, *options] if "nodad" in options:
            return str(ipaddress.IPv6Interface(address).ip), device
    return None


def _wait_until_local(added: set[tuple[str, str]], namespace: str | None) -> None:
    # Such an address can be bound at once, but the kernel's route that takes in what is sent to it comes from a work
    # queue (addrconf_dad_work), which waits for every other change of links and addresses on the machine. Until then
    # a node that forwards sends it back, and the packet is lost.
    deadline = time.monotonic() + _LOCAL_SECONDS
    while True:
        listed = run([*_ip(namespace), "-6", "-j", "route", "show", "table", "local", "type", "local"])
        if not (missing := added - {(route["dst"], route["dev"]) for route in json.loads(listed or "[]")}):
            return
        if time.monotonic() > deadline:
            address, device = min(missing)
            raise LabError(f"{address} on {device}: the kernel has no route for it after {_LOCAL_SECONDS} s")
        time.sleep(0.01)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
