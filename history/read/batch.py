# SPDX-License-Identifier: Apache-2.0
"""A batch of flows as rows or as an Arrow table, whichever a writer asks for. Pure.

Flows come from topics as rows and from the archive as tables; one is made of the other only where it is needed. Rows of
rollups come as tables that have, beside a flow's columns, `flows`: how many flows a row stands for.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import UNSET

from schemas.flow import (
    Cloud,
    Cluster,
    Endpoint,
    FlowHead,
    Kubernetes,
    Named,
    Network,
    Observer,
    RawPosition,
    Workload,
)
from sinks.flowlog.rows.columns import COLUMNS, END_COLUMNS, FlatEnd, Value, flatten
from sinks.flowlog.rows.parquet import MILLISECONDS, TIME, ParquetRows
from sinks.intake import Row

_TYPES = {
    "window_start": TIME,
    "window_end": TIME,
    "bytes": pa.int64(),
    "packets": pa.int64(),
    "dnat": pa.bool_(),
    "src_port": pa.int32(),
    "dst_port": pa.int32(),
    "raw_partition": pa.int32(),
    "raw_offset": pa.int64(),
    "attribution_version": pa.int32(),
}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
COUNTED_SCHEMA = SCHEMA.append(pa.field("flows", pa.int64()))
# Of one flow, and not of what it is summed up with; and of all flows of an archive alike.
_OF_ONE_FLOW = ("id", "raw_partition", "raw_offset", "attribution_version")
ROLLUP_SCHEMA = pa.schema([field for field in COUNTED_SCHEMA if field.name not in _OF_ONE_FLOW])
MAX_KNOWN = 100_000


class FlowBatch:
    """Some flows, or some rows of rollups: of these, what only a flow has is null."""

    def __init__(self, rows: list[Row[FlatEnd]] | None = None, table: pa.Table | None = None) -> None:
        self._rows = rows
        self._counts = None
        if table is not None and "flows" in table.column_names:
            self._counts = table["flows"]
            table = pa.table([_column(table, field) for field in SCHEMA], schema=SCHEMA)
        self._table = None if table is None else table.cast(SCHEMA)

    def __len__(self) -> int:
        held = self._table if self._rows is None else self._rows
        return 0 if held is None else len(held)

    @property
    def is_rollup(self) -> bool:
        """Whether these are rows of rollups."""
        return self._counts is not None

    def counted(self) -> pa.Table:
        """Return them as a table of `COUNTED_SCHEMA`."""
        counts = pa.array(self.counts(), pa.int64()) if self._counts is None else self._counts
        return self.table().append_column(COUNTED_SCHEMA.field("flows"), counts)

    def counts(self) -> list[int]:
        """Return how many flows each stands for."""
        return [1] * len(self) if self._counts is None else self._counts.to_pylist()

    def table(self) -> pa.Table:
        """Return them as a table of `SCHEMA`."""
        if self._table is None:
            made = ParquetRows()
            made.add(self._rows or [])
            self._table = made.table().cast(SCHEMA)
        return self._table

    def rows(self, known: "ArchiveParties") -> list[Row[FlatEnd]]:
        """Return them as rows."""
        if self._rows is None:
            self._rows = known.rows(self._table)
        return self._rows


def _column(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    """Return a column of a table; nulls if it has none of that name."""
    is_there = field.name in table.column_names
    return table[field.name].cast(field.type) if is_there else pa.nulls(len(table), field.type)


class ArchiveParties:
    """Ends and observers made out of an archive's columns, one object for each distinct one."""

    def __init__(self) -> None:
        self._ends: dict[tuple[Value, ...], tuple[FlatEnd, msgspec.Raw]] = {}
        self._observers: dict[tuple[str, str | None], tuple[Observer, msgspec.Raw]] = {}

    def rows(self, table: pa.Table) -> list[Row[FlatEnd]]:
        """Return a table's flows. An observer has its zone only: the archive holds no more of it."""
        columns = {name: _plain(table.column(name)) for name in COLUMNS}
        sides = (self._columns([columns[side + name] for name in END_COLUMNS]) for side in ("src_", "dst_"))
        heads = zip(*(columns[name] for name in _HEAD), strict=True)
        return [self._row(*each) for each in zip(heads, *sides, strict=True)]

    def _columns(self, columns: Sequence[Iterable[Value]]) -> Iterable[tuple[FlatEnd, msgspec.Raw]]:
        for values in zip(*columns, strict=True):
            found = self._ends.get(values)
            if found is None:
                if len(self._ends) >= MAX_KNOWN:
                    self._ends.clear()
                endpoint = _endpoint(dict(zip(END_COLUMNS, values, strict=True)))
                found = self._ends[values] = (flatten(endpoint), msgspec.Raw(msgspec.json.encode(endpoint)))
            yield found

    def _row(
        self, head: tuple[Any, ...], source: tuple[FlatEnd, msgspec.Raw], destination: tuple[FlatEnd, msgspec.Raw]
    ) -> Row[FlatEnd]:
        id_, start, end, scope, direction, size, packets, dnat, outer, transport, version, node, zone, *rest = head
        cluster, partition, offset, server, attribution = rest
        observer, raw_observer = self._observer(node, zone)
        flow = FlowHead(
            id=id_,
            start_ms=start,
            end_ms=end,
            scope=scope,
            direction=direction,
            bytes=size,
            packets=packets,
            dnat=UNSET if dnat is None else dnat,
            encapsulation=UNSET if outer is None else outer,
            server=UNSET if server is None else server,
            attribution_version=UNSET if attribution is None else attribution,
            network=Network(transport, version),
            k8s=Cluster(Named(cluster)),
            raw=RawPosition(partition, offset),
            source=source[1],
            destination=destination[1],
            observer=raw_observer,
        )
        return Row(flow, source[0], destination[0], observer)

    def _observer(self, node: str, zone: str | None) -> tuple[Observer, msgspec.Raw]:
        found = self._observers.get((node, zone))
        if found is None:
            observer = Observer(node, UNSET if zone is None else Cloud(availability_zone=zone))
            found = self._observers[node, zone] = (observer, msgspec.Raw(msgspec.json.encode(observer)))
        return found


_HEAD = (
    *("id", "window_start", "window_end", "scope", "direction", "bytes", "packets", "dnat", "encapsulation"),
    *("transport", "network_type", "observer_node", "observer_zone", "cluster", "raw_partition", "raw_offset"),
    *("server", "attribution_version"),
)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(MILLISECONDS, safe=False).cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _endpoint(values: dict[str, Value]) -> Endpoint:
    """Undo `sinks.flowlog.rows.columns.flatten`."""
    present: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    named: dict[str, Any] = {
        name: Named(present[name]) for name in ("namespace", "pod", "service", "node") if name in present
    }
    workload = Workload(present["workload_kind"], present["workload"]) if "workload" in present else UNSET
    places = (("availability_zone", "zone"), ("region", "region"), ("zone_id", "zone_id"))
    cloud = {name: present[column] for name, column in places if column in present}
    return Endpoint(
        **{name: present[name] for name in ("kind", "address", "port", "name", "reason") if name in present},
        k8s=Kubernetes(**named, workload=workload) if named or workload is not UNSET else UNSET,
        cloud=Cloud(**cloud) if cloud else UNSET,
    )
