# SPDX-License-Identifier: Apache-2.0
"""Counters, positions, marks and ledger records in one SQLite file, changed in one transaction or not at all.

Every method blocks on the disk: call them in a thread, one at a time. Synchronous WAL: what was committed
survives the loss of power, not only of the process.
"""

import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
import orjson

from common.clock import now_ms
from common.errors import Refusal
from common.input import files
from schemas.codec import Milliseconds
from schemas.errors import DecodeError
from schemas.ids import MAX_NUMBER, Origin
from schemas.ledger import LedgerRecord, decode_ledger, encode_ledger
from sinks.intake import FlowMark, Lane, Number
from sinks.metrics.families import SPECS, Sample

log = logging.getLogger(__name__)

FILE_NAME = "metrics.sqlite3"
VERSION = 2

SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE series (
  number INTEGER PRIMARY KEY, family TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL,
  changed_ms INTEGER NOT NULL DEFAULT 0, served INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE lanes (partition INTEGER PRIMARY KEY, position INTEGER NOT NULL);
CREATE TABLE marks (
  partition INTEGER, cluster TEXT, node TEXT, boot_id TEXT, generation INTEGER NOT NULL, sequence INTEGER NOT NULL,
  chunk INTEGER NOT NULL, row INTEGER NOT NULL, end_ms INTEGER NOT NULL, taken_ms INTEGER NOT NULL,
  PRIMARY KEY (partition, cluster, node, boot_id)
) WITHOUT ROWID;
CREATE TABLE ledger (number INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""
# What an earlier version's file lacks. When its series grew last is not known: not before they are read by this one.
FROM_VERSION_1 = (
    "ALTER TABLE series ADD COLUMN changed_ms INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE series ADD COLUMN served INTEGER NOT NULL DEFAULT 1",
)
# Values are text: a counter is not bounded by 64 bits, SQLite's integers are.
ADD_SERIES = "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?)"
SET_VALUE = "UPDATE series SET value = ?, changed_ms = ?, served = ? WHERE number = ?"
DROP_SERIES = "DELETE FROM series WHERE number = ?"
PUT_LANE = "INSERT OR REPLACE INTO lanes VALUES (?, ?)"
PUT_MARK = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
DROP_MARK = "DELETE FROM marks WHERE partition = ? AND cluster = ? AND node = ? AND boot_id = ?"

# Rows as they are written. What SQLite gives back is looked at: any column holds anything, and a file may rot.
_Whole = Annotated[int, msgspec.Meta(ge=0)]


class _MarkRow(NamedTuple):
    partition: _Whole
    cluster: str
    node: str
    boot_id: str
    generation: Number
    sequence: Number
    chunk: Number
    row: Annotated[int, msgspec.Meta(ge=-1, le=MAX_NUMBER)]
    end_ms: Milliseconds
    taken_ms: Milliseconds


class _SeriesRow(NamedTuple):
    number: _Whole
    family: str
    labels: str
    value: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,300}$")]  # Prometheus knows no greater number
    changed_ms: _Whole
    served: Annotated[int, msgspec.Meta(ge=0, le=1)]


R = TypeVar("R")


class _About(msgspec.Struct):
    topic: str
    life: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    sequence: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")]


@dataclass(slots=True)
class Checkpoint:
    """What changed since the checkpoint before. `removed`: the numbers of series that are gone."""

    sequence: int
    series: list[Sample] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    marks: list[tuple[int, Origin, FlowMark]] = field(default_factory=list)
    dropped: list[tuple[int, Origin]] = field(default_factory=list)
    ledger: list[LedgerRecord] = field(default_factory=list)


@dataclass(slots=True)
class Restored:
    """The last checkpoint whole. `life` names this state file: a new one starts a new ledger."""

    life: str
    sequence: int
    series: list[Sample]
    lanes: dict[int, Lane]
    ledger: list[LedgerRecord]


class State:
    """The state directory of one metrics sink, locked against a second one."""

    def __init__(self, directory: Path, topic: str) -> None:
        self._path = directory / FILE_NAME
        self._lock = _lock(directory)
        try:
            _check(directory)
            self._db = _connect(self._path)
            self._prepare(topic)
        except (sqlite3.Error, ValueError, OSError, msgspec.MsgspecError) as error:
            os.close(self._lock)
            raise _refusal(self._path, error) from error
        except Refusal:
            os.close(self._lock)
            raise

    def load(self) -> Restored:
        """Read the last checkpoint; raise `Refusal` if the file holds what no checkpoint does."""
        try:
            return self._load()
        except (sqlite3.Error, ValueError, msgspec.MsgspecError) as error:
            raise _refusal(self._path, error) from error

    def _load(self) -> Restored:
        about = self._about()
        lanes = {
            where: Lane(where, at) for where, at in self._rows("lanes", "partition, position", tuple[_Whole, _Whole])
        }
        for partition, cluster, node, boot_id, *mark in self._rows("marks", "*", _MarkRow):
            lanes.setdefault(partition, Lane(partition)).marks[Origin(cluster, node, boot_id)] = FlowMark(*mark)
        series = [_sample(row) for row in self._rows("series", "*", _SeriesRow)]
        ledger = [_entry(record) for (record,) in self._rows("ledger", "record", tuple[bytes], "number")]
        return Restored(about.life, int(about.sequence), series, lanes, ledger)

    def _about(self) -> "_About":
        return msgspec.convert(dict(self._rows("about", "name, value", tuple[str, str])), _About)

    def _rows(self, table: str, columns: str, kind: type[R], order: str = "1") -> Iterator[R]:
        """Yield a table's rows; raise ValueError for what is none."""
        for row in self._db.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):  # noqa: S608 - our own names
            try:
                yield msgspec.convert(row, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"table {table}: {str(row)[:100]} is not a row of it: {error}") from error

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint durable; raise `sqlite3.Error` with nothing changed, so that it can be tried again.

        The ledger records of the checkpoint before are dropped: they must have been published by now.
        """
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._write(checkpoint)
        except sqlite3.Error:
            self._reopen()
            raise

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        os.close(self._lock)

    def _write(self, checkpoint: Checkpoint) -> None:
        (last,) = self._db.execute("SELECT coalesce(max(number), 0) FROM series").fetchone()
        added = [sample for sample in checkpoint.series if sample.number > last]
        known = [(str(s.value), s.changed_ms, s.served, s.number) for s in checkpoint.series if s.number <= last]
        rows = ((n, family, orjson.dumps(labels).decode(), str(v), *more) for n, family, labels, v, *more in added)
        self._db.executemany(ADD_SERIES, rows)
        # Labels are written once; numbers are given in order, so what is not new is there.
        if known and self._db.executemany(SET_VALUE, known).rowcount != len(known):
            raise sqlite3.IntegrityError("a series is missing")
        self._db.executemany(DROP_SERIES, ((number,) for number in checkpoint.removed))
        self._db.executemany(PUT_LANE, checkpoint.positions.items())
        self._db.executemany(DROP_MARK, ((partition, *origin) for partition, origin in checkpoint.dropped))
        marks = ((partition, *origin, *msgspec.structs.astuple(mark)) for partition, origin, mark in checkpoint.marks)
        self._db.executemany(PUT_MARK, marks)
        self._db.execute("DELETE FROM ledger")
        records = ((encode_ledger(record),) for record in checkpoint.ledger)
        self._db.executemany("INSERT INTO ledger (record) VALUES (?)", records)
        self._db.execute("UPDATE about SET value = ? WHERE name = 'sequence'", (str(checkpoint.sequence),))

    def _reopen(self) -> None:
        # After an I/O error SQLite may refuse the connection for good.
        self._db.close()
        self._db = _connect(self._path)

    def _prepare(self, topic: str) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            life = secrets.token_hex(6)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                about = [("topic", topic), ("life", life), ("sequence", "0")]
                self._db.executemany("INSERT INTO about VALUES (?, ?)", about)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            log.info("nothing is there yet: counters begin at 0", extra={"state": str(self._path)})
        elif version == 1:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for statement in FROM_VERSION_1:
                    self._db.execute(statement)
                self._db.execute("UPDATE series SET changed_ms = ?", (now_ms(),))
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise Refusal(f"state_dir: {self._path} is of version {version}, this program writes version {VERSION}")
        found = self._about().topic
        if found != topic:
            raise Refusal(f"state_dir: {self._path} holds the counters of topic {found}, not {topic}; use another")


def _sample(row: _SeriesRow) -> Sample:
    labels: tuple[str, ...] = msgspec.json.decode(row.labels, type=tuple[str, ...])
    # A family that is not known is a newer version's: it is kept for that.
    if row.family in SPECS and len(labels) != len(SPECS[row.family].labels):
        raise ValueError(f"table series: {row.labels[:100]} are not the labels of {row.family}")
    return Sample(row.number, row.family, labels, int(row.value), row.changed_ms, bool(row.served))


def _entry(record: bytes) -> LedgerRecord:
    entry = decode_ledger(record)
    if entry.hop != "metrics":
        raise ValueError(f"table ledger: {entry.id[:100]!r} is an entry of {entry.hop}")
    return entry


def _refusal(path: Path, error: Exception) -> Refusal:
    line = " ".join(str(error).split())
    what_to_do = "move it away to start again from the positions in Kafka"
    if isinstance(error, DecodeError) and error.reason == "unsupported_version":
        what_to_do = "run the version of zonemeter that wrote it"
    return Refusal(f"state_dir: {path}: {line}; {what_to_do}")


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun by hand; one thread at a time, but not always the same one.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _check(directory: Path) -> None:
    """Raise `Refusal` if SQLite would read what another user put there: the file, or one that it keeps beside it."""
    owners = files.owners_in(directory)
    files.warn_if_others_write("state_dir", directory, owners)
    for suffix in ("", "-wal", "-shm", "-journal"):
        files.check_own("state_dir", directory / f"{FILE_NAME}{suffix}", owners)


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise Refusal(f"state_dir = '{directory}': {error.strerror}; expected a directory to write to") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Refusal(f"state_dir = '{directory}' is in use by another process; each ordinal needs its own") from error
    return handle
