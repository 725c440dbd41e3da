# SPDX-License-Identifier: Apache-2.0
"""Sums up by workload what stays within a node or a zone, which costs nothing. Pure.

Of a pod in a rolled up flow remain its namespace, its workload and where it is; what differs between the pods (name,
address, node) is absent. An end that is not a pod with a workload stays as it is. Nothing else is given up: direction,
protocol, ports, Service and scope are those of every row, and the flow names its rows, so that after a crash it is
known which rows are out even if they would be grouped otherwise now.
"""

from collections.abc import Sequence

from enricher.index.endpoints import Resolved, workload_end
from enricher.join.rows import Rows, grouped
from enricher.join.serving import Sides
from enricher.join.values import Group
from schemas.flow import Scope
from schemas.raw import RawChunk

# Rows that one flow names at most: its JSON stays under 40 KiB (readers take 64 KiB, schemas/flow.py).
MAX_ROWS = 4096


def roll_up(chunk: RawChunk, rows: Rows, sides: Sides, kinds: Sequence[str], scopes: Sequence[Scope]) -> list[Group]:
    """Group these rows; the groups are ordered by their last row. `kinds`, `scopes`: of all the chunk's rows."""
    common = _Common(sides.ends)
    src, dst, src_port, dst_port = sides.src, sides.dst, chunk.src_port, chunk.dst_port
    keys = (
        (common.number(src[row]), common.number(dst[row]), src_port[row], dst_port[row], kinds[row], scopes[row])
        for row in rows
    )
    groups = [
        Group(group[first : first + MAX_ROWS], common.ends[source], common.ends[destination])
        for (source, destination, *_), group in grouped(rows, keys).items()
        for first in range(0, len(group), MAX_ROWS)
    ]
    return sorted(groups, key=lambda group: group.rows[-1])


class _Common:
    """End points numbered so that pods of one workload in one place have one number; `ends` by those numbers."""

    def __init__(self, ends: Sequence[Resolved]) -> None:
        self.ends: list[Resolved] = []
        self._of = ends
        self._by_key: dict[object, int] = {}
        self._by_address: dict[int, int] = {}

    def number(self, address: int) -> int:
        number = self._by_address.get(address)
        if number is None:
            end = self._of[address]
            shared = workload_end(end)
            key: object = address if shared is None else (shared.head, shared.tail)
            number = self._by_key.setdefault(key, len(self.ends))
            if number == len(self.ends):
                self.ends.append(shared or end)
            self._by_address[address] = number
        return number
