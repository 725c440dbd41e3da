# SPDX-License-Identifier: Apache-2.0
"""Identity of a window, a chunk and a flow: `cluster/node/boot_id/generation/sequence[/chunk[/index]]`.

It is given by the node that counted, not by Kafka's offsets, so it survives a topic recreated and a mirror.
Within one (node, boot_id) the numbers only grow; compare them as numbers, never as text. They have no leading zeros, so
that one id is one text: books and marks are kept by either.
"""

from functools import lru_cache
from typing import NamedTuple

from schemas.errors import DecodeError

MAX_DIGITS = 16
MAX_NUMBER = 10**MAX_DIGITS - 1
# So many beginnings of ids are kept in memory, and none that is longer than Kubernetes' names make it.
MAX_REMEMBERED, MAX_REMEMBERED_LENGTH = 16_384, 600


class Origin(NamedTuple):
    """One life of one node: marks are kept for it. `boot_id`: first 12 hex digits of the kernel's."""

    cluster: str
    node: str
    boot_id: str


# Of a generation's windows the first one's number.
FIRST_SEQUENCE = 1


class Position(NamedTuple):
    """Where in an origin's stream a flow stands; tuples compare in the order in which they were counted."""

    generation: int
    sequence: int
    chunk: int
    row: int


def window_id(origin: Origin, generation: int, sequence: int) -> str:
    """Return the id of a window: all that one node counted between two flips."""
    return f"{origin.cluster}/{origin.node}/{origin.boot_id}/{generation}/{sequence}"


def chunk_id(origin: Origin, generation: int, sequence: int, chunk: int) -> str:
    """Return the id of a raw chunk, which is a flow's id without its index."""
    return f"{origin.cluster}/{origin.node}/{origin.boot_id}/{generation}/{sequence}/{chunk}"


def split_flow_id(flow_id: str) -> tuple[str, int]:
    """Split a flow's id into its chunk's id and its row's index; raise `DecodeError` if it is none."""
    chunk, _, index = flow_id.rpartition("/")
    if not chunk or not _is_number(index):
        raise DecodeError("schema_mismatch", f"{flow_id!r} is not cluster/node/boot_id/generation/sequence/chunk/index")
    return chunk, int(index)


def parse_flow_id(flow_id: str) -> tuple[Origin, Position]:
    """Take a flow's id apart; raise `DecodeError` if it does not have seven parts, the last four numbers."""
    chunk, _, index = flow_id.rpartition("/")
    window, _, number = chunk.rpartition("/")
    origin, generation, sequence = _window(window, flow_id)
    return origin, Position(generation, sequence, parse_number(number, flow_id), parse_number(index, flow_id))


def parse_chunk_id(text: str) -> tuple[Origin, Position]:
    """Take a chunk's id apart; the position's row is 0. Raises `DecodeError`."""
    window, _, number = text.rpartition("/")
    origin, generation, sequence = _window(window, text)
    return origin, Position(generation, sequence, parse_number(number, text), 0)


def parse_window_id(text: str, whole: str | None = None) -> tuple[Origin, Position]:
    """Take a window's id apart; the position's chunk and row are 0. Raises `DecodeError`, which names `whole`."""
    origin, generation, sequence = _window(text, whole or text)
    return origin, Position(generation, sequence, 0, 0)


def _window(text: str, whole: str) -> tuple[Origin, int, int]:
    head, _, sequence = text.rpartition("/")
    found = _remembered(head) if len(head) <= MAX_REMEMBERED_LENGTH else _generation(head)
    if found is None:
        raise _is_none(whole)
    return *found, parse_number(sequence, whole)


def _generation(text: str) -> tuple[Origin, int] | None:
    *life, number = text.split("/")
    return (Origin(*life), int(number)) if len(life) == 3 and _is_number(number) else None


# A node's windows, chunks and flows come one after the other, and begin alike.
_remembered = lru_cache(maxsize=MAX_REMEMBERED)(_generation)


def parse_number(text: str, whole: str) -> int:
    """Read one of an id's numbers; raise `DecodeError`, which names the whole id, if it is none."""
    # As `_is_number` has it, without the call: twice for each chunk's id.
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and (text[0] != "0" or text == "0"):
        return int(text)
    raise _is_none(whole)


def _is_none(text: str) -> DecodeError:
    form = "cluster/node/boot_id/generation/sequence[/chunk[/index]]"
    return DecodeError("schema_mismatch", f"{text!r} is not {form}")


def _is_number(text: str) -> bool:
    # The length bound keeps every part within 64 bits; int() itself refuses more than 4,300 digits.
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and (text[0] != "0" or text == "0")
