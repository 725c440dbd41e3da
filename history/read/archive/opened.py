# SPDX-License-Identifier: Apache-2.0
"""Opens a flow log: its manifests, as they are now, and the compactions of its hours.

Manifests are listed before files are: a file that a running flow log adds meanwhile belongs to a later reading.
Compactions are listed after files are, and may replace and delete files while somebody reads: who finds that out has to
read again, whole, so that nothing counts twice or never. That is `ArchiveChanged`.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa
from pyarrow import fs

from common.errors import Refusal
from common.input.locations import without_secrets
from history.read.archive.object_files import open_object
from schemas.codec import UNREADABLE, check_version, unsupported
from schemas.errors import DecodeError
from sinks.flowlog.archive import compaction
from sinks.flowlog.archive.compaction import Chain, Compaction, read_compaction, record_path
from sinks.flowlog.archive.manifest import SCHEMA_VERSION, DataFile, Manifest, read_manifest
from sinks.flowlog.stores.object_client import open_client, open_files
from sinks.flowlog.stores.objects import ObjectStore, StoreError
from sinks.flowlog.stores.opening import local_path
from sinks.flowlog.stores.store import LocalStore, Store
from sinks.intake import Lane

S = TypeVar("S")
T = TypeVar("T")

DIRECTORY = "_manifests"
# How often an archive is read again that is compacted meanwhile: an hour is compacted once in a while, and no oftener.
ATTEMPTS = 5
_PARTITION = re.compile(r"p=(\d{1,9})")
# As pyarrow says what an object store answered; what is wrong with a file it says otherwise.
_STORE_FAILED = re.compile(r"AWS Error|curlCode|google::cloud|Azure")
_CUT = re.compile(r"Failed to flush response stream|curlCode: (18|56),")
_MANIFEST = re.compile(r"(\d{12})\.json")
# How many threads ask an object store at once, and how many a directory, where more would only wait for Python's lock.
# Each takes several paths at a time, because handing one over takes longer than reading a small file; not too many,
# because an interrupt waits for them.
_READERS, _HANDED_OVER, _AT_A_TIME = {False: 16, True: 4}, 64, 32
# A file that is in memory is read in a fifth of that; one on a disk in many times as much.
_QUICK_SECONDS = 100e-6


class _Listing(msgspec.Struct):
    """Of a manifest, what says which files count."""

    schema_version: int = SCHEMA_VERSION
    files: list[DataFile] = []


_listing_decoder = msgspec.json.Decoder(_Listing)


def _read_listing(value: bytes) -> _Listing:
    try:
        found = _listing_decoder.decode(value)
    except msgspec.ValidationError:
        check_version(value, SCHEMA_VERSION)
        raise
    if found.schema_version != SCHEMA_VERSION:
        raise unsupported(found.schema_version, SCHEMA_VERSION)
    return found


class ReadAgain(Refusal):
    """What was read of the archive so far does not count: read it again, from the beginning."""


class ArchiveChanged(ReadAgain):
    """The archive was compacted, or hours of it deleted, while it was read."""

    def __init__(self, location: str) -> None:
        super().__init__(f"archive {location}: it was compacted while it was read; run the command again")


class AnswerCut(ReadAgain):
    """An object store's answer ended in the middle, which pyarrow does not ask for again."""

    def __init__(self, location: str, path: str) -> None:
        super().__init__(f"archive {location}: {path}: the connection was cut; run the command again")


class StoreAway(Refusal):
    """The place does not answer, or refuses: nothing is known of what is there, so nothing is damaged."""

    def __init__(self, location: str, error: object) -> None:
        super().__init__(f"archive {location}: {' '.join(str(error).split())[:300]}")


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
        versions = {manifest.attribution_version for manifest in self._newest.values()}
        if len(versions) > 1:
            raise Refusal(
                f"archive {location}: its partitions are of attribution_version {min(versions)} and {max(versions)}; "
                "a flow log of each wrote there, and needs a directory of its own"
            )
        # 0: as recorded.
        [self.attribution_version] = versions

    @property
    def partitions(self) -> list[int]:
        """The partitions that it has manifests of."""
        return sorted(self._newest)

    def numbers(self, partition: int) -> list[int]:
        """Return the numbers of a partition's manifests that were there when this was made, ascending."""
        return self._manifests.get(partition, [])

    def manifest(self, partition: int, number: int) -> Manifest:
        """Read one manifest; raise `Refusal` if that cannot be."""
        return self._read(manifest_path(partition, number), lambda value: read_manifest(value, partition, number))

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
        return self._read(manifest_path(partition, number), _read_listing).files

    def chain(self, hour: str, listed: Sequence[str] | None = None) -> Chain:
        """Return an hour's compactions as they are now; raise `Refusal` where one cannot be trusted or is missing.

        `listed`: the names that were in their directory, if it was listed already.
        """
        names = sorted(self.names(f"{compaction.DIRECTORY}/{hour}") if listed is None else listed)
        numbers = [int(name[:6]) for name in names if compaction.RECORD.fullmatch(name)]
        records = [self.compaction(hour, number) for number in numbers]
        # What came before an hour expired is deleted with it.
        first = next((number for number, record in zip(numbers, records, strict=True) if record.expired), 1)
        if absent := sorted(set(range(first, numbers[-1] if numbers else first)) - set(numbers)):
            path = record_path(hour, absent[0])
            raise Refusal(f"archive {self.location}: {path} is missing; restore it: it says which files count")
        intents = [name for name in names if compaction.INTENT.fullmatch(name)]
        return Chain(hour, records, intents)

    def compaction(self, hour: str, number: int) -> Compaction:
        """Read one compaction's record; raise `Refusal` if that cannot be."""
        path = record_path(hour, number)
        return self._read(path, lambda value: read_compaction(value, hour, number))

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory of it; raise `Refusal` if that cannot be."""
        try:
            return self.store.names(directory)
        except OSError as error:
            raise StoreAway(self.location, error) from error

    def names_in(self, directory: str, below: Sequence[str]) -> list[list[str]]:
        """Return the names in each of these directories of one; raise `Refusal` if that cannot be."""
        try:
            return self.store.names_in(directory, below)
        except OSError as error:
            raise StoreAway(self.location, error) from error

    def has(self, path: str) -> bool:
        """Return whether a file is there, by its name and not by a listing, which may lag behind."""
        try:
            return self.store.exists(path)
        except OSError as error:
            raise StoreAway(self.location, error) from error

    def in_threads(self, call: Callable[[S], T], arguments: Iterable[S]) -> list[T]:
        """Return what a call that asks it returns of each: many wait for its answers at once."""
        every = [*arguments]
        done = _while_quick(call, every) if self.is_local else []
        left = range(len(done), len(every), min(-(-len(every) // _HANDED_OVER), _AT_A_TIME) or 1)
        parts = [every[begin : begin + left.step] for begin in left]
        with ThreadPoolExecutor(_READERS[self.is_local]) as pool:
            return [*done, *(each for part in pool.map(lambda part: [*map(call, part)], parts) for each in part)]

    def check_answers(self, path: str, error: Exception) -> None:
        """Raise `StoreAway` or `AnswerCut` if `error` came not of the file, but of the object store that it is in."""
        if self.is_local or isinstance(error, FileNotFoundError):
            return
        if isinstance(error, StoreError):
            raise StoreAway(self.location, error) from error
        if _CUT.search(str(error)):
            raise AnswerCut(self.location, path) from error
        if _STORE_FAILED.search(str(error)):
            raise StoreAway(self.location, f"{path}: {error}") from error
        self.has(path)

    def open(self, path: str) -> pa.NativeFile:
        """Open a file of it, to be read anywhere; raises `OSError`."""
        if isinstance(self.store, ObjectStore):
            return open_object(self.store, path)
        return self.filesystem.open_input_file(self._file(path))

    def open_stream(self, path: str) -> pa.NativeFile:
        """Open a file of it, to be read from its beginning on; raises `OSError`."""
        if isinstance(self.store, ObjectStore):
            return open_object(self.store, path)
        return self.filesystem.open_input_stream(self._file(path))

    def _file(self, path: str) -> str:
        """Return where a file is; raise `OSError` for what is not one: a pipe without a writer never opens."""
        whole = f"{self.root}/{path}"
        if self.is_local and self.filesystem.get_file_info(whole).type not in (fs.FileType.File, fs.FileType.NotFound):
            raise OSError("it is not a file")
        return whole

    def _partitions(self) -> list[int]:
        return sorted(int(found[1]) for name in self.names(DIRECTORY) if (found := _PARTITION.fullmatch(name)))

    def _numbers(self, partition: int) -> list[int]:
        names = self.names(f"{DIRECTORY}/p={partition}")
        return sorted(int(found[1]) for name in names if (found := _MANIFEST.fullmatch(name)))

    def _read(self, path: str, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(self.store.read(path))
        except FileNotFoundError as error:
            # It was listed a moment ago; nobody but upkeep deletes any, the oldest first.
            raise ArchiveChanged(self.location) from error
        except StoreError as error:
            raise StoreAway(self.location, error) from error
        except DecodeError as error:
            raise Refusal(
                f"archive {self.location}: {path}: {error}; run the version of zonemeter that wrote it"
            ) from error
        except (OSError, ValueError, *UNREADABLE) as error:
            raise Refusal(f"archive {self.location}: {path} is damaged: {error}") from error


def _open(location: str) -> tuple[Store, fs.FileSystem, str]:
    if path := local_path(location):
        return _open_local(str(path), location)
    try:
        return ObjectStore(open_client(location)), *open_files(location)
    except (OSError, ValueError) as error:
        raise Refusal(f"archive = {without_secrets(location)!r}: {error}") from error


def _open_local(root: str, location: str) -> tuple[Store, fs.FileSystem, str]:
    path = Path(root)
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise Refusal(f"archive = {location!r} {what}; expected what zonemeter run flowlog --output wrote")
    return LocalStore(path), fs.LocalFileSystem(), str(path)


def _while_quick(call: Callable[[S], T], arguments: Iterable[S]) -> list[T]:
    """Return what a call returns of the first arguments, for as long as one thread is the quickest way to do it.

    What is in memory is read sooner by one: several wait for Python's lock at each read. A disk is waited for by many.
    """
    done, began = list[T](), time.perf_counter()
    for argument in arguments:
        done.append(call(argument))
        if time.perf_counter() - began > (_AT_A_TIME + len(done)) * _QUICK_SECONDS:
            break
    return done


def manifest_path(partition: int, number: int) -> str:
    """Return where a manifest stands, relative to the archive."""
    return f"{DIRECTORY}/p={partition}/{number:012}.json"
