# SPDX-License-Identifier: Apache-2.0
"""Finds the flow log's files of a time range, and misses those that are gone.

    flows/date=2026-11-23/hour=02/flows-p3-000000000017-5c9e01.parquet     by window start (UTC)
    _manifests/p=3/000000000017.json

Flow logs of before 2026-12 have their dates beside _manifests; the rest of such an archive is below flows/.

A file's name says which manifest must list it, so only the manifests of the range are read, not all that ever were:
those of the files that are there, and on from these in both directions while they list files of the range, because a
file that is gone names nobody. Part of an hour that is gone is damage. An hour that is gone whole was deleted, which
is how a flow log is kept small: that is said, and no fault. What a compaction replaced is neither.

Files are listed before compactions are. What a compaction replaced by then is left out whether it was still there or
not; a compaction of later has deleted nothing before the files were listed.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from common.errors import Refusal
from history.model.time_range import TimeRange
from history.read.archive.hours import hour_start_ms, touches
from history.read.archive.opened import ArchiveChanged, FlowArchive, manifest_path
from sinks.flowlog.archive.archive import FLOWS
from sinks.flowlog.archive.compaction import (
    COMPACTED,
    DIRECTORY,
    ROLLUPS,
    Chain,
    intent_path,
    record_path,
    rollup_path,
)
from sinks.flowlog.archive.manifest import DataFile

_HOURS = [f"hour={number:02}" for number in range(24)]
DATA = re.compile(r"flows-p(\d{1,9})-(\d{12})-[0-9a-f]{6}\.(parquet|jsonl)")
# Manifests are in order of what was taken, which is nearly that of time: so many in a row that list nothing of the
# range, and none beyond them does.
_ENOUGH_BESIDE = 16


@dataclass(slots=True)
class Chapter:
    """The files of a time range. Paths are relative to the archive. `unlisted`: files there that do not count.

    `compacted`: how many of the files, the first ones, are compactions'.
    `rollups`: those that count, by path: of compactions' files, and of hours that have expired. `gone`: the hours of
    the range of which manifests list files, and no file is left.
    """

    files: list[DataFile] = field(default_factory=list)
    compacted: int = 0
    unlisted: int = 0
    rollups: dict[str, DataFile] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    @property
    def paths(self) -> list[str]:
        """The files' paths."""
        return [file.path for file in self.files]

    @property
    def deleted(self) -> str:
        """The newest hour that is gone; empty if none is."""
        return max(self.gone, default="")

    @property
    def left(self) -> list[str]:
        """The rollups that stand for flows which are gone."""
        there = {rollup_path(path) for path in self.paths}
        return [path for path in self.rollups if path not in there]


def find_chapter(archive: FlowArchive, span: TimeRange) -> Chapter:
    """Return the files of the hours that `span` touches; raise `Refusal` where one that counts is missing.

    Raises `ArchiveChanged` where compactions hold flows of manifests that were not there when the archive was opened.
    """
    return _Search(archive, span).run()


def hour_directories(archive: FlowArchive, span: TimeRange) -> dict[str, list[str]]:
    """Return the names in the hours' directories that are there, out of those that the range touches."""
    return {
        f"{above}/{hour}".removeprefix("/"): names
        for above in (FLOWS, "")
        for hour, names in _hours_below(archive, above, span).items()
    }


def compacted_hours(archive: FlowArchive, span: TimeRange) -> dict[str, list[str]]:
    """Return the names of what compactions left, by hour, such as `date=2026-11-23/hour=02`, of those of a range."""
    return _hours_below(archive, DIRECTORY, span)


def hours_with_rollups(archive: FlowArchive, span: TimeRange) -> list[str]:
    """Return the hours that have rollups, out of those that a range touches."""
    return [*_hours_below(archive, ROLLUPS, span)]


def _hours_below(archive: FlowArchive, above: str, span: TimeRange) -> dict[str, list[str]]:
    """Return the names in the hours below a directory, oldest first. Of a year only the range's days are listed."""

    def hours_of(day: str) -> dict[str, list[str]]:
        hours = [hour for hour in _HOURS if touches(f"{day}/{hour}", span)]
        found = archive.names_in(f"{above}/{day}".removeprefix("/"), hours) if hours else []
        return {f"{day}/{hour}": names for hour, names in zip(hours, found, strict=True) if names}

    days = sorted(archive.names(above))
    return {hour: names for hours in archive.in_threads(hours_of, days) for hour, names in hours.items()}


class _Search:
    """One search. `_there`: the data files of the range by partition and number; `_hours`: those that hold any.

    `_gone`: hours of which no file is listed, nor there when one was asked for by its name. `_replaced`: what
    compactions replaced; `_numbers`: the manifests that list such, by partition; `_newest`: the number of an hour's
    newest compaction.
    """

    def __init__(self, archive: FlowArchive, span: TimeRange) -> None:
        self._archive = archive
        self._span = span
        self._chapter = Chapter()
        self._there: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._hours: set[str] = set()
        self._expired: set[str] = set()
        self._gone: set[str] = set()
        self._replaced: set[str] = set()
        self._numbers: dict[int, set[int]] = defaultdict(set)
        self._newest: dict[str, int] = {}

    def run(self) -> Chapter:
        names = hour_directories(self._archive, self._span)
        touched = compacted_hours(self._archive, self._span)
        for chain in self._archive.in_threads(lambda hour: self._archive.chain(hour, touched[hour]), touched):
            self._take_chain(chain, {*names.get(f"{FLOWS}/{chain.hour}", ())})
        counted = {*self._chapter.paths}
        for hour, there in names.items():
            self._take_names(hour, there, counted)
        for partition in sorted({*self._there, *self._numbers, *self._archive.partitions}):
            self._check(partition)
        return self._chapter

    def _take_chain(self, chain: Chain, there: set[str]) -> None:
        """Take the files that compactions wrote."""
        self._newest[chain.hour] = chain.newest
        self._replaced |= chain.replaced
        # Not what expired: nothing of it stands in another file, and it may be what a killed flow log left unlisted.
        moved = (path for record in chain.records if not record.expired for path in record.replaces)
        for found in filter(None, (DATA.fullmatch(path.rpartition("/")[2]) for path in moved)):
            self._numbers[int(found[1])].add(int(found[2]))
        if chain.expired:
            self._expired.add(chain.hour)
            self._chapter.gone.add(f"{FLOWS}/{chain.hour}")
        if chain.files and not any(COMPACTED.fullmatch(name) or DATA.fullmatch(name) for name in there):
            # Somebody deleted the directory.
            self._chapter.gone.add(f"{FLOWS}/{chain.hour}")
            return
        self._chapter.rollups |= chain.rollups
        for path, file in sorted(chain.files.items()):
            directory, _, name = path.rpartition("/")
            if name not in there:
                self._miss(path)
            self._hours.add(directory)
            self._chapter.files.append(file)
        self._chapter.compacted = len(self._chapter.files)

    def _miss(self, path: str) -> None:
        """Say that a file which a compaction wrote is missing, unless it came after the files had been listed.

        Then it is taken: what it replaced is not, whether it is still there or not.
        """
        directory, _, name = path.rpartition("/")
        if name in self._archive.names(directory):
            return
        chain = self._archive.chain(directory.removeprefix(f"{FLOWS}/"))
        if path not in chain.files:
            raise ArchiveChanged(self._archive.location)
        raise Refusal(
            f"archive {self._archive.location}: {path} is missing, a compaction wrote it; "
            "restore it, or ask for a time without that hour"
        )

    def _take_names(self, hour: str, names: Iterable[str], counted: Container[str]) -> None:
        """Take note of the files in an hour's directory, but for those that are counted already."""
        for name in names:
            path = f"{hour}/{name}"
            if path in self._replaced:
                continue
            if found := DATA.fullmatch(name):
                self._there[int(found[1])][int(found[2])].add(path)
                self._hours.add(hour)
            elif (found := COMPACTED.fullmatch(name)) and path not in counted:
                self._check_compacted(path, int(found[1]), found[2])
                self._chapter.unlisted += 1

    def _check_compacted(self, path: str, sequence: int, writer: str) -> None:
        """Raise `Refusal` where a file of a compaction has neither a record nor an intent: it counts, or it did."""
        hour = _hour_of(path).removeprefix(f"{FLOWS}/")
        if sequence <= self._newest.get(hour, 0) or self._archive.has(intent_path(hour, sequence, writer)):
            return
        # In this order: a compaction that fails deletes its files before its intent, one that ends has a record.
        if self._archive.has(path) and self._archive.chain(hour).newest < sequence:
            raise self._missing(record_path(hour, sequence), f"it says that {path} counts")

    def _missing(self, path: str, why: str) -> Refusal:
        return Refusal(f"archive {self._archive.location}: {path} is missing; restore it: {why}")

    def _check_ends(self, partition: int, known: Sequence[int]) -> None:
        """Raise `Refusal` where manifests are missing before those that are there, or behind them."""
        replaced = max(self._numbers.get(partition, ()), default=0)
        if replaced > (known[-1] if known else 0):
            # Of each partition the newest manifest stays, whatever is deleted.
            if replaced <= max(FlowArchive(self._archive.location).numbers(partition), default=0):
                raise ArchiveChanged(self._archive.location)
            raise self._missing(manifest_path(partition, replaced), "a compaction replaced files that it lists")
        files = self._there.get(partition, {})
        # A flow log's first file may be there before its first manifest.
        if not known and max(files, default=0) > 1 and not FlowArchive(self._archive.location).numbers(partition):
            raise self._missing(manifest_path(partition, 1), "its rows count, and those of all behind it")
        for number, paths in sorted(files.items()):
            if known and number < known[0] and any(_hour_of(path) not in self._chapter.gone for path in paths):
                raise self._missing(manifest_path(partition, number), "its rows count")

    def _check(self, partition: int) -> None:
        known = self._archive.numbers(partition)
        files = self._there.get(partition, {})
        replaced = self._numbers.get(partition, set())
        self._check_ends(partition, known)
        counted = [number for number in {*files, *replaced} if known and known[0] <= number <= known[-1]]
        self._chapter.unlisted += sum(len(paths) for number, paths in files.items() if number not in counted)
        if not known:
            return
        if counted:
            low, high = bisect_left(known, min(counted)), bisect_right(known, max(counted))
        else:
            low = high = self._where(partition, known)
        # What lies on either side is known by the files of the other: of those between, none may be missing.
        self._take(partition, known[low:high], after=None)
        self._go_on(partition, known[:low][::-1], after=known[low] if counted else None)
        self._go_on(partition, known[high:], after=known[high - 1] if counted else None)

    def _go_on(self, partition: int, numbers: Sequence[int], after: int | None) -> None:
        """Take manifests, away from those of the files that are there, while they list files of the range."""
        for begin in range(0, len(numbers), _ENOUGH_BESIDE):
            some = numbers[begin : begin + _ENOUGH_BESIDE]
            if not self._take(partition, some, after):
                return
            after = some[-1]

    def _take(self, partition: int, numbers: Sequence[int], after: int | None) -> bool:
        """Take what manifests list of the range; return whether any of that is there."""
        any_there = False
        listings = self._archive.in_threads(lambda number: self._archive.listing(partition, number), numbers)
        for number, listing in zip(numbers, listings, strict=True):
            listed = {file.path: file for file in listing if touches(_hour_of(file.path), self._span)}
            if listed and after is not None and abs(number - after) > 1:
                absent = manifest_path(partition, min(number, after) + 1)
                raise self._missing(absent, "its rows count")
            after = number if listed or after is None or abs(number - after) == 1 else after
            self._chapter.unlisted += len(self._there.get(partition, {}).get(number, set()) - listed.keys())
            for _, file in sorted(listed.items()):
                any_there |= self._take_file(partition, number, file)
        return any_there

    def _take_file(self, partition: int, number: int, file: DataFile) -> bool:
        """Take a file; return whether it is there, or its flows are in another."""
        path = file.path
        hour = _hour_of(path)
        if path in self._replaced:
            return True
        if path not in self._there.get(partition, {}).get(number, set()) and not self._lags(path, hour):
            if hour not in self._hours or hour.removeprefix(f"{FLOWS}/") in self._expired:
                self._chapter.gone.add(hour)
                return False
            raise Refusal(
                f"archive {self._archive.location}: {path} is missing, {manifest_path(partition, number)} lists it; "
                "restore it, or ask for a time without that hour"
            )
        if not path.endswith(".parquet"):
            raise Refusal(f"archive {self._archive.location}: {path}: only Parquet can be read back")
        self._chapter.files.append(file)
        return True

    def _lags(self, path: str, hour: str) -> bool:
        """Return whether a file is there that no listing has, as where an object store's listings lag behind."""
        if hour in self._gone or hour.removeprefix(f"{FLOWS}/") in self._expired:
            return False
        if self._archive.has(path):
            return True
        if hour not in self._hours:
            self._gone.add(hour)
        return False

    def _where(self, partition: int, known: Sequence[int]) -> int:
        """Return the place of the first manifest that reaches into the range, of a partition with no file in it."""
        begin_ms = max(self._span.from_ms, min(filter(None, map(hour_start_ms, self._hours)), default=0))

        def newest_ms(number: int) -> int:
            marks = self._archive.manifest(partition, number).marks
            return max((marked.mark.seen_ms for marked in marks), default=0)

        return bisect_right(known, begin_ms, key=newest_ms)


def _hour_of(path: str) -> str:
    return path.rpartition("/")[0]
