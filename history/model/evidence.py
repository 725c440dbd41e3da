# SPDX-License-Identifier: Apache-2.0
"""What advice is made of: bytes by who serves whom, at which port, between which zones, when. Pure.

Both directions of a conversation belong together: the client's requests and the replies, which carry most bytes, are
counted on different nodes, and only requests show that they went through a Service.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from history.model.party import Party
from history.model.summary import Summary, Traffic
from history.model.time_range import TimeRange
from schemas.flow import Server

# A cell takes some 700 bytes: a port scan, or made-up names, must not take all memory.
MAX_CELLS = 2_000_000


class Cell(NamedTuple):
    """Traffic of one kind in one slot of time.

    `at_ms`: when the slot begins. `serves`: which end is the server; None: not known, as of ICMP. `port`: the server's;
    0: not known. `service`: the Service that the server is behind, by name in its namespace. `dnat`: the destination
    was translated here, which only requests show. `relay`: a node passed it on.
    """

    traffic: Traffic
    at_ms: int
    serves: Server | None
    port: int
    service: str
    dnat: bool
    relay: bool

    @property
    def client(self) -> Party:
        """The end that asks; the sender where that is not known."""
        return self.traffic.destination if self.serves == "source" else self.traffic.source

    @property
    def server(self) -> Party:
        """The end that answers; the receiver where that is not known."""
        return self.traffic.source if self.serves == "source" else self.traffic.destination

    @property
    def is_request(self) -> bool:
        """Whether the client sent it."""
        return self.serves == "destination"

    @property
    def crosses(self) -> bool:
        """Whether it is traffic between zones."""
        return self.traffic.scope == "cross_zone"


@dataclass
class Evidence:
    """Cells with their bytes. `slot_ms`: how long a slot is; cells lie wholly within theirs, but for the last's end."""

    span: TimeRange
    cells: dict[Cell, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def slot_ms(self) -> int:
        """How long a slot is, in ms."""
        return self.span.slot_ms

    def slot_of(self, cell: Cell) -> tuple[int, int]:
        """Return the part of the range that a cell's slot covers, [from, to)."""
        return self.span.slot_at(cell.at_ms)

    def crossing(self) -> Iterator[tuple[Cell, int]]:
        """Yield what crossed zones."""
        return ((cell, size) for cell, size in self.cells.items() if cell.crosses)

    def summary_of(self, changed: Mapping[Cell, Mapping[Traffic, int]], like: Summary) -> Summary:
        """Return the range summed up as if some cells had been other traffic; windows and nodes are those of `like`."""
        made = Summary(
            observers=like.observers,
            clusters=like.clusters,
            windows=like.windows,
            flows=like.flows,
            outer_bytes=like.outer_bytes,
        )
        for cell, size in self.cells.items():
            for traffic, part in changed.get(cell, {cell.traffic: size}).items():
                if part:
                    made.traffic[traffic] += part
                    made.slots[cell.at_ms, traffic.scope] += part
        return made
