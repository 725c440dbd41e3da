# SPDX-License-Identifier: Apache-2.0
"""Joins one raw chunk with the index: a JSON value per flow, and the books of what was put aside. Pure.

The shape is what makes it fast: addresses are resolved once per chunk, an end point's JSON is made once per
(address, port), numpy groups the rows, and a flow is a concatenation of parts. No object exists per flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from enricher.endpoints import Place, Resolved, Watcher, scope_of
from enricher.resolve import Resolver
from schemas.amount import Amount
from schemas.flow import SCOPES, UNKNOWN_REASONS, Cluster, Named
from schemas.raw import DIRECTIONS, ENCAPSULATIONS, RawChunk

_EGRESS, _INGRESS, _RELAY = range(3)
_SAME_NODE = SCOPES.index("same_node")
_UNKNOWN = SCOPES.index("unknown")
# IANA protocol numbers; ICMP and ICMPv6 are told apart by `network.type`. The others are named by their number.
_TRANSPORTS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
_NO_DNAT = 2

Ints = NDArray[np.int64]
Rows = NDArray[np.intp]


@dataclass(slots=True)
class Ends:
    """A chunk's addresses resolved as of its window, in the chunk's order, and its observer."""

    addresses: list[Resolved]
    watcher: Watcher


@dataclass(slots=True)
class Joined:
    """What one chunk became.

    `values`: one JSON object per flow given out, and `rows` its row's number, ascending. `taken` = `given` + the
    sum of `aside`. `by_scope` and `by_reason` (why a zone is unknown) split what is given.
    """

    values: list[bytes]
    rows: list[int]
    taken: Amount
    given: Amount
    aside: dict[str, Amount]
    by_scope: dict[str, Amount]
    by_reason: dict[str, Amount]


def resolve(chunk: RawChunk, resolver: Resolver) -> Ends:
    """Resolve every address of a chunk as of its window."""
    window = resolver.window(chunk.start_ms, chunk.end_ms)
    return Ends([window.resolve(address) for address in chunk.addresses], window.watcher(chunk.node))


def late_sources(chunk: RawChunk, ends: Ends) -> set[str]:
    """Return the senders on the observing node that are inside its podCIDR and not known yet."""
    late = {
        number for number, end in enumerate(ends.addresses) if end.reason == "late_index" and end.node == chunk.node
    }
    if not late:
        return set()
    egress = {src for src, direction in zip(chunk.src, chunk.direction, strict=True) if direction == _EGRESS}
    return {chunk.addresses[number] for number in late & egress}


def join(chunk: RawChunk, ends: Ends, partition: int, offset: int, first_row: int = 0) -> Joined:
    """Return the chunk's flows from `first_row` on; earlier rows are in `taken` only (they went out before).

    `partition` and `offset` say where the raw chunk stands. Ingress counts only if its sender is not metered
    itself; a relayed flow takes the observer as its sending side.
    """
    columns = _Columns(chunk)
    new = np.arange(columns.rows) >= first_row
    in_cluster = np.fromiter((end.in_cluster for end in ends.addresses), np.bool_, len(ends.addresses))
    metered = new & (columns.direction == _INGRESS) & in_cluster[columns.src]
    rows = np.flatnonzero(new & ~metered)
    scopes, reasons = _classify(columns, ends)
    of_rows = scopes[rows]
    unknown = rows[of_rows == _UNKNOWN]
    return Joined(
        values=_values(chunk, columns, ends, rows, of_rows, f',"raw":{{"partition":{partition},"offset":{offset}}}}}'),
        rows=rows.tolist(),
        taken=Amount(int(columns.size.sum()), int(columns.packets.sum()), columns.rows),
        given=columns.amount(rows),
        aside={"sender_in_cluster": columns.amount(np.flatnonzero(metered))} if metered.any() else {},
        by_scope=_split(columns, rows, of_rows, SCOPES),
        by_reason=_split(columns, unknown, reasons[unknown], UNKNOWN_REASONS),
    )


class _Columns:
    """A chunk's columns as arrays. Sums cannot overflow: a chunk's total is below 2^53 (schemas/raw.py)."""

    def __init__(self, chunk: RawChunk) -> None:
        self.rows = len(chunk.src)
        self.src, self.dst = np.array(chunk.src, np.int64), np.array(chunk.dst, np.int64)
        self.direction = np.array(chunk.direction, np.int64)
        self.size, self.packets = np.array(chunk.bytes, np.int64), np.array(chunk.packets, np.int64)

    def amount(self, rows: Rows) -> Amount:
        return Amount(int(self.size[rows].sum()), int(self.packets[rows].sum()), len(rows))


def _split(columns: _Columns, rows: Rows, codes: Ints, names: Sequence[str]) -> dict[str, Amount]:
    return {names[code]: columns.amount(rows[codes == code]) for code in np.unique(codes).tolist()}


def _classify(columns: _Columns, ends: Ends) -> tuple[Ints, Ints]:
    """Return each row's scope as an index into SCOPES, and why it is unknown as one into UNKNOWN_REASONS.

    The observer, last of `everyone`, takes the place of a relay's source.
    """
    places: dict[Place, int] = {}
    nodes: dict[str, int] = {}
    everyone = [(e.place, e.node, e.reason) for e in ends.addresses]
    everyone.append((ends.watcher.place, ends.watcher.node, None))
    place = np.array([places.setdefault(p, len(places)) for p, _, _ in everyone], np.int64)
    node = np.array([-1 if n is None else nodes.setdefault(n, len(nodes)) for _, n, _ in everyone], np.int64)
    why = np.array([UNKNOWN_REASONS.index(reason or "zone_missing") for _, _, reason in everyone], np.int64)
    placed = np.array([bool(p.zone or p.zone_id) for p, _, _ in everyone], np.bool_)
    sender = np.where(columns.direction == _RELAY, len(everyone) - 1, columns.src)
    pairs, inverse = np.unique(place[sender] * len(places) + place[columns.dst], return_inverse=True)
    known = list(places)
    table = [SCOPES.index(scope_of(known[code // len(known)], known[code % len(known)])) for code in pairs.tolist()]
    same_node = (node[sender] == node[columns.dst]) & (node[sender] >= 0)
    scopes = np.where(same_node, _SAME_NODE, np.array(table, np.int64)[inverse])
    return scopes, np.where(placed[sender], why[columns.dst], why[sender])


def _values(chunk: RawChunk, columns: _Columns, ends: Ends, rows: Rows, scopes: Ints, raw: str) -> list[bytes]:
    """Concatenate each flow from its parts: what it shares with others is made once and picked by number."""
    begin = msgspec.json.encode({"id": chunk.id}).decode()[:-2] + "/"
    window = f'","start_ms":{chunk.start_ms},"end_ms":{chunk.end_ms},"scope":"'
    after_id = [f'{window}{scope}","bytes":' for scope in SCOPES]
    cluster = msgspec.json.encode(Cluster(Named(chunk.cluster))).decode()
    end = f',"observer":{ends.watcher.json},"k8s":{cluster}{raw}'
    parts = zip(
        rows.tolist(),
        _pick(after_id, scopes),
        columns.size[rows].tolist(),
        columns.packets[rows].tolist(),
        _kinds(chunk, columns, rows),
        _end_points(ends, columns.src[rows], np.array(chunk.src_port, np.int64)[rows]),
        _end_points(ends, columns.dst[rows], np.array(chunk.dst_port, np.int64)[rows]),
        strict=True,
    )
    return [
        f'{begin}{row}{head}{size},"packets":{packets}{kind}{source},"destination":{destination}{end}'.encode()
        for row, head, size, packets, kind, source, destination in parts
    ]


def _pick(made: list[str], numbers: Ints) -> list[str]:
    picked: list[str] = np.array(made, dtype=object)[numbers].tolist()
    return picked


def _end_points(ends: Ends, addresses: Ints, ports: Ints) -> list[str]:
    distinct, inverse = np.unique((addresses << 16) | ports, return_inverse=True)
    return _pick([ends.addresses[code >> 16].json(code & 0xFFFF) for code in distinct.tolist()], inverse)


def _kinds(chunk: RawChunk, columns: _Columns, rows: Rows) -> list[str]:
    """Return what stands between `packets` and the source: direction, dnat, encapsulation, network."""
    dnat = np.array([_NO_DNAT if flag is None else flag for flag in chunk.dnat], np.int64)
    version_6 = np.array([":" in address for address in chunk.addresses], np.int64)[columns.src]
    code = columns.direction
    for column, size in (
        (dnat, _NO_DNAT + 1),
        (np.array(chunk.encapsulation, np.int64), len(ENCAPSULATIONS)),
        (version_6, 2),
        (np.array(chunk.protocol, np.int64), 256),
    ):
        code = code * size + column
    distinct, inverse = np.unique(code[rows], return_inverse=True)
    return _pick([_kind(number) for number in distinct.tolist()], inverse)


def _kind(code: int) -> str:
    code, protocol = divmod(code, 256)
    code, version_6 = divmod(code, 2)
    code, encapsulation = divmod(code, len(ENCAPSULATIONS))
    direction, dnat = divmod(code, _NO_DNAT + 1)
    translated = "" if dnat == _NO_DNAT else f',"dnat":{"true" if dnat else "false"}'
    outer = f',"encapsulation":"{ENCAPSULATIONS[encapsulation]}"' if encapsulation else ""
    network = f'{{"transport":"{_TRANSPORTS.get(protocol, protocol)}","type":"{"ipv6" if version_6 else "ipv4"}"}}'
    return f',"direction":"{DIRECTIONS[direction]}"{translated}{outer},"network":{network},"source":'
