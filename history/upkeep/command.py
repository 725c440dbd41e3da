# SPDX-License-Identifier: Apache-2.0
"""`zonemeter archive compact`: few, sorted files in the place of an hour's many small ones.

Exit status 0 if all was done that there was to do, 2 for wrong use, or if an hour could not be compacted.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ByteSize, Field

from common.amounts import counted, human
from common.durations import Duration, parse_duration
from common.entry_point import entry_point
from common.errors import Refusal
from common.settings import Settings
from common.terminal import complain, say
from history.model.time_range import Since, TimeRange, parse_since
from history.read import interrupts
from history.read.archive import ArchiveChanged, FlowArchive
from history.read.archive_files import DATA, HOUR_MS, hour_directories, hour_start_ms, touches
from history.upkeep.compact import Compactor, Done, Rule, Taken
from sinks.flowlog.manifest import DataFile

PROG = "zonemeter archive compact"


class ArchiveSettings(Settings):
    """An archive to look after."""

    archive: str = Field(min_length=1, description="directory or URI of the Parquet flow log")
    dry_run: bool = Field(False, description="only say what would be done")


class CompactSettings(ArchiveSettings):
    """Write few, sorted files an hour in the place of the flow log's many small ones."""

    since: Since = Field("7d", description="how far back to look for hours to compact")
    min_age: Duration = Field(
        "2h", description="leave hours alone that ended less than this ago; more than the flow log's --cut-seconds"
    )
    max_files: int = Field(4, ge=0, description="files of the flow log that an hour may keep as they are")
    file_size: ByteSize = Field(
        ByteSize(256 * 1024 * 1024), ge=1024 * 1024, description="size of a file, about, beyond which a next one begins"
    )
    spill_directory: Path | None = Field(
        None, description="where files are sorted: needs three times an hour's bytes (default: a temporary directory)"
    )


class Hour(NamedTuple):
    """An hour that is there, such as `date=2026-11-23/hour=02`; `files`: so many of the flow log's."""

    name: str
    files: int
    has_compactions: bool


@entry_point("archive compact", CompactSettings)
def main(settings: CompactSettings) -> int:
    """Run the command; return its exit status."""
    now_ms = time.time_ns() // 1_000_000
    if settings.spill_directory is not None and not settings.spill_directory.is_dir():
        raise Refusal(f"spill_directory = {str(settings.spill_directory)!r} is not a directory")
    with interrupts.kept():
        archive = FlowArchive(settings.archive)
        return _Run(settings, archive).run(hours_between(archive, settings, now_ms))


def hours_between(archive: FlowArchive, settings: CompactSettings, now_ms: int) -> Iterator[Hour]:
    """Yield the hours that are old enough, from `since` on, oldest first."""
    span = TimeRange(parse_since(settings.since, now_ms), now_ms - parse_duration(settings.min_age) - HOUR_MS + 1)
    compacted = {hour for hour in archive.compacted_hours() if touches(hour, span)}
    directories: dict[str, list[str]] = {hour: [] for hour in compacted}
    for directory in hour_directories(archive, span):
        directories.setdefault(directory.removeprefix("flows/"), []).append(directory)
    for hour in sorted(directories, key=lambda hour: hour_start_ms(hour) or 0):
        names = [name for directory in directories[hour] for name in archive.names(directory)]
        yield Hour(hour, sum(bool(DATA.fullmatch(name)) for name in names), hour in compacted)


class _Run:
    """One run of the command."""

    def __init__(self, settings: CompactSettings, archive: FlowArchive) -> None:
        self._settings = settings
        self._rule = Rule(settings.max_files, settings.file_size)
        self._compactor = Compactor(archive)
        self._done: list[Done] = []
        self._failed = 0

    def run(self, hours: Iterator[Hour]) -> int:
        """Go through hours, say what was done of each, and return the exit status."""
        for hour in hours:
            try:
                self._hour(hour)
            except Taken:
                say(f"{hour.name}: another process compacted it meanwhile")
            except (Refusal, OSError) as error:
                if isinstance(error, ArchiveChanged):
                    say(f"{hour.name}: changed meanwhile; left to the next run")
                    continue
                self._failed += 1
                complain(f"{PROG}: {error}; {hour.name} stays as it is")
        self._sum_up()
        return 2 if self._failed else 0

    def _hour(self, hour: Hour) -> None:
        if self._settings.dry_run:
            if planned := self._compactor.plan(hour.name, self._rule) if hour.files > self._rule.files else []:
                say(f"{hour.name}: would compact {_files(planned)}, {_rows(planned):,} flows")
                self._done.append(Done(planned, []))
            return
        if hour.has_compactions:
            self._compactor.clear_up(hour.name)
        if hour.files <= self._rule.files:
            return
        with tempfile.TemporaryDirectory(prefix="zonemeter-compact-", dir=self._settings.spill_directory) as spill:
            done = self._compactor.compact(hour.name, self._rule, Path(spill))
        if done is not None:
            say(f"{hour.name}: {_files(done.before)} -> {_files(done.after)}, {done.rows:,} flows", flush=True)
            self._done.append(done)

    def _sum_up(self) -> None:
        before = [file for done in self._done for file in done.before]
        after = [file for done in self._done for file in done.after]
        hours = counted(len(self._done), "hour")
        if not self._done:
            say("nothing to compact")
        elif self._settings.dry_run:
            say(f"{hours}: {_files(before)} would be compacted")
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
