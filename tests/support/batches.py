# SPDX-License-Identifier: Apache-2.0
"""Batches of records as a producer may send them that is not ours: any codec, bombs, broken ones."""

import asyncio
import gzip
import struct
import time
from collections.abc import Sequence
from typing import Any

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

_MEBIBYTE = 1024 * 1024
# What a batch within a broker's limit of 1 MiB unpacks to, by codec. A broker has to unpack it, too, to answer a
# question by time, and the tests' own has little room: only one of them is as large as it can be.
BOMBS = {"gzip": 40 * _MEBIBYTE, "snappy": 16 * _MEBIBYTE, "lz4": 40 * _MEBIBYTE, "zstd": 300 * _MEBIBYTE}
SMALL_BOMB = 40 * _MEBIBYTE

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_HEADER_BYTES, _CRC_AT, _ATTRIBUTES_AT = 61, 17, 21


def batch(
    values: Sequence[bytes | None], codec: str = "none", first: int = 0, headers: Sequence[tuple[str, bytes]] = ()
) -> bytes:
    """Return a batch of records, packed by the library's own producer."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 2**31 - 1)
    for number, value in enumerate(values):
        builder.append(number, 1_000, b"k", value, list(headers))
    packed = bytearray(builder.build())
    packed[:8] = struct.pack(">q", first)
    return bytes(packed)


def publish(bootstrap: str, topic: str, partition: int, packed: bytes) -> None:
    """Append a batch as it is; the broker gives it its offsets."""

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, request_timeout_ms=30_000)
        await producer.start()
        try:
            made: Any = _Ready(_at_time(packed, time.time_ns() // 1_000_000))
            await asyncio.wait_for(await producer.send_batch(made, topic, partition=partition), 30)
        finally:
            await producer.stop()

    asyncio.run(send())


class _Ready:
    """A batch that is packed already, as aiokafka's producer wants one."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def close(self) -> None:
        pass

    def closed(self) -> bool:
        return True

    def record_count(self) -> int:
        return int.from_bytes(self._packed[57:61], "big")

    def size(self) -> int:
        return len(self._packed)

    def _build(self) -> bytes:
        return self._packed


def _at_time(packed: bytes, now_ms: int) -> bytes:
    """Return a batch as of now: a broker deletes what is of 1970."""
    header = packed[:27] + struct.pack(">qq", now_ms, now_ms) + packed[43:_HEADER_BYTES]
    codec = packed[_ATTRIBUTES_AT + 1] & 7
    return sealed(header, next(name for name, number in CODECS.items() if number == codec), packed[_HEADER_BYTES:])


def bomb(codec: str, size: int, first: int = 0, records: int = 1) -> bytes:
    """Return a batch of so many records of zeros, `size` in all; of zstd as a stream, which does not say how large."""
    return repacked(batch([bytes(size // records)] * records, first=first), codec)


def bomb_within_limits(codec: str) -> bytes:
    """Return a bomb of 16 records that a broker takes by default."""
    return bomb(codec, BOMBS[codec], records=16)


def repacked(plain: bytes, codec: str) -> bytes:
    """Return an uncompressed batch compressed, with a checksum that is right."""
    return sealed(plain[:_HEADER_BYTES], codec, _compress(codec, plain[_HEADER_BYTES:]))


def sealed(header: bytes, codec: str, records: bytes) -> bytes:
    """Return a batch of these bytes, whatever they are, with a length and a checksum that are right."""
    packed = bytearray(header + records)
    packed[8:12] = struct.pack(">i", len(packed) - 12)
    packed[_ATTRIBUTES_AT : _ATTRIBUTES_AT + 2] = struct.pack(">h", CODECS.get(codec, 7))
    packed[_CRC_AT : _CRC_AT + 4] = struct.pack(">I", calc_crc32c(bytes(packed[_ATTRIBUTES_AT:])))
    return bytes(packed)


def _compress(codec: str, data: bytes) -> bytes:
    if codec == "gzip":
        return gzip.compress(data)
    if codec == "snappy":
        return bytes(cramjam.snappy.compress_raw(data))
    if codec == "lz4":
        return bytes(lz4_encode(data, level=1))
    if codec == "zstd":
        stream = cramjam.zstd.Compressor()
        stream.compress(data)
        return bytes(stream.finish())
    return data
