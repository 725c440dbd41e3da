# SPDX-License-Identifier: Apache-2.0
"""Typed reading of JSON records, with every failure turned into a `DecodeError`."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Protocol, TypeVar

import msgspec

from schemas.errors import DecodeError

# JSON numbers are doubles for many readers (RFC 8259, section 6): above 2^53 they would lose bytes silently.
MAX_INTEGER = 2**53 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
# A Kubernetes name is at most an RFC 1123 subdomain; zones, regions and uids are shorter. Names stand in every flow.
Name = Annotated[str, msgspec.Meta(max_length=253)]
# Kafka numbers partitions by 32 bits; a greater one fits no column of the flow log.
Partition = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

# What msgspec raises for bytes that are not such JSON, also for text that is not UTF-8 and for endless brackets.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class Unreadable(bytes):
    """In place of a record's value: a batch of `records` offsets that could not be unpacked, as it stood in Kafka.

    `reason` is one of `DecodeError`'s, `detail` says which offsets and why. The record's offset is the batch's last.
    """

    reason: str
    detail: str
    records: int

    def __new__(cls, packed: bytes | memoryview, reason: str, detail: str, records: int) -> "Unreadable":
        """Make it of the batch's bytes."""
        made = super().__new__(cls, packed)
        made.reason, made.detail, made.records = reason, detail, records
        return made


def offsets_of(value: bytes | None) -> int:
    """Return how many offsets a record with this value stands for, up to its own."""
    return value.records if isinstance(value, Unreadable) else 1


class _Version(msgspec.Struct):
    schema_version: int = 1


_version_decoder = msgspec.json.Decoder(_Version)


def check_version(value: bytes, known: int) -> None:
    """Raise `DecodeError` if a record that could not be decoded, or not by its fields, is of another version."""
    try:
        version = _version_decoder.decode(value).schema_version
    except UNREADABLE:
        return
    if version != known:
        raise unsupported(version, known)


def unsupported(version: int, known: int) -> DecodeError:
    """Return what to raise for a record of another version: what its fields mean there is not known."""
    return DecodeError("unsupported_version", f"schema_version {version}, this reader knows {known}")


def reader(of: type[T], max_size: int) -> Callable[[bytes | None], T]:
    """Return what decodes a record of at most `max_size` bytes, and raises `DecodeError` for any that is not valid."""
    return partial(_decode, msgspec.json.Decoder(of), max_size)


class _OfVersion(Protocol):
    @property
    def schema_version(self) -> int: ...


V = TypeVar("V", bound=_OfVersion)


def versioned_reader(of: type[V], max_size: int, known: int) -> Callable[[bytes | None], V]:
    """Return such a reader of records with a `schema_version`, which refuses all but the one that is known."""
    decode = reader(of, max_size)

    def read(value: bytes | None) -> V:
        try:
            found = decode(value)
        except DecodeError as error:
            if error.reason == "schema_mismatch":
                check_version(value or b"", known)
            raise
        if found.schema_version != known:
            raise unsupported(found.schema_version, known)
        return found

    return read


def _decode(decoder: msgspec.json.Decoder[T], max_size: int, value: bytes | None) -> T:
    if value is None:
        raise DecodeError("not_json", "the record has no value")
    if isinstance(value, Unreadable):
        raise DecodeError(value.reason, value.detail)
    if len(value) > max_size:
        raise DecodeError("too_large", f"{len(value)} bytes, at most {max_size}")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise DecodeError("schema_mismatch", str(error)) from error
    except UNREADABLE as error:
        raise DecodeError("not_json", str(error)) from error
