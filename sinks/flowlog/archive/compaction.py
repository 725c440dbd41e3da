# SPDX-License-Identifier: Apache-2.0
"""A compaction: files of one hour that count in the place of others, or, once the hour has expired, of nothing. Pure.

    _compactions/date=2026-11-23/hour=02/000001.json
    _compactions/date=2026-11-23/hour=02/000002-5c9e01.intent            until all that it is about is done
    flows/date=2026-11-23/hour=02/flows-c000001-5c9e01-0.parquet         a file that a compaction wrote
    rollups/date=2026-11-23/hour=02/flows-c000001-5c9e01-0.parquet       its rollup: the file's flows, summed up
    rollups/date=2026-11-23/day-0f3a….parquet                            what all rollups of the day come to
    rollups/date=2026-11-19/week-71c0….parquet                           of the week that begins that day

Records of an hour are a chain, numbered from 1 without holes. Of an hour these files count: those that manifests list
and those that compactions wrote, without those that any compaction replaces. A rollup counts as long as its file does,
and where an hour has expired as long as the newest record of that names it.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from schemas.codec import Count
from sinks.flowlog.archive.manifest import DataFile, Intent, decode_intent

SCHEMA_VERSION = 1
DIRECTORY = "_compactions"
ROLLUPS = "rollups"
# An hour of a thousand partitions that is cut each ten seconds has 360,000 files.
MAX_RECORD_BYTES = 64 * 1024 * 1024
HOUR = re.compile(r"date=\d{4}-\d\d-\d\d/hour=\d\d", re.ASCII)
RECORD, INTENT = re.compile(r"\d{6}\.json", re.ASCII), re.compile(r"\d{6}-[0-9a-f]{6}\.intent", re.ASCII)
LONG_ROLLUP = re.compile(r"(day|week)-[0-9a-f]{32}\.parquet", re.ASCII)
COMPACTED = re.compile(r"flows-c(\d{6})-([0-9a-f]{6})-\d{1,6}\.parquet", re.ASCII)
REPLACED = re.compile(
    r"(?:flows/)?(date=[^/]+/hour=[^/]+)/flows-(?:p\d{1,9}-\d{12}-[0-9a-f]{6}|c\d{6}-[0-9a-f]{6}-\d{1,6})"
    r"\.(?:parquet|jsonl)",
    re.ASCII,
)


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """One record. Paths are relative to the archive. `writer` tells processes apart.

    `rollups`: those of the files. `expired`: what it replaces was deleted for its age or for room, and
    nothing took its place but the rollups that it names. `erased`: of the addresses in its files and rollups that are
    not the cluster's own, the hosts were taken out and the network is left, or all.
    """

    schema_version: int = SCHEMA_VERSION
    hour: str
    sequence: Count
    writer: str
    files: list[DataFile] = []
    rollups: list[DataFile] = []
    replaces: list[str] = []
    expired: bool = False
    erased: Literal["network", "all"] | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """The compactions of one hour, in their order, and the names of intents that are still there."""

    hour: str
    records: Sequence[Compaction] = ()
    intents: Sequence[str] = ()

    @property
    def newest(self) -> int:
        """The newest one's number; 0 if there is none."""
        return self.records[-1].sequence if self.records else 0

    @property
    def replaced(self) -> set[str]:
        """What does not count any more, whether it is still there or not."""
        return {path for record in self.records for path in record.replaces}

    @property
    def files(self) -> dict[str, DataFile]:
        """What counts of what compactions wrote, by path."""
        replaced = self.replaced
        written = (file for record in self.records for file in record.files)
        return {file.path: file for file in written if file.path not in replaced}

    def erased(self, levels: Collection[str]) -> set[str]:
        """Return the files and rollups out of which addresses were taken to one of these levels."""
        return {
            file.path for record in self.records if record.erased in levels for file in (*record.files, *record.rollups)
        }

    @property
    def left(self) -> list[str]:
        """The rollups that count and stand for flows which expired."""
        files = {rollup_path(path) for path in self.files}
        return [path for path in self.rollups if path not in files]

    @property
    def rollups(self) -> dict[str, DataFile]:
        """The rollups that count, by path."""
        counting: dict[str, DataFile] = {}
        files = {rollup_path(path) for path in self.files}
        for record in self.records:
            if record.expired:
                counting = {rollup.path: rollup for rollup in record.rollups}
            else:
                counting |= {rollup.path: rollup for rollup in record.rollups if rollup.path in files}
        return counting

    @property
    def expired(self) -> bool:
        """Whether the hour has expired."""
        return any(record.expired for record in self.records)


_decoder = msgspec.json.Decoder(Compaction)


def read_compaction(value: bytes, hour: str, sequence: int) -> Compaction:
    """Decode the record of that place; raise `UNREADABLE` or `ValueError` if it is not that one.

    What it replaces is deleted, so it may name files of its own hour only, and as its own only those of its writer.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise ValueError(f"it has {len(value):,} bytes, at most {MAX_RECORD_BYTES:,} are read")
    found = _decoder.decode(value)
    if found.schema_version != SCHEMA_VERSION:
        raise ValueError(f"it has schema_version {found.schema_version}, this version of zonemeter reads 1")
    if (found.hour, found.sequence) != (hour, sequence):
        raise ValueError(f"it is compaction {found.sequence} of {found.hour[:200]!r}")
    for path in found.replaces:
        replaced = REPLACED.fullmatch(path)
        if replaced is None or replaced[1] != hour:
            raise ValueError(f"it replaces {path[:200]!r}, which is not a file of its hour")
    _check_own([file.path for file in found.files], hour, sequence, found.writer)
    _check_rollups(found)
    return found


def read_compaction_intent(value: bytes, hour: str, name: str) -> Intent:
    """Decode the intent of that name; raise `UNREADABLE` or `ValueError` if its writer has no such files."""
    found = decode_intent(value)
    sequence, _, writer = name.removesuffix(".intent").partition("-")
    if found.sequence != int(sequence):
        raise ValueError(f"it is the intent of compaction {found.sequence}")
    paths = set(found.paths)
    rollups = {path for path in paths if path.startswith(f"{ROLLUPS}/")}
    _check_own([path for path in found.paths if path not in rollups], hour, found.sequence, writer)
    if other := rollups - {rollup_path(path) for path in paths - rollups}:
        raise ValueError(f"its writer has no file {min(other)[:200]!r}")
    return found


def _check_rollups(found: Compaction) -> None:
    paths = [rollup.path for rollup in found.rollups]
    files = {rollup_path(file.path) for file in found.files}
    for path in paths:
        directory, _, name = path.rpartition("/")
        kept = found.expired and directory == f"{ROLLUPS}/{found.hour}" and COMPACTED.fullmatch(name)
        if path not in files and not kept:
            raise ValueError(f"it has no file that {path[:200]!r} is the rollup of")
    if len(set(paths)) != len(paths):
        raise ValueError("it names a rollup twice")


def _check_own(paths: Sequence[str], hour: str, sequence: int, writer: str) -> None:
    for path in paths:
        directory, _, name = path.rpartition("/")
        own = COMPACTED.fullmatch(name)
        if own is None or directory != f"flows/{hour}" or (int(own[1]), own[2]) != (sequence, writer):
            raise ValueError(f"its writer has no file {path[:200]!r}")
    if len(set(paths)) != len(paths):
        raise ValueError("it names a file twice")


def compacted_path(hour: str, sequence: int, writer: str, number: int) -> str:
    """Return the path of the `number`-th file that a compaction writes."""
    return f"flows/{hour}/flows-c{sequence:06}-{writer}-{number}.parquet"


def rollup_path(path: str) -> str:
    """Return the path of the rollup of a file that a compaction wrote."""
    return f"{ROLLUPS}/{path.partition('/')[2]}"


def long_rollup_path(length: Literal["day", "week"], day: str, rollups: Iterable[str]) -> str:
    """Return the path of what hours' rollups come to: it is named after theirs.

    `day`: theirs, such as `date=2026-11-23`, or their week's first.
    """
    digest = hashlib.sha256("\n".join(sorted(rollups)).encode()).hexdigest()[:32]
    return f"{ROLLUPS}/{day}/{length}-{digest}.parquet"


def record_path(hour: str, sequence: int) -> str:
    """Return the path of a record."""
    return f"{DIRECTORY}/{hour}/{sequence:06}.json"


def intent_path(hour: str, sequence: int, writer: str) -> str:
    """Return the path of an intent."""
    return f"{DIRECTORY}/{hour}/{sequence:06}-{writer}.intent"
