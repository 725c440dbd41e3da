# SPDX-License-Identifier: Apache-2.0
"""A frozen window as records of the raw topic and the ledger. Pure: the same window gives the same bytes.

But for `own` and `node_addresses`: one that publishes a window again may know less of its time.
"""

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.attach.addresses import OwnAddresses
from collector.kernel.epoch_record import EpochRecord, Tally
from collector.kernel.layout import ASIDE, DNAT_NO_CONNTRACK, HOOK_COUNTER, LOST, Rows, dnat_of, server_of
from collector.kernel.pins import Meta
from schemas.amount import NOTHING, Amount
from schemas.ids import window_id
from schemas.ledger import LedgerRecord
from schemas.raw import DIRECTIONS, UplinkCounters, WindowLedger, encode_chunk

_MAPPED = b"\0" * 10 + b"\xff\xff"
# A multicast address of the scope that no packet may have (RFC 4291, 2.7): no address is mistaken for a prefix.
_FOLDED = b"\xff\x00"


def chunk_count(record: EpochRecord, rows: int) -> int:
    """Return how many chunks a window of so many rows has; one without rows is one chunk."""
    return max(1, -(-rows // record.rows_per_chunk))


def raw_chunks(
    meta: Meta, record: EpochRecord, rows: Rows, *, maybe_repeat: bool, own: OwnAddresses | None = None
) -> Iterator[bytes]:
    """Yield the window's chunks in order; `rows` sorted as `generation.sort_rows` does.

    `own` None: not known.
    """
    chunks = chunk_count(record, len(rows))
    for chunk in range(chunks):
        head: dict[str, Any] = {
            "cluster": meta.cluster,
            "node": meta.node,
            "boot_id": meta.boot_id,
            "generation": meta.generation,
            "sequence": record.sequence,
            "chunk": chunk,
            "chunks": chunks,
            "start_ms": record.start_ms,
            "end_ms": record.end_ms,
            "hook": meta.hook,
        }
        if chunk == 0:
            head["ledger"] = msgspec.to_builtins(window_ledger(record, rows))
        if record.short:
            head["short"] = True
        if maybe_repeat:
            head["maybe_repeat"] = True
        part = rows[chunk * record.rows_per_chunk : (chunk + 1) * record.rows_per_chunk]
        distinct, columns = _columns(part)
        if own is not None:
            head["own"] = _places(distinct, own)
            if chunk == 0 and own.told is not None:
                head["node_addresses"] = own.told
        yield encode_chunk(head, address_texts(distinct), columns)


def window_ledger(record: EpochRecord, rows: Rows) -> WindowLedger:
    """Return the window's books: what the program counted, and what the map really holds."""
    counters = record.counters
    return WindowLedger(
        hook=_amount(counters[HOOK_COUNTER]),
        map=in_map(rows),
        aside=_reasons(counters, ASIDE),
        lost=_reasons(counters, LOST),
        uplinks={uplink.name: UplinkCounters(*uplink.during()) for uplink in record.uplinks},
    )


def in_map(rows: Rows) -> Amount:
    """Return the sum over the rows."""
    return _sum(rows["tally"])


def ledger_record(meta: Meta, record: EpochRecord, rows: Rows, partition: int) -> LedgerRecord:
    """Return what the ledger topic says of this window: what the hook took in and the raw topic was given."""
    books = window_ledger(record, rows)
    return LedgerRecord(
        hop="collector",
        id=window_id(meta.origin, meta.generation, record.sequence),
        partition=partition,
        start_ms=record.start_ms,
        end_ms=record.end_ms,
        taken=books.hook,
        given=books.map,
        aside=books.aside,
        lost=books.lost,
        node=meta.node,
        hook=meta.hook,
        chunks=chunk_count(record, len(rows)),
        uplinks=books.uplinks,
        received=received(rows) + books.aside.get("sender_in_cluster", NOTHING),
        ended_by="deadman" if record.deadman else None,
        clock_step_ms=record.clock_step_ms or None,
        detached=record.detached,
    )


def received(rows: Rows) -> Amount:
    """Return the sum over the rows that came in over an uplink."""
    return _sum(rows["tally"][rows["key"]["direction"] != DIRECTIONS.index("egress")])


def _sum(tally: NDArray[np.void]) -> Amount:
    return Amount(int(tally["bytes"].sum()), int(tally["packets"].sum()), len(tally))


def _amount(tally: Tally) -> Amount:
    return Amount(*tally)


def _reasons(counters: tuple[Tally, ...], names: dict[str, int]) -> dict[str, Amount]:
    amounts = {reason: _amount(counters[index]) for reason, index in names.items()}
    return {reason: amount for reason, amount in amounts.items() if amount != NOTHING}


def _places(distinct: NDArray[np.uint8], own: OwnAddresses) -> list[int]:
    """Return which of n x 16 octets are the node's own, by their place."""
    return [place for place, address in enumerate(distinct.view("V16").ravel().tolist()) if address in own.throughout]


def _columns(rows: Rows) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return the rows' distinct addresses, n x 16 octets, and their columns."""
    keys = rows["key"]
    distinct, index = _distinct(np.concatenate([keys["src"], keys["dst"]]))
    columns: dict[str, Any] = {
        name: np.ascontiguousarray(keys[name])
        for name in ("protocol", "src_port", "dst_port", "direction", "encapsulation")
    }
    for name in ("bytes", "packets"):
        columns[name] = np.ascontiguousarray(rows["tally"][name])
    columns["src"], columns["dst"] = np.split(index, 2)
    columns["dnat"] = _dnat(dnat_of(keys))
    server = server_of(keys)
    if server.any():
        columns["server"] = server
    return distinct, columns


def _distinct(addresses: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return the distinct rows of n x 16 octets in their order, and for each row its place among them."""
    halves = addresses.view(">u8")
    if (halves[:, 0] != halves[:1, 0]).any():
        found, index = np.unique(addresses.view("V16").ravel(), return_inverse=True)
        return found.view(np.uint8).reshape(-1, 16), index
    # All IPv4, or all of one /64: four times as fast.
    lower, index = np.unique(halves[:, 1].astype(np.uint64), return_inverse=True)
    made = np.empty((len(lower), 2), ">u8")
    made[:, 0], made[:, 1] = halves[:1, 0], lower
    return made.view(np.uint8), index


def _dnat(column: NDArray[np.uint8]) -> Any:
    if (column == DNAT_NO_CONNTRACK).any():
        return [None if value == DNAT_NO_CONNTRACK else value for value in column.tolist()]
    return np.ascontiguousarray(column)


def address_texts(addresses: NDArray[np.uint8]) -> list[str]:
    """Return rows of n x 16 octets as text, each as `address_text` does; IPv4 without a call for each."""
    mapped = (addresses[:, :12] == np.frombuffer(_MAPPED, np.uint8)).all(axis=1)
    ipv4 = map(socket.inet_ntoa, np.ascontiguousarray(addresses[mapped, 12:]).view("V4").ravel().tolist())
    if mapped.all():
        return list(ipv4)
    others = addresses.view("V16").ravel().tolist()
    return [next(ipv4) if known else address_text(other) for known, other in zip(mapped.tolist(), others, strict=True)]


def address_text(address: bytes) -> str:
    """Return 16 bytes as text: IPv4 dotted if mapped (::ffff:a.b.c.d), else as RFC 5952 writes IPv6.

    A folded address is the prefix that stands for several: bpf/networks.h has its form.
    """
    if address[:2] == _FOLDED and address[3:12] == _MAPPED[3:]:
        return f"{socket.inet_ntop(socket.AF_INET, address[12:])}/{address[2]}"
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
