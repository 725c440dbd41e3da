# SPDX-License-Identifier: Apache-2.0
"""Compacts one hour: an intent, the files, the record that makes them count, then what they replace is deleted.

Killed anywhere, either the old files count or the new ones, and the next run clears up. The record's number makes two
compactors of one hour collide: one of them finds that out before its files count.
"""

import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import msgspec
import pyarrow as pa

from common.errors import Refusal
from common.terminal import command
from history.read.archive.files import find_chapter
from history.read.archive.hours import hour_range
from history.read.archive.limits import DAMAGED, checked_footer
from history.read.archive.opened import FlowArchive
from history.upkeep.addresses import Erasure, done_already
from history.upkeep.days import forget_long_rollups
from history.upkeep.rollups import sums_in, sums_of, write_erased_rollup, write_rollups
from history.upkeep.sorting import Content, SortedFile, Sorter, rows_of
from schemas.codec import UNREADABLE
from sinks.flowlog.archive import compaction
from sinks.flowlog.archive.archive import FLOWS
from sinks.flowlog.archive.compaction import (
    COMPACTED,
    Chain,
    Compaction,
    compacted_path,
    intent_path,
    read_compaction_intent,
    record_path,
    rollup_path,
)
from sinks.flowlog.archive.manifest import DataFile, Intent, encode
from sinks.flowlog.rows.parquet import TIME
from sinks.flowlog.stores.store import TEMPORARY


class Taken(Exception):  # noqa: N818 - it is what happened, and no fault
    """Another process compacted the hour meanwhile."""


class UnansweredError(OSError):
    """Whether the record of a compaction was written is not known."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class Rule:
    """When an hour is compacted: where more than `files` are not yet. `file_bytes`: of a file that is made, about.

    `old_times`: also compact again what was compacted when times were milliseconds.
    `erasure`: compact instead all files out of which not so much of the addresses was taken yet, and take it out.
    """

    files: int
    file_bytes: int
    erasure: Erasure | None = None
    old_times: bool = False

    def chosen(self, written: Sequence[DataFile], compacted: Sequence[DataFile]) -> list[DataFile]:
        """Return the files to rewrite: all that the flow log wrote, with what is less than half a file of earlier."""
        if len(written) <= self.files:
            return []
        return [*written, *(file for file in compacted if file.size_bytes < self.file_bytes // 2)]


@dataclass(frozen=True, slots=True)
class Done:
    """What a compaction did: files and bytes before and after, and the rows in them."""

    before: Sequence[DataFile]
    after: Sequence[DataFile]

    @property
    def rows(self) -> int:
        """How many flows."""
        return sum(file.rows for file in self.before)


def rollups_to_erase(chain: Chain, erasure: Erasure) -> list[str]:
    """Return the rollups of an hour whose flows expired: all, if any has more of addresses than is to be left."""
    left = sorted(chain.left)
    return [] if done_already(chain, erasure).issuperset(left) else left


class Compactor:
    """One process that compacts. Raises `Refusal`, `ArchiveChanged`, `Taken` and `OSError`, with no row lost."""

    def __init__(self, archive: FlowArchive, keep_seconds: float = 0) -> None:
        """`keep_seconds`: so long what was replaced stays, for who had opened it; 0: it goes with the compaction."""
        self._archive = archive
        self._store = archive.store
        self._keep_seconds = keep_seconds
        self._replaced: deque[tuple[float, list[str]]] = deque()

    def delete_replaced(self, *, wait: bool = False) -> None:
        """Delete what stayed for long enough, or, with `wait`, all of it when it has. Killed before, the next run does.

        Raises `OSError`.
        """
        while self._replaced and (wait or self._replaced[0][0] <= monotonic()):
            at, paths = self._replaced.popleft()
            sleep(max(at - monotonic(), 0))
            self._delete(paths)

    def plan(self, hour: str, rule: Rule) -> list[DataFile]:
        """Return the files of an hour that should be rewritten."""
        chapter, chain = find_chapter(self._archive, hour_range(hour)), self._archive.chain(hour)
        if rule.erasure is not None:
            done = done_already(chain, rule.erasure)
            return [file for file in chapter.files if file.path not in done]
        compacted = chapter.files[: chapter.compacted]
        chosen = rule.chosen(chapter.files[chapter.compacted :], compacted)
        rest = [file for file in compacted if file not in chosen]
        # Killed before it had come to these, `erase_rollups` left them without a rollup.
        bare = [file for file in rest if chain.expired and rollup_path(file.path) not in chain.rollups]
        old = [file for file in rest if rule.old_times and file not in bare and self._has_old_times(file.path)]
        return [*chosen, *bare, *old]

    def _has_old_times(self, path: str) -> bool:
        try:
            with self._archive.open(path) as source:
                schema = checked_footer(self._archive, path, source).schema.to_arrow_schema()
        except DAMAGED as error:
            self._archive.check_answers(path, error)
            raise Refusal(f"archive {self._archive.location}: {path}: {error}") from error
        return any(schema.field(name).type != TIME for name in ("window_start", "window_end"))

    def clear_up(self, hour: str) -> None:
        """Finish, or take back, compactions of that hour that did not come to their end; delete what is replaced."""
        chain = self._archive.chain(hour)
        intents = [(name, self._intent(hour, name)) for name in chain.intents]
        if any(intent is not None and intent.sequence > chain.newest for _, intent in intents):
            # Its writer may still be alive: its number must be taken before its files are deleted.
            claim = Compaction(hour=hour, sequence=chain.newest + 1, writer=secrets.token_hex(3))
            self._store.create(record_path(hour, claim.sequence), [encode(claim)])
            chain = self._archive.chain(hour)
        if name := next((name for name, intent in intents if intent and intent.sequence > chain.newest), None):
            path = f"{compaction.DIRECTORY}/{hour}/{name}"
            raise Refusal(f"archive {self._archive.location}: {path} is damaged: compactions end at {chain.newest}")
        directories = (f"{compaction.ROLLUPS}/{hour}", f"{FLOWS}/{hour}", hour)
        self._delete(path for directory in directories for path in self._gone(chain, directory))
        records = f"{compaction.DIRECTORY}/{hour}"
        self._delete(f"{records}/{name}" for name in self._archive.names(records) if name.endswith(TEMPORARY))
        self._delete(f"{records}/{name}" for name, _ in intents)

    def _gone(self, chain: Chain, directory: str) -> Iterator[str]:
        """Yield the files in a directory that will never count: replaced ones, and those of a number that is taken."""
        counting, replaced = {**chain.files, **chain.rollups}, chain.replaced
        for name in self._archive.names(directory):
            path = f"{directory}/{name}"
            own = COMPACTED.fullmatch(name.removesuffix(TEMPORARY))
            if path in replaced or (own and int(own[1]) <= chain.newest and path not in counting):
                yield path.removesuffix(TEMPORARY)

    def _intent(self, hour: str, name: str) -> Intent | None:
        """Return an intent, None if it is gone."""
        path = f"{compaction.DIRECTORY}/{hour}/{name}"
        try:
            return read_compaction_intent(self._store.read(path), hour, name)
        except FileNotFoundError:
            return None
        except (*UNREADABLE, ValueError) as error:
            raise Refusal(f"archive {self._archive.location}: {path} is damaged: {error}") from error

    def compact(self, hour: str, rule: Rule, spill: Path) -> Done | None:
        """Rewrite an hour's files, if there are so many. `spill`: an empty directory of this machine, to sort in."""
        # The number first: who compacts after this takes it, and one of the two finds out.
        sequence = self._archive.chain(hour).newest + 1
        sources = self.plan(hour, rule)
        if not sources:
            return None
        paths = [file.path for file in sources]
        sorter = Sorter(self._archive, spill)
        with self._reading(hour, sequence):
            content = sorter.content(paths, rule.erasure)
            self._hold_to(content, sum(file.rows for file in sources), hour)
            made = sorter.sort(paths, rule.file_bytes, rule.erasure)
            rollups = write_rollups(made, hour_range(hour), spill)
        writer = secrets.token_hex(3)
        record = Compaction(hour=hour, sequence=sequence, writer=writer, replaces=paths, erased=rule.erasure)

        def is_same(files: Sequence[str], rolled_up: Sequence[str]) -> bool:
            return sorter.content(files) == content and sums_of(self._archive, rolled_up, spill) == sums_in(content)

        old = [rollup_path(path) for path in paths if COMPACTED.fullmatch(path.rpartition("/")[2])]
        return Done(sources, self._write(record, made, rollups, is_same, [*old, *paths]).files)

    def erase_rollups(self, hour: str, erasure: Erasure, spill: Path) -> Done | None:
        """Take addresses out of the rollups of an hour whose flows expired, if that was not done.

        Flows that came since have no rollup then, until they are compacted: a record of what expired says which rollups
        stay for good, and theirs go with their files.
        """
        chain = self._archive.chain(hour)
        if not (left := rollups_to_erase(chain, erasure)):
            return None
        sequence, counting = chain.newest + 1, chain.rollups
        with self._reading(hour, sequence):
            before = sums_of(self._archive, left, spill)
            made = write_erased_rollup(self._archive, left, hour_range(hour), erasure, spill)
        writer = secrets.token_hex(3)
        record = Compaction(hour=hour, sequence=sequence, writer=writer, expired=True, erased=erasure)

        def is_same(_: Sequence[str], rolled_up: Sequence[str]) -> bool:
            return sums_of(self._archive, rolled_up, spill) == before

        written = self._write(record, [], [made], is_same, list(counting))
        return Done([counting[path] for path in left], written.rollups)

    def _write(
        self,
        record: Compaction,
        made: Sequence[SortedFile],
        rollups: Sequence[SortedFile],
        is_same: Callable[[Sequence[str], Sequence[str]], bool],
        old: Sequence[str],
    ) -> Compaction:
        """Write intent, files (or none), their rollups and the record, then delete what is `old`; return the record."""
        hour, store = record.hour, self._store
        intent = intent_path(hour, record.sequence, record.writer)
        names = [compacted_path(hour, record.sequence, record.writer, number) for number in range(len(rollups))]
        files = dict(zip(names, made, strict=False))
        rolled_up = dict(zip(map(rollup_path, names), rollups, strict=True))
        store.put(intent, [encode(Intent(record.sequence, [*names, *rolled_up]))])
        try:
            written = msgspec.structs.replace(record, files=self._put(files), rollups=self._put(rolled_up))
            with self._reading(hour, record.sequence):
                if not is_same(list(files), list(rolled_up)):
                    raise Refusal(f"archive {self._archive.location}: what was written of {hour} is not what was read")
        except (OSError, Refusal, Taken):
            with contextlib.suppress(OSError):
                self._delete([*rolled_up, *files, intent])
            raise
        forget_long_rollups(self._archive, hour)
        # If it is not known whether this was done, the next run finds out: until then nothing may be deleted.
        try:
            ours = store.create(record_path(hour, record.sequence), [encode(written)])
        except OSError as error:
            raise UnansweredError(error.errno, str(error.strerror or error)) from error
        if not ours and self._archive.compaction(hour, record.sequence).writer != record.writer:
            self._delete([*rolled_up, *files, intent])
            raise Taken
        self._replaced.append((monotonic() + self._keep_seconds, [*old, intent]))
        if not self._keep_seconds:
            self.delete_replaced()
        return written

    def _put(self, files: Mapping[str, SortedFile]) -> list[DataFile]:
        """Write files of this machine to these paths of the archive."""
        return [
            DataFile(path, file.rows, self._store.put(path, [pa.memory_map(str(file.path)).read_buffer()]))
            for path, file in files.items()
        ]

    def _hold_to(self, content: Content, listed: int, hour: str) -> None:
        if (rows := rows_of(content)) != listed:
            raise Refusal(
                f"archive {self._archive.location}: the files of {hour} hold {rows:,} flows, {listed:,} are listed; "
                f"{command('audit --deep')} --archive {self._archive.location} names the files"
            )

    def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._store.delete(path)

    @contextlib.contextmanager
    def _reading(self, hour: str, sequence: int) -> Iterator[None]:
        """Turn what DuckDB says of files that cannot be read or sorted into one line.

        `sequence`: of the compaction. Where another process has taken the number, it may have deleted the files.
        """
        try:
            yield
        except DAMAGED as error:
            if self._archive.chain(hour).newest >= sequence:
                raise Taken from error
            said = " ".join(str(error).split())[:300]
            raise Refusal(f"archive {self._archive.location}: {hour}: {said}") from error
