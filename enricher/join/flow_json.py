# SPDX-License-Identifier: Apache-2.0
"""The flows of a chunk as JSON, written when they are asked for. Pure.

All at once they would take rows times what an end point's names take, and a raw record of 1 MiB may have 50,000 rows.
The sender needs a batch of them at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import overload

# Written together.
BLOCK_ROWS = 2000


class FlowsJson(Sequence[bytes]):
    """A value a flow, to be gone through once: none of them is held. `write` returns those of some of `places`."""

    def __init__(self, write: Callable[[Sequence[int]], list[bytes]], places: Sequence[int]) -> None:
        self._write = write
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "FlowsJson": ...
    def __getitem__(self, index: int | slice) -> "bytes | FlowsJson":
        """Return one value, or values that are not written yet."""
        if isinstance(index, slice):
            return FlowsJson(self._write, self._places[index])
        return self._write([self._places[index]])[0]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the values, a block at a time."""
        for first in range(0, len(self._places), BLOCK_ROWS):
            yield from self._write(self._places[first : first + BLOCK_ROWS])
