# SPDX-License-Identifier: Apache-2.0
"""Two records that hold a chunk's flows in columns, and what the sinks would do with them, for bench/columnar.py.

Prototypes, for the flows of the bench cluster: TCP, IPv4, in no overlay, counted where they are sent.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import pyarrow as pa
from msgspec import UNSET

from schemas.codec import Count, Port
from schemas.flow import SCOPES, Cluster, Named, Network, Observer, decode_endpoint, decode_observer
from schemas.raw import DIRECTIONS
from sinks.flowlog.rows.columns import FlatEnd, flatten
from sinks.flowlog.rows.parquet import ParquetRows
from sinks.metrics.aggregate import Aggregate, RouteKey
from sinks.metrics.ends import End, Ends

T = TypeVar("T")
K = TypeVar("K")

_TYPES = {"src_port": pa.int32(), "dst_port": pa.int32(), "dnat": pa.int8(), "bytes": pa.int64(), "packets": pa.int64()}


class Head(msgspec.Struct, gc=False):
    """What flows of a chunk share; `ends` are JSON without ports, `raw` is a partition and an offset."""

    id: str
    start_ms: Count
    end_ms: Count
    cluster: str
    raw: tuple[Count, Count]
    observer: msgspec.Raw


class Chunk(Head, gc=False):
    """The flows of a chunk in columns: the raw chunk's, but for `ends` in place of addresses, and `scope`."""

    ends: list[msgspec.Raw]
    src: list[Count]
    dst: list[Count]
    src_port: list[Port]
    dst_port: list[Port]
    scope: list[Count]
    direction: list[Count]
    dnat: list[int | None]
    bytes: list[Count]
    packets: list[Count]


COLUMNS = Chunk.__struct_fields__[7:]
as_json, of_json = msgspec.json.encode, msgspec.json.Decoder(Chunk).decode
_head_of = msgspec.json.Decoder(Head).decode


def as_arrow(chunk: Chunk) -> bytes:
    """Return a chunk as an IPC stream; its head is the schema's metadata."""
    ends = pa.array([bytes(end).decode() for end in chunk.ends], pa.string())
    arrays = {name: pa.array(getattr(chunk, name), _TYPES.get(name, pa.int16())) for name in COLUMNS}
    for side in ("src", "dst"):
        used = arrays[side].dictionary_encode()
        arrays[side] = pa.DictionaryArray.from_arrays(used.indices, ends.take(used.dictionary))
    head = msgspec.json.encode({name: getattr(chunk, name) for name in Head.__struct_fields__})
    batch = pa.record_batch(arrays).replace_schema_metadata({"head": head})
    output = pa.BufferOutputStream()
    with pa.ipc.new_stream(output, batch.schema) as stream:
        stream.write_batch(batch)
    value: bytes = output.getvalue().to_pybytes()
    return value


def of_arrow(value: bytes) -> Chunk:
    """Return a chunk; raise `pa.ArrowInvalid` for what is none."""
    with pa.ipc.open_stream(value) as stream:
        batch = stream.read_next_batch()
    batch.validate(full=True)
    src, dst = batch.column("src"), batch.column("dst")
    plain = {name: batch.column(name).to_pylist() for name in COLUMNS if name not in ("src", "dst")}
    plain["src"] = src.indices.to_pylist()
    plain["dst"] = [len(src.dictionary) + place for place in dst.indices.to_pylist()]
    ends = [msgspec.Raw(end.encode()) for side in (src, dst) for end in side.dictionary.to_pylist()]
    head = _head_of(batch.schema.metadata[b"head"])
    return Chunk(**msgspec.structs.asdict(head), ends=ends, **plain)


class Counters(Aggregate):
    """The metrics sink's counters."""

    def __init__(self) -> None:
        super().__init__(10_000, None)
        self._make, self._known = Ends().make, dict[bytes, End]()

    def add_chunk(self, chunk: Chunk) -> None:
        """Count the flows of a chunk."""
        ends = [_found(self._known, bytes(end), lambda end: self._make(decode_endpoint(end))) for end in chunk.ends]
        rows = zip(chunk.src, chunk.dst, chunk.scope, chunk.bytes, chunk.packets, strict=True)
        for src, dst, scope, size, packets in rows:
            key: RouteKey = (ends[src], ends[dst], SCOPES[scope], chunk.cluster, None, None)
            route = self._routes.get(key) or self._find(key)
            route.bytes += size
            route.packets += packets
            if not route.touched:
                route.touched = True
                self._touched.append(route)


class Rows(ParquetRows):
    """The flow log's rows."""

    def __init__(self, known: dict[tuple[bytes, int], FlatEnd]) -> None:
        """`known`: ends by their JSON and port, as earlier files had them."""
        super().__init__()
        self._known = known

    def add_chunk(self, chunk: Chunk) -> None:
        """Take the flows of a chunk."""
        count, numbers, kinds = len(chunk.src), self._numbers, self._kinds
        self._ids += [f"{chunk.id}/{row}" for row in range(count)]
        partition, offset = chunk.raw
        shared = {"start": chunk.start_ms, "end": chunk.end_ms, "partition": partition, "offset": offset}
        for name, value in shared.items():
            numbers[name].extend([value] * count)
        numbers["bytes"].extend(chunk.bytes)
        numbers["packets"].extend(chunk.packets)
        rest = UNSET, UNSET, UNSET
        end = Network("tcp", "ipv4"), Cluster(Named(chunk.cluster))
        for scope, direction, dnat in zip(chunk.scope, chunk.direction, chunk.dnat, strict=True):
            kind = SCOPES[scope], DIRECTIONS[direction], *rest, UNSET if dnat is None else bool(dnat), *end
            self._rows_kinds.append(kinds.setdefault(kind, len(kinds)))
        ends = [bytes(end) for end in chunk.ends]
        for codes, side, ports in (
            (self._sources, chunk.src, chunk.src_port),
            (self._destinations, chunk.dst, chunk.dst_port),
        ):
            flat = [_found(self._known, (ends[end], port), _flat) for end, port in zip(side, ports, strict=True)]
            codes.extend([self._ends.setdefault(end, len(self._ends)) for end in flat])
        self._add_observers([_found(_observers, bytes(chunk.observer), decode_observer)] * count)
        self.rows += count


_observers: dict[bytes, Observer] = {}


def _flat(end: tuple[bytes, int]) -> FlatEnd:
    endpoint = decode_endpoint(end[0])
    return flatten(msgspec.structs.replace(endpoint, port=end[1]) if end[1] else endpoint)


def _found(known: dict[K, T], key: K, make: Callable[[K], T]) -> T:
    found = known.get(key)
    if found is None:
        found = known[key] = make(key)
    return found
