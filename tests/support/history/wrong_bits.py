# SPDX-License-Identifier: Apache-2.0
"""One wrong bit in a page of a Parquet file, which a reader may not notice."""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from history.read.archive.limits import DAMAGED

BITS = 200


def wrong(path: Path) -> Iterator[None]:
    """Make one bit of a file's pages wrong, a different one at each step; at last the file is as it was."""
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for bit in random.Random(1).sample(range(4 * 8, (len(whole) - 8 - footer) * 8), BITS):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        yield
    path.write_bytes(whole)


def is_read(path: Path) -> pa.Table | None:
    """Return what a reader takes for the content who does not look at checksums; None if it finds the damage."""
    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)
    except DAMAGED:
        return None
    return table


def make_silently_wrong(path: Path, *columns: str) -> None:
    """Make one bit wrong, so that a reader who does not look at checksums takes it for other values, if any of these.

    Raises `AssertionError` where none of some bits does that.
    """
    true = is_read(path)
    assert true is not None
    names = columns or true.column_names
    for _ in wrong(path):
        if (found := is_read(path)) is not None and not found.select(names).equals(true.select(names)):
            return
    raise AssertionError("no such bit")
