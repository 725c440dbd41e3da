# SPDX-License-Identifier: Apache-2.0
"""Hostile enriched records through all that the sinks do with them: refused or taken, and what is taken comes out."""

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from common.settings import KafkaSettings
from schemas.dead_letter import decode_dead_letter
from schemas.ledger import decode_ledger, encode_ledger
from sinks.flowlog.archive.manifest import DataFile, Manifest, Marked, decode_manifest, encode
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.flowlog.rows.jsonl import JsonLines
from sinks.flowlog.rows.parquet import ParquetRows
from sinks.intake import Intake, Lane
from sinks.kafka_io import letter_records
from sinks.metrics.aggregate import Aggregate
from sinks.metrics.ends import End, Ends
from sinks.metrics.exposition import Exposition
from tests.support.hostile import EXAMPLES, hostile
from tests.support.sinks.flows import END_MS, EXTERNAL, StoredRecord, encoded, flow, flow_id, node, other

VALID = [
    encoded(flow()),
    encoded(flow(id=flow_id(2), destination=other("unknown", reason="vpc_unmapped"), dnat=True)),
    encoded(flow(id=flow_id(3), source=node("node-a1", "a"), destination=EXTERNAL, encapsulation="vxlan")),
]
BATCHES = st.lists(hostile(*VALID), min_size=1, max_size=6)
NOW_MS = END_MS + 1_000


def records(values: list[bytes]) -> list[StoredRecord]:
    return [StoredRecord(offset, value) for offset, value in enumerate(values)]


@EXAMPLES
@given(BATCHES)
def test_the_flow_log_writes_what_it_takes(values: list[bytes]) -> None:
    lane, intake = Lane(0), Intake[FlatEnd](flatten)
    batch = intake.take(lane, records(values), NOW_MS)
    assert len(batch.rows) + batch.repeats + len(batch.refused) == len(values)
    lines, table = JsonLines(), ParquetRows()
    lines.add(batch.rows)
    table.add(batch.rows)
    written = [orjson.loads(line) for line in b"".join(lines.encode()).splitlines()]
    read = pq.read_table(pa.BufferReader(b"".join(map(bytes, table.encode()))))
    sizes = [row.flow.bytes for row in batch.rows]
    assert [each["bytes"] for each in written] == read.column("bytes").to_pylist() == sizes
    assert [each["id"] for each in written] == read.column("id").to_pylist()
    check_books(lane)


@EXAMPLES
@given(BATCHES)
def test_the_metrics_sink_serves_what_it_takes(values: list[bytes]) -> None:
    lane, intake, aggregate = Lane(0), Intake[End](Ends().make), Aggregate(100, 100)
    batch = intake.take(lane, records(values), NOW_MS)
    aggregate.add(batch.rows, lane.books)
    samples = aggregate.fold(NOW_MS).samples
    exposition = Exposition([family.spec for family in aggregate.families.values()], 30_000)
    exposition.apply(samples, [(origin, mark) for origin, mark in lane.marks.items()])
    exposition.render(NOW_MS).decode()
    check_books(lane)


@EXAMPLES
@given(BATCHES)
def test_what_is_refused_becomes_a_dead_letter(values: list[bytes]) -> None:
    batch = Intake[FlatEnd](flatten).take(Lane(0), records(values), NOW_MS)
    for letter in letter_records(KafkaSettings(), TopicPartition("flows", 0), batch.refused, "flowlog"):
        decode_dead_letter(letter.value)


def check_books(lane: Lane) -> None:
    """What a sink says in the ledger and in its manifest can be read again, and adds up."""
    entries = lane.books.records("flowlog", "flowlog/0-1", 0, NOW_MS)
    for entry in entries:
        assert decode_ledger(encode_ledger(entry)) == entry
        assert entry.balance() is None
    marks = [Marked(*origin, mark) for origin, mark in lane.marks.items()]
    fields = {"topic": "t", "partition": 0, "sequence": 1, "writer": "w", "first_offset": 0, "next_offset": 1}
    manifest = Manifest(**fields, files=[DataFile("x", 1, 1)], marks=marks, ledger=entries)  # type: ignore[arg-type]
    assert decode_manifest(encode(manifest)) == manifest


def test_flows_that_come_to_more_than_a_double_can_hold_do_not_spoil_the_books() -> None:
    most = 2**53 - 1
    lane, intake = Lane(0), Intake[FlatEnd](flatten)
    values = [encoded(flow(id=flow_id(s, row), bytes=most)) for s in (1, 2, 3) for row in (0, 1)]
    again = [encoded(flow(id=flow_id(1, 0), bytes=most)), encoded(flow(id=flow_id(2, 0), bytes=most))]
    batch = intake.take(lane, records([*values, *again]), NOW_MS)
    assert {refused.reason for refused in batch.refused} == {"inconsistent"}
    assert len(batch.rows) == 3
    check_books(lane)
