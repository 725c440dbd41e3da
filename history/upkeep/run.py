# SPDX-License-Identifier: Apache-2.0
"""One run of `archive compact` or `archive erase-addresses`: hour by hour, and what is said of it."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.amounts import counted, human
from common.errors import Refusal
from common.input.durations import parse_duration
from common.input.files import scratch
from common.terminal import complain, say
from history.model.rollups import Length
from history.model.time_range import TimeRange, parse_since
from history.read.archive.files import DATA, compacted_hours, hour_directories
from history.read.archive.hours import HOUR_MS, hour_end_ms, touches
from history.read.archive.limits import DAMAGED
from history.read.archive.long_rollups import LongRollup, first_day
from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.progress import progress
from history.upkeep.addresses import Erasure, done_already
from history.upkeep.compact import Compactor, Done, Rule, Taken, UnansweredError, rollups_to_erase
from history.upkeep.days import rollups_to_write, weeks_with_rollups, write_long_rollup
from history.upkeep.manifests import superseded
from history.upkeep.settings import CompactSettings, EraseSettings, RewriteSettings
from sinks.flowlog.archive.manifest import DataFile


class Hour(NamedTuple):
    """An hour that is there, such as `date=2026-11-23/hour=02`; `files`: so many of the flow log's; `rule`: for it.

    `rollups`: so many of flows that expired have addresses.
    """

    name: str
    files: int
    has_compactions: bool
    rule: Rule
    rollups: int = 0

    @property
    def may_be_due(self) -> bool:
        """Whether any of its files may have to be rewritten."""
        return self.files > self.rule.files or (self.rule.old_times and self.has_compactions)


def hours_to_compact(archive: FlowArchive, settings: CompactSettings, now_ms: int) -> Iterator[Hour]:
    """Yield the hours that are old enough, from `since` on, oldest first."""
    span = TimeRange(parse_since(settings.since, now_ms), now_ms - parse_duration(settings.min_age) - HOUR_MS + 1)
    old_ms = now_ms - parse_duration(settings.keep_manifests)
    for hour, files, has_compactions in _hours(archive, span):
        # What stays uncompacted keeps its manifest, and all that came after it.
        may_stay = 0 if hour_end_ms(hour) <= old_ms else settings.max_files
        yield Hour(hour, files, has_compactions, Rule(may_stay, settings.file_size, old_times=settings.old_times))


def hours_to_erase(archive: FlowArchive, settings: EraseSettings, now_ms: int) -> Iterator[Hour]:
    """Yield the hours that are old enough and have more of addresses than is to be left, oldest first.

    In any file, or in the rollups that stay of an hour that expired.
    """
    erasure: Erasure = "network" if settings.keep == "network" else "all"
    span = TimeRange(0, now_ms - parse_duration(settings.older_than) - HOUR_MS + 1)
    for hour, files, has_compactions in _hours(archive, span):
        chain = archive.chain(hour)
        found = files + len(chain.files.keys() - done_already(chain, erasure))
        rollups = len(rollups_to_erase(chain, erasure))
        # An intent: files with addresses may still be there that count no more.
        if found or rollups or chain.intents:
            yield Hour(hour, found, has_compactions, Rule(0, settings.file_size, erasure), rollups)


def _hours(archive: FlowArchive, span: TimeRange) -> Iterator[tuple[str, int, bool]]:
    """Yield the hours of a range, oldest first, with how many files of the flow log there are, and any compactions."""
    compacted = compacted_hours(archive, span)
    found = dict.fromkeys(compacted, 0)
    for directory, names in hour_directories(archive, span).items():
        hour = directory.removeprefix("flows/")
        found[hour] = found.get(hour, 0) + sum(bool(DATA.fullmatch(name)) for name in names)
    for hour in sorted(found, key=hour_end_ms):
        yield hour, found[hour], hour in compacted


class Run:
    """One run of a command."""

    def __init__(self, word: str, settings: RewriteSettings, archive: FlowArchive) -> None:
        self._word = word
        self._settings = settings
        self._archive = archive
        self._compactor = Compactor(archive, parse_duration(settings.delete_after) / 1000)
        self._done: list[Done] = []
        self._forgotten: list[str] = []
        self._rolled_up = 0
        self._failed = 0

    def compact(self, hours: Iterator[Hour]) -> None:
        """Go through hours and say what was done of each."""
        for hour in hours:
            self._try(hour)
            self._delete_replaced()
        self._sum_up()

    def end(self) -> int:
        """Delete what was replaced last, and return the exit status."""
        with progress("waiting to delete what was replaced (--delete-after)"):
            self._delete_replaced(wait=True)
        return 2 if self._failed else 0

    def _delete_replaced(self, *, wait: bool = False) -> None:
        try:
            self._compactor.delete_replaced(wait=wait)
        except OSError as error:
            self._failed += 1
            complain(f"zonemeter archive {self._word}: {error}; what was replaced is deleted by the next run")

    def _try(self, hour: Hour) -> None:
        try:
            self._hour(hour)
        except Taken:
            say(f"{hour.name}: another process compacted it meanwhile")
        except ArchiveChanged:
            say(f"{hour.name}: changed meanwhile; left to the next run")
        except UnansweredError as error:
            self._failed += 1
            complain(
                f"zonemeter archive {self._word}: {error.strerror}; whether {hour.name} was rewritten is not "
                "known: the next run finds out"
            )
        except (Refusal, OSError) as error:
            self._failed += 1
            complain(f"zonemeter archive {self._word}: {error}; {hour.name} stays as it is")

    def roll_up_days(self, span: TimeRange) -> None:
        """Write the rollups of whole days and weeks of a range, from the beginning of its first week on."""
        if not self._settings.dry_run:
            self._roll_up([TimeRange(LongRollup("week", first_day("week", span.from_ms)).span.from_ms, span.to_ms)])

    def roll_up_again(self, now_ms: int) -> None:
        """Write those of other days and weeks that were forgotten since hours in them were compacted."""
        weeks = {LongRollup("week", first_day("week", hour_end_ms(hour) - 1)).span for hour in self._forgotten}
        self._roll_up([TimeRange(week.from_ms, min(week.to_ms, now_ms)) for week in weeks])

    def _roll_up(self, spans: Sequence[TimeRange]) -> None:
        counts: dict[Length, int] = {"day": 0, "week": 0}
        self._forgotten.clear()
        wanted: list[LongRollup] = []
        for span in spans:
            for hours in weeks_with_rollups(self._archive, span):
                with self._rolling_up(hours[0].partition("/")[0]):
                    wanted += rollups_to_write(self._archive, hours, span)
        for each in wanted:
            with self._rolling_up(f"{each.length} of {each.day}"), self._spill() as spill:
                counts[each.length] += write_long_rollup(self._archive, each, Path(spill))
        if said := [counted(count, length) for length, count in counts.items() if count]:
            say(f"{' and '.join(said)} rolled up")

    @contextlib.contextmanager
    def _rolling_up(self, what: str) -> Iterator[None]:
        try:
            yield
        except ArchiveChanged:
            say(f"{what}: changed meanwhile; left to the next run")
        except (Refusal, *DAMAGED) as error:
            self._failed += 1
            said = " ".join(str(error).split())[:300]
            complain(f"zonemeter archive {self._word}: {what}: {said}; its hours' rollups are read instead")

    def _spill(self) -> "tempfile.TemporaryDirectory[str]":
        return scratch("zonemeter-compact-", self._settings.spill_directory)

    def forget_manifests(self, span: TimeRange, before_ms: int) -> None:
        """Delete the manifests of before a time that nobody needs any more.

        Hours beyond the range that keep one of the range are compacted for it, however few files they have.
        """
        found, tried = list[str](), set[str]()

        def compact(hour: str) -> None:
            if hour not in tried and not touches(hour, span):
                tried.add(hour)
                chain = self._archive.chain(hour)
                self._try(Hour(hour, 1, bool(chain.records or chain.intents), Rule(0, self._settings.file_size)))

        # All are found before the first goes: a compaction reads those that were there when the archive was opened.
        with self._manifests_stay():
            for path in superseded(self._archive, span.from_ms, before_ms, compact):
                found.append(path)
        with self._manifests_stay():
            for path in [] if self._settings.dry_run else found:
                self._archive.store.delete(path)
        if found:
            done = "would be deleted" if self._settings.dry_run else "deleted"
            say(f"{counted(len(found), 'manifest')} of compacted files {done}")

    @contextlib.contextmanager
    def _manifests_stay(self) -> Iterator[None]:
        try:
            yield
        except (Refusal, OSError) as error:
            self._failed += 1
            complain(f"zonemeter archive {self._word}: {error}; the manifests from there on stay")

    def _hour(self, hour: Hour) -> None:
        if self._settings.dry_run:
            if hour.rollups:
                say(f"{hour.name}: would rewrite {counted(hour.rollups, 'rollup')} of flows that expired")
                self._rolled_up += 1
            if planned := self._compactor.plan(hour.name, hour.rule) if hour.may_be_due else []:
                say(f"{hour.name}: would rewrite {_files(planned)}, {_rows(planned):,} flows")
                self._done.append(Done(planned, []))
            return
        if hour.has_compactions:
            self._compactor.clear_up(hour.name)
        if not (self._erase_rollups(hour) or hour.may_be_due):
            return
        with self._spill() as spill:
            done = self._compactor.compact(hour.name, hour.rule, Path(spill))
        if done is not None:
            say(f"{hour.name}: {_files(done.before)} -> {_files(done.after)}, {done.rows:,} flows", flush=True)
            self._done.append(done)
            self._forgotten.append(hour.name)

    def _erase_rollups(self, hour: Hour) -> bool:
        """Take addresses out of the rollups of flows that expired; return whether there were any."""
        if not (hour.rule.erasure and hour.rollups):
            return False
        with self._spill() as spill:
            done = self._compactor.erase_rollups(hour.name, hour.rule.erasure, Path(spill))
        if done is None:
            return False
        say(f"{hour.name}: rewrote {counted(len(done.before), 'rollup')} of flows that expired", flush=True)
        self._rolled_up += 1
        self._forgotten.append(hour.name)
        return True

    def _sum_up(self) -> None:
        before = [file for done in self._done for file in done.before]
        after = [file for done in self._done for file in done.after]
        hours = counted(len(self._done), "hour")
        if not (self._done or self._rolled_up or self._failed):
            say("nothing to do")
        if self._rolled_up:
            done = "would be rewritten" if self._settings.dry_run else "rewritten"
            say(f"{counted(self._rolled_up, 'hour')} that expired: rollups {done}")
        if not self._done:
            return
        if self._settings.dry_run:
            say(f"{hours}: {_files(before)} would be rewritten")
        else:
            rows = max(_rows(before), 1)
            each = f"{_size(before) / rows:.1f} -> {_size(after) / rows:.1f} bytes a flow"
            say(f"{hours}: {_files(before)} -> {_files(after)}; {each}")


def _files(files: Sequence[DataFile]) -> str:
    return f"{counted(len(files), 'file')} of {human(_size(files))}"


def _size(files: Sequence[DataFile]) -> int:
    return sum(file.size_bytes for file in files)


def _rows(files: Sequence[DataFile]) -> int:
    return sum(file.rows for file in files)
