# SPDX-License-Identifier: Apache-2.0
"""Batches of records through what aiokafka's consumer does with an answer: bounded, and never the end of a reader."""

import os
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.structs import ConsumerRecord, TopicPartition

from common.kafka.protocol import fetching, unpacking
from common.kafka.protocol.unpacking import MAX_UNPACKED_BYTES
from schemas.codec import Unreadable, offsets_of
from tests.support import batches
from tests.support.batches import CODECS, batch, bomb, sealed

fetching.install()
WHERE = TopicPartition("t", 0)
PACKED = [codec for codec in CODECS if codec != "none"]
_MEBIBYTE = 1024 * 1024


def read(*packed: bytes, offset: int = 0) -> list[ConsumerRecord[bytes, bytes]]:
    """Return what a consumer makes of an answer that holds these batches."""
    made = fetcher.PartitionRecords(
        WHERE, fetcher.MemoryRecords(b"".join(packed)), None, offset, None, None, True, fetcher.READ_UNCOMMITTED
    )
    return list(made)


def shown(records: Iterable[ConsumerRecord[bytes, bytes]]) -> list[Any]:
    return [
        (record.offset, record.value.reason if isinstance(record.value, Unreadable) else record.value)
        for record in records
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    [first, second, third] = read(batch([b"a" * 1000, None], codec), batch([b"c"], codec, first=2))
    assert shown([first, second, third]) == [(0, b"a" * 1000), (1, None), (2, b"c")]
    assert (first.topic, first.partition, first.timestamp, first.key) == ("t", 0, 1_000, b"k")


@pytest.mark.parametrize("codec", PACKED)
def test_a_batch_may_unpack_to_so_much_and_no_more(codec: str) -> None:
    overhead = len(batch([bytes(MAX_UNPACKED_BYTES)])) - 61 - MAX_UNPACKED_BYTES
    [most] = read(bomb(codec, MAX_UNPACKED_BYTES - overhead))
    assert len(most.value or b"") == MAX_UNPACKED_BYTES - overhead
    assert shown(read(bomb(codec, MAX_UNPACKED_BYTES - overhead + 1))) == [(0, "batch_too_large")]


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_is_one_record_in_bounded_memory_and_what_follows_is_read(codec: str) -> None:
    packed = bomb(codec, 64 * _MEBIBYTE, first=4)
    answer = [batch([b"before"], first=3), packed, batch([b"after"], codec, first=5)]
    tracemalloc.start()
    records = read(*answer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown(records) == [(3, b"before"), (4, "batch_too_large"), (5, b"after")]
    assert peak < 2 * MAX_UNPACKED_BYTES + 4 * len(packed)
    value = records[1].value
    assert isinstance(value, Unreadable)
    assert value == packed
    assert f"offsets 4 to 4: a batch of {len(packed):,} bytes unpacks to " in value.detail


def test_a_bomb_begun_within_stands_for_what_was_not_read_yet() -> None:
    plain = batch([b"x" * _MEBIBYTE] * 10, first=100)
    [record] = read(batches.repacked(plain, "zstd"), offset=103)
    assert (record.offset, offsets_of(record.value)) == (109, 7)


HEADER = batch([b"v"])[:61]
BROKEN = {
    "cut short": sealed(HEADER, "zstd", b"\x28\xb5\x2f\xfd"),
    "nothing packed": sealed(HEADER, "gzip", b""),
    "gzip cut short": sealed(HEADER, "gzip", b"\x1f\x8b\x08\x00"),
    "no lz4": sealed(HEADER, "lz4", b"rubbish" * 10),
    "no snappy": sealed(HEADER, "snappy", b"\xff" * 20),
    "xerial block beyond the end": sealed(HEADER, "snappy", b"\x82SNAPPY\x00" + bytes(8) + b"\x7f\xff\xff\xff"),
    "xerial block of less than nothing": sealed(HEADER, "snappy", b"\x82SNAPPY\x00" + bytes(8) + b"\xff\xff\xff\xff"),
    "codec 7": sealed(HEADER, "none of them", b"v"),
    "fewer records than it says": sealed(HEADER[:-4] + b"\x00\x00\x00\x09", "none", batch([b"v"])[61:]),
    "before v2": batch([b"v"])[:16] + b"\x01" + batch([b"v"])[17:],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_batch_is_one_record_and_what_follows_is_read(kind: str) -> None:
    found = shown(read(BROKEN[kind], batch([b"after"], first=1)))
    # Of one that ends badly, what stands before its end is as good as any.
    good = [(0, b"v")] if kind == "fewer records than it says" else []
    assert found == [*good, (0, "batch_unreadable"), (1, b"after")]


def test_a_header_that_is_no_text_does_not_end_the_reader() -> None:
    packed = batch([b"first", b"second"], headers=[("hh", b"1")]).replace(b"hh", b"\xff\xfe")
    records = read(sealed(packed[:61], "none", packed[61:]), batch([b"after"], first=2))
    assert shown(records) == [(1, "batch_unreadable"), (2, b"after")]


def test_a_wrong_checksum_is_looked_at_twice() -> None:
    damaged = bytearray(batch([b"value"], first=7))
    damaged[-3] ^= 1
    answer = (batch([b"before"], first=6), bytes(damaged), batch([b"after"], first=8))
    assert shown(read(*answer, offset=6)) == [(6, b"before")]
    assert shown(read(*answer[1:], offset=7)) == [(7, "batch_unreadable"), (8, b"after")]
    assert shown(read(bytes(damaged), offset=7)) == [], "another time it is looked at twice again"
    assert shown(read(batch([b"value"], first=7), offset=7)) == [(7, b"value")], "it was damaged on its way"


def test_a_fetch_ends_when_it_has_enough() -> None:
    values = [bytes([number]) * 1_000_000 for number in range(8)]

    class Assigned:
        active = True
        paused = False
        position = 0

        def state_value(self, _: TopicPartition) -> "Assigned":
            return self

        def consumed_to(self, position: int) -> None:
            self.position = position

    state = Assigned()
    made = fetcher.PartitionRecords(
        WHERE, fetcher.MemoryRecords(batch(values)), None, 0, None, None, True, fetcher.READ_UNCOMMITTED
    )
    result = fetcher.FetchResult(WHERE, assignment=state, partition_records=made, backoff=0)
    sizes = []
    while result.has_more():
        with fetching.budget(2_500_000):
            sizes.append(len(result.getall()))
        assert state.position == sum(sizes)
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize("codec", PACKED)
def test_what_is_packed_in_several_blocks_is_read(codec: str) -> None:
    values = [bytes([number]) * 40_000 for number in range(10)]
    assert [record.value for record in read(batch(values, codec))] == values


def test_what_a_forked_process_unpacks_is_not_seen_here() -> None:
    unpacking._scratch[:4] = b"mine"
    child = os.fork()
    if not child:
        unpacking._scratch[:4] = b"its!"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert unpacking._scratch[:4] == b"mine"
