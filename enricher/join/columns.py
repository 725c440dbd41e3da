# SPDX-License-Identifier: Apache-2.0
"""A raw chunk's columns as numpy arrays. Pure. Sums cannot overflow: a chunk's total is below 2^53 (schemas/raw.py)."""

import numpy as np
from numpy.typing import NDArray

from schemas.amount import Amount
from schemas.raw import DIRECTIONS, RawChunk

EGRESS, INGRESS, RELAY = range(len(DIRECTIONS))

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Row numbers, ascending unless said otherwise.
Rows = NDArray[np.intp]


class Columns:
    """The columns of one chunk; `rows` is how many it has."""

    def __init__(self, chunk: RawChunk) -> None:
        self.rows = len(chunk.src)
        self.src, self.dst = np.array(chunk.src, np.int64), np.array(chunk.dst, np.int64)
        self.direction = np.array(chunk.direction, np.int64)
        self.size, self.packets = np.array(chunk.bytes, np.int64), np.array(chunk.packets, np.int64)

    def amount(self, rows: Rows) -> Amount:
        """Return what these rows come to."""
        return Amount(int(self.size[rows].sum()), int(self.packets[rows].sum()), len(rows))
