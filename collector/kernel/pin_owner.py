# SPDX-License-Identifier: Apache-2.0
"""Whether a pin directory is this user's alone. Anyone who can write there can stop the counting unseen.

The root of a bpffs is mode 1777, as /tmp is: anybody may make a directory there, also the one that a collector is about
to use. Directories above it are looked at as far as the bpffs reaches; what lies above that, a mount covers.
"""

import os
import stat
from pathlib import Path

from common.errors import Refusal

_MODE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make(pin_dir: Path) -> None:
    """Make the directory and those above it that are missing, closed to all others whatever the umask says."""
    for path in (*reversed(pin_dir.parents), pin_dir):
        if not path.exists():
            path.mkdir(mode=_MODE, exist_ok=True)


def open_closed(pin_dir: Path) -> int:
    """Return a descriptor of the directory, closed to all others from now on; raise `Refusal` if it is not ours."""
    # Without following it: a symbolic link is its owner's to turn elsewhere.
    descriptor = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        check(pin_dir, found)
        if found.st_mode & _OTHERS:
            os.fchmod(descriptor, _MODE)  # who may open it may also hold its lock
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check(pin_dir: Path, found: os.stat_result) -> None:
    """Raise `Refusal` if anybody but this user and root can write in the directory or replace it. Changes nothing."""
    place, uid = f"pin_dir = {str(pin_dir)!r}:", os.geteuid()
    if found.st_uid not in (0, uid):
        raise Refusal(
            f"{place} it belongs to uid {found.st_uid}, not to uid {uid}, and its owner can end the counting; "
            f"remove it (rm -r {pin_dir}) or give another --pin-dir"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise Refusal(f"{place} others can write there ({_octal(found)}); remove it (rm -r {pin_dir}) and start again")
    for above in Path(os.path.realpath(pin_dir)).parents:
        over = above.stat()
        if over.st_dev != found.st_dev:
            return
        if over.st_uid not in (0, uid):
            raise Refusal(f"{place} {above} belongs to uid {over.st_uid}, who can replace it; give another --pin-dir")
        if over.st_mode & _OTHERS_WRITE and not over.st_mode & stat.S_ISVTX:
            raise Refusal(f"{place} others can replace it, {above} is {_octal(over)}; chmod 700 {above}")


def _octal(found: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(found.st_mode):04o}"
