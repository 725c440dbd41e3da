# SPDX-License-Identifier: Apache-2.0
"""Which end of each row serves, and the Service that its port is behind. Pure.

Both legs of a connection name it, the replies too. What a client asked for, the Service's address or the pod's own,
none of this tells: of a reply that was translated on another node nobody here could know.
"""

from collections.abc import Sequence

import numpy as np

from enricher.index.endpoints import Resolved, served_end
from enricher.join.columns import Columns, Ints, Mask
from schemas.raw import SERVERS, RawChunk

_DESTINATION, _SOURCE = SERVERS.index("destination"), SERVERS.index("source")


class Sides:
    """Each row's two ends, as numbers of `ends`: the chunk's addresses, and those of them that are behind a Service."""

    def __init__(self, chunk: RawChunk, columns: Columns, addresses: Sequence[Resolved]) -> None:
        self.ends = list(addresses)
        self.server = np.array(chunk.server or [0] * columns.rows, np.int64)
        self._protocol = np.array(chunk.protocol, np.int64)
        self._behind = np.fromiter((bool(end.served) for end in addresses), np.bool_, len(addresses))
        self._numbers: dict[int, int] = {}
        self.src = self._named(columns.src, np.array(chunk.src_port, np.int64), self.server == _SOURCE)
        self.dst = self._named(columns.dst, np.array(chunk.dst_port, np.int64), self.server == _DESTINATION)

    def _named(self, numbers: Ints, ports: Ints, serves: Mask) -> Ints:
        rows = np.flatnonzero(serves & self._behind[numbers]) if serves.any() else ()
        if not len(rows):
            return numbers
        asked = (numbers[rows] << 24) + (self._protocol[rows] << 16) + ports[rows]
        distinct, inverse = np.unique(asked, return_inverse=True)
        named = numbers.copy()
        named[rows] = np.array([self._number(each) for each in distinct.tolist()], np.int64)[inverse]
        return named

    def _number(self, asked: int) -> int:
        """Return the number of an address as the server at one of its ports."""
        found = self._numbers.get(asked)
        if found is None:
            address, protocol, port = asked >> 24, asked >> 16 & 0xFF, asked & 0xFFFF
            end = served_end(self.ends[address], protocol, port)
            found = self._numbers[asked] = address if end is None else len(self.ends)
            if end is not None:
                self.ends.append(end)
        return found
