# SPDX-License-Identifier: Apache-2.0
"""Reads one partition's files of the flow log into facts: what its manifests list, and what the files really hold.

A file that a compaction replaced stands for nothing: its flows are read out of the compaction's, which hold those of
all partitions.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import Refusal
from history.audit.deep.facts import ChunkFlows, Facts, flow_place
from history.model.time_range import TimeRange
from history.read.archive.files import compacted_hours
from history.read.archive.hours import hour_end_ms, hour_of, hour_range, touches
from history.read.archive.limits import DAMAGED, checked_batches, why_not_read
from history.read.archive.opened import ATTEMPTS, ArchiveChanged, FlowArchive, ReadAgain, StoreAway, manifest_path
from schemas.amount import Amount
from schemas.codec import UNREADABLE, Count
from schemas.errors import DecodeError
from schemas.flow import MAX_READ_BYTES
from sinks.flowlog.archive.compaction import COMPACTED, Chain
from sinks.flowlog.archive.manifest import DataFile, Manifest
from sinks.flowlog.rows.parquet import MILLISECONDS

# Manifests are in order of what was taken, which is nearly that of time: so many in a row that end before the range
# begins, and no earlier one holds any of it.
_ENOUGH_BEFORE = 50
_BATCH_ROWS = 50_000
_COLUMNS = ["id", "bytes", "packets", "window_start"]

# A flow's id, bytes, packets and window start (Unix milliseconds).
Row = tuple[str, int, int, int]


class _Batch(NamedTuple):
    """`of_file`: how many flows of a file were read; `rows`: those of the partition."""

    of_file: int
    rows: Iterable[Row]


class _Line(msgspec.Struct):
    id: str
    bytes: Count
    packets: Count
    window_start: str


_line_decoder = msgspec.json.Decoder(_Line)


def read_archive(location: str, facts: Facts) -> None:
    """Take what the files hold of the facts' partition; name every file that is not as its manifest says.

    Where a compaction comes in between, all is read again.
    """
    for _ in range(ATTEMPTS):
        part = Facts(facts.partition, facts.wanted)
        try:
            _read(FlowArchive(location), part)
        except ReadAgain as changed:
            why = changed
        else:
            facts.take_archive(part)
            return
    raise why


def _read(archive: FlowArchive, facts: Facts) -> None:
    facts.archive = {}
    numbers = archive.numbers(facts.partition)
    if not numbers:
        return
    chains = _chains(archive, facts)
    facts.expired_until("archive", max((hour_end_ms(chain.hour) for chain in chains if chain.expired), default=0))
    replaced = set().union(*(chain.replaced for chain in chains))
    expired = {chain.hour for chain in chains if chain.expired}
    for absent in sorted(set(range(numbers[0], numbers[-1])) - set(numbers)):
        if not archive.has(manifest_path(facts.partition, absent)):
            facts.find("archive", f"manifest {absent} of partition {facts.partition} is missing")
    for manifest in _manifests(archive, facts, numbers):
        for file in manifest.files:
            hour = file.path.rpartition("/")[0]
            if (
                file.path not in replaced
                and hour.removeprefix("flows/") not in expired
                and touches(hour, facts.wanted.span)
            ):
                _take_file(archive, facts, file, f"manifest {manifest.sequence} lists")
    for chain in chains:
        for file in chain.files.values():
            _take_file(archive, facts, file, f"a compaction of {chain.hour} wrote")
    if _chains(archive, facts) != chains:
        raise ArchiveChanged(archive.location)


def _chains(archive: FlowArchive, facts: Facts) -> list[Chain]:
    """Return the compactions of the range's hours, without what is still under way."""
    hours = compacted_hours(archive, facts.wanted.span)
    return [replace(archive.chain(hour, names), intents=()) for hour, names in hours.items()]


def _manifests(archive: FlowArchive, facts: Facts, numbers: list[int]) -> Iterator[Manifest]:
    """Yield the manifests that may hold windows of the range, from the newest back."""
    before = 0
    for number in reversed(numbers):
        try:
            manifest = archive.manifest(facts.partition, number)
        except (ReadAgain, StoreAway):
            raise
        except Refusal as refusal:
            facts.find("archive", str(refusal))
            continue
        if number == numbers[-1]:
            for origin, mark in manifest.known_marks().items():
                facts.reach("archive", origin, (mark.generation, mark.sequence, mark.chunk))
        span = facts.wanted.span
        ends = [entry.end_ms for entry in manifest.ledger]
        before = before + 1 if ends and max(ends) < span.from_ms else 0
        if before > _ENOUGH_BEFORE:
            return
        if any(entry.end_ms >= span.from_ms and entry.start_ms < span.to_ms for entry in manifest.ledger):
            yield manifest


def _take_file(archive: FlowArchive, facts: Facts, file: DataFile, listed: str) -> None:
    """Take a file. `listed`: who says how many flows are in it."""
    rows, hour = 0, hour_range(hour_of(file.path))
    try:
        for batch in _batches(archive, facts.partition, file):
            rows += batch.of_file
            for row in batch.rows:
                _take_row(facts, file, hour, row)
    except FileNotFoundError:
        facts.find("archive", f"{file.path} is missing: {listed} {file.rows:,} flows in it")
    except (*DAMAGED, DecodeError, ValueError, *UNREADABLE) as error:
        archive.check_answers(file.path, error)
        facts.find("archive", f"{file.path} cannot be read: {' '.join(str(error).split())}")
    else:
        if rows != file.rows:
            facts.find("archive", f"{file.path} holds {rows:,} flows, {listed} {file.rows:,}")


def _take_row(facts: Facts, file: DataFile, hour: TimeRange, row: Row) -> None:
    flow_id, size, packets, start_ms = row
    if not hour.holds(start_ms):
        raise ValueError(f"{flow_id} is not of the hour that the file is of")
    chunk, number, origin, _ = flow_place(flow_id)
    if not facts.wanted.holds(origin, start_ms) or facts.archive is None:
        return
    if facts.archive.setdefault(chunk, ChunkFlows()).add(number, size, packets):
        facts.count("archive", Amount(size, packets, 1))
    else:
        facts.find("archive", f"{flow_id} stands twice, once more in {file.path}")


def _batches(archive: FlowArchive, partition: int, file: DataFile) -> Iterator[_Batch]:
    if file.path.endswith(".parquet"):
        return _parquet_batches(archive, partition, file)
    return _json_batches(archive, file)


def _parquet_batches(archive: FlowArchive, partition: int, file: DataFile) -> Iterator[_Batch]:
    is_compacted = COMPACTED.fullmatch(file.path.rpartition("/")[2])
    with archive.open(file.path) as source:
        if why := why_not_read(file.path, source):
            raise ValueError(why)
        # All columns, for their checksums.
        for batch in checked_batches(source, _BATCH_ROWS):
            of_file = batch.num_rows
            if is_compacted:
                # A flow stands in the partition of its raw chunk.
                batch = batch.filter(pc.equal(batch.column("raw_partition"), partition))  # noqa: PLW2901
            columns = [batch.column(name) for name in _COLUMNS]
            if missing := next((name for name, column in zip(_COLUMNS, columns, strict=True) if column.null_count), ""):
                raise ValueError(f"a row has no {missing}")
            columns[3] = columns[3].cast(MILLISECONDS, safe=False).cast(pa.int64())
            yield _Batch(of_file, zip(*(column.to_pylist() for column in columns), strict=True))


def _json_batches(archive: FlowArchive, file: DataFile) -> Iterator[_Batch]:
    with archive.open_stream(file.path) as source:
        lines = io.BufferedReader(source)
        while line := lines.readline(MAX_READ_BYTES + 1):
            if len(line) > MAX_READ_BYTES:
                raise ValueError(f"a line has more than {MAX_READ_BYTES:,} bytes")
            found = _line_decoder.decode(line)
            yield _Batch(1, [(found.id, found.bytes, found.packets, _milliseconds(found.window_start))])


@lru_cache(maxsize=1_000)
def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
