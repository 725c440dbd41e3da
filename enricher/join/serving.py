# SPDX-License-Identifier: Apache-2.0
"""Which end of each row serves, and the Service that its port is behind. Pure.

Both legs of a connection name it, the replies too. What a client asked for, the Service's address or the pod's own,
none of this tells: of a reply that was translated on another node nobody here could know.
"""

from collections.abc import Sequence

from enricher.index.endpoints import Resolved, served_end
from schemas.raw import SERVERS, RawChunk

_DESTINATION, _SOURCE = SERVERS.index("destination"), SERVERS.index("source")


class Sides:
    """Each row's two ends, as numbers of `ends`: the chunk's addresses, and those of them that are behind a Service."""

    def __init__(self, chunk: RawChunk, addresses: Sequence[Resolved]) -> None:
        self.ends = list(addresses)
        self.src, self.dst = chunk.src, chunk.dst
        self._chunk = chunk
        self._numbers: dict[tuple[int, int, int], int] = {}
        if any(chunk.server) and (behind := {number for number, end in enumerate(addresses) if end.served}):
            self.src = self._named(chunk.src, chunk.src_port, _SOURCE, behind)
            self.dst = self._named(chunk.dst, chunk.dst_port, _DESTINATION, behind)

    def _named(self, numbers: list[int], ports: list[int], side: int, behind: set[int]) -> list[int]:
        return [
            self._number(number, protocol, port) if serves == side and number in behind else number
            for number, protocol, port, serves in zip(
                numbers, self._chunk.protocol, ports, self._chunk.server, strict=True
            )
        ]

    def _number(self, address: int, protocol: int, port: int) -> int:
        """Return the number of an address as the server at one of its ports."""
        asked = address, protocol, port
        found = self._numbers.get(asked)
        if found is None:
            end = served_end(self.ends[address], protocol, port)
            found = self._numbers[asked] = address if end is None else len(self.ends)
            if end is not None:
                self.ends.append(end)
        return found
