# SPDX-License-Identifier: Apache-2.0
"""What is kept of a ledger entry while its window is open: there are as many as nodes flip in minutes. Pure."""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec.structs import astuple

from schemas.amount import Amount
from schemas.ledger import Hop, LedgerRecord


class Coverage(msgspec.Struct, gc=False):
    """Bytes at the hook beside those of the uplinks' own counters, which count link-layer headers too.

    Out: all that the hook saw, and what the uplinks sent. In: what it saw come in over an uplink, and what they got.
    """

    out_hook: int = 0
    out_uplinks: int = 0
    in_hook: int = 0
    in_uplinks: int = 0

    def add(self, other: "Coverage") -> None:
        """Add another's bytes."""
        self.out_hook += other.out_hook
        self.out_uplinks += other.out_uplinks
        self.in_hook += other.in_hook
        self.in_uplinks += other.in_uplinks

    def ratios(self) -> dict[str, float]:
        """Return the part that the hook saw, out and in, each at most 1: it also sees what stays on the node."""
        ways = {"out": (self.out_hook, self.out_uplinks), "in": (self.in_hook, self.in_uplinks)}
        return {way: min(hook / uplinks, 1.0) for way, (hook, uplinks) in ways.items() if uplinks}


class Named(NamedTuple):
    """Amounts by node, packed: an entry may name hundreds of nodes, and there are as many such entries as windows."""

    names: tuple[str, ...] = ()
    numbers: "array[int]" = array("q")

    @classmethod
    def of(cls, amounts: Mapping[str, Amount]) -> "Named":
        """Pack them."""
        numbers = [number for each in amounts.values() for number in (each.bytes, each.packets, each.rows)]
        small = not numbers or max(numbers) < 1 << 32
        return cls(tuple(map(sys.intern, amounts)), array("I" if small else "q", numbers))

    def items(self) -> Iterator[tuple[str, Amount]]:
        """Unpack them."""
        numbers = iter(self.numbers)
        return zip(self.names, map(Amount, numbers, numbers, numbers), strict=True)


_NOBODY = Named()
_AMOUNT = struct.Struct("<3q")
# Shapes that are kept, and of so many characters at most: somebody may make up reasons.
_MAX_SHAPES, _MAX_REASONS = 1_000, 1_000
# What only a forger says of an uplink does not fit into 64 bits.
_MOST = (1 << 63) - 1


class Shape:
    """What the numbers of an entry are: what it took and gave, put aside and lost, by reason; a collector's coverage.

    As good as all entries have one of a few, so that their numbers can be added up by it.
    """

    def __init__(self, hop: Hop, aside: tuple[str, ...], lost: tuple[str, ...]) -> None:
        self.hop, self.aside, self.lost = hop, aside, lost
        self.size = (2 + len(aside) + len(lost)) * _AMOUNT.size
        self.packed = struct.Struct(f"<{self.size // 8 + (4 if hop == 'collector' else 0)}q")
        self.reasons = tuple(sorted(aside)), tuple(sorted(lost))
        self.is_sorted = self.reasons == (aside, lost)


_shapes: dict[tuple[Hop, tuple[str, ...], tuple[str, ...]], Shape] = {}


def _shape_of(record: LedgerRecord) -> Shape:
    key = record.hop, tuple(record.aside), tuple(record.lost)
    shape = _shapes.get(key)
    if shape is None:
        shape = Shape(*key)
        if sum(map(len, (*shape.aside, *shape.lost))) <= _MAX_REASONS:
            if len(_shapes) >= _MAX_SHAPES:
                _shapes.clear()
            _shapes[key] = shape
    return shape


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an entry of collector or enricher until its window is closed.

    `numbers`, packed as `shape` says: as objects they would be twenty, written, looked for and freed one by one.
    `accounted`: what `out`, `aside` and `lost` come to, if that is not `in`. `senders`, `foreign`: by node.
    """

    shape: Shape
    partition: int
    start_ms: int
    end_ms: int
    chunks: int | None
    numbers: bytes
    accounted: Amount | None
    senders: Named = _NOBODY
    foreign: Named = _NOBODY

    @classmethod
    def of(
        cls, record: LedgerRecord, senders: Mapping[str, Amount] = MappingProxyType({}), beside: "Entry | None" = None
    ) -> "Entry":
        """Return what is kept of a record, and of its senders only these; `beside`: another of the same window."""
        shape = _shape_of(record)
        start_ms, end_ms = record.start_ms, record.end_ms
        if beside is not None and beside.start_ms == start_ms and beside.end_ms == end_ms:
            start_ms, end_ms = beside.start_ms, beside.end_ms
        numbers = astuple(record.taken) + astuple(record.given)
        for amount in record.aside.values():
            numbers += astuple(amount)
        for amount in record.lost.values():
            numbers += astuple(amount)
        if record.hop == "collector":
            numbers += _coverage(record)
        return cls(
            shape,
            record.partition,
            start_ms,
            end_ms,
            record.chunks,
            shape.packed.pack(*numbers),
            record.balance(),
            Named.of(senders) if senders else _NOBODY,
            Named.of(record.foreign_source) if record.foreign_source else _NOBODY,
        )

    @property
    def taken(self) -> Amount:
        """What it took in."""
        return Amount(*_AMOUNT.unpack_from(self.numbers))

    @property
    def given(self) -> Amount:
        """What it gave out."""
        return Amount(*_AMOUNT.unpack_from(self.numbers, _AMOUNT.size))

    def gave(self, amount: Amount) -> bool:
        """Return whether it gave out just that."""
        return _AMOUNT.unpack_from(self.numbers, _AMOUNT.size) == astuple(amount)

    def said(self) -> int:
        """Return what it says, in short. Published again after a crash, it says the same."""
        numbers, shape = self.numbers, self.shape
        numbers = numbers[: shape.size] if shape.is_sorted else self._sorted()
        if shape.hop == "collector":
            numbers += _AMOUNT.pack(-1 if self.chunks is None else self.chunks, self.start_ms, self.end_ms)
        # Of bytes and names, because Python salts their hashes: none can be made to fit.
        return hash((numbers, shape.reasons))

    def _sorted(self) -> bytes:
        """Return its amounts in the order of their reasons' names."""
        shape, size = self.shape, _AMOUNT.size
        taken, given, *others = (self.numbers[at : at + size] for at in range(0, shape.size, size))
        aside = sorted(zip(shape.aside, others, strict=False))
        lost = sorted(zip(shape.lost, others[len(aside) :], strict=True))
        return b"".join((taken, given, *(packed for _, packed in (*aside, *lost))))


def add_up_entries(entries: Iterable[Entry]) -> Iterator[tuple[Shape, list[Amount], Coverage | None]]:
    """Yield the sums of their amounts, in the order of their shape, and of their coverage; by shape."""
    packed: dict[Shape, list[bytes]] = {}
    for entry in entries:
        packed.setdefault(entry.shape, []).append(entry.numbers)
    for shape, same in packed.items():
        numbers = shape.packed.unpack(same[0])
        if len(same) > 1:
            numbers = tuple(map(sum, zip(*map(shape.packed.unpack, same), strict=True)))
        count = shape.size // 8
        amounts = iter(numbers[:count])
        coverage = Coverage(*numbers[count:]) if shape.hop == "collector" else None
        yield shape, list(map(Amount, amounts, amounts, amounts)), coverage


def _coverage(record: LedgerRecord) -> tuple[int, int, int, int]:
    received, sent, got = record.received, 0, 0
    for uplink in record.uplinks.values():
        sent, got = sent + uplink.tx_bytes, got + uplink.rx_bytes
    return record.taken.bytes, min(sent, _MOST), *((received.bytes, min(got, _MOST)) if received else (0, 0))
