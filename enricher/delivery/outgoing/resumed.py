# SPDX-License-Identifier: Apache-2.0
"""What of raw chunks was out when a partition was taken over: read back some chunks ahead of raw, and no more.

After a crash that is what one unit had given out. After an operator has set the group's offset back, or Kafka has
forgotten it, it may be days. The output is in the order of raw, so a bounded stretch of it is enough: what raw has
passed makes room for what follows. Where somebody processed raw in another order, further apart than the bound, a chunk
may go out twice; its rows are then behind a mark, and every zonemeter reader skips them.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from enricher.join.join import Out
from schemas.flow import Flow
from schemas.ids import split_flow_id
from schemas.raw import RawChunk

# Read ahead at most, give or take one fetch: a unit is far less.
MAX_CHUNKS = 2_000
MAX_ROWS = 500_000

# Flows with their offsets in the output, and the offset to go on from.
Page: TypeAlias = tuple[Sequence[tuple[int, Flow]], int]
Pages: TypeAlias = Callable[[range], AsyncGenerator[Page, None]]


@dataclass(slots=True)
class _Found:
    """What of one chunk is out; `first`: the offset of its first flow there; `raw_offset`: where the chunk stands."""

    first: int
    raw_offset: int
    out: Out = field(default_factory=Out)


class Resumed:
    """Of one partition. `unread`: the output's offsets that may hold it; `raw`: what was not committed of raw then."""

    def __init__(self, pages: Pages, unread: range, raw: range) -> None:
        self._pages = pages
        self._unread = unread
        self._raw = raw
        # In the order of the output.
        self._ahead: dict[str, _Found] = {}
        self._rows = 0
        # Asked for, and not committed yet.
        self._under_way: list[_Found] = []

    def __len__(self) -> int:
        return len(self._ahead)

    async def read_on(self, raw_offset: int) -> None:
        """Read some chunks ahead, if few are left. Raises what Kafka's client raises."""
        if not self._unread or not self._is_low():
            return
        async with aclosing(self._pages(self._unread)) as pages:
            async for flows, next_offset in pages:
                for offset, flow in flows:
                    self._add(offset, flow)
                self._unread = range(next_offset, self._unread.stop)
                if self._is_full():
                    self._forget_before(raw_offset)
                    if not self._is_low():
                        return
        self._unread = range(0)

    async def take(self, chunk: RawChunk, raw_offset: int) -> Out | None:
        """Return what of the chunk that stands there was out, once; None if nothing was."""
        await self.read_on(raw_offset)
        found = self._ahead.pop(chunk.id, None) if self._ahead else None
        if found is None:
            return None
        self._rows -= len(found.out.rows)
        found.raw_offset = raw_offset
        self._under_way.append(found)
        return found.out

    def committed(self, raw_offset: int) -> int | None:
        """Note what is committed; return from where on the output holds what is not. None: from its end on."""
        self._under_way = [found for found in self._under_way if found.raw_offset >= raw_offset]
        if raw_offset >= self._raw.stop:
            return None
        firsts = [found.first for found in self._under_way]
        firsts += [found.first for found in self._ahead.values()][:1]
        firsts += [self._unread.start] if self._unread else []
        return min(firsts, default=None)

    def _is_low(self) -> bool:
        return len(self._ahead) < MAX_CHUNKS // 2 and self._rows < MAX_ROWS // 2

    def _is_full(self) -> bool:
        return len(self._ahead) >= MAX_CHUNKS or self._rows >= MAX_ROWS

    def _add(self, offset: int, flow: Flow) -> None:
        # What stands behind the end that raw had then is of nothing that can be out: somebody made it up.
        if flow.raw.offset not in self._raw:
            return
        chunk, number = split_flow_id(flow.id)
        found = self._ahead.get(chunk)
        if found is None:
            found = self._ahead[chunk] = _Found(offset, flow.raw.offset)
        before = len(found.out.rows)
        found.out.add(number, flow.rows or (number,), flow.bytes, flow.packets)
        self._rows += len(found.out.rows) - before

    def _forget_before(self, raw_offset: int) -> None:
        self._ahead = {chunk: found for chunk, found in self._ahead.items() if found.raw_offset >= raw_offset}
        self._rows = sum(len(found.out.rows) for found in self._ahead.values())
