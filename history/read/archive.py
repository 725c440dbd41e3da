# SPDX-License-Identifier: Apache-2.0
"""Opens a flow log: its manifests, as they are now. What none of them lists does not count.

Manifests are listed before files are: a file that a running flow log adds meanwhile belongs to a later reading.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa
from pyarrow import fs

from common.errors import Refusal
from schemas.codec import UNREADABLE
from sinks.flowlog.manifest import DataFile, Manifest, read_manifest
from sinks.flowlog.store import LocalStore, ObjectStore, Store
from sinks.intake import Lane

T = TypeVar("T")

DIRECTORY = "_manifests"
_PARTITION = re.compile(r"p=(\d{1,9})")
_MANIFEST = re.compile(r"(\d{12})\.json")


class _Listing(msgspec.Struct):
    """Of a manifest, what says which files count."""

    files: list[DataFile] = []


_listing_decoder = msgspec.json.Decoder(_Listing)


class FlowArchive:
    """The Parquet flow log in a directory or an object store, as it is when this is made. Raises `Refusal`."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.store, self.filesystem, self.root = _open(location)
        self._manifests = {partition: self._numbers(partition) for partition in self._partitions()}
        if not any(self._manifests.values()):
            raise Refusal(
                f"archive = {location!r}: no flow log is there (no manifest in {DIRECTORY}/); expected what "
                "zonemeter run flowlog --output wrote"
            )
        self._newest = {
            partition: self.manifest(partition, numbers[-1])
            for partition, numbers in self._manifests.items()
            if numbers
        }

    @property
    def partitions(self) -> list[int]:
        """The partitions that it has manifests of."""
        return sorted(self._newest)

    def numbers(self, partition: int) -> list[int]:
        """Return the numbers of a partition's manifests that were there when this was made, ascending."""
        return self._manifests.get(partition, [])

    def manifest(self, partition: int, number: int) -> Manifest:
        """Read one manifest; raise `Refusal` if that cannot be."""
        return self._read(partition, number, lambda value: read_manifest(value, partition, number))

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def topics(self) -> set[str]:
        """The topics that it was written from."""
        return {manifest.topic for manifest in self._newest.values()}

    @property
    def until_ms(self) -> int:
        """The end of the last window in it; 0 if it holds none."""
        return max(
            (mark.seen_ms for manifest in self._newest.values() for mark in manifest.known_marks().values()), default=0
        )

    def lanes(self) -> dict[int, Lane]:
        """Return where the topic goes on behind the archive, with the last flow taken of each life of a node."""
        return {p: Lane(p, manifest.next_offset, manifest.known_marks()) for p, manifest in self._newest.items()}

    def listing(self, partition: int, number: int) -> list[DataFile]:
        """Return the files that a manifest lists, without reading the rest of it; raise `Refusal` if that cannot be."""
        return self._read(partition, number, _listing_decoder.decode).files

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory of it; raise `Refusal` if that cannot be."""
        try:
            return self.store.names(directory)
        except OSError as error:
            raise Refusal(f"archive {self.location}: {error}") from error

    def _partitions(self) -> list[int]:
        return sorted(int(found[1]) for name in self.names(DIRECTORY) if (found := _PARTITION.fullmatch(name)))

    def _numbers(self, partition: int) -> list[int]:
        names = self.names(f"{DIRECTORY}/p={partition}")
        return sorted(int(found[1]) for name in names if (found := _MANIFEST.fullmatch(name)))

    def _read(self, partition: int, number: int, decode: Callable[[bytes], T]) -> T:
        path = manifest_path(partition, number)
        try:
            return decode(self.store.read(path))
        except (OSError, ValueError, *UNREADABLE) as error:
            raise Refusal(f"archive {self.location}: {path} is damaged: {error}") from error


def _open(location: str) -> tuple[Store, fs.FileSystem, str]:
    try:
        if "://" not in location:
            return _open_local(location, location)
        filesystem, root = fs.FileSystem.from_uri(location)
        if not root.strip("/"):
            raise Refusal(f"archive = {location!r}: names no bucket; expected, for example, s3://BUCKET/PATH")
        if isinstance(filesystem, fs.LocalFileSystem):
            return _open_local(root, location)
        return ObjectStore(filesystem, root), filesystem, root.rstrip("/")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refusal(f"archive = {location!r}: {' '.join(str(error).split())}") from error


def _open_local(root: str, location: str) -> tuple[Store, fs.FileSystem, str]:
    path = Path(root)
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise Refusal(f"archive = {location!r} {what}; expected what zonemeter run flowlog --output wrote")
    return LocalStore(path), fs.LocalFileSystem(), str(path)


def manifest_path(partition: int, number: int) -> str:
    """Return where a manifest stands, relative to the archive."""
    return f"{DIRECTORY}/p={partition}/{number:012}.json"
