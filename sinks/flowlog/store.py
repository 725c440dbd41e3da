# SPDX-License-Identifier: Apache-2.0
"""Where files go: a local directory, synced, or an object store. Paths are relative, with "/".

All methods block: call them in a thread. They raise `OSError`. Only the local store's `create` is atomic between
processes; of an object store it is a look before a write, so there a second writer of the same partition is kept
out by the consumer group alone.
"""

import errno
import os
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from common.errors import Refusal
from common.files import check_own, create_own, owners_in, read_bounded, sync_directory, warn_if_others_write
from sinks.flowlog.manifest import MAX_MANIFEST_BYTES

TEMPORARY = ".tmp"
# These may pass; whatever else is wrong with a directory at the start, a person must mend.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)

Parts = Sequence[bytes | pa.Buffer]


class Store(Protocol):
    """A place for files."""

    def put(self, path: str, parts: Parts) -> int:
        """Write a file, whole or not at all, durably; return its size in bytes."""

    def create(self, path: str, parts: Parts) -> bool:
        """Do the same unless it exists; return whether it was written."""

    def read(self, path: str) -> bytes:
        """Return a manifest's content, or an intent's; raise ValueError for what is larger than any."""

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, none if there is no such directory."""

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

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory."""
        try:
            return [path.name for path in (self._root / directory).iterdir()]
        except FileNotFoundError:
            return []

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


class ObjectStore:
    """Anything that pyarrow has a file system for, below one path."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def put(self, path: str, parts: Parts) -> int:
        """Write an object; it appears when it is whole."""
        with self._filesystem.open_output_stream(f"{self._root}/{path}", compression=None) as stream:
            return sum(stream.write(part) for part in parts)

    def create(self, path: str, parts: Parts) -> bool:
        """Write an object unless there is one."""
        if self._is_file(path):
            return False
        self.put(path, parts)
        return True

    def read(self, path: str) -> bytes:
        """Return an object's content."""
        with self._filesystem.open_input_stream(f"{self._root}/{path}", compression=None) as stream:
            content: bytes = stream.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
        return content

    def names(self, directory: str) -> list[str]:
        """Return the names below a path."""
        selector = fs.FileSelector(f"{self._root}/{directory}", allow_not_found=True)
        return [info.base_name for info in self._filesystem.get_file_info(selector)]

    def delete(self, path: str) -> None:
        """Delete an object."""
        if self._is_file(path):
            self._filesystem.delete_file(f"{self._root}/{path}")

    def _is_file(self, path: str) -> bool:
        [info] = self._filesystem.get_file_info([f"{self._root}/{path}"])
        return bool(info.type == fs.FileType.File)


def open_store(output: str) -> Store:
    """Return the store that `output` names, a directory or a URI; raise `Refusal` if it cannot be written to."""
    try:
        if "://" not in output:
            return _open_local(Path(output), output)
        filesystem, root = fs.FileSystem.from_uri(output)
        if isinstance(filesystem, fs.LocalFileSystem):
            return _open_local(Path(root), output)
        filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Refusal(
            f"output = {output!r}: {reason}; expected a directory or a URI such as s3://bucket/path"
        ) from error
    return ObjectStore(filesystem, root)


def _open_local(root: Path, output: str) -> LocalStore:
    store = LocalStore(root)
    probe = f".probe.{secrets.token_hex(4)}"
    try:
        store.put(probe, [b""])
        store.delete(probe)
        owners = owners_in(root)
        warn_if_others_write("output", root, owners)
        return LocalStore(root, owners)
    except OSError as error:
        if error.errno not in PASSING:
            raise Refusal(f"output = {output!r}: {error.strerror}; expected a directory to write to") from error
    return LocalStore(root, owners_in(root))


def _write_synced(path: Path, parts: Parts) -> int:
    try:
        with create_own(path) as file:
            size = sum(file.write(part) for part in parts)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # A half-written file on a full disk is in the way of the next try.
        path.unlink(missing_ok=True)
        raise
    return size
