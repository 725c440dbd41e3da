# SPDX-License-Identifier: Apache-2.0
"""Deletes hours of an archive, whole: a record first, after which nothing of the hour counts, then the files.

The record stays, so that what is gone reads as deleted and not as damage, also where a part of it is still there.
"""

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from common.errors import Refusal
from history.read.archive.files import DATA
from history.read.archive.hours import hour_end_ms
from history.read.archive.long_rollups import first_day
from history.read.archive.opened import FlowArchive
from history.upkeep.addresses import LEVELS, Erasure, at_least
from history.upkeep.compact import Compactor, Rule, Taken
from history.upkeep.days import forget_long_rollups
from sinks.flowlog.archive import compaction
from sinks.flowlog.archive.archive import FLOWS
from sinks.flowlog.archive.compaction import COMPACTED, REPLACED, ROLLUPS, Chain, Compaction, record_path, rollup_path
from sinks.flowlog.archive.manifest import DataFile, encode

# Hours that ended less than this ago, or before the newest flow, stay, whatever the room: the flow log may still write
# there, and the clock may be wrong.
WRITTEN_MS = 86_400_000
# Of what is deleted at once.
_LATE_FILE_BYTES = 1 << 30


class StoredHour(NamedTuple):
    """An hour that has data files: its name, such as `date=2026-11-23/hour=02`, their paths and their size."""

    name: str
    paths: Sequence[str]
    size_bytes: int

    @property
    def end_ms(self) -> int:
        """When it ends, in Unix milliseconds."""
        return hour_end_ms(self.name)


def stored_hours(archive: FlowArchive) -> list[StoredHour]:
    """Return the hours that there are, oldest first. Raises `OSError`."""
    paths: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for path, size in _files(archive):
        if found := REPLACED.fullmatch(path):
            paths[found[1]].append(path)
            sizes[found[1]] += size
    hours = (StoredHour(name, sorted(paths[name]), sizes[name]) for name in paths if hour_end_ms(name))
    return sorted(hours, key=lambda hour: hour.end_ms)


def _files(archive: FlowArchive) -> Iterator[tuple[str, int]]:
    """Yield path and size of each file below the directories of data."""
    old = [name for name in archive.names("") if name.startswith("date=")]
    for directory in (FLOWS, *old):
        selector = fs.FileSelector(f"{archive.root}/{directory}", allow_not_found=True, recursive=True)
        for info in archive.filesystem.get_file_info(selector):
            if info.type == fs.FileType.File:
                yield info.path.removeprefix(f"{archive.root}/"), info.size


def chosen(
    hours: Sequence[StoredHour], now_ms: int, keep_ms: int, max_bytes: int | None, newest_ms: int | None = None
) -> list[StoredHour]:
    """Return the hours to delete, of all that there are, oldest first: those too old, and what is too much.

    `newest_ms`: of the newest flow, whose day stays; None: it may go.
    """
    written_ms = (now_ms if newest_ms is None else min(now_ms, newest_ms)) - WRITTEN_MS
    kept = sum(hour.size_bytes for hour in hours)
    found = []
    for hour in hours:
        is_too_old = hour.end_ms <= now_ms - keep_ms
        is_too_much = max_bytes is not None and kept > max_bytes
        if not (is_too_old or is_too_much) or hour.end_ms > written_ms:
            break
        found.append(hour)
        kept -= hour.size_bytes
    return found


def rolled_up_hours(archive: FlowArchive, before_ms: int) -> list[StoredHour]:
    """Return the hours that ended by then, have rollups and no flows any more; oldest first."""
    days = (f"{ROLLUPS}/{day}" for day in archive.names(ROLLUPS))
    names = (f"{day}/{hour}".removeprefix(f"{ROLLUPS}/") for day in days for hour in archive.names(day))
    old = [name for name in names if compaction.HOUR.fullmatch(name) and 0 < hour_end_ms(name) <= before_ms]
    return [StoredHour(name, [], 0) for name in sorted(old) if not archive.names(f"{FLOWS}/{name}")]


class BeingWritten(Refusal):
    """An hour with rollups has a file of the last day that no manifest lists: one may any moment."""


def roll_up_late(archive: FlowArchive, hour: StoredHour, spill: Path, now_ms: int) -> None:
    """Compact what came after an hour had rollups, so that these are of all its flows and may stay.

    `spill`: an empty directory of this machine. Raises as `Compactor` does, `Refusal` where they are not of all, and
    `BeingWritten` where they may be soon.
    """
    chain = archive.chain(hour.name)
    if not chain.rollups or _kept(archive, chain, hour):
        return
    Compactor(archive).compact(hour.name, Rule(0, _LATE_FILE_BYTES), spill)
    chain = archive.chain(hour.name)
    if not _kept(archive, chain, hour):
        without = sorted(path for path in _counting(archive, chain, hour) if rollup_path(path) not in chain.rollups)
        infos = archive.filesystem.get_file_info([f"{archive.root}/{path}" for path in without])
        ages_ms = (None if info.mtime_ns is None else abs(now_ms - info.mtime_ns // 1_000_000) for info in infos)
        refusal = Refusal if all(age_ms is not None and age_ms >= WRITTEN_MS for age_ms in ages_ms) else BeingWritten
        raise refusal(f"archive {archive.location}: {without[0]} is in no rollup, and no manifest lists it yet")


def expire(archive: FlowArchive, hour: StoredHour, *, rollups: bool = True) -> None:
    """Delete an hour, but for its rollups if these may stay; killed anywhere, the next run goes on.

    Raises `Refusal`, `Taken` and `OSError`.
    """
    chain = archive.chain(hour.name)
    kept_rollups = _kept(archive, chain, hour) if rollups else []
    record = Compaction(
        hour=hour.name,
        sequence=chain.newest + 1,
        writer=secrets.token_hex(3),
        rollups=kept_rollups,
        erased=_erased(chain, kept_rollups),
        replaces=sorted({*hour.paths, *chain.files}),
        expired=True,
    )
    store = archive.store
    left = {rollup.path for rollup in record.rollups}
    if not (chain.expired and chain.replaced >= set(record.replaces) and chain.rollups.keys() == left):
        if chain.rollups.keys() != left:
            forget_long_rollups(archive, hour.name)
        ours = store.create(record_path(hour.name, record.sequence), [encode(record)])
        if not ours and archive.compaction(hour.name, record.sequence).writer != record.writer:
            raise Taken
    # The files last: as long as any is there, the next run finds the hour.
    _forget(archive, hour.name)
    kept = archive.chain(hour.name).rollups
    for name in archive.names(f"{ROLLUPS}/{hour.name}"):
        if (path := f"{ROLLUPS}/{hour.name}/{name}") not in kept:
            store.delete(path)
    for path in record.replaces:
        store.delete(path)
    if archive.is_local:
        week = first_day("week", hour.end_ms - 1)
        for directory in (f"{ROLLUPS}/{hour.name}", f"{ROLLUPS}/{week}", f"{FLOWS}/{hour.name}", hour.name):
            with contextlib.suppress(OSError):
                Path(archive.root, directory).rmdir()
                Path(archive.root, directory).parent.rmdir()


def _kept(archive: FlowArchive, chain: Chain, hour: StoredHour) -> list[DataFile]:
    """Return the rollups that take the place of an hour's flows: none where they are not of all of them."""
    if not (rollups := chain.rollups):
        return []
    flows = _counting(archive, chain, hour)
    return list(rollups.values()) if rollups.keys() >= {rollup_path(path) for path in flows} else []


def _counting(archive: FlowArchive, chain: Chain, hour: StoredHour) -> set[str]:
    """Return the files of an hour that hold flows which count, or are about to.

    Of what compactions wrote it is what a record lists, of what the flow log wrote what a manifest lists: the rest is
    what killed ones left. A file without a manifest of its number may get one any moment.
    """
    written = {path for path in hour.paths if not COMPACTED.fullmatch(path.rpartition("/")[2])} - chain.replaced
    # What is gone was compacted by another that expires the hour, too.
    there = {path for path in written if _may_count(archive, path) and archive.has(path)}
    return there | (chain.files.keys() - chain.replaced)


def _may_count(archive: FlowArchive, path: str) -> bool:
    found = DATA.fullmatch(path.rpartition("/")[2])
    if found is None or (number := int(found[2])) not in archive.numbers(partition := int(found[1])):
        return True
    return any(file.path == path for file in archive.listing(partition, number))


def _erased(chain: Chain, rollups: Sequence[DataFile]) -> Erasure | None:
    """Return how much of addresses was taken out of each of these rollups, or of the file that it is of."""
    of = {file.path for file in rollups}
    for level in reversed(LEVELS):
        erased = chain.erased(at_least(level))
        if of and of <= erased:
            return level
    return None


def _forget(archive: FlowArchive, hour: str) -> None:
    """Delete the records of before an hour expired: of all that they speak of nothing counts any more."""
    chain = archive.chain(hour)
    last = max(record.sequence for record in chain.records if record.expired)
    for record in chain.records:
        if record.sequence < last:
            archive.store.delete(record_path(hour, record.sequence))
    for name in chain.intents:
        if int(name[:6]) <= last:
            archive.store.delete(f"{compaction.DIRECTORY}/{hour}/{name}")
