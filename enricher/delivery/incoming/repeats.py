# SPDX-License-Identifier: Apache-2.0
"""Tells a raw chunk that came before, and one that cannot be. A collector that crashed publishes a window again.

What this process has read it remembers by boots of nodes: which chunks, how far, until when. What stands further back
is looked for there (earlier.py) if the chunk says `maybe_repeat`, and once for each boot when a partition is taken
over, because a copy that was sent first and held up on its way does not know that it is not the first to arrive.

All collectors may write to the topic, so a chunk may be somebody else's, in a node's name. A number made up must not
turn the true ones below it into repeats: a repeat is a chunk that was taken, or one of a time that its node has been
seen in. And one so far ahead that no node can have come to it is refused.
"""

from dataclasses import dataclass, field

from aiokafka import TopicPartition

from common.clock import now_ms
from common.plausible import seen_end_ms
from common.service.running import Service
from enricher.delivery.incoming.earlier import BootState, Earlier, mark_of, why_not
from enricher.kube.cluster import Clock
from enricher.settings import EnricherSettings
from schemas.errors import DecodeError
from schemas.ids import Origin
from schemas.raw import RawChunk

# Boots of nodes known at a time, and of one node. Beyond it, who was silent for longest is forgotten.
MAX_BOOTS = 10_000
MAX_BOOTS_OF_NODE = 16


@dataclass(slots=True)
class BootMemory:
    """What was read of one partition, by boots of nodes. Pure."""

    _nodes: dict[str, dict[Origin, BootState]] = field(default_factory=dict)
    _size: int = 0

    def __len__(self) -> int:
        return self._size

    def life(self, origin: Origin) -> BootState | None:
        """Return what is known of a boot."""
        return self._nodes.get(origin.node, {}).get(origin)

    def note(self, chunk: RawChunk, at_ms: int, before: BootState | None = None) -> bool:
        """Remember a chunk that came at that time; return whether its number is lower than that of the one before.

        `before`: what looking back told of its boot.
        """
        origin, mark = chunk.origin, mark_of(chunk)
        boots = self._nodes.pop(chunk.node, {})
        life = boots.pop(origin, None)
        if life is None:
            life = BootState() if before is None else BootState(before.furthest, before.end_ms)
            self._size += 1
        back = life.latest is not None and mark < life.latest
        life.note(mark, seen_end_ms(chunk.end_ms, at_ms))
        # In the order in which they were heard of, so that the first is who was silent for longest.
        boots[origin] = life
        self._nodes[chunk.node] = boots
        if len(boots) > MAX_BOOTS_OF_NODE:
            del boots[next(iter(boots))]
            self._size -= 1
        while self._size > MAX_BOOTS:
            self._size -= len(self._nodes.pop(next(iter(self._nodes))))
        return back


def came_before(chunk: RawChunk, life: BootState) -> bool:
    """Return whether a chunk was taken, or is of a time that its boot has been seen in."""
    mark = mark_of(chunk)
    if life.taken.holds(mark):
        return True
    if life.furthest is None or mark > life.furthest or life.taken.within(mark):
        return False
    return chunk.start_ms < life.end_ms


class Repeats:
    """The memory of one raw partition; `first` is the offset from which on it was read."""

    def __init__(
        self, service: Service, settings: EnricherSettings, partition: int, first: int, clock: Clock = now_ms
    ) -> None:
        self._memory = BootMemory()
        self._clock = clock
        self._earlier = Earlier(service, settings, TopicPartition(settings.topics.raw, partition), first)

    async def has(self, chunk: RawChunk) -> bool:
        """Return whether this chunk came before; raise `DecodeError` if it cannot be.

        Raises what Kafka's client raises.
        """
        now = self._clock()
        life = self._memory.life(chunk.origin)
        _refuse(why_not(chunk, life, now))
        if life is not None:
            if came_before(chunk, life):
                return True
            if not chunk.maybe_repeat:
                return False
        found = await self._earlier.look(chunk, now)
        if life is None:
            _refuse(why_not(chunk, self._earlier.life(chunk.origin), now))
        return found

    def note(self, chunk: RawChunk) -> bool:
        """Remember a chunk; return whether its number is lower than that of the one before."""
        return self._memory.note(chunk, self._clock(), self._earlier.life(chunk.origin))


def _refuse(why: str | None) -> None:
    if why is not None:
        raise DecodeError("implausible", why)
