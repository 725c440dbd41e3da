# SPDX-License-Identifier: Apache-2.0
"""The series of one metric family: which pairs have one, which gives way, and what of those that are gone. Pure.

Three things hold together, whatever comes and goes:

- the values of all that is served add up to all that was counted, at every moment;
- no series that is served ever falls, and one that comes back goes on from where it was;
- what Prometheus's `increase` and `rate` say, summed up, is what was counted: no value moves into a series that is
  served already, where it would look like traffic, and no series goes before its last value was served for a while.

So what series that are gone had counted stands in a series of its own, which never grows: when another one goes, it is
replaced by a new one, and `increase` of a series that is only ever one value is nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sinks.metrics.families import LEFT, OTHER, Sample, Spec

# How long a value is served before its series may go: a scraper that comes at least as often has seen it.
SEEN_MS = 300_000
# Of what a series brought before, a sixteenth is forgotten with each sweep: what is left is about the last half hour's.
FORGOTTEN = 16
# A pair is heavy that brought so much more, and twice as much, as one that has a name.
HEAVY_BYTES = 1024 * 1024
# Pairs without a name of which is known what they bring; beyond it the lighter half is forgotten.
MAX_WAITING = 10_000
# Series that are gone of which is known what they had counted, about 1 kB each.
MAX_LEFT = 10_000

Labels = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Series:
    """One counter. `number` is its identity in the checkpoint; `changed_ms`: when it grew last, Unix time.

    `closing`: it counts no more, and goes once its last value was served for long enough. `lately`: what it brought,
    the older the less; `swept`: its value when that was last computed.
    """

    number: int
    family: str
    labels: Labels
    value: int = 0
    changed_ms: int = 0
    served: bool = True
    dirty: bool = False
    closing: bool = False
    lately: int = 0
    swept: int = 0

    @property
    def sample(self) -> Sample:
        """The series as it is now."""
        return Sample(self.number, self.family, self.labels, self.value, self.changed_ms, self.served)

    def reckon(self) -> None:
        """Bring `lately` up to now."""
        self.lately += self.value - self.swept - self.lately // FORGOTTEN
        self.swept = self.value


@dataclass(slots=True)
class Changes:
    """What of the series changed: those to be kept as they are now, and the numbers of those that are gone."""

    series: dict[int, Series] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)

    def note(self, series: Iterable[Series]) -> None:
        """Add some that changed."""
        self.series.update((each.number, each) for each in series)

    @property
    def samples(self) -> list[Sample]:
        """All that changed, as it is now."""
        return [each.sample for each in self.series.values()]


@dataclass(slots=True)
class Family:
    """The series of one family, at most `budget` with names of their own.

    `series`: those, by their labels. `others`: what has no name is added up there. `left`: gone, what they had counted
    is in `sums`. `waiting`: what pairs without a name brought lately.
    """

    spec: Spec
    next_number: Callable[[], int]
    budget: int | None = None
    series: dict[Labels, Series] = field(default_factory=dict)
    others: dict[Labels, Series] = field(default_factory=dict)
    left: dict[Labels, Series] = field(default_factory=dict)
    sums: dict[Labels, Series] = field(default_factory=dict)
    waiting: dict[Labels, int] = field(default_factory=dict)
    _changed: list[Series] = field(default_factory=list)
    _removed: list[int] = field(default_factory=list)
    _moved: dict[Labels, int] = field(default_factory=dict)

    @property
    def served(self) -> list[Series]:
        """All that is served."""
        return [*self.series.values(), *self.others.values(), *self.sums.values()]

    def get(self, labels: Labels) -> Series:
        """Return the series of `labels`, or the one in which it is added up once the budget is spent."""
        series = self.series.get(labels)
        if series is not None and (self.budget is None or not series.closing):
            series.closing = False
            return series
        is_full = series is not None or (self.budget is not None and len(self.series) >= self.budget)
        return self._name(labels) if self.can_name(labels) and not is_full else self._other(labels)

    def can_name(self, labels: Labels) -> bool:
        """Return whether labels are those of a pair, and not of what is added up here; nobody else's have `_left_`."""
        names = [value for name, value in zip(self.spec.labels, labels, strict=True) if name in self.spec.folded]
        return not names or not (set(names) == {OTHER} or any(value.startswith(LEFT) for value in names))

    def wait(self, labels: Labels, amount: int) -> None:
        """Note what a pair brought that has no name."""
        self.waiting[labels] = self.waiting.get(labels, 0) + amount
        if len(self.waiting) > MAX_WAITING:
            self.waiting = dict(self._heaviest()[: MAX_WAITING // 2])

    def restore(self, series: Series) -> None:
        """Take a series back from a checkpoint; it stays, also where the budget has become smaller."""
        series.swept = series.value
        group = self._fold(series.labels)
        if not series.served:
            self.left[series.labels] = series
        elif self.can_name(series.labels):
            self.series[series.labels] = series
        elif series.labels == group:
            self.others[group] = series
        else:
            self.sums[group] = series

    def sweep(self, now_ms: int, idle_ms: int, *, may_leave: bool) -> bool:
        """Let go of what is idle, and see that the heaviest have names; return whether names have changed hands.

        `may_leave`: all values have been served for long enough that series may go at all.
        """
        if not self.spec.folded:
            return False
        for series in self.series.values():
            series.reckon()
        gone = []
        if may_leave:
            quiet = ((each, now_ms - each.changed_ms) for each in self.series.values())
            gone = [each for each, ms in quiet if ms >= (SEEN_MS if each.closing else idle_ms)]
        for series in gone:
            self._leave(series)
        named = self._name_heaviest(now_ms, may_leave=may_leave) if self.waiting else False
        self.waiting = {
            labels: rest for labels, amount in self.waiting.items() if (rest := amount * (FORGOTTEN - 1) // FORGOTTEN)
        }
        return bool(gone) or named

    def settle(self, now_ms: int, changes: Changes) -> None:
        """Replace the sums that are not what they were, and hand over all that changed beside the values."""
        for group, amount in self._moved.items():
            old = self.sums.pop(group, None)
            if old is not None:
                self._removed.append(old.number)
            total = amount + (old.value if old is not None else 0)
            # Also where it comes to nothing: the highest number must stay in the checkpoint, or it is given again.
            number = self.next_number()
            new = Series(number, self.spec.name, self._left_labels(group, number), total, now_ms)
            self.sums[group] = new
            self._changed.append(new)
        self._moved.clear()
        self._forget()
        changes.note(self._changed)
        changes.removed += self._removed
        self._changed, self._removed = [], []

    def _name_heaviest(self, now_ms: int, *, may_leave: bool) -> bool:
        """Give names to those that wait, the heaviest first; where there are none left, let light ones give way."""
        free = 0 if self.budget is None else max(self.budget - len(self.series), 0)
        waiting = self._heaviest()
        for labels, _ in waiting[:free]:
            self._name(labels)
        # For some of the rest others are giving way already.
        rest = waiting[free:][sum(each.closing for each in self.series.values()) :]
        if not rest or rest[0][1] < HEAVY_BYTES:
            return bool(waiting[:free])
        light = sorted((each for each in self.series.values() if not each.closing), key=lambda each: each.lately)
        closed = 0
        for (labels, amount), series in zip(rest, light, strict=False):
            if amount < 2 * series.lately + HEAVY_BYTES:
                break
            closed += 1
            series.closing = True
            if may_leave and now_ms - series.changed_ms >= SEEN_MS:
                self._leave(series)
                self._name(labels)
        return bool(waiting[:free]) or closed > 0

    def _heaviest(self) -> list[tuple[Labels, int]]:
        return sorted(self.waiting.items(), key=lambda item: -item[1])

    def _name(self, labels: Labels) -> Series:
        """Give a pair a series of its own: that which it had before, if it had one."""
        self.waiting.pop(labels, None)
        series = self.series.get(labels) or self.left.pop(labels, None)
        if series is None:
            series = Series(self.next_number(), self.spec.name, labels)
        elif not series.served:
            self._move(series, -series.value)
        series.served, series.closing = True, False
        self.series[labels] = series
        self._changed.append(series)
        return series

    def _leave(self, series: Series) -> None:
        del self.series[series.labels]
        series.served = series.closing = False
        self.left[series.labels] = series
        self._move(series, series.value)
        self._changed.append(series)

    def _move(self, series: Series, amount: int) -> None:
        group = self._fold(series.labels)
        self._moved[group] = self._moved.get(group, 0) + amount

    def _forget(self) -> None:
        """Forget what those had counted that grew longest ago; it stays in the sums."""
        if len(self.left) > MAX_LEFT:
            oldest = sorted(self.left.values(), key=lambda each: each.changed_ms)
            for series in oldest[: len(self.left) - MAX_LEFT]:
                del self.left[series.labels]
                self._removed.append(series.number)

    def _other(self, labels: Labels) -> Series:
        group = self._fold(labels)
        if group not in self.others:
            self.others[group] = Series(self.next_number(), self.spec.name, group)
        return self.others[group]

    def _fold(self, labels: Labels) -> Labels:
        pairs = zip(self.spec.labels, labels, strict=True)
        return tuple(OTHER if name in self.spec.folded else value for name, value in pairs)

    def _left_labels(self, group: Labels, number: int) -> Labels:
        """Return the labels of a sum; its number is in the last name, because each is another series."""
        last = self.spec.folded[-1]
        pairs = zip(self.spec.labels, group, strict=True)
        return tuple(
            f"{LEFT}{number}" if name == last else LEFT if name in self.spec.folded else value for name, value in pairs
        )
