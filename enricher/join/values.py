# SPDX-License-Identifier: Apache-2.0
"""Writes the flows of one chunk as JSON. Pure.

What flows share is made once: an end point's two parts, between which its port goes, once per address, the fields
between `packets` and the source once per combination. A flow is a concatenation.
"""

import functools
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import msgspec

from enricher.index.endpoints import Resolved, Watcher
from enricher.join.rows import Rows, amount_of
from enricher.join.serving import Sides
from schemas.flow import Cluster, Named, Scope
from schemas.raw import DIRECTIONS, ENCAPSULATIONS, OTHER_ENCAPSULATION, SERVERS, RawChunk

# IANA protocol numbers; ICMP and ICMPv6 are told apart by `network.type`. The others are named by their number.
_TRANSPORTS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
_ENCAPSULATIONS = (*ENCAPSULATIONS, *[OTHER_ENCAPSULATION] * (256 - len(ENCAPSULATIONS)))
# Of an end point, by port; 0 is a folded one, and absent.
_PORTS = ("", *(f',"port":{port}' for port in range(1, 65536)))


class Group(NamedTuple):
    """Rows that become one flow, and its end points."""

    rows: Rows
    source: Resolved
    destination: Resolved


class Values:
    """Makes the JSON of a chunk's flows. `raw` says where the chunk stands: partition and offset.

    `kinds`: of each row what stands between `packets` and the source.
    """

    def __init__(
        self, chunk: RawChunk, sides: Sides, watcher: Watcher, raw: tuple[int, int], scopes: Sequence[Scope]
    ) -> None:
        self._chunk = chunk
        self._sides = sides
        self._scopes = scopes
        self._heads, self._tails = [end.head for end in sides.ends], [end.tail for end in sides.ends]
        self._begin = msgspec.json.encode({"id": chunk.id}).decode()[:-2] + "/"
        self._window = f'","start_ms":{chunk.start_ms},"end_ms":{chunk.end_ms},"scope":"'
        cluster = _cluster_json(chunk.cluster)
        self._end = f',"observer":{watcher.json},"k8s":{cluster},"raw":{{"partition":{raw[0]},"offset":{raw[1]}}}'
        self.kinds = self._kinds()

    def of_rows(self, rows: Rows, numbers: Sequence[int]) -> list[bytes]:
        """Return the flows of single rows; `numbers` are the last parts of their ids."""
        chunk, scopes, window, kinds, ports = self._chunk, self._scopes, self._window, self.kinds, _PORTS
        src, dst, heads, tails = self._sides.src, self._sides.dst, self._heads, self._tails
        src_port, dst_port, size, packets = chunk.src_port, chunk.dst_port, chunk.bytes, chunk.packets
        begin, end = self._begin, f"{self._end}}}"
        return [
            f'{begin}{number}{window}{scopes[row]}","bytes":{size[row]},"packets":{packets[row]}{kinds[row]}'
            f'{heads[src[row]]}{ports[src_port[row]]}{tails[src[row]]},"destination":'
            f"{heads[dst[row]]}{ports[dst_port[row]]}{tails[dst[row]]}{end}".encode()
            for row, number in zip(rows, numbers, strict=True)
        ]

    def of_group(self, group: Group, number: int) -> bytes:
        """Return the flow of rows that share everything it says; the rows are named in it."""
        chunk, first, amount = self._chunk, group.rows[0], amount_of(self._chunk, group.rows)
        source, destination = group.source.json(chunk.src_port[first]), group.destination.json(chunk.dst_port[first])
        return (
            f'{self._begin}{number}{self._window}{self._scopes[first]}","bytes":{amount.bytes}'
            f',"packets":{amount.packets}{self.kinds[first]}{source},"destination":{destination}{self._end},'
            f'"rows":{msgspec.json.encode(group.rows).decode()}}}'
        ).encode()

    def _kinds(self) -> list[str]:
        chunk = self._chunk
        version_6 = [":" in address for address in chunk.addresses]
        columns = (
            chunk.direction,
            chunk.dnat,
            chunk.encapsulation,
            chunk.server or repeat(0, len(chunk.src)),
            map(version_6.__getitem__, chunk.src),
            chunk.protocol,
        )
        return list(map(_kind, *columns))


@functools.lru_cache(maxsize=16)
def _cluster_json(name: str) -> str:
    return msgspec.json.encode(Cluster(Named(name))).decode()


@functools.lru_cache(maxsize=4096)
def _kind(
    direction: int,
    dnat: int | None,
    encapsulation: int,
    server: int,
    version_6: bool,
    protocol: int,
) -> str:
    translated = "" if dnat is None else f',"dnat":{"true" if dnat else "false"}'
    outer = f',"encapsulation":"{_ENCAPSULATIONS[encapsulation]}"' if encapsulation else ""
    serves = f',"server":"{SERVERS[server]}"' if server else ""
    network = f'{{"transport":"{_TRANSPORTS.get(protocol, protocol)}","type":"{"ipv6" if version_6 else "ipv4"}"}}'
    return f',"direction":"{DIRECTIONS[direction]}"{translated}{outer}{serves},"network":{network},"source":'
