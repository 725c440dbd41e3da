# SPDX-License-Identifier: Apache-2.0
"""Unpacks one batch of records as Kafka stores it (record format v2), within a bound. Pure.

aiokafka 0.14 unpacks whatever comes: 18 kB of zstd may become 600 MB, at the same offset after every restart. Here
a batch becomes an uncompressed one, for aiokafka to read, or a `BadBatch` that says why not. The formats: Kafka
documentation, Record Batch; RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format, and snappy's, raw or in xerial
blocks.
"""

import mmap
import struct
import threading
import zlib
from collections.abc import Callable

import cramjam
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

# What a batch may unpack to. Ours are at most 512 KiB, or one larger record; a mirror with large batches needs more.
# It is what a reader may have to hold for each partition, and headers of a batch take forty times as much for a moment.
MAX_UNPACKED_BYTES = 8 * 1024 * 1024

_HEADER = struct.Struct(">qiibIhiqqqhii")
_ATTRIBUTES = struct.Struct(">h")
_ATTRIBUTES_AT, _MAGIC_AT = 21, 16
_CODEC_MASK = 0x07
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_GZIP_WINDOW = 31  # the greatest window, with a gzip header
_NO_ROOM = "failed to write whole buffer"


class BadBatch(Exception):  # noqa: N818 - it is the batch, not what went wrong here
    """A batch that is not unpacked; `reason` is one of `schemas.errors.DecodeError`'s."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class BadChecksum(BadBatch):
    """What came is not what the producer sent; it may be so on the way only."""

    def __init__(self) -> None:
        super().__init__("batch_unreadable", "its checksum is wrong")


class BatchHead:
    """What the header of a batch says, whatever is in it; of a format before v2, only the offset."""

    def __init__(self, packed: memoryview) -> None:
        self.first_offset = self.last_offset = int.from_bytes(packed[:8], "big", signed=True)
        self.max_timestamp_ms, self.codec = -1, 0
        self.is_v2 = len(packed) >= _HEADER.size and packed[_MAGIC_AT] == 2
        if self.is_v2:
            fields = _HEADER.unpack_from(packed)
            self.last_offset = self.first_offset + max(fields[6], 0)
            self.max_timestamp_ms = fields[8]
            self.codec = fields[5] & _CODEC_MASK


def unpack(packed: memoryview, head: BatchHead) -> DefaultRecordBatch:
    """Return the batch, uncompressed; raise `BadBatch` for one that is too large, broken or of another format."""
    if not head.is_v2:
        raise BadBatch("batch_unreadable", "it has a format of before Kafka 0.11")
    batch = DefaultRecordBatch(packed)
    if not batch.validate_crc():
        raise BadChecksum
    records = packed[_HEADER.size :]
    if len(records) > MAX_UNPACKED_BYTES:
        raise _too_large(packed, f"more than {MAX_UNPACKED_BYTES:,}")
    if not head.codec:
        return batch
    name, decoder = _CODECS.get(head.codec, ("", None))
    if decoder is None:
        raise BadBatch("batch_unreadable", f"it is compressed with codec {head.codec}, which is not known")
    try:
        with _scratch_lock:
            size = decoder(records)
            header = bytearray(packed[: _HEADER.size])
            (attributes,) = _ATTRIBUTES.unpack_from(packed, _ATTRIBUTES_AT)
            _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes & ~_CODEC_MASK)
            return DefaultRecordBatch(b"".join((header, memoryview(_scratch)[:size])))
    except _TooLargeError as error:
        raise _too_large(packed, f"{error} ({name})") from error
    except (cramjam.DecompressionError, zlib.error, struct.error, CorruptRecordException, EOFError) as error:
        raise BadBatch("batch_unreadable", f"its {name} is broken: {' '.join(str(error).split())[:200]}") from error


def _too_large(packed: memoryview, size: str) -> BadBatch:
    return BadBatch(
        "batch_too_large",
        f"a batch of {len(packed):,} bytes unpacks to {size}; at most {MAX_UNPACKED_BYTES:,} are read",
    )


class _TooLargeError(Exception):
    """What was unpacked, or would be, is beyond the bound; the text says how large."""


# Where batches are unpacked: memory is taken as far as it is written to, once for all batches. By default it would be
# shared with processes that are forked off this one, and each would read what another unpacked.
_scratch = mmap.mmap(-1, MAX_UNPACKED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
_scratch_lock = threading.Lock()


def _framed(decompress_into: Callable[[memoryview, memoryview], int]) -> Callable[[memoryview], int]:
    """Return a decoder of frames, which need not say what they unpack to: it ends where the scratch does."""

    def decode(data: memoryview) -> int:
        try:
            return decompress_into(data, memoryview(_scratch))
        except cramjam.DecompressionError as error:
            if _NO_ROOM in str(error):
                raise _TooLargeError(f"more than {MAX_UNPACKED_BYTES:,}") from error
            raise

    return decode


def _gzip(data: memoryview) -> int:
    size, rest = 0, bytes(data)
    while rest:
        member = zlib.decompressobj(_GZIP_WINDOW)
        part = member.decompress(rest, MAX_UNPACKED_BYTES + 1 - size)
        if size + len(part) > MAX_UNPACKED_BYTES:
            raise _TooLargeError(f"more than {MAX_UNPACKED_BYTES:,}")
        if not member.eof:
            raise EOFError("it ends within a member")
        _scratch[size : size + len(part)] = part
        size, rest = size + len(part), member.unused_data
    return size


def _snappy(data: memoryview) -> int:
    """Unpack snappy, whose blocks begin with the size that they unpack to."""
    blocks = list(_xerial_blocks(data)) if bytes(data[: len(_XERIAL)]) == _XERIAL else [data]
    sizes = [int(cramjam.snappy.decompress_raw_len(block)) for block in blocks]
    if sum(sizes) > MAX_UNPACKED_BYTES:
        raise _TooLargeError(f"{sum(sizes):,}")
    at = 0
    for block, size in zip(blocks, sizes, strict=True):
        cramjam.snappy.decompress_raw_into(block, memoryview(_scratch)[at : at + size])
        at += size
    return at


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    blocks, at = [], _XERIAL_HEADER_BYTES
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if not 0 < size <= len(data) - at:
            raise EOFError(f"a block of {size} bytes where {len(data) - at} are left")
        blocks.append(data[at : at + size])
        at += size
    return blocks


_CODECS: dict[int, tuple[str, Callable[[memoryview], int]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _framed(cramjam.lz4.decompress_into)),
    4: ("zstd", _framed(cramjam.zstd.decompress_into)),
}
