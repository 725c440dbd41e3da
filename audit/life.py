# SPDX-License-Identifier: Apache-2.0
"""What is kept of one life of a node, and what entries of windows said that were let go of. Pure."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from audit.intervals import Intervals
from audit.known import Admitted
from audit.window import EVERYWHERE, OpenWindow, Place, Reached
from schemas.ids import MAX_REMEMBERED, MAX_REMEMBERED_LENGTH, Origin, parse_number, parse_window_id

# Entries of closed windows that are remembered by what they said, to tell another that says something else.
MAX_SAID = 100_000


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
    reached: Reached = field(default_factory=dict)
    before: dict[str, Place] = field(default_factory=dict)

    def holds(self, place: Place) -> bool:
        """Return whether a window was let go of."""
        return place <= self.gone and (self.fitted.holds(*place) or self.dropped.holds(*place))


class Lives:
    """The lives of which books are kept. `known` says of whom."""

    def __init__(self, known: Admitted) -> None:
        self._known = known
        self._lives: dict[Origin, Life] = {}
        # By the beginning of an id, up to the generation: a life's windows and chunks come by the hundred.
        self._found: dict[str, tuple[Life, int]] = {}
        self._has_forgotten = False

    def __iter__(self) -> Iterator[Life]:
        return iter(self._lives.values())

    def get(self, origin: Origin) -> Life | None:
        """Return what is kept of a life; None if nothing is."""
        return self._lives.get(origin)

    def __getitem__(self, origin: Origin) -> Life:
        return self._lives[origin]

    def admit(self, origin: Origin) -> Life | None:
        """Return what is kept of a life from now on; None if there is no room for its node."""
        life = self._lives.get(origin)
        if life is None and self._known.admits(origin):
            life = self._lives[origin] = Life(origin)
            if self._has_forgotten:
                # It may be one that was forgotten, and nobody knows how far that had come.
                life.gone = EVERYWHERE
        return life

    def find(self, window: str, whole: str) -> tuple[Life | None, Origin, Place]:
        """Return whose window it is by its id, as `admit` does, and which; raise `DecodeError`, naming `whole`."""
        begin, _, sequence = window.rpartition("/")
        found = self._found.get(begin)
        if found is not None:
            life, generation = found
            return life, life.origin, (generation, parse_number(sequence, whole))
        origin, position = parse_window_id(window, whole)
        admitted = self.admit(origin)
        if admitted is not None and len(begin) <= MAX_REMEMBERED_LENGTH:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            self._found[begin] = admitted, position.generation
        return admitted, origin, position[:2]

    def keep(self, living: Set[Origin]) -> None:
        """Forget all but these."""
        if gone := self._lives.keys() - living:
            self._lives = {origin: life for origin, life in self._lives.items() if origin not in gone}
            self._has_forgotten = True
            self._found.clear()
        self._known.keep({origin[:2] for origin in living})


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
