# SPDX-License-Identifier: Apache-2.0
"""`make bench-columnar`: a record a flow, beside two records that hold a chunk's flows in columns.

*A record a flow* in docs/architecture.md rests on it. The yardstick is the topic as it is. *JSON columns* is the raw
chunk again, with its end points, each as a flow has it, in place of the addresses, and a column of scopes. *Arrow IPC*
is the same as a stream of one batch, checked whole before it is read; its ends are dictionaries. No broker is in it:
*written* makes the values of chunks that are joined, and batches of 512 KiB, zstd; *metrics* unpacks those, decodes,
and adds to the sink's counters; *flow log* does so to its rows, and makes a Parquet file. All three come to the same
counters and the same file's content. CPU time of this process, with every end point known from windows before.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from bench.kafka.bare_loop import RULE
from bench.made_up import cluster
from bench.measure import report
from bench.measure.figure import Figure, in_turn
from bench.measure.report import Table
from bench.services.columnar_forms import COLUMNS, Chunk, Counters, Rows, as_arrow, as_json, of_arrow, of_json
from common import gc_settings
from common.kafka.clients import MAX_BATCH_BYTES
from common.kafka.protocol.fetching import Batches, Fetched, Records
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.flow_json import FlowsJson
from enricher.join.join import ResolvedChunk, join, resolve
from schemas.flow import HEADERS, SCOPES, decode_flow
from schemas.raw import RawChunk, decode_chunk
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.intake import Intake, Lane
from sinks.metrics.ends import Ends

_FLOWS, _SIZES = 70_000, (35, 2000)
_NOW_MS = cluster.START_MS + _FLOWS * cluster.WINDOW_MS
_WHERE = TopicPartition("flows", 0)

_USUAL = "a record a flow"
# How each encodes and decodes a chunk.
_FORMS: dict[str, tuple[Callable[[Chunk], bytes], Callable[[bytes], Chunk]]] = {
    _USUAL: (as_json, of_json),
    "JSON columns": (as_json, of_json),
    "Arrow IPC": (as_arrow, of_arrow),
}


class Rig:
    """Chunks of so many rows, joined; what each form makes of them, in microseconds a flow."""

    def __init__(self, rows: int) -> None:
        index = Index()
        for state in cluster.states():
            index.apply(state)
        resolver = Resolver(index, CidrMap([RULE]))
        self._given: list[tuple[RawChunk, ResolvedChunk, FlowsJson, list[int]]] = []
        for offset, each in enumerate(cluster.chunks(_FLOWS // rows, observers=cluster.NODES, rows=rows)):
            chunk = decode_chunk(each.value)
            resolved = resolve(chunk, resolver)
            values = join(chunk, resolved, 0, offset).values
            self._given.append((chunk, resolved, values, [SCOPES.index(decode_flow(value).scope) for value in values]))
        self._packed = {form: self._write(form) for form in _FORMS}
        self.bytes_a_flow = {form: sum(map(len, packed)) / _FLOWS for form, packed in self._packed.items()}
        # What a sink knows by the second window. Of counters it is what they have come to, too.
        self._counters = {form: Counters() for form in _FORMS}
        self._to_counters, self._to_rows = Intake(Ends().make), Intake(flatten)
        self._known: dict[tuple[bytes, int], FlatEnd] = {}
        self._results: dict[tuple[str, int], Any] = {}
        self._runs = Counter[tuple[str, str]]()

    def spent(self, step: str, form: str) -> float:
        """Return what a step costs; raise `ValueError` if it comes to something else than in another form."""
        work: Callable[[str], Any] = {"written": self._write, "metrics": self._count, "flow log": self._log}[step]
        gc_settings.settle()
        begun = time.process_time()
        made = work(form)
        spent = time.process_time() - begun
        self._runs[step, form] += 1
        if step != "written":
            shown = _shown(made)
            if self._results.setdefault((step, self._runs[step, form]), shown) != shown:
                raise ValueError(f"{step}: {form} comes to something else")
        return spent / _FLOWS * 1e6

    def _write(self, form: str) -> list[bytes]:
        if form == _USUAL:
            return _batches(value for _, _, values, _ in self._given for value in values)
        encode = _FORMS[form][0]
        return _batches(encode(_in_columns(*each, offset)) for offset, each in enumerate(self._given))

    def _count(self, form: str) -> Counters:
        counters, lane = self._counters[form], Lane(0)
        if form == _USUAL:
            for records in self._fetched(form):
                counters.add(self._to_counters.take(lane, records, _NOW_MS).rows, lane.books)
        else:
            self._each(form, counters.add_chunk)
        return counters

    def _log(self, form: str) -> bytes:
        rows, lane = Rows(self._known), Lane(0)
        if form == _USUAL:
            for records in self._fetched(form):
                rows.add(self._to_rows.take(lane, records, _NOW_MS).rows)
        else:
            self._each(form, rows.add_chunk)
        return b"".join(map(bytes, rows.encode()))

    def _each(self, form: str, add: Callable[[Chunk], None]) -> None:
        decode = _FORMS[form][1]
        for records in self._fetched(form):
            for record in records:
                add(decode(record.value or b""))

    def _fetched(self, form: str) -> Iterator[list[Fetched]]:
        """Yield what a fetch returns, a batch at a time."""
        for packed in self._packed[form]:
            yield list(Records(_WHERE, Batches(packed), None, 0, None, None, True, 0))


def _in_columns(chunk: RawChunk, resolved: ResolvedChunk, _: FlowsJson, scopes: list[int], offset: int) -> Chunk:
    ends = [msgspec.Raw(end.json(0).encode()) for end in resolved.addresses]
    columns: dict[str, Any] = {name: scopes if name == "scope" else getattr(chunk, name) for name in COLUMNS}
    observer = msgspec.Raw(resolved.watcher.json.encode())
    return Chunk(chunk.id, chunk.start_ms, chunk.end_ms, chunk.cluster, (0, offset), observer, ends, **columns)


def _batches(values: Iterable[bytes]) -> list[bytes]:
    """Return values as batches that the enricher would send, one after the other."""
    packed, builder, offset, count = [], _builder(), 0, 0
    for value in values:
        if builder.append(count, cluster.START_MS, b"node-0", value, list(HEADERS)) is None:
            packed.append(_closed(builder, offset))
            builder, offset, count = _builder(), offset + count, 0
            builder.append(count, cluster.START_MS, b"node-0", value, list(HEADERS))
        count += 1
    return [*packed, _closed(builder, offset)]


def _builder() -> DefaultRecordBatchBuilder:
    return DefaultRecordBatchBuilder(2, DefaultRecordBatch.CODEC_ZSTD, 0, -1, -1, -1, MAX_BATCH_BYTES)


def _closed(builder: DefaultRecordBatchBuilder, offset: int) -> bytes:
    """Return a batch, numbered as the broker does."""
    return offset.to_bytes(8, "big") + bytes(builder.build())[8:]


def _shown(made: Counters | bytes) -> Any:
    if isinstance(made, bytes):
        return pq.read_table(pa.BufferReader(made))
    return sorted((sample.family, sample.labels, sample.value) for sample in made.fold(_NOW_MS).samples)


def measure(rounds: int) -> Sequence[Table]:
    """Return a table for each size of a chunk."""
    few, many = _SIZES
    text = (__doc__ or "").partition("\n\n")[2]
    return [
        Table(f"A usual node's chunks, of {few} flows", text, _figures(few, rounds)),
        Table(f"Chunks of {many:,} flows", f"The same, and as many flows: {_FLOWS:,}.", _figures(many, rounds)),
    ]


def _figures(rows: int, rounds: int) -> list[Figure]:
    rig = Rig(rows)
    steps = [(step, form) for step in ("written", "metrics", "flow log") for form in _FORMS]
    found = dict(zip(steps, in_turn(rounds, *(partial(rig.spent, *each) for each in steps)), strict=True))
    found |= {("on the broker", form): [size] for form, size in rig.bytes_a_flow.items()}
    return [
        Figure(f"{form}: {step}", "bytes" if step == "on the broker" else "us", ours, found[step, _USUAL])
        for (step, form), ours in found.items()
        if form != _USUAL
    ]


if __name__ == "__main__":
    sys.exit(report.main("columnar", "Flows in columns", measure))
