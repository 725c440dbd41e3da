# SPDX-License-Identifier: Apache-2.0
"""Reads the files that settings name, none without a bound: one may be the wrong file; and makes changes last."""

import errno
import os
import stat
from pathlib import Path

from common.errors import Refusal

# Far more than settings, passwords, certificates and the CAs of a system take.
MAX_FILE_BYTES = 1024 * 1024


def read_bounded(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Return what a file holds; raise `OSError`, whose `strerror` says why, for more than `most` bytes.

    Nothing but files is read: a pipe without a writer never opens, and a device never ends.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"is larger than {most:,} bytes", str(path))
    return content


def sync_directory(directory: Path) -> None:
    """Make what was made, renamed or removed in a directory last through a power cut. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_named(setting: str, path: Path, expected: str, most: int = MAX_FILE_BYTES) -> bytes:
    """Return what the file of a setting holds; raise `Refusal`, which names the setting and what is expected."""
    try:
        return read_bounded(path, most)
    except OSError as error:
        raise Refusal(f"{setting} = {str(path)!r}: {error.strerror}; expected {expected}") from error
