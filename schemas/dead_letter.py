# SPDX-License-Identifier: Apache-2.0
"""Topic `dead-letter.v1`: what could not be decoded, whole, with where it stood and why."""

import base64

import msgspec

from schemas.codec import Count, Milliseconds, offsets_of, reader

SCHEMA_VERSION = 1
MAX_READ_BYTES = 1024 * 1024
# base64 takes 4 bytes for 3, and the record must fit a broker's default message.max.bytes (1 MiB).
MAX_KEPT_BYTES = 640 * 1024


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One refused record. `value` is base64 (RFC 4648) of its first 640 KiB; `value_size` its true size in bytes.

    Of a batch that could not be unpacked there is one letter: `first_offset` to `offset`, and the batch as it stands in
    Kafka as its value.
    """

    schema_version: int = SCHEMA_VERSION
    reason: str
    detail: str
    topic: str
    partition: Count
    offset: Count
    first_offset: Count | None = None
    timestamp_ms: Milliseconds
    refused_by: str
    key: str | None = None
    value: str | None = None
    value_size: Count = 0


def dead_letter(
    reason: str,
    detail: str,
    refused_by: str,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
) -> bytes:
    """Encode a refused record with its reason; what is beyond the size limit is cut and says so by its size."""
    kept = None if value is None else base64.b64encode(value[:MAX_KEPT_BYTES]).decode()
    return msgspec.json.encode(
        DeadLetter(
            reason=reason,
            detail=detail[:500],
            topic=topic,
            partition=partition,
            offset=offset,
            first_offset=offset - offsets_of(value) + 1 if offsets_of(value) > 1 else None,
            timestamp_ms=max(timestamp_ms, 0),
            refused_by=refused_by,
            key=None if key is None else key[:500].decode("utf-8", "replace"),
            value=kept,
            value_size=len(value or b""),
        )
    )


decode_dead_letter = reader(DeadLetter, MAX_READ_BYTES)
