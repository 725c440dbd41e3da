# SPDX-License-Identifier: Apache-2.0
"""Builders of valid records; a test overrides what it is about."""

from typing import Any

from schemas.amount import NOTHING, Amount
from schemas.ids import Origin, chunk_id, window_id
from schemas.ledger import LedgerRecord
from schemas.raw import COLUMNS, encode_chunk

ORIGIN = Origin("lab", "node-a1", "5be6c2f0a91d")
START_MS, END_MS = 1_795_384_000_000, 1_795_384_010_000


def raw_head(**overrides: Any) -> dict[str, Any]:
    """Return the scalar fields of chunk 0 of an empty window."""
    nothing = {"bytes": 0, "packets": 0}
    return {
        **ORIGIN._asdict(),
        "generation": 3,
        "sequence": 8121,
        "chunk": 0,
        "chunks": 1,
        "start_ms": START_MS,
        "end_ms": END_MS,
        "hook": "netfilter",
        "ledger": {"hook": nothing, "map": nothing},
    } | overrides


def raw_columns(**overrides: list[Any]) -> dict[str, list[Any]]:
    """Return columns; those not given are zeros of the right length."""
    rows = max((len(column) for column in overrides.values()), default=0)
    return {name: [0] * rows for name in COLUMNS} | overrides


def raw_chunk(addresses: list[str], head: dict[str, Any] | None = None, **columns: Any) -> bytes:
    """Return an encoded raw chunk."""
    return encode_chunk(raw_head(**(head or {})), addresses, raw_columns(**columns))


def amount(size: int, rows: int = 1) -> Amount:
    """Return an amount of `size` bytes, a packet for each 100 of them."""
    return Amount(size, size // 100, rows)


def collector_entry(sequence: int, size: int, origin: Origin = ORIGIN, **overrides: Any) -> LedgerRecord:
    """Return the collector's entry of a 10 s window; sequence 0 starts at START_MS."""
    lost, aside = overrides.get("lost", {}), overrides.get("aside", {})
    start = START_MS + sequence * 10_000
    fields: dict[str, Any] = {
        "hop": "collector",
        "id": window_id(origin, 1, sequence),
        "partition": 0,
        "start_ms": start,
        "end_ms": start + 10_000,
        "taken": total({**lost, **aside, "": amount(size)}),
        "given": amount(size),
        "node": origin.node,
        "chunks": 1,
    }
    return LedgerRecord(**(fields | overrides))


def enricher_entry(sequence: int, size: int, origin: Origin = ORIGIN, chunk: int = 0, **overrides: Any) -> LedgerRecord:
    """Return the enricher's entry of one chunk of that window."""
    start = START_MS + sequence * 10_000
    fields: dict[str, Any] = {
        "hop": "enricher",
        "id": chunk_id(origin, 1, sequence, chunk),
        "partition": 0,
        "start_ms": start,
        "end_ms": start + 10_000,
        "taken": amount(size),
        "given": amount(size),
    }
    return LedgerRecord(**(fields | overrides))


def sink_entry(hop: str, number: int, parts: dict[int, int], origin: Origin = ORIGIN) -> LedgerRecord:
    """Return a sink's entry that took, of chunk 0 of each sequence in `parts`, that many bytes."""
    amounts = {chunk_id(origin, 1, sequence, 0): amount(size) for sequence, size in parts.items()}
    return LedgerRecord(
        hop=hop,  # type: ignore[arg-type]
        id=str(number),
        partition=0,
        start_ms=START_MS,
        end_ms=END_MS,
        taken=total(amounts),
        given=total(amounts),
        parts=amounts,
    )


def total(amounts: dict[str, Amount]) -> Amount:
    """Return the sum over all reasons."""
    return sum(amounts.values(), NOTHING)
