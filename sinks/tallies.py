# SPDX-License-Identifier: Apache-2.0
"""A sink's books of one partition since its last checkpoint, turned into ledger records. Pure.

`parts` holds what was taken for the first time of each chunk, also where it is then put aside; a repeat is in no
part. So, over all records of a sink, the parts of a chunk add up to the chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.amount import NOTHING, Amount
from schemas.codec import MAX_INTEGER
from schemas.ledger import Hop, LedgerRecord

# Of encoded parts in one record; a broker takes 1 MiB by default, the rest of a record is far below the difference.
MAX_PARTS_BYTES = 400 * 1024
# An entry of `parts` beside its chunk id: {"bytes":9007199254740991,"packets":9007199254740991,"rows":99999999}
PART_OVERHEAD_BYTES = 80


@dataclass(slots=True)
class Tally:
    """An amount that is being added up."""

    bytes: int = 0
    packets: int = 0
    rows: int = 0

    def add(self, octets: int, packets: int) -> None:
        """Add one flow."""
        self.bytes += octets
        self.packets += packets
        self.rows += 1

    def add_if_it_fits(self, octets: int, packets: int) -> bool:
        """Add one flow, unless it would be no number that the ledger can hold any more; return whether it was."""
        octets += self.bytes
        packets += self.packets
        if octets > MAX_INTEGER or packets > MAX_INTEGER:
            return False
        self.bytes, self.packets = octets, packets
        self.rows += 1
        return True

    @property
    def amount(self) -> Amount:
        """What it comes to; where that is more than the ledger can hold, the most that it can."""
        return Amount(min(self.bytes, MAX_INTEGER), min(self.packets, MAX_INTEGER), self.rows)


@dataclass(slots=True)
class Tallies:
    """What one partition brought since the last checkpoint. `aside` is by reason, then by chunk id."""

    parts: dict[str, Tally] = field(default_factory=dict)
    aside: dict[str, dict[str, Tally]] = field(default_factory=dict)
    repeats: Tally = field(default_factory=Tally)
    refused: dict[str, int] = field(default_factory=dict)
    start_ms: int | None = None
    end_ms: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all came in."""
        return not (self.parts or self.repeats.rows or self.refused)

    def part(self, chunk: str) -> Tally:
        """Return the running sum of what was taken of a chunk."""
        return self.parts.setdefault(chunk, Tally())

    def put_aside(self, reason: str, chunk: str, octets: int, packets: int) -> None:
        """Count one flow that was taken and is left out of what the sink gives, by design."""
        self.aside.setdefault(reason, {}).setdefault(chunk, Tally()).add(octets, packets)

    def refuse(self, reason: str, records: int = 1) -> None:
        """Count records that could not be decoded; their bytes are not known, so each is a row and no more."""
        self.refused[reason] = self.refused.get(reason, 0) + records

    def cover(self, start_ms: int, end_ms: int) -> None:
        """Widen the span of windows that the records name."""
        self.start_ms = start_ms if self.start_ms is None else min(self.start_ms, start_ms)
        self.end_ms = max(self.end_ms, end_ms)

    def records(self, hop: Hop, name: str, partition: int, now_ms: int) -> list[LedgerRecord]:
        """Return the ledger records of these books, none if they are empty; several where one would be too large.

        The first is called `name`, further ones `name.1`, `name.2` and so on.
        """
        if self.is_empty:
            return []
        start_ms, end_ms = (now_ms, now_ms) if self.start_ms is None else (self.start_ms, self.end_ms)
        records = []
        for number, chunks in enumerate(self._groups()):
            taken = sum((self.parts[chunk].amount for chunk in chunks), NOTHING)
            aside = {reason: self._aside(reason, chunks) for reason in self.aside}
            lost = {reason: Amount(0, 0, rows) for reason, rows in self.refused.items()} if number == 0 else {}
            repeats = {"repeat": self.repeats.amount} if number == 0 else {}
            out = sum(aside.values(), NOTHING)
            given = Amount(taken.bytes - out.bytes, taken.packets - out.packets, taken.rows - out.rows)
            aside = {reason: amount for reason, amount in {**aside, **repeats}.items() if amount.rows}
            records.append(
                LedgerRecord(
                    hop=hop,
                    id=f"{name}.{number}" if number else name,
                    partition=partition,
                    start_ms=start_ms,
                    end_ms=end_ms,
                    taken=sum([*repeats.values(), *lost.values()], taken),
                    given=given,
                    aside=aside,
                    lost=lost,
                    parts={chunk: self.parts[chunk].amount for chunk in chunks},
                )
            )
        return records

    def _aside(self, reason: str, chunks: list[str]) -> Amount:
        tallies = self.aside[reason]
        return sum((tallies[chunk].amount for chunk in chunks if chunk in tallies), NOTHING)

    def _groups(self) -> Iterator[list[str]]:
        """Split the chunks so that each group fits a record, in size and in what it comes to, repeats included."""
        group: list[str] = []
        size, octets, packets = 0, self.repeats.amount.bytes, self.repeats.amount.packets
        for chunk, part in self.parts.items():
            cost = len(chunk.encode()) + PART_OVERHEAD_BYTES
            full = size + cost > MAX_PARTS_BYTES or max(octets + part.bytes, packets + part.packets) > MAX_INTEGER
            if full and (group or octets or packets):
                yield group
                group, size, octets, packets = [], 0, 0, 0
            group.append(chunk)
            size, octets, packets = size + cost, octets + part.bytes, packets + part.packets
        yield group
