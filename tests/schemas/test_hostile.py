# SPDX-License-Identifier: Apache-2.0
"""The codecs of all five topics, and records that no friend has written: one kind of error, little memory, no hang."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import dead_letter, flow, ledger, raw, topology
from schemas.codec import MAX_INTEGER
from schemas.errors import DecodeError
from tests.support.builders import amount, collector_entry, enricher_entry, raw_chunk, sink_entry
from tests.support.enricher import build
from tests.support.hostile import EXAMPLES, encoded, hostile
from tests.support.sinks import flows

REASONS = {"too_large", "not_json", "schema_mismatch", "inconsistent", "unsupported_version"}
LETTER = dead_letter.dead_letter("not_json", "?", "enricher", "raw", 0, 7, 1, b"node-a1", b"rubbish")
RAW = raw_chunk(["10.0.0.1", "::1"], src=[0, 1], dst=[1, 0], bytes=[1_500, 7], packets=[1, 1], dnat=[None, 1])
FLOW = flows.encoded(flows.flow())
STATES = [
    build.pod("web-0", "10.42.1.7", "node-a1"),
    build.node("node-a1", "10.0.0.1"),
    build.service("web", "10.96.0.1"),
]
ENTRIES = [
    collector_entry(1, 1_000),
    enricher_entry(1, 1_000, senders={"node-b1": amount(5)}, foreign_source={"node-b1": amount(5)}),
    sink_entry("flowlog", 1, {1: 1_000, 2: 500}),
]
Decode = Callable[[bytes | None], Any]
CODECS: dict[str, tuple[Decode, int, list[bytes]]] = {
    "raw": (raw.decode_chunk, raw.MAX_READ_BYTES, [RAW]),
    "enriched": (flow.decode_flow, flow.MAX_READ_BYTES, [FLOW]),
    "enriched head": (flow.decode_head, flow.MAX_READ_BYTES, [FLOW]),
    "topology": (topology.decode_topology, topology.MAX_READ_BYTES, list(map(topology.encode_topology, STATES))),
    "ledger": (ledger.decode_ledger, ledger.MAX_READ_BYTES, list(map(ledger.encode_ledger, ENTRIES))),
    "dead letter": (dead_letter.decode_dead_letter, dead_letter.MAX_READ_BYTES, [LETTER]),
}
# What a decoder may take, of the most that it reads: Python's own objects are an order of magnitude larger than JSON.
MEMORY_FACTOR = 20


@pytest.mark.parametrize("name", CODECS)
def test_what_is_no_record_is_refused_with_a_reason_and_nothing_else(name: str) -> None:
    decode, _, valid = CODECS[name]
    for each in valid:
        decode(each)

    @EXAMPLES
    @given(hostile(*valid))
    def check(value: bytes) -> None:
        try:
            decode(value)
        except DecodeError as error:
            assert error.reason in REASONS

    check()


@pytest.mark.parametrize(
    ("name", "encode"),
    [("ledger", ledger.encode_ledger), ("topology", topology.encode_topology)],
)
def test_what_is_taken_can_be_written_and_read_again(name: str, encode: Callable[[Any], bytes]) -> None:
    decode, _, valid = CODECS[name]

    @EXAMPLES
    @given(hostile(*valid))
    def check(value: bytes) -> None:
        try:
            record = decode(value)
        except DecodeError:
            return
        assert decode(encode(record)) == record

    check()


@EXAMPLES
@given(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=600)), st.text(max_size=600), st.integers())
def test_any_record_at_all_becomes_a_dead_letter(value: bytes, key: bytes | None, detail: str, time_ms: int) -> None:
    detail = detail.encode("utf-8", "replace").decode()
    letter = dead_letter.dead_letter("not_json", detail, "enricher", "raw", 0, 7, min(time_ms, MAX_INTEGER), key, value)
    read = dead_letter.decode_dead_letter(letter)
    assert read.value_size == len(value)


def json_of(value: bytes) -> dict[str, Any]:
    """Return a record's JSON object."""
    found: dict[str, Any] = json.loads(value)
    return found


def widest(limit: int, name: str) -> Iterator[bytes]:
    """Yield records of nearly `limit` bytes with as many values as can be: refused and valid ones."""
    yield b"[" + b"{}," * (limit // 3 - 2) + b"{}]"
    yield b"{" + b",".join(b'"%d":""' % n for n in range(limit // 12)) + b"}"
    yield b"[" * limit
    yield b'{"a":' * (limit // 5)
    yield b"1" * limit
    yield b'{"schema_version":' + b"9" * (limit - 30) + b"}"
    for valid in CODECS[name][2]:
        for key, value in json_of(valid).items():
            for filler in FILLERS.get(type(value), ()):
                yield from _filled(json_of(valid), key, filler, limit)


def _filled(document: dict[str, Any], key: str, filler: Callable[[int], Any], limit: int) -> Iterator[bytes]:
    count = 100 * (limit - len(encoded(document))) // len(encoded(filler(100)))
    while len(value := encoded(document | {key: filler(count)})) > limit:
        count = min(count - 1, count * limit // len(value))
    yield value


FILLERS: dict[type, tuple[Callable[[int], Any], ...]] = {
    str: (lambda count: "x" * count,),
    list: (lambda count: [0] * count, lambda count: ["1"] * count),
    dict: (lambda count: {str(n): {"bytes": 0, "packets": 0} for n in range(count)},),
}


@pytest.mark.parametrize("name", CODECS)
def test_memory_is_bounded_by_the_size_that_is_read(name: str) -> None:
    decode, limit, _ = CODECS[name]
    for value in widest(limit, name):
        assert len(value) <= limit
        tracemalloc.start()
        try:
            decode(value)
        except DecodeError as error:
            assert error.reason in REASONS
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < MEMORY_FACTOR * limit, (peak / limit, value[:60])


def test_beyond_the_limit_nothing_is_decoded() -> None:
    for decode, limit, _ in CODECS.values():
        with pytest.raises(DecodeError, match="too_large"):
            decode(b" " * (limit + 1))
