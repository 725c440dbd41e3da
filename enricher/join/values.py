# SPDX-License-Identifier: Apache-2.0
"""Writes the flows of one chunk as JSON. Pure.

What flows share is made once and picked by number: an end point's two parts, between which its port goes, once per
address, the fields between `packets` and the source once per distinct combination. A flow is a concatenation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from enricher.index.endpoints import Resolved, Watcher
from enricher.join.columns import Columns, Ints, Rows
from enricher.join.serving import Sides
from schemas.flow import SCOPES, Cluster, Named
from schemas.raw import DIRECTIONS, ENCAPSULATIONS, OTHER_ENCAPSULATION, SERVERS, RawChunk

# IANA protocol numbers; ICMP and ICMPv6 are told apart by `network.type`. The others are named by their number.
_TRANSPORTS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
_OTHER = len(ENCAPSULATIONS)
_ENCAPSULATIONS = (*ENCAPSULATIONS, OTHER_ENCAPSULATION)
_NO_DNAT = 2
# Of an end point, by port; 0 is a folded one, and absent.
_PORTS = np.array(["", *(f',"port":{port}' for port in range(1, 65536))], dtype=object)


class Values:
    """Makes the JSON of a chunk's flows. `raw` says where the chunk stands: partition and offset."""

    def __init__(self, chunk: RawChunk, columns: Columns, sides: Sides, watcher: Watcher, raw: tuple[int, int]) -> None:
        self._chunk = chunk
        self._columns = columns
        self._sides = sides
        self._ports = (np.array(chunk.src_port, np.int64), np.array(chunk.dst_port, np.int64))
        self._begin = msgspec.json.encode({"id": chunk.id}).decode()[:-2] + "/"
        window = f'","start_ms":{chunk.start_ms},"end_ms":{chunk.end_ms},"scope":"'
        self._after_id = [f'{window}{scope}","bytes":' for scope in SCOPES]
        cluster = msgspec.json.encode(Cluster(Named(chunk.cluster))).decode()
        self._end = f',"observer":{watcher.json},"k8s":{cluster},"raw":{{"partition":{raw[0]},"offset":{raw[1]}}}'
        self.kinds = self._kind_codes()

    def of_rows(self, rows: Rows, numbers: Ints, scopes: Ints, ends: "Parts") -> list[bytes]:
        """Return the flows of single rows; `numbers` are the last parts of their ids, `scopes` those of these rows."""
        parts = zip(
            numbers.tolist(),
            _pick(self._after_id, scopes),
            self._columns.size[rows].tolist(),
            self._columns.packets[rows].tolist(),
            self._kinds(rows),
            *ends.of(self._sides.src[rows], self._ports[0][rows]),
            *ends.of(self._sides.dst[rows], self._ports[1][rows]),
            strict=True,
        )
        begin, end = self._begin, f"{self._end}}}"
        return [
            f'{begin}{number}{head}{size},"packets":{packets}{kind}{src_head}{src_port}{src_tail},'
            f'"destination":{dst_head}{dst_port}{dst_tail}{end}'.encode()
            for number, head, size, packets, kind, src_head, src_port, src_tail, dst_head, dst_port, dst_tail in parts
        ]

    def of_groups(self, groups: "Groups", numbers: Ints, scopes: Ints) -> list[bytes]:
        """Return a flow per group of rows that share everything it says; the rows are named in it."""
        size, packets = self._columns.size, self._columns.packets
        firsts = np.array([rows[0] for rows in groups.rows], np.intp)
        src_ports, dst_ports = self.ports(firsts)
        parts = zip(
            groups.rows,
            numbers.tolist(),
            _pick(self._after_id, scopes[firsts]),
            self._kinds(firsts),
            map("".join, zip(*groups.ends.of(groups.sources, src_ports), strict=True)),
            map("".join, zip(*groups.ends.of(groups.destinations, dst_ports), strict=True)),
            strict=True,
        )
        return [
            f'{self._begin}{number}{head}{size[rows].sum()},"packets":{packets[rows].sum()}{kind}{source},'
            f'"destination":{destination}{self._end},"rows":{msgspec.json.encode(rows.tolist()).decode()}}}'.encode()
            for rows, number, head, kind, source, destination in parts
        ]

    def ports(self, rows: Rows) -> tuple[Ints, Ints]:
        """Return source and destination ports of these rows."""
        return self._ports[0][rows], self._ports[1][rows]

    def _kinds(self, rows: Rows) -> list[str]:
        distinct, inverse = np.unique(self.kinds[rows], return_inverse=True)
        return _pick([_kind(number) for number in distinct.tolist()], inverse)

    def _kind_codes(self) -> Ints:
        """Return a number per row for what stands between `packets` and the source (see `_kind`)."""
        chunk = self._chunk
        dnat = np.array([_NO_DNAT if flag is None else flag for flag in chunk.dnat], np.int64)
        version_6 = np.array([":" in address for address in chunk.addresses], np.int64)[self._columns.src]
        code = self._columns.direction
        for column, size in (
            (dnat, _NO_DNAT + 1),
            (np.minimum(np.array(chunk.encapsulation, np.int64), _OTHER), len(_ENCAPSULATIONS)),
            (self._sides.server, len(SERVERS)),
            (version_6, 2),
            (np.array(chunk.protocol, np.int64), 256),
        ):
            code = code * size + column
        return code


class Parts:
    """The JSON of end points, by number: two parts of each, between which its port goes."""

    def __init__(self, ends: Sequence[Resolved]) -> None:
        self._heads = np.array([end.head for end in ends], dtype=object)
        self._tails = np.array([end.tail for end in ends], dtype=object)

    def of(self, numbers: Ints, ports: Ints) -> tuple[list[str], list[str], list[str]]:
        """Return the end points with these numbers in three parts."""
        return self._heads[numbers].tolist(), _PORTS[ports].tolist(), self._tails[numbers].tolist()


@dataclass(slots=True)
class Groups:
    """Rows that become one flow each; `sources` and `destinations` are numbers of `ends`."""

    rows: list[Rows]
    ends: Parts
    sources: Ints
    destinations: Ints

    def picked(self, places: Ints) -> "Groups":
        """Return some of them, in that order."""
        rows = [self.rows[place] for place in places.tolist()]
        return Groups(rows, self.ends, self.sources[places], self.destinations[places])


def _pick(made: list[str], numbers: Ints) -> list[str]:
    picked: list[str] = np.array(made, dtype=object)[numbers].tolist()
    return picked


def _kind(code: int) -> str:
    code, protocol = divmod(code, 256)
    code, version_6 = divmod(code, 2)
    code, server = divmod(code, len(SERVERS))
    code, encapsulation = divmod(code, len(_ENCAPSULATIONS))
    direction, dnat = divmod(code, _NO_DNAT + 1)
    translated = "" if dnat == _NO_DNAT else f',"dnat":{"true" if dnat else "false"}'
    outer = f',"encapsulation":"{_ENCAPSULATIONS[encapsulation]}"' if encapsulation else ""
    serves = f',"server":"{SERVERS[server]}"' if server else ""
    network = f'{{"transport":"{_TRANSPORTS.get(protocol, protocol)}","type":"{"ipv6" if version_6 else "ipv4"}"}}'
    return f',"direction":"{DIRECTIONS[direction]}"{translated}{outer}{serves},"network":{network},"source":'
