# SPDX-License-Identifier: Apache-2.0
"""What is kept of one life of a node, and what entries of windows said that were let go of. Pure."""

from dataclasses import dataclass, field

from audit.intervals import Intervals
from audit.window import OpenWindow, Place
from schemas.ids import Origin, Position

# Entries of closed windows that are remembered by what they said, to tell another that says something else.
MAX_SAID = 100_000
# Before everything that is counted.
NOWHERE = Position(-1, -1, -1, -1)


@dataclass(slots=True)
class Life:
    """What is kept of one life of a node. `outside`: its first window that was not of interest.

    `gone`: the furthest window that was let go of. `reached`: the last that each hop has taken of it. `before`: by
    sink, the last window that it is not held to, because that was closed before the sink was heard of.
    """

    origin: Origin
    open: dict[Place, OpenWindow] = field(default_factory=dict)
    fitted: Intervals = field(default_factory=Intervals)
    dropped: Intervals = field(default_factory=Intervals)
    outside: Place | None = None
    known: bool = False
    gone: Place = (-1, -1)
    reached: dict[str, Position] = field(default_factory=dict)
    before: dict[str, Place] = field(default_factory=dict)

    def reach(self, hop: str, position: Position) -> None:
        """Note that a hop has taken something."""
        if position > self.reached.get(hop, NOWHERE):
            self.reached[hop] = position

    def holds(self, place: Place) -> bool:
        """Return whether a window was let go of."""
        return place <= self.gone and (self.fitted.holds(*place) or self.dropped.holds(*place))


class Said:
    """What entries said of windows that were let go of: of the last `MAX_SAID` of them, or somewhat fewer.

    In two halves, of which the older one goes as a whole: taking the oldest out of one large dict, again and again,
    costs a walk over all the places that it has left.
    """

    def __init__(self) -> None:
        self._young: dict[tuple[Origin, Place, int | None], int] = {}
        self._old: dict[tuple[Origin, Place, int | None], int] = {}

    def get(self, origin: Origin, place: Place, chunk: int | None) -> int | None:
        """Return what the entry of a chunk said, or of the window (None); None if that is not known."""
        key = origin, place, chunk
        said = self._young.get(key)
        return self._old.get(key) if said is None else said

    def put(self, origin: Origin, place: Place, chunk: int | None, said: int) -> None:
        """Remember it."""
        if len(self._young) >= MAX_SAID // 2:
            self._young, self._old = {}, self._young
        self._young[origin, place, chunk] = said
