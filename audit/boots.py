# SPDX-License-Identifier: Apache-2.0
"""The lives of nodes as their collectors' entries tell them: time that nobody metered, and what cannot be true. Pure.

A life is one boot of one node. Its windows come in order and without holes; the next life begins after it. Which is
the next the ledger tells, and not the clock, which may be another after a boot. Two lives
of one name that go on side by side are two machines, or somebody who writes in a node's name. Where a node's clock was
set, its times go on elsewhere: that is not a hole, and the time before it is computed by the new clock.
"""

import itertools
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from audit.result import MAX_LISTED, ClockStep, Gap, Gone
from audit.window import Place
from schemas.ids import FIRST_SEQUENCE, Origin
from schemas.ledger import LedgerRecord

# Of one node's lives the latest are kept: forged boots must not fill the memory.
MAX_LIVES = 16
DETACHED = "somebody had detached what counts: since some moment in this window and until its end or shortly before"
# Gaps and steps of a clock in all; `Boots.cut` says that there were more.
MAX_TOLD = 50_000


@dataclass(slots=True)
class Boot:
    """One life. `first_ms`, `last_ms`: of its windows; `last`: (generation, sequence) of the furthest, and its end.

    `began`: (generation, sequence) of the first, when it started, and its partition of the ledger. `cut`: it has, or
    followed, more gaps than are noted.
    """

    origin: Origin
    first_ms: int
    last_ms: int
    last: tuple[int, int]
    began: tuple[tuple[int, int], int, int]
    ended_by: str | None = None
    gaps: deque[Gap] = field(default_factory=lambda: deque(maxlen=MAX_LISTED))
    clock_steps: deque[ClockStep] = field(default_factory=lambda: deque(maxlen=MAX_LISTED))
    cut: bool = False

    @property
    def told(self) -> int:
        """How much there is to tell of it: what it costs."""
        return len(self.gaps) + len(self.clock_steps)

    def go_on(self, place: tuple[int, int], record: LedgerRecord, *, tell: bool) -> int:
        """Take its next window; `tell`: there is room to note what is odd about it. Return how much more is told."""
        step_ms = record.clock_step_ms or 0
        self.first_ms += step_ms
        self.last_ms += step_ms
        why = _why_gap(self, place, record)
        told = 0
        if why or step_ms or record.detached:
            if tell:
                told = self._note(record, why)
            else:
                self.cut = True
        self.last, self.last_ms, self.ended_by = place, max(self.last_ms, record.end_ms), record.ended_by
        return told

    def _note(self, record: LedgerRecord, why: str | None) -> int:
        before = self.told
        self.note_clock(record)
        if why:
            self._add_gap(self.last_ms, record.start_ms, why)
        self.note_detached(record)
        return self.told - before

    def note_detached(self, record: LedgerRecord) -> None:
        """Note that the program was found detached in that window, if it was."""
        if record.detached:
            self._add_gap(record.start_ms, record.end_ms, DETACHED)

    def _add_gap(self, from_ms: int, to_ms: int, why: str) -> None:
        self.cut |= len(self.gaps) == self.gaps.maxlen
        self.gaps.append(_gap(self.origin.node, from_ms, to_ms, why))

    def note_clock(self, record: LedgerRecord) -> None:
        """Note that the clock was set in that window, if it was."""
        if record.clock_step_ms:
            self.clock_steps.append(ClockStep(self.origin.node, record.end_ms, record.clock_step_ms))


class Boots:
    """All nodes, by cluster and name, so that what is asked of one cluster costs nothing for the others."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, list[Boot]]] = {}
        self._interleaved: dict[str, dict[str, dict[str, int]]] = {}
        self._latest: dict[str, dict[str, int]] = {}
        self._told = 0

    def take(self, origin: Origin, place: Place, record: LedgerRecord) -> None:
        """Take a collector's entry, in the order of the ledger."""
        cluster, node, _ = origin
        lives = self._nodes.setdefault(cluster, {}).setdefault(node, [])
        own = lives[-1] if lives else None
        if own is not None and own.origin != origin:
            own = next((life for life in reversed(lives) if life.origin == origin), None)
        if own is None:
            own = self._begin(lives, origin, place, record)
        else:
            if place <= own.began[0]:
                own.began = min(own.began, (place, record.start_ms, record.partition))
            if own is not lives[-1]:
                self._interleave(lives, own, record)
            if place > own.last:
                self._told += own.go_on(place, record, tell=self._told < MAX_TOLD)
        latest = self._latest.setdefault(cluster, {})
        latest[node] = max(latest.get(node, 0), own.last_ms)

    def _begin(self, lives: list[Boot], origin: Origin, place: Place, record: LedgerRecord) -> Boot:
        own = Boot(
            origin,
            record.start_ms,
            record.end_ms,
            place,
            (place, record.start_ms, record.partition),
            record.ended_by,
        )
        lives.append(own)
        if self._told < MAX_TOLD:
            own.note_clock(record)
            own.note_detached(record)
            self._told += own.told
        else:
            own.cut = record.detached
        for gone in lives[:-MAX_LIVES]:
            self._told -= gone.told
            lives[-MAX_LIVES].cut = True
        del lives[:-MAX_LIVES]
        return own

    def _interleave(self, lives: list[Boot], own: Boot, record: LedgerRecord) -> None:
        younger = [life for life in lives[lives.index(own) + 1 :] if record.start_ms >= life.first_ms]
        if younger:
            boots = self._interleaved.setdefault(own.origin.cluster, {}).setdefault(own.origin.node, {})
            boots |= {life.origin.boot_id: record.end_ms for life in (own, *younger)}
            while len(boots) > MAX_LIVES:
                del boots[next(iter(boots))]

    def latest(self, cluster: str) -> Mapping[str, int]:
        """Return until when the nodes of a cluster had metered, as far as is known; of those that closed a window."""
        return self._latest.get(cluster, {})

    def is_past(self, origin: Origin, place: tuple[int, int]) -> bool:
        """Return whether the collector of this life has closed a later window."""
        lives = self._nodes.get(origin.cluster, {}).get(origin.node, ())
        return any(life.origin == origin and life.last > place for life in lives)

    def _of(self, cluster: str | None) -> Iterator[tuple[str, list[Boot]]]:
        """Yield the nodes of a cluster (None: of all of them, one after the other) by name, with their lives."""
        for each in sorted(self._nodes) if cluster is None else (cluster,):
            yield from sorted(self._nodes.get(each, {}).items(), key=lambda item: item[0])

    def gaps(self, cluster: str | None = None) -> list[Gap]:
        """Return unmeasured time, by node and in order."""
        return [gap for _, lives in self._of(cluster) for gap in self._of_node(lives)]

    def cut(self) -> bool:
        """Return whether there were more gaps than are noted."""
        return any(life.cut for _, lives in self._of(None) for life in lives)

    def gone(self, whole: Collection[int]) -> Iterator[Gone]:
        """Yield what is before the first window known of a life, if the ledger's partition was read whole (`whole`)."""
        for node, lives in self._of(None):
            for life in lives:
                (generation, sequence), start_ms, partition = life.began
                if sequence > FIRST_SEQUENCE and partition in whole:
                    yield Gone(node, start_ms, life.origin, generation, sequence - 1)

    def clock_steps(self, cluster: str | None = None) -> list[ClockStep]:
        """Return when nodes' clocks were set, by node and in order."""
        found = (step for _, lives in self._of(cluster) for life in lives for step in life.clock_steps)
        return list(itertools.islice(found, MAX_LISTED))

    def metered(self, cluster: str | None = None) -> set[str]:
        """Return the nodes that closed a window."""
        return {node for node, lives in self._of(cluster) if lives}

    def origins(self) -> set[Origin]:
        """Return the lives that are known."""
        return {life.origin for _, lives in self._of(None) for life in lives}

    def interleaved(self, cluster: str | None = None) -> dict[str, list[str]]:
        """Return, by node, the boots of it that went on side by side."""
        clusters = sorted(self._interleaved) if cluster is None else (cluster,)
        return {
            node: sorted(boots)
            for each in clusters
            for node, boots in sorted(self._interleaved.get(each, {}).items())
            if boots
        }

    def forget(self, before_ms: int) -> None:
        """Forget what ended before that time."""
        self._told = 0
        for nodes in self._nodes.values():
            for node in list(nodes):
                nodes[node] = [life for life in nodes[node] if life.last_ms >= before_ms]
                for life in nodes[node]:
                    while life.gaps and (life.gaps[0].to_ms or life.gaps[0].from_ms) < before_ms:
                        life.gaps.popleft()
                    while life.clock_steps and life.clock_steps[0].to_ms < before_ms:
                        life.clock_steps.popleft()
                    self._told += life.told
                if not nodes[node]:
                    del nodes[node]
        for boots_of in self._interleaved.values():
            for node, boots in list(boots_of.items()):
                boots_of[node] = {boot: at_ms for boot, at_ms in boots.items() if at_ms >= before_ms}
                if not boots_of[node]:
                    del boots_of[node]
        self._nodes = {cluster: nodes for cluster, nodes in self._nodes.items() if nodes}
        self._latest = {
            cluster: {node: max(life.last_ms for life in lives) for node, lives in nodes.items()}
            for cluster, nodes in self._nodes.items()
        }
        self._interleaved = {cluster: nodes for cluster, nodes in self._interleaved.items() if nodes}

    @staticmethod
    def _of_node(lives: list[Boot]) -> Iterator[Gap]:
        own = lives
        if len({life.began[2] for life in lives}) > 1:
            # Between partitions the ledger has no order: there were fewer of them once.
            own = sorted(lives, key=lambda life: life.first_ms)
        for before, after in itertools.pairwise([None, *own]):
            if before is not None and after is not None:
                why = f"a new boot, {after.origin.boot_id}: what was not published before it is unmeasured"
                yield _gap(after.origin.node, before.last_ms, after.first_ms, why)
            if after is not None:
                yield from after.gaps


def _gap(node: str, from_ms: int, to_ms: int, why: str) -> Gap:
    return Gap(node, from_ms, to_ms if to_ms >= from_ms else None, why)


def _why_gap(own: Boot, place: tuple[int, int], record: LedgerRecord) -> str | None:
    (generation, sequence), (of, last) = place, own.last
    if generation == of and sequence > last + 1:
        missing = f"{last + 1} to {sequence - 1}" if sequence > last + 2 else str(last + 1)
        return f"sequence {missing} missing (boot {own.origin.boot_id}, generation {generation})"
    if record.start_ms > own.last_ms and own.ended_by == "deadman":
        return "no collector was there for so long that counting stopped (--deadman)"
    if record.start_ms > own.last_ms:
        return "not counted in between"
    return None
