# SPDX-License-Identifier: Apache-2.0
"""Typed reading of JSON records, with every failure turned into a `DecodeError`."""

from typing import Annotated, TypeVar

import msgspec

from schemas.errors import DecodeError

# JSON numbers are doubles for many readers (RFC 8259, section 6): above 2^53 they would lose bytes silently.
MAX_INTEGER = 2**53 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

# What msgspec raises for bytes that are no such JSON, also for text that is no UTF-8 and for brackets without end.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], value: bytes | None, max_size: int) -> T:
    """Decode one record of at most `max_size` bytes; raise `DecodeError` for anything else than a valid one."""
    if value is None:
        raise DecodeError("not_json", "the record has no value")
    if len(value) > max_size:
        raise DecodeError("too_large", f"{len(value)} bytes, at most {max_size}")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise DecodeError("schema_mismatch", str(error)) from error
    except UNREADABLE as error:
        raise DecodeError("not_json", str(error)) from error
