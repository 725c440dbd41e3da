# SPDX-License-Identifier: Apache-2.0
"""What stands where in a partition by time, also records that have none, and where a broker cannot answer.

A record has no time where its writer's clock was so far ahead that the broker refused it. No question by time finds
such a record: only by those that stand around it can be told when it came.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import UnknownError
from aiokafka.structs import OffsetAndTimestamp

log = logging.getLogger(__name__)

# How much earlier a time is asked for where the broker cannot answer, which costs it a second each; then the beginning.
_BACK_MS = (60_000, 3_600_000, 86_400_000)
# How near to a time the last record before it is looked for: windows come that often.
NEAR_MS = 15_000


async def offsets_for_times(
    consumer: AIOKafkaConsumer, times_ms: Mapping[TopicPartition, int]
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """Return for each partition the first offset with that time or a later one; None if there is none. In a deadline.

    A broker unpacks the batch that is the answer, and fails if that is more than it has room for. Then the answer to
    an earlier time is returned, which lies before it.
    """
    try:
        found: dict[TopicPartition, OffsetAndTimestamp | None] = await consumer.offsets_for_times(dict(times_ms))
    except UnknownError as error:
        if len(times_ms) == 1:
            return {where: await _offset_before(consumer, where, time_ms) for where, time_ms in times_ms.items()}
        log.warning("the broker cannot say what stands where by time: %s; each partition is asked for", error)
        alone = [await offsets_for_times(consumer, {where: time_ms}) for where, time_ms in times_ms.items()]
        return {where: at for each in alone for where, at in each.items()}
    return found


async def _offset_before(consumer: AIOKafkaConsumer, where: TopicPartition, time_ms: int) -> OffsetAndTimestamp:
    for earlier_ms in (time_ms - back_ms for back_ms in _BACK_MS if back_ms < time_ms):
        try:
            at: OffsetAndTimestamp | None = (await consumer.offsets_for_times({where: earlier_ms}))[where]
        except UnknownError:
            continue
        if at is not None:
            return at
    return OffsetAndTimestamp((await consumer.beginning_offsets([where]))[where], -1)


@dataclass(slots=True)
class _Search:
    """Looks for the last record before `target`, the first of a time or later, that has a time itself.

    `start`: the best offset so far. The answer for `late_ms` is the target, that for `early_ms` lies before it.
    """

    target: int
    start: int
    late_ms: int
    early_ms: int | None = None
    step_ms: int = NEAR_MS

    @property
    def is_over(self) -> bool:
        at_the_start = self.target <= self.start or self.late_ms == 0
        return at_the_start if self.early_ms is None else self.late_ms - self.early_ms <= NEAR_MS

    @property
    def next_ms(self) -> int:
        """Ask ever further back, and once that was too far, for the middle."""
        if self.early_ms is None:
            return max(self.late_ms - self.step_ms, 0)
        return (self.early_ms + self.late_ms) // 2

    def answered(self, asked_ms: int, offset: int) -> None:
        if offset < self.target:
            self.early_ms, self.start = asked_ms, offset
        else:
            self.late_ms, self.step_ms = asked_ms, 2 * self.step_ms


async def beginnings(
    consumer: AIOKafkaConsumer, time_ms: int, there: Mapping[TopicPartition, range]
) -> dict[TopicPartition, range]:
    """Return where in each partition the records of `time_ms` or later begin; `there`: the offsets that it holds.

    `stop`: the first offset of that time or later, the end where there is none. From `start` on may stand records of it
    that have no time: that is the last record before `stop` that has one, give or take `NEAR_MS`; the beginning if
    there is none. In a deadline.
    """
    searches = {}
    for where, at in (await offsets_for_times(consumer, dict.fromkeys(there, time_ms))).items():
        first, end = there[where].start, there[where].stop
        searches[where] = _Search(end if at is None else min(max(at.offset, first), end), first, time_ms)
    while asked := {where: search.next_ms for where, search in searches.items() if not search.is_over}:
        for where, at in (await offsets_for_times(consumer, asked)).items():
            searches[where].answered(asked[where], there[where].stop if at is None else at.offset)
    return {where: range(min(search.start, search.target), search.target) for where, search in searches.items()}
