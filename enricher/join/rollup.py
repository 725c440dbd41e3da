# SPDX-License-Identifier: Apache-2.0
"""Sums up by workload what stays within a node or a zone, which costs nothing. Pure.

Of a pod in a rolled up flow remain its namespace, its workload and where it is; what differs between the pods (name,
address, node) is absent. An end that is not a pod with a workload stays as it is. Nothing else is given up: direction,
protocol, ports, Service and scope are those of every row, and the flow names its rows, so that after a crash it is
known which rows are out even if they would be grouped otherwise now.
"""

import numpy as np

from enricher.index.endpoints import Resolved, workload_end
from enricher.join.columns import Ints, Rows
from enricher.join.serving import Sides
from enricher.join.values import Groups, Parts, Values

# Rows that one flow names at most: its JSON stays under 40 KiB (readers take 64 KiB, schemas/flow.py).
MAX_ROWS = 4096


def roll_up(rows: Rows, sides: Sides, values: Values, scopes: Ints) -> Groups:
    """Group these rows; the groups are ordered by their last row. `scopes` is of all the chunk's rows."""
    common: list[Resolved] = []
    number_of = _Numbers(sides.ends, common)
    src, dst = number_of.of(sides.src[rows]), number_of.of(sides.dst[rows])
    src_port, dst_port = values.ports(rows)
    group = np.zeros(len(rows), np.int64)
    for column in (src, dst, src_port, dst_port, values.kinds[rows], scopes[rows]):
        # Renumbered after each column, so that the product stays below 2^63.
        group = np.unique(group * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    order = np.lexsort((rows, group))
    sizes = np.unique(group, return_counts=True)[1]
    cuts = [cut for end, size in zip(np.cumsum(sizes), sizes, strict=True) for cut in range(end - size, end, MAX_ROWS)]
    pieces = sorted(np.split(order, cuts[1:]), key=lambda piece: int(piece[-1])) if len(rows) else []
    firsts = np.array([piece[0] for piece in pieces], np.intp)
    return Groups([rows[piece] for piece in pieces], Parts(common), src[firsts], dst[firsts])


class _Numbers:
    """Numbers end points so that pods of one workload in one place have one number; fills `common` with them."""

    def __init__(self, ends: list[Resolved], common: list[Resolved]) -> None:
        self._ends = ends
        self._common = common
        self._by_key: dict[object, int] = {}
        self._by_address: dict[int, int] = {}

    def of(self, addresses: Ints) -> Ints:
        distinct, inverse = np.unique(addresses, return_inverse=True)
        return np.array([self._number(address) for address in distinct.tolist()], np.int64)[inverse]

    def _number(self, address: int) -> int:
        number = self._by_address.get(address)
        if number is None:
            end = self._ends[address]
            shared = workload_end(end)
            key: object = address if shared is None else (shared.head, shared.tail)
            number = self._by_key.setdefault(key, len(self._common))
            if number == len(self._common):
                self._common.append(shared or end)
            self._by_address[address] = number
        return number
