# SPDX-License-Identifier: Apache-2.0
"""One collector a pin directory, and one a node's name: the second one is told who was first.

The lock is on the directory itself, wherever it is mounted; the name is an abstract Unix socket, which is the network
namespace's own. Both die with their holder and leave nothing. Two under one name would give the same ids to different
windows, also with pin directories of their own.

Any user may take an abstract name. So a node's name is several of them: what another user holds is passed over, and
what this one holds is a collector.
"""

import fcntl
import hashlib
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collector.kernel import pin_owner
from common.errors import Refusal

log = logging.getLogger(__name__)

_NAMES = 8
_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@contextmanager
def pin_directory(pin_dir: Path, *, make: bool = True) -> Iterator[None]:
    """Hold the pin directory; raise `Refusal` naming the process that has it, or if others can write there.

    Not there and not to `make`: nothing.
    """
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
        pin_owner.make(pin_dir)
        return pin_owner.open_closed(pin_dir)
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
    """Hold a node's name in this network namespace; raise `Refusal` naming the process of this user that has it.

    Where other users hold all of it nobody can tell. That is logged: they must not keep a node from being metered.
    """
    whole = b"zonemeter/collector/" + hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest().encode()
    addresses = [b"\0" + whole + (f"/{number}".encode() if number else b"") for number in range(_NAMES)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        own = next((address for address in addresses if _bind(held, address)), None)
        # Bound first, then asked who else is there: of two that start at once, at least one sees the other.
        for address in addresses:
            pid, uid = _holder_of(address) if address != own else (0, None)
            if uid == os.geteuid():
                who = f"the collector with pid {pid}" if pid else "a collector in another container"
                raise Refusal(
                    f"node = {node!r}: {who} counts for this node of cluster {cluster!r} already; another needs "
                    "another --node or --cluster"
                )
            if uid is not None:
                log.warning("uid %d (pid %d) holds the name of a collector's lock; it is passed over", uid, pid)
        if own is None:
            log.warning("no lock: whether another collector counts for this node cannot be told", extra={"node": node})
        yield


def _bind(held: socket.socket, address: bytes) -> bool:
    try:
        held.bind(address)
    except OSError:
        return False
    held.listen(socket.SOMAXCONN)  # nobody ever accepts: room for many who ask
    return True


def _holder_of(address: bytes) -> tuple[int, int | None]:
    """Return pid (0: in another pid namespace) and uid of the process that listens there; uid None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
            pid, uid, _ = _UCRED.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        except OSError:
            return 0, None
    return pid, uid
