# SPDX-License-Identifier: Apache-2.0
"""The last minutes of the audit: sums of closed windows by minute, and what is open on top of them. Pure.

What is only late is not counted: it is in Kafka, and the consumer's lag is measured there.
What has been passed over counts as unaccounted for as long as it is open; should it come after all, it closes.
"""

from dataclasses import dataclass, field

from audit.books import Reconciler
from audit.result import Room, Shortfall, Sums
from audit.window import OpenWindow, add_up
from schemas.ids import Origin

MINUTE_MS = 60_000
# A window that ends later than this from now has a node's wrong clock; the topic's own bound is an hour.
MAX_AHEAD_MS = 3_600_000
# Of nodes and reasons in the sums of all minutes; about 200 bytes each. Enough for 4,000 nodes and an hour.
MAX_NAMES = 500_000


@dataclass(slots=True)
class Recent:
    """One cluster's last minutes. `late`: bytes by hop. Of windows: how many are in each state."""

    sums: Sums = field(default_factory=Sums)
    late: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    late_windows: int = 0

    def add_open(self, window: OpenWindow, shortfalls: list[Shortfall], settled_before_ms: int) -> bool:
        """Add what does not fit of a window that is not closed; return whether its amounts count as if it were."""
        if not shortfalls:
            return True
        if any(not short.late for short in shortfalls):
            self.sums.open_windows += 1
            for short in shortfalls:
                if not short.late:
                    self.sums.miss(short)
            return True
        if window.end_ms >= settled_before_ms:
            self.in_flight += 1
        else:
            self.late_windows += 1
            for short in shortfalls:
                self.late[short.hop] = self.late.get(short.hop, 0) + abs(short.bytes)
        return False


class Rolling:
    """The sums by cluster and minute. Windows older than the span, or from the future, are not wanted."""

    def __init__(self, span_ms: int) -> None:
        self._span_ms = span_ms
        self._now_ms = 0
        self._minutes: dict[tuple[str, int], Sums] = {}
        self._room = Room(MAX_NAMES)

    @property
    def floor_ms(self) -> int:
        """The start of the span."""
        return self._now_ms - self._span_ms

    def move(self, now_ms: int) -> None:
        """Move the span to end now, and forget the minutes before it."""
        self._now_ms = now_ms
        for key in [key for key in self._minutes if (key[1] + 1) * MINUTE_MS <= self.floor_ms]:
            self._room.give_back(self._minutes.pop(key).names)

    def wants(self, _: Origin, start_ms: int) -> bool:
        """Return whether a window that starts then is in the span."""
        return self.floor_ms <= start_ms <= self._now_ms + MAX_AHEAD_MS

    def sums_of(self, origin: Origin, start_ms: int) -> Sums:
        """Return the sums of a window's minute; of one out of the span, those of the nearest in it."""
        start_ms = max(self.floor_ms, min(start_ms, self._now_ms + MAX_AHEAD_MS))
        key = (origin.cluster, start_ms // MINUTE_MS)
        if (sums := self._minutes.get(key)) is None:
            sums = self._minutes[key] = Sums(room=self._room)
        return sums

    def closed(self) -> dict[str, Recent]:
        """Return each cluster's closed windows."""
        recent: dict[str, Recent] = {}
        for (cluster, _), sums in self._minutes.items():
            recent.setdefault(cluster, Recent()).sums.merge(sums)
        return recent

    def recent(self, books: Reconciler, settled_before_ms: int) -> dict[str, Recent]:
        """Return each cluster's last minutes, after closing what fits."""
        closing: list[OpenWindow] = []
        opened: list[tuple[OpenWindow, list[Shortfall]]] = []
        for window, shortfalls in books.judged():
            if not shortfalls and window.end_ms < settled_before_ms:
                closing.append(window)
            else:
                opened.append((window, shortfalls))
        books.close_all(closing)
        recent = self.closed()
        counted: dict[Origin, list[OpenWindow]] = {}
        for window, shortfalls in opened:
            of = recent.setdefault(window.origin.cluster, Recent())
            if of.add_open(window, shortfalls, settled_before_ms):
                counted.setdefault(window.origin, []).append(window)
        for origin, windows in counted.items():
            add_up(origin.node, windows, recent[origin.cluster].sums)
        return recent
