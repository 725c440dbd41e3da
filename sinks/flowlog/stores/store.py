# SPDX-License-Identifier: Apache-2.0
"""Where files go, and one such place: a local directory, synced. Paths are relative, with "/".

All methods block: call them in a thread. They raise `OSError`. `create` is atomic between processes.
"""

import errno
import os
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from common.input.files import check_own, create_own, read_bounded, sync_directory

TEMPORARY = ".tmp"
# Far more than any has: of a cut of a million rows, each of a chunk of its own, the ids of chunks take 60 MB.
MAX_MANIFEST_BYTES = 128 * 1024 * 1024

Parts = Sequence[bytes | pa.Buffer]


class Store(Protocol):
    """A place for files."""

    def put(self, path: str, parts: Parts) -> int:
        """Write a file, whole or not at all, durably; return its size in bytes."""

    def create(self, path: str, parts: Parts) -> bool:
        """Do the same unless it exists; return whether it was written."""

    def read(self, path: str) -> bytes:
        """Return a manifest's content, or an intent's; raise ValueError for what is larger than any.

        Raises `FileNotFoundError` if there is none.
        """

    def exists(self, path: str) -> bool:
        """Return whether there is such a file, even if `names` does not have it yet."""

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, none if there is no such directory."""

    def names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        """Return the names in each of these directories of a directory."""

    def delete(self, path: str) -> None:
        """Delete a file and what an interrupted `put` left of it, if they are there."""


class LocalStore:
    """A directory. `owners`: the users whose files are read; None: anybody's."""

    def __init__(self, root: Path, owners: Collection[int] | None = None) -> None:
        self._root = root
        self._owners = owners
        # Not the process id: in containers that share a directory each may be 1.
        self._writer = secrets.token_hex(4)

    def put(self, path: str, parts: Parts) -> int:
        """Write a temporary file, sync it, rename it, sync the directory."""
        target = self._root / path
        self._make_directory(target.parent)
        temporary = target.with_name(target.name + TEMPORARY)
        size = _write_synced(temporary, parts)
        temporary.replace(target)
        sync_directory(target.parent)
        return size

    def create(self, path: str, parts: Parts) -> bool:
        """Write a temporary file, sync it, link it to its name, which fails if the name is taken."""
        target = self._root / path
        self._make_directory(target.parent)
        temporary = target.with_name(f"{target.name}.{self._writer}{TEMPORARY}")
        _write_synced(temporary, parts)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(target.parent)
        return True

    def read(self, path: str) -> bytes:
        """Return a file's content; raise `Refusal` for one that is not of the owners'."""
        if self._owners is not None:
            check_own("output", self._root / path, self._owners)
        try:
            return read_bounded(self._root / path, MAX_MANIFEST_BYTES)
        except OSError as error:
            # These do not pass.
            if error.errno in (errno.EFBIG, errno.EINVAL):
                raise ValueError(f"it {error.strerror}") from error
            raise

    def exists(self, path: str) -> bool:
        """Return whether there is such a file."""
        return (self._root / path).exists()

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory."""
        try:
            with os.scandir(f"{self._root}/{directory}") as found:
                return [entry.name for entry in found]
        except FileNotFoundError:
            return []

    def names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        """Return the names in each of these directories of a directory."""
        return [self.names(f"{directory}/{name}") for name in below]

    def delete(self, path: str) -> None:
        """Delete a file and its temporary one."""
        target = self._root / path
        target.unlink(missing_ok=True)
        target.with_name(target.name + TEMPORARY).unlink(missing_ok=True)

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def _write_synced(path: Path, parts: Parts) -> int:
    try:
        with create_own(path) as file:
            size = sum(file.write(part) for part in parts)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A half-written file on a full disk is in the way of the next try.
        path.unlink(missing_ok=True)
        # A write's error names none.
        error.filename = error.filename or str(path)
        raise
    return size
