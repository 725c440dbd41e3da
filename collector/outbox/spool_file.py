# SPDX-License-Identifier: Apache-2.0
"""A spooled window as a file: gzip of JSON lines, the window's head first, then its chunks as they are published.

gzip brings what a file needs that may be cut short or rot: a checksum and a length at its end. And `zcat` shows what
is in it. Nothing here knows which window is whose turn; that is `spool`.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from common.input.files import why_not_own
from schemas.codec import UNREADABLE
from schemas.errors import DecodeError
from schemas.ids import parse_window_id
from schemas.ledger import LedgerRecord
from schemas.raw import MAX_READ_BYTES, as_repeat

# Level 1: 11 bytes a flow; 6 saves one of them and takes four times as long, zstd saves as much for a dependency.
_LEVEL = 1


class DamagedError(Exception):
    """A file is not what was written; its text is one line that says in which way."""


class SpoolHead(msgspec.Struct, frozen=True):
    """The first line. `maybe_repeat`: there was an attempt to publish the window before it was spooled."""

    ledger: LedgerRecord
    maybe_repeat: bool


_head_encoder = msgspec.json.Encoder()
_head_decoder = msgspec.json.Decoder(SpoolHead)


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """A closed window as records to publish.

    `chunks` gives its raw chunks in order, at each call; they say `maybe_repeat` if asked to. `maybe_repeat`: they
    must, because there was an attempt before.
    """

    ledger: LedgerRecord
    maybe_repeat: bool
    chunks: Callable[[bool], Iterator[bytes]]


def write(file: IO[bytes], head: SpoolHead, chunks: Iterable[bytes]) -> None:
    """Write a window to an empty file; `chunks` without `maybe_repeat`. Raises OSError."""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
        packed.write(_head_encoder.encode(head) + b"\n")
        for chunk in chunks:
            packed.write(chunk + b"\n")


def read(path: Path) -> EncodedWindow:
    """Read a file through to its end, once, and return its window; raise `DamagedError`, or OSError.

    Its chunks are read again when they are asked for, so that no more than one of them is in memory.
    """
    lines = _read(path)
    head = _head(next(lines, b""))
    found = sum(1 for _ in lines)
    if found != head.ledger.chunks:
        raise DamagedError(f"it holds {found} chunks of {head.ledger.chunks}")

    def chunks(repeat: bool) -> Iterator[bytes]:
        again = _read(path)
        next(again)
        return map(as_repeat, again) if repeat else again

    return EncodedWindow(head.ledger, head.maybe_repeat, chunks)


def read_head(path: Path) -> SpoolHead | None:
    """Return a file's first line alone; None if it is damaged. Raises OSError."""
    try:
        return _head(next(_read(path), b""))
    except DamagedError:
        return None


def _head(line: bytes) -> SpoolHead:
    try:
        head = _head_decoder.decode(line)
        origin, _ = parse_window_id(head.ledger.id)
    except (*UNREADABLE, DecodeError) as error:
        raise DamagedError(f"its head cannot be decoded: {error}") from error
    if head.ledger.hop != "collector" or head.ledger.node != origin.node:
        raise DamagedError(f"its head is not of a window of {origin.node!r}")
    return head


def _read(path: Path) -> Iterator[bytes]:
    try:
        # What is not a file never ends, or never begins: a pipe without a writer.
        with open(path, "rb", opener=_not_waiting) as file, gzip.open(file) as lines:
            if why := why_not_own(os.fstat(file.fileno()), (0, os.geteuid())):
                raise DamagedError(f"it {why}")
            while line := _readline(lines):
                yield line.removesuffix(b"\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedError(" ".join(str(error).split())) from error


def _not_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _readline(lines: Any) -> bytes:
    line: bytes = lines.readline(MAX_READ_BYTES + 1)
    if len(line) > MAX_READ_BYTES:
        raise DamagedError(f"a line is longer than {MAX_READ_BYTES} bytes")
    return line
