# SPDX-License-Identifier: Apache-2.0
"""One collector a pin directory, and one a node's name: whoever comes second is told who was first.

The lock is on the directory itself, wherever it is mounted; the name is an abstract Unix socket, which is the network
namespace's own. Both die with their holder and leave nothing. Two under one name would give the same ids to different
windows, also with pin directories of their own.
"""

import fcntl
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import Refusal

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@contextmanager
def pin_directory(pin_dir: Path, *, make: bool = True) -> Iterator[None]:
    """Hold the pin directory; raise `Refusal` naming the process that has it. Not there and not to `make`: nothing."""
    if not make and not pin_dir.is_dir():
        yield
        return
    descriptor = _open(pin_dir)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = os.fstat(descriptor)
            who = _holder(Path("/proc/locks").read_text(), found.st_dev, found.st_ino)
            raise Refusal(f"pin_dir = {str(pin_dir)!r}: {who} has it; one per directory") from error
        if not pin_dir.exists() or pin_dir.stat().st_ino != os.fstat(descriptor).st_ino:
            raise Refusal(f"pin_dir = {str(pin_dir)!r}: it was detached just now; start again")
        yield
    finally:
        os.close(descriptor)


def _open(pin_dir: Path) -> int:
    try:
        pin_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(f"pin_dir = {str(pin_dir)!r}: {error.strerror}") from error


def _holder(locks: str, device: int, inode: int) -> str:
    """Find who holds a file; `locks` is /proc/locks, which shows processes of this pid namespace only."""
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    for line in locks.splitlines():
        words = line.split()
        if "FLOCK" in words and place in words:
            return f"the collector with pid {words[words.index(place) - 1]}"
    return "a collector in another container"


@contextmanager
def node_name(cluster: str, node: str) -> Iterator[None]:
    """Hold a node's name in this network namespace; raise `Refusal` naming the process that has it."""
    address = b"\0zonemeter/collector/" + hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(address)
        except OSError as error:
            raise Refusal(
                f"node = {node!r}: {_peer(address)} counts for this node of cluster {cluster!r} already; another needs "
                "another --node or --cluster"
            ) from error
        held.listen(1)
        yield


def _peer(address: bytes) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
            pid, _, _ = _UCRED.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        except OSError:
            pid = 0
    return f"the collector with pid {pid}" if pid else "a collector in another container"
