# SPDX-License-Identifier: Apache-2.0
"""What a label of each namespace was, and when: from states of the topology topic. Pure.

A value is known for a window only if it held for all of it. Where no state says anything of a namespace, because
nobody watched it then, or not for this label, nothing is known: that is another thing than a namespace without it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from enricher.index.tenancy import order, stretches
from history.model.time_range import TimeRange
from schemas.topology import TopologyState

KIND = "namespace"


class LabelTime(NamedTuple):
    """The value that a namespace's label had in [from_ms, to_ms); None: it did not have the label."""

    namespace: str
    from_ms: int
    to_ms: int
    value: str | None


class SlotLabel(NamedTuple):
    """A `LabelTime` that reaches into a slot of time, by the slot's number since 1970."""

    slot: int
    namespace: str
    from_ms: int
    to_ms: int
    value: str | None


def by_slot(times: Iterable[LabelTime], span: TimeRange, slot_ms: int) -> Iterator[SlotLabel]:
    """Yield the values of a label in a range, each once for every slot that it reaches into."""
    for time in times:
        first, last = max(time.from_ms, span.from_ms) // slot_ms, (min(time.to_ms, span.to_ms) - 1) // slot_ms
        for slot in range(first, last + 1):
            yield SlotLabel(slot, *time)


def label_times(states: Iterable[TopologyState], label: str) -> list[LabelTime]:
    """Return the values of a label, of each namespace in order of time and without overlaps."""
    by_name: defaultdict[str, list[TopologyState]] = defaultdict(list)
    for state in states:
        if state.kind == KIND:
            # By name: one that is made again is another object, and flows know its name alone.
            by_name[state.name].append(state)
    return [time for name in sorted(by_name) for time in _joined(_times(name, by_name[name], label))]


def labels_known(states: Iterable[TopologyState]) -> Collection[str]:
    """Return the names of the labels that any namespace had."""
    found = (item for state in states if state.kind == KIND for item in (state.labels or {}).items())
    return sorted({name for name, value in found if value is not None})


def _times(name: str, states: list[TopologyState], label: str) -> Iterator[LabelTime]:
    for state, end in stretches(sorted(states, key=order)):
        # A label that nobody was told to keep then may have been there.
        labels = state.labels or {}
        if state.from_ms < end and label in labels:
            yield LabelTime(name, state.from_ms, end, labels[label])


def _joined(times: Iterable[LabelTime]) -> Iterator[LabelTime]:
    """Yield stretches of one value as one: what else changed of a namespace is nothing to this label."""
    last: LabelTime | None = None
    for time in times:
        if last is not None and (last.to_ms, last.value) == (time.from_ms, time.value):
            last = last._replace(to_ms=time.to_ms)
            continue
        if last is not None:
            yield last
        last = time
    if last is not None:
        yield last
