# SPDX-License-Identifier: Apache-2.0
"""The ledger of a cluster in which every byte arrives: the same every time. Pure.

All nodes flip at the same moments. Each publishes a chunk a window, of a usual node's rows, and puts aside what it
sends to itself. `_PEERS` of the rows came from as many other nodes, as the enricher's entry says by name: so many it
names of a node of `zonemeter lab synth`. The metrics sink has an entry for each window; the flow log one a cut, which
comes the sooner the more nodes there are: at a million flows, or after five minutes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from schemas.amount import NOTHING, Amount
from schemas.ids import Origin, chunk_id, window_id
from schemas.ledger import Hop, LedgerRecord, encode_ledger
from schemas.raw import UplinkCounters

CLUSTER = "bench"
START_MS, WINDOW_MS = 1_795_384_000_000, 10_000
_GENERATION, _PEERS, _ROWS, _CUT_ROWS, _CUT_WINDOWS = 1_795_383_999, 11, 35, 1_000_000, 30
_LOOPBACK = Amount(50_000, 100)
# Of one entry of a sink: what stands in sinks/tallies.py as bytes.
_MAX_PARTS = 2_500


class Entry(NamedTuple):
    """One record of the ledger, and the time that Kafka has for it."""

    partition: int
    key: bytes
    value: bytes
    end_ms: int


def entries(nodes: int, windows: int, partitions: int = 12, start_ms: int = START_MS) -> Iterator[Entry]:
    """Yield the entries of so many nodes and windows, in the order of their partitions."""
    cut = cut_windows(nodes)
    held: dict[int, dict[str, Amount]] = defaultdict(dict)
    for sequence in range(1, windows + 1):
        end_ms = start_ms + sequence * WINDOW_MS
        round_: dict[int, dict[str, Amount]] = defaultdict(dict)
        for node in range(nodes):
            partition = node % partitions
            for record in _window(node, nodes, sequence, partition, end_ms):
                yield _entry(record)
            round_[partition][record.id] = record.given
        for partition, parts in round_.items():
            yield from _sink("metrics", f"{end_ms}", partition, end_ms, parts)
            held[partition] |= parts
            # Not all partitions are cut at once.
            if (sequence + partition) % cut == 0 or sequence == windows:
                yield from _sink(
                    "flowlog", f"zonemeter.flowlog/{partition}-{sequence}", partition, end_ms, held.pop(partition)
                )


def cut_windows(nodes: int) -> int:
    """Return how many windows the flow log holds back before it writes them."""
    return max(min(_CUT_ROWS // (nodes * (_ROWS - _PEERS)), _CUT_WINDOWS), 1)


def write(path: Path, nodes: int, windows: int) -> None:
    """Write the entries to a file."""
    with path.open("wb") as out:
        for entry in entries(nodes, windows):
            out.write(b"%d %b %d %b\n" % (entry.partition, entry.key, entry.end_ms, entry.value))


def read(path: str) -> Iterator[Entry]:
    """Yield the entries of a file."""
    with Path(path).open("rb") as lines:
        for line in lines:
            partition, key, end_ms, value = line.rstrip(b"\n").split(b" ", 3)
            yield Entry(int(partition), key, value, int(end_ms))


def origin(node: int) -> Origin:
    """Return a node's life."""
    return Origin(CLUSTER, _name(node), f"{node:012x}")


def _name(node: int) -> str:
    return f"ip-10-12-{node // 250}-{node % 250}.eu-west-1.compute.internal"


def _window(node: int, nodes: int, sequence: int, partition: int, end_ms: int) -> Iterator[LedgerRecord]:
    """Yield what collector and enricher say of a window."""
    size = 1_000_000 + node * 1_000 + sequence
    peers = [(node + 1 + 7 * number) % nodes for number in range(min(_PEERS, nodes - 1))]
    senders = {_name(peer): Amount(1_000 + peer, 10, 1) for peer in peers if peer != node}
    aside = sum(senders.values(), NOTHING)
    seen = Amount(size, size // 1_000, _ROWS)
    life, start_ms = origin(node), end_ms - WINDOW_MS
    yield LedgerRecord(
        hop="collector", id=window_id(life, _GENERATION, sequence), partition=partition,
        start_ms=start_ms, end_ms=end_ms,
        taken=Amount(size + _LOOPBACK.bytes, size // 1_000 + _LOOPBACK.packets), given=seen,
        aside={"loopback": _LOOPBACK}, node=life.node, hook="netfilter", chunks=1,
        uplinks={"eth0": UplinkCounters(size, size // 1_000, size // 2, size // 2_000)},
        received=Amount(size // 2, size // 2_000, _ROWS // 2),
    )  # fmt: skip
    given = Amount(seen.bytes - aside.bytes, seen.packets - aside.packets, _ROWS - aside.rows)
    yield LedgerRecord(
        hop="enricher", id=chunk_id(life, _GENERATION, sequence, 0), partition=partition,
        start_ms=start_ms, end_ms=end_ms,
        taken=seen, given=given, aside={"sender_in_cluster": aside} if senders else {}, senders=senders, node=life.node,
    )  # fmt: skip


def _sink(hop: Hop, name: str, partition: int, end_ms: int, parts: Mapping[str, Amount]) -> Iterator[Entry]:
    chunks = list(parts)
    for number, begin in enumerate(range(0, len(chunks), _MAX_PARTS)):
        own = {chunk: parts[chunk] for chunk in chunks[begin : begin + _MAX_PARTS]}
        total = sum(own.values(), NOTHING)
        yield _entry(
            LedgerRecord(
                hop=hop, id=f"{name}.{number}" if number else name, partition=partition, start_ms=end_ms - WINDOW_MS,
                end_ms=end_ms, taken=total, given=total, parts=own,
            )
        )  # fmt: skip


def _entry(record: LedgerRecord) -> Entry:
    return Entry(record.partition, record.key, encode_ledger(record), record.end_ms)
