# SPDX-License-Identifier: Apache-2.0
"""Flows as columns, and the columns as a Parquet file. Pure; `encode` is long work for a thread.

Of an end point a row keeps a number; what the number stands for is decoded, and written, once. So it is with the
observer, and with what few values share: scope, direction, protocol and the like, as one.
"""

import sys
from array import array
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from schemas.flow import Cluster, Network, Observer, Server
from sinks.flowlog.rows.columns import COLUMNS, END_COLUMNS, FlatEnd, Value, text
from sinks.intake import Row

SUFFIX = ".parquet"
# What a buffered row takes beside its id: its numbers, references to what repeats, and room: writing rows takes
# as much again.
ROW_BYTES = 210
# What repeats takes so much more in each file: its place in a dictionary. The ends themselves are the intake's.
ENTRY_BYTES = 100
ENCODINGS = {"id": "DELTA_BYTE_ARRAY", "bytes": "DELTA_BINARY_PACKED", "packets": "DELTA_BINARY_PACKED"}
COMPRESSION_LEVEL = 3
# How pyarrow writes the files.
WRITTEN: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": COMPRESSION_LEVEL,
    # Not of what never repeats.
    "use_dictionary": [name for name in COLUMNS if name not in ENCODINGS],
    "column_encoding": ENCODINGS,
    # Arrow would say of these that they are dictionaries, and cannot add up files whose dictionaries differ.
    "store_schema": False,
    # Without, a reader does not notice a wrong bit in two of five cases, and reads other bytes or another workload.
    "write_page_checksum": True,
}
# The first is how times are counted, the second how they are written: Iceberg's are microseconds, and in a table of its
# own Trino refuses to read others, and Spark's filters leave rows out.
MILLISECONDS, TIME = pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="UTC")

# Scope, direction, encapsulation, server, attribution's version, DNAT, network and cluster of a flow.
Kind = tuple[str, str, str | UnsetType, Server | UnsetType, int | UnsetType, bool | UnsetType, Network, Cluster]


class ParquetRows:
    """The rows of one file that is to be."""

    def __init__(self) -> None:
        self.rows = 0
        self._ids: list[str] = []
        self._text_bytes = 0
        self._numbers = {name: array("q") for name in ("start", "end", "bytes", "packets", "partition", "offset")}
        self._kinds: dict[Kind, int] = {}
        self._rows_kinds = array("i")
        self._ends: dict[FlatEnd, int] = {}
        self._sources, self._destinations = array("i"), array("i")
        # By identity: who takes the rows in makes one object of what repeats.
        self._observers: dict[int, int] = {}
        self._distinct_observers: list[Observer] = []
        self._rows_observers = array("i")

    @property
    def size_bytes(self) -> int:
        """About what the rows take in memory."""
        repeating = len(self._ends) + len(self._distinct_observers) + len(self._kinds)
        return self.rows * ROW_BYTES + self._text_bytes + repeating * ENTRY_BYTES

    def add(self, rows: Sequence[Row[FlatEnd]]) -> None:
        """Take flows."""
        flows = [row[0] for row in rows]
        ends, numbers, kinds = self._ends, self._numbers, self._kinds
        ids = [flow.id for flow in flows]
        self._ids += ids
        self._text_bytes += sum(map(len, ids))
        numbers["start"].extend([flow.start_ms for flow in flows])
        numbers["end"].extend([flow.end_ms for flow in flows])
        numbers["bytes"].extend([flow.bytes for flow in flows])
        numbers["packets"].extend([flow.packets for flow in flows])
        numbers["partition"].extend([flow.raw.partition for flow in flows])
        numbers["offset"].extend([flow.raw.offset for flow in flows])
        of_rows = [
            (f.scope, f.direction, f.encapsulation, f.server, f.attribution_version, f.dnat, f.network, f.k8s)
            for f in flows
        ]
        known = len(kinds)
        self._rows_kinds.extend([kinds.setdefault(kind, len(kinds)) for kind in of_rows])
        self._text_bytes += sum(map(_kind_bytes, islice(reversed(kinds), len(kinds) - known)))
        self._sources.extend([ends.setdefault(source, len(ends)) for _, source, _, _ in rows])
        self._destinations.extend([ends.setdefault(destination, len(ends)) for _, _, destination, _ in rows])
        self._add_observers([observer for _, _, _, observer in rows])
        self.rows += len(rows)

    def _add_observers(self, observers: Sequence[Observer]) -> None:
        known, distinct = self._observers, self._distinct_observers
        self._rows_observers.extend([known.setdefault(id(observer), len(known)) for observer in observers])
        if len(known) > len(distinct):
            distinct.extend({id(each): each for each in observers if known[id(each)] >= len(distinct)}.values())

    def encode(self) -> list[pa.Buffer]:
        """Return the file, in one part."""
        output = pa.BufferOutputStream()
        pq.write_table(self.table(), output, **WRITTEN)
        return [output.getvalue()]

    def table(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        numbers = {name: _numbers(values) for name, values in self._numbers.items()}
        nodes, zones = self._observer_columns()
        columns = {
            "id": pa.array(self._ids, pa.string()),
            "window_start": numbers["start"].cast(MILLISECONDS).cast(TIME),
            "window_end": numbers["end"].cast(MILLISECONDS).cast(TIME),
            "bytes": numbers["bytes"],
            "packets": numbers["packets"],
            **self._kind_columns(),
            **self._end_columns(),
            "observer_node": nodes,
            "observer_zone": zones,
            "raw_partition": numbers["partition"].cast(pa.int32()),
            "raw_offset": numbers["offset"],
        }
        return pa.table([columns[name] for name in COLUMNS], names=list(COLUMNS))

    def _end_columns(self) -> dict[str, pa.Array]:
        sides = {"src_": _numbers(self._sources), "dst_": _numbers(self._destinations)}
        columns = zip(*(end.values for end in self._ends), strict=True) if self._ends else [()] * len(END_COLUMNS)
        distinct = {name: _distinct(values, name) for name, values in zip(END_COLUMNS, columns, strict=True)}
        return {side + name: values.take(rows) for side, rows in sides.items() for name, values in distinct.items()}

    def _kind_columns(self) -> dict[str, pa.Array]:
        rows, kinds = _numbers(self._rows_kinds), list(self._kinds)
        texts: dict[str, list[str | None]] = {
            "scope": [scope for scope, *_ in kinds],
            "direction": [direction for _, direction, *_ in kinds],
            "encapsulation": [text(encapsulation) for _, _, encapsulation, *_ in kinds],
            "server": [text(server) for _, _, _, server, *_ in kinds],
            "transport": [network.transport for *_, network, _ in kinds],
            "network_type": [network.type for *_, network, _ in kinds],
            "cluster": [k8s.cluster.name for *_, k8s in kinds],
        }
        dnat = [None if dnat is UNSET else dnat for *_, dnat, _, _ in kinds]
        versions = [None if version is UNSET else version for _, _, _, _, version, *_ in kinds]
        return {
            "dnat": pa.array(dnat, pa.bool_()).take(rows),
            "attribution_version": pa.array(versions, pa.int32()).take(rows),
            **{name: _distinct(values, name).take(rows) for name, values in texts.items()},
        }

    def _observer_columns(self) -> tuple[pa.Array, pa.Array]:
        rows, distinct = _numbers(self._rows_observers), self._distinct_observers
        zones = [None if each.cloud is UNSET else text(each.cloud.availability_zone) for each in distinct]
        nodes = [each.node for each in distinct]
        return _distinct(nodes, "node").take(rows), _distinct(zones, "zone").take(rows)


def _kind_bytes(kind: Kind) -> int:
    *_, network, k8s = kind
    parts = (kind, network, network.transport, k8s, k8s.cluster, k8s.cluster.name, kind[2])
    return sum(map(sys.getsizeof, parts))


def _numbers(values: "array[int]") -> pa.Array:
    """Return a column of numbers; of an array as it is, Arrow would make an object for each first."""
    return pa.array(np.array(values))


def _distinct(values: Sequence[Value], name: str) -> pa.Array:
    """Return what rows name by number: as a dictionary, where it is text."""
    return pa.array(values, pa.int32()) if name == "port" else pa.array(values, pa.string()).dictionary_encode()
