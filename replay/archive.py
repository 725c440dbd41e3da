# SPDX-License-Identifier: Apache-2.0
"""Finds the flow log's files of a time range, by its manifests: what none of them lists does not count.

    date=2026-11-23/hour=02/flows-p3-000000000017-5c9e01.parquet     by window start (UTC)
    _manifests/p=3/000000000017.json

A file's name says which manifest must list it, so only the manifests of the range are read, not all that ever were.
Manifests are listed before files are: a file that a running flow log adds meanwhile belongs to a later reading.
"""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import fs

from common.errors import Refusal
from replay.time_range import TimeRange
from schemas.codec import UNREADABLE
from sinks.flowlog.manifest import DataFile, Manifest, decode_manifest
from sinks.flowlog.store import LocalStore, ObjectStore, Store
from sinks.intake import Lane

HOUR_MS = 3_600_000
DIRECTORY = "_manifests"
_PARTITION = re.compile(r"p=(\d{1,9})")
_DAY = re.compile(r"date=\d{4}-\d\d-\d\d")
_MANIFEST = re.compile(r"(\d{12})\.json")
_DATA = re.compile(r"flows-p(\d{1,9})-(\d{12})-[0-9a-f]{6}\.(parquet|jsonl)")
_READERS = 16


class _Listing(msgspec.Struct):
    """Of a manifest, what says which files count."""

    files: list[DataFile] = []


_listing_decoder = msgspec.json.Decoder(_Listing)


@dataclass(slots=True)
class Chapter:
    """The files of a time range. `paths` are relative to the archive. `unlisted`: files there that do not count."""

    paths: list[str] = field(default_factory=list)
    rows: int = 0
    unlisted: int = 0


class FlowArchive:
    """The Parquet flow log in a directory or an object store, as it is when this is made. Raises `Refusal`."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.store, self.filesystem, self.root = _open(location)
        self._manifests = {partition: self._numbers(partition) for partition in self._partitions()}
        if not any(self._manifests.values()):
            raise Refusal(
                f"archive {location}: no flow log is there (no manifest in {DIRECTORY}/); expected what "
                "zonemeter run flowlog --output wrote"
            )
        self._newest = {
            partition: self._manifest(partition, numbers[-1])
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
        return self._manifest(partition, number)

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
            (mark.end_ms for manifest in self._newest.values() for mark in manifest.known_marks().values()), default=0
        )

    def lanes(self) -> dict[int, Lane]:
        """Return where the topic goes on behind the archive, with the last flow taken of each life of a node."""
        return {p: Lane(p, manifest.next_offset, manifest.known_marks()) for p, manifest in self._newest.items()}

    def chapter(self, span: TimeRange) -> Chapter:
        """Return the files of the hours that `span` touches; raise `Refusal` where one that counts is missing."""
        there: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        hours = self._hours(span)
        with ThreadPoolExecutor(_READERS) as pool:
            for hour, names in zip(hours, pool.map(self._names, hours), strict=True):
                for name in names:
                    found = _DATA.fullmatch(name)
                    if found:
                        there[int(found[1])][int(found[2])].add(f"{hour}/{name}")
            chapter = Chapter()
            for partition, files in sorted(there.items()):
                self._check(pool, partition, files, set(hours), chapter)
        return chapter

    def _check(
        self, pool: ThreadPoolExecutor, partition: int, files: dict[int, set[str]], hours: set[str], chapter: Chapter
    ) -> None:
        known = self._manifests.get(partition, [])
        counted = [number for number in files if known and known[0] <= number <= known[-1]]
        chapter.unlisted += sum(len(paths) for number, paths in files.items() if number not in counted)
        if not counted:
            return
        first, last = min(counted), max(counted)
        numbers = [number for number in known if first <= number <= last]
        if len(numbers) != last - first + 1:
            absent = min(set(range(first, last + 1)) - set(numbers))
            raise Refusal(f"archive {self.location}: {_path(partition, absent)} is missing; restore it: its rows count")
        for number, listing in zip(numbers, pool.map(lambda n: self._listing(partition, n), numbers), strict=True):
            present = files.get(number, set())
            listed = {file.path: file for file in listing.files if file.path.rpartition("/")[0] in hours}
            chapter.unlisted += len(present - listed.keys())
            for path, file in listed.items():
                if path not in present:
                    raise Refusal(
                        f"archive {self.location}: {path} is missing, {_path(partition, number)} lists it; restore it"
                    )
                if not path.endswith(".parquet"):
                    raise Refusal(f"archive {self.location}: {path}: only Parquet can be read back")
                chapter.paths.append(path)
                chapter.rows += file.rows

    def _hours(self, span: TimeRange) -> list[str]:
        """Return the hours' directories that are there, out of those that the range touches."""
        hours = []
        for day in self._names(""):
            for hour in self._names(day) if _DAY.fullmatch(day) else ():
                start_ms = _start_ms(f"{day}/{hour}")
                if start_ms is not None and start_ms < span.to_ms and span.from_ms < start_ms + HOUR_MS:
                    hours.append(f"{day}/{hour}")
        return sorted(hours)

    def _names(self, directory: str) -> list[str]:
        try:
            return self.store.names(directory)
        except OSError as error:
            raise Refusal(f"archive {self.location}: {error}") from error

    def _partitions(self) -> list[int]:
        return sorted(int(found[1]) for name in self._names(DIRECTORY) if (found := _PARTITION.fullmatch(name)))

    def _numbers(self, partition: int) -> list[int]:
        names = self._names(f"{DIRECTORY}/p={partition}")
        return sorted(int(found[1]) for name in names if (found := _MANIFEST.fullmatch(name)))

    def _listing(self, partition: int, number: int) -> _Listing:
        path = _path(partition, number)
        try:
            return _listing_decoder.decode(self.store.read(path))
        except (OSError, *UNREADABLE) as error:
            raise Refusal(f"archive {self.location}: {path} is damaged: {error}") from error

    def _manifest(self, partition: int, number: int) -> Manifest:
        path = _path(partition, number)
        try:
            return decode_manifest(self.store.read(path))
        except (OSError, *UNREADABLE) as error:
            raise Refusal(f"archive {self.location}: {path} is damaged: {error}") from error


def _open(location: str) -> tuple[Store, fs.FileSystem, str]:
    try:
        if "://" not in location:
            return _open_local(location, location)
        filesystem, root = fs.FileSystem.from_uri(location)
        if isinstance(filesystem, fs.LocalFileSystem):
            return _open_local(root, location)
        return ObjectStore(filesystem, root), filesystem, root.rstrip("/")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refusal(f"archive {location}: {' '.join(str(error).split())}") from error


def _open_local(root: str, location: str) -> tuple[Store, fs.FileSystem, str]:
    path = Path(root)
    if not path.is_dir():
        what = "is no directory" if path.exists() else "does not exist"
        raise Refusal(f"archive {location} {what}; expected what zonemeter run flowlog --output wrote")
    return LocalStore(path), fs.LocalFileSystem(), str(path)


def _start_ms(directory: str) -> int | None:
    try:
        moment = datetime.strptime(directory, "date=%Y-%m-%d/hour=%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000


def _path(partition: int, number: int) -> str:
    return f"{DIRECTORY}/p={partition}/{number:012}.json"
