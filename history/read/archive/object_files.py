# SPDX-License-Identifier: Apache-2.0
"""One object as a file that pyarrow reads, by ranges, from the client that writes there.

Not for DuckDB's rows: it asks pyarrow for them with Python's lock held, and would wait forever for a file that is read
in Python. pyarrow's own client reads those; it gives up where an error is longer than the few bytes it asked for.
"""

import io

import pyarrow as pa

from sinks.flowlog.stores.objects import ObjectStore


class _Reading(io.RawIOBase):
    """One object, open."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._store = store
        self._path = path
        self._size = store.size(path)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        content = self._store.read_range(self._path, self._at, length) if length else b""
        self._at += len(content)
        return content


def open_object(store: ObjectStore, path: str) -> pa.NativeFile:
    """Open an object, to be read anywhere; raises `FileNotFoundError` and `StoreError`."""
    return pa.PythonFile(_Reading(store, path), mode="r")
