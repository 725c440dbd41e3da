# SPDX-License-Identifier: Apache-2.0
"""What is kept of a ledger entry while its window is open: there are as many as nodes flip in minutes. Pure."""

import sys
from array import array
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

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
_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an entry of collector or enricher until its window is closed.

    `accounted`: what `out`, `aside` and `lost` come to, if that is not `in`. `senders`, `foreign`: by node.
    """

    hop: Hop
    partition: int
    start_ms: int
    end_ms: int
    chunks: int | None
    taken: Amount
    given: Amount
    accounted: Amount | None
    aside: tuple[tuple[str, Amount], ...]
    lost: tuple[tuple[str, Amount], ...]
    coverage: Coverage | None
    senders: Named = _NOBODY
    foreign: Named = _NOBODY

    @classmethod
    def of(cls, record: LedgerRecord, senders: Mapping[str, Amount] = MappingProxyType({})) -> "Entry":
        """Return what is kept of a record, and of its senders only these."""
        return cls(
            record.hop,
            record.partition,
            record.start_ms,
            record.end_ms,
            record.chunks,
            record.taken,
            record.taken if record.given == record.taken else record.given,
            record.balance(),
            tuple(record.aside.items()) if record.aside else (),
            tuple(record.lost.items()) if record.lost else (),
            _coverage(record) if record.hop == "collector" else None,
            Named.of(senders) if senders else _NOBODY,
            Named.of(record.foreign_source) if record.foreign_source else _NOBODY,
        )

    def said(self) -> int:
        """Return what it says, in short. Published again after a crash, it says the same."""
        window = (self.chunks, self.start_ms, self.end_ms) if self.hop == "collector" else ()
        # Of bytes, because Python salts their hashes: none can be made to fit.
        return hash(_encode((self.taken, self.given, sorted(self.aside), sorted(self.lost), window)))


def _coverage(record: LedgerRecord) -> Coverage:
    received, sent, got = record.received, 0, 0
    for uplink in record.uplinks.values():
        sent, got = sent + uplink.tx_bytes, got + uplink.rx_bytes
    return Coverage(record.taken.bytes, sent, *((received.bytes, got) if received else ()))
