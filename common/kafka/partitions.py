# SPDX-License-Identifier: Apache-2.0
"""How the partitions that a service reads are: what stands against one of them, since when, and how far behind it is.

One that fails is tried again by itself, with back-off, while the others go on. Until it works again /readyz has one
line about it, and `zonemeter_partition_failing` is 1. Where all of them fail, it is Kafka or the service that fails.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from common.kafka import clients
from common.service.running import Service

# What fails of a partition. `work`: what is done with its records; `reading`: the look at its position and its end;
# what a sink publishes of it.
Kind: TypeAlias = Literal["work", "dead letters", "ledger entries", "reading"]

LOOK_SECONDS = 5.0
# For how long records may wait of which none is taken, while those of other partitions are.
STALLED_SECONDS = 60.0


@dataclass(slots=True)
class _State:
    """One partition. By the monotonic clock: `taken_at` it last moved, `still_since` it has not, though it could."""

    lag: int | None = None
    position: int | None = None
    taken_at: float = -math.inf
    still_since: float = 0.0
    since: datetime | None = None
    reasons: dict[Kind, str] = field(default_factory=dict)


class Partitions:
    """Those of one service. `lag`: the gauge, by partition, of the records that are not taken yet."""

    def __init__(self, service: Service, lag: Gauge | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._health = service.health
        self._lag = lag
        self._clock = clock
        self._states: dict[TopicPartition, _State] = {}
        self._gauge = Gauge(
            "zonemeter_partition_failing",
            "1 while a partition fails and others go on; /readyz says why.",
            ["topic", "partition"],
            registry=service.registry,
        )

    def keep(self, held: Collection[TopicPartition]) -> None:
        """Begin with the partitions that are ours, and forget what is known of others."""
        for where in [where for where in self._states if where not in held]:
            del self._states[where]
            self._health.ready(_part(where))
            self._gauge.remove(*where)
            if self._lag is not None:
                with contextlib.suppress(KeyError):
                    self._lag.remove(where.partition)
        for where in held:
            self._state(where)

    def fails(self, where: TopicPartition, reason: str, kind: Kind = "work") -> None:
        """Say that a partition fails, and why."""
        state = self._state(where)
        state.reasons[kind] = reason
        state.since = state.since or datetime.now(UTC)
        self._gauge.labels(*where).set(1)
        self._show(where, state)

    def works(self, where: TopicPartition, kind: Kind = "work") -> None:
        """Take back what was said against a partition."""
        state = self._state(where)
        state.reasons.pop(kind, None)
        if state.reasons:
            self._show(where, state)
        elif state.since is not None:
            state.since = None
            self._gauge.labels(*where).set(0)
            self._health.ready(_part(where))

    def is_failing(self, where: TopicPartition, kind: Kind = "work") -> bool:
        """Return whether that stands against a partition."""
        return where in self._states and kind in self._states[where].reasons

    def behind(self, where: TopicPartition, records: int) -> None:
        """Note how many records of a partition are not taken yet."""
        state = self._state(where)
        state.lag = max(records, 0)
        if self._lag is not None:
            self._lag.labels(where.partition).set(state.lag)
        if state.reasons:
            self._show(where, state)

    @property
    def lag(self) -> int:
        """How many records of all partitions are not taken yet, as far as is known."""
        return sum(state.lag or 0 for state in self._states.values())

    async def look(
        self,
        consumer: AIOKafkaConsumer,
        deadline_seconds: float,
        topic: str,
        positions: Mapping[TopicPartition, int | None] | None = None,
    ) -> str | None:
        """Compare where reading stands with where each partition ends; return why, if Kafka tells that of none.

        `positions`: the partitions, and from where their records count as not taken, None where that is not known yet;
        by default those that the consumer has, and where it has come to. Where there is none, `topic` is asked for:
        a member that cannot reach its group has no partitions, and hears nothing of it.
        """
        if positions is None:
            positions = dict.fromkeys(consumer.assignment())
            self.keep(positions)
            asked = positions
        else:
            asked = {where: position for where, position in positions.items() if position is not None}
        if not asked:
            stand = await _stand(consumer, TopicPartition(topic, 0), 0, deadline_seconds)
            return stand if isinstance(stand, str) else None
        found = await asyncio.gather(*(_stand(consumer, where, ask, deadline_seconds) for where, ask in asked.items()))
        if found and all(isinstance(stand, str) for stand in found):
            return str(found[0])
        for where, stand in zip(asked, found, strict=True):
            if where not in self._states or where not in consumer.assignment():
                continue  # somebody else's by now
            if isinstance(stand, str):
                self.fails(where, f"Kafka does not say where it stands: {stand}", "reading")
            else:
                self.note(where, *stand)
        return None

    def note(self, where: TopicPartition, position: int, end: int) -> None:
        """Note where reading stands and where the partition ends. One that stands still while others move fails."""
        self.behind(where, end - position)
        state, now = self._state(where), self._clock()
        if state.position is not None and position != state.position:
            state.taken_at = now
        if position != state.position or position >= end:
            state.position, state.still_since = position, now
            self.works(where, "reading")
        elif now - state.still_since >= STALLED_SECONDS and self._others_move(where, now):
            self.fails(where, f"no record of it is read, though there are some, from offset {position} on", "reading")

    def _others_move(self, where: TopicPartition, now: float) -> bool:
        others = (state for other, state in self._states.items() if other != where)
        return any(state.taken_at >= now - STALLED_SECONDS for state in others)

    def _state(self, where: TopicPartition) -> _State:
        state = self._states.get(where)
        if state is None:
            state = self._states[where] = _State(still_since=self._clock())
            self._gauge.labels(*where).set(0)
        return state

    def _show(self, where: TopicPartition, state: _State) -> None:
        reason = next(state.reasons[kind] for kind in get_args(Kind) if kind in state.reasons)
        line = f"failing since {state.since:%Y-%m-%d %H:%M:%S} UTC, retrying while the other partitions go on: {reason}"
        self._health.waiting(_part(where), line, "" if state.lag is None else f"{state.lag:,} records behind")


def _part(where: TopicPartition) -> str:
    return f"{where.topic} partition {where.partition}"


async def _stand(
    consumer: AIOKafkaConsumer, where: TopicPartition, position: int | None, deadline_seconds: float
) -> tuple[int, int] | str:
    """Return where reading stands (`position`, else as the consumer says) and where it ends, or why not."""
    try:
        async with asyncio.timeout(deadline_seconds):
            if position is None:
                position = await consumer.position(where)
            return position, (await consumer.end_offsets([where]))[where]
    except (KafkaError, TimeoutError) as error:
        return clients.reason(error)
