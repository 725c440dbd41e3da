# SPDX-License-Identifier: Apache-2.0
"""Files: those that settings name, and those of a service's own directory; and makes changes last.

None is read without a bound: one may be the wrong file. A service goes on from what its directory holds, so it believes
only what it wrote itself, or root: not what another user put there, whatever the directory's mode lets them do.
"""

import contextlib
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from common.errors import Refusal

log = logging.getLogger(__name__)

# Far more than settings, passwords, certificates and the CAs of a system take.
MAX_FILE_BYTES = 1024 * 1024


def read_bounded(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Return what a file holds; raise `OSError`, whose `strerror` says why, for more than `most` bytes.

    Nothing but files is read: a pipe without a writer never opens, and a device never ends.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
        # Memory for all that is asked for is taken first, which costs more than to read what most files hold.
        content = file.read(min(found.st_size, most) + 1)
        if len(content) > found.st_size:
            # It grows, or is one of the kernel's, which say that they are empty.
            content += file.read(most + 1 - len(content))
    if len(content) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", str(path))
    return content


def owners_in(directory: Path) -> frozenset[int]:
    """Return whose files are believed in a service's directory: its own user's and root's.

    Some file servers give all files to one user (NFS with all_squash): then the one to whom they give ours.
    """
    uids = {0, os.geteuid()}
    # On a full disk nothing can be made; then the users are known by their numbers alone.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
        uids.add(os.fstat(file.fileno()).st_uid)
    return frozenset(uids)


def warn_if_others_write(setting: str, directory: Path, owners: Collection[int]) -> None:
    """Log one line if another user can remove or replace what a service keeps in a directory. Raises `OSError`.

    Not where only a group can: so it is with a volume that Kubernetes has given to the pod's fsGroup. Nor where the
    sticky bit keeps each user to their own files.
    """
    found = directory.stat()
    if found.st_uid not in owners:
        who = f"it belongs to uid {found.st_uid}"
    elif found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        who = "everybody can write there"
    else:
        return
    log.warning(
        "%s = '%s': %s (mode %04o): others can remove what is kept there; it should belong to uid %d or root, with "
        "mode 0750, or 2770 for a volume with fsGroup",
        *(setting, directory, who, stat.S_IMODE(found.st_mode), os.geteuid()),
    )


def why_not_own(found: os.stat_result, owners: Collection[int]) -> str | None:
    """Say why a file in a service's directory is not believed, as `lstat` tells of it; None if it is."""
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(found.st_mode):
        return "is not a file"
    if found.st_uid not in owners:
        return f"belongs to uid {found.st_uid}, not to uid {os.geteuid()} or root"
    return None


def check_own(setting: str, path: Path, owners: Collection[int]) -> None:
    """Raise `Refusal` if what stands there is not believed; nothing need stand there. Raises `OSError`."""
    try:
        why = why_not_own(path.lstat(), owners)
    except FileNotFoundError:
        return
    if why is not None:
        raise Refusal(f"{setting}: {path} {why}: it is not read; see what it is, then move it away, or chown it")


def create_own(path: Path) -> BinaryIO:
    """Open a new file to write, in place of what stands there: never what a link leads to, nor another user's."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def sync_directory(directory: Path) -> None:
    """Make what was made, renamed or removed in a directory last through a power cut. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scratch(prefix: str = "zonemeter-", directory: Path | None = None) -> "tempfile.TemporaryDirectory[str]":
    """Return a directory for what does not fit memory, which is gone with its context; `directory`: where it is made.

    Raises `Refusal` where none can be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=prefix, dir=directory)
    except OSError as error:
        where = "TMPDIR names" if directory is None else f"{str(directory)!r} is"
        raise Refusal(
            f"no directory for temporary files can be made: {error.strerror}; expected that {where} one that can be "
            "written"
        ) from error


def read_named(setting: str, path: Path, expected: str, most: int = MAX_FILE_BYTES) -> bytes:
    """Return what the file of a setting holds; raise `Refusal`, which names the setting and what is expected."""
    try:
        return read_bounded(path, most)
    except OSError as error:
        raise Refusal(f"{setting} = {str(path)!r}: {error.strerror}; expected {expected}") from error
