# SPDX-License-Identifier: Apache-2.0
"""Topic `flows.raw.v1`: what one node counted in one window, in chunks of columns.

A chunk lists each distinct address once; `src` and `dst` are indexes into that list. So a reader resolves an
address once per chunk, not once per flow. Written with orjson straight from numpy, read with msgspec.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import orjson

from schemas.amount import Amount
from schemas.codec import MAX_INTEGER, Count, Milliseconds, Port, versioned_reader
from schemas.errors import DecodeError
from schemas.ids import Origin, chunk_id

SCHEMA_VERSION = 1
# A chunk must fit a broker's default message.max.bytes (1 MiB) with room to spare; readers allow twice that.
MAX_ENCODED_BYTES = 512 * 1024
MAX_READ_BYTES = 1024 * 1024

# Of a node, by which others reach it: no node has as many.
MAX_NODE_ADDRESSES = 256

Hook = Literal["netfilter", "tc"]

# Of one window: more rows than any map has room for. A reader may make a list of them.
MAX_CHUNKS = 65_536

DIRECTIONS = ("egress", "ingress", "relay")
ENCAPSULATIONS = ("none", "vxlan", "geneve", "ipip", "gre", "wireguard", "esp", "udp")
# What a later version may have more of: an outer packet all the same.
OTHER_ENCAPSULATION = "other"
# Which end is the server.
SERVERS = ("unknown", "destination", "source")

Direction = Annotated[int, msgspec.Meta(ge=0, le=len(DIRECTIONS) - 1)]
Server = Annotated[int, msgspec.Meta(ge=0, le=len(SERVERS) - 1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]
# INET6_ADDRSTRLEN without its NUL. An address is written out once per flow: a long one would multiply.
Address = Annotated[str, msgspec.Meta(max_length=45)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[^/\x00-\x1f]+$")]


class UplinkCounters(msgspec.Struct, frozen=True):
    """One uplink's own counters over the window, link-layer headers included (IFLA_STATS64)."""

    tx_bytes: Count
    tx_packets: Count
    rx_bytes: Count
    rx_packets: Count


class WindowLedger(msgspec.Struct, frozen=True):
    """The books of one window on its node. Always: `hook` = sum of `aside` + `map` + sum of `lost`.

    `aside`: seen and left out by design (`loopback`, ...). `lost`: seen and not kept (`map_full`, ...).
    """

    hook: Amount
    map: Amount
    aside: dict[str, Amount] = {}
    lost: dict[str, Amount] = {}
    uplinks: dict[str, UplinkCounters] = {}


class RawChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the raw topic. Columns have one entry a row; `dnat` is None where there is no conntrack.

    `server`: which end was addressed first, where connection tracking saw it; absent where it is known of no row.
    `own`: which of `addresses` were on a device of the node itself, throughout the window. `node_addresses`, in chunk
    0: those of its uplinks at the window's end, by which others reach it. Both absent: not known.
    """

    schema_version: int
    cluster: Name
    node: Name
    boot_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
    generation: Count
    sequence: Count
    chunk: Count
    chunks: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNKS)]
    start_ms: Milliseconds
    end_ms: Milliseconds
    hook: Hook
    addresses: list[Address]
    src: list[Count]
    dst: list[Count]
    protocol: list[Byte]
    src_port: list[Port]
    dst_port: list[Port]
    direction: list[Direction]
    dnat: list[Flag | None]
    bytes: list[Count]
    packets: list[Count]
    encapsulation: list[Byte]
    server: list[Server] = []
    ledger: WindowLedger | None = None
    short: bool = False
    maybe_repeat: bool = False
    own: list[Count] = []
    node_addresses: Annotated[list[Address], msgspec.Meta(max_length=MAX_NODE_ADDRESSES)] | None = None

    @property
    def origin(self) -> Origin:
        """The life of the node that counted this."""
        return Origin(self.cluster, self.node, self.boot_id)

    @property
    def id(self) -> str:
        """The chunk's id; a row's flow id is this, "/" and the row's number."""
        return chunk_id(self.origin, self.generation, self.sequence, self.chunk)


COLUMNS = (
    "src",
    "dst",
    "protocol",
    "src_port",
    "dst_port",
    "direction",
    "dnat",
    "bytes",
    "packets",
    "encapsulation",
)
OPTIONAL_COLUMNS = ("server",)
_columns = attrgetter(*COLUMNS)

_read_chunk = versioned_reader(RawChunk, MAX_READ_BYTES, SCHEMA_VERSION)


def decode_chunk(value: bytes | None) -> RawChunk:
    """Decode and check one raw chunk; raise `DecodeError` if any row of it could mislead a reader."""
    chunk = _read_chunk(value)
    _check_consistency(chunk)
    return chunk


def _check_consistency(chunk: RawChunk) -> None:
    columns = (*_columns(chunk), chunk.server or chunk.src)
    if len(set(map(len, columns))) != 1:
        lengths = dict(zip((*COLUMNS, *OPTIONAL_COLUMNS), map(len, columns), strict=True))
        raise DecodeError("inconsistent", f"columns differ in length: {lengths}")
    if chunk.end_ms <= chunk.start_ms:
        raise DecodeError("inconsistent", f"the window ends at {chunk.end_ms}, not after its start {chunk.start_ms}")
    if chunk.chunk >= chunk.chunks:
        raise DecodeError("inconsistent", f"chunk {chunk.chunk} of {chunk.chunks}")
    if (chunk.ledger is None) != (chunk.chunk > 0):
        raise DecodeError("inconsistent", "the window's ledger stands in chunk 0 and only there")
    if max(sum(chunk.bytes), sum(chunk.packets)) > MAX_INTEGER:
        raise DecodeError("inconsistent", "the rows' bytes or packets come to more than 2^53")
    if chunk.src and max(map(max, (chunk.src, chunk.dst))) >= len(chunk.addresses):
        raise DecodeError("inconsistent", f"a row names an address beyond the {len(chunk.addresses)} listed")
    if chunk.own and max(chunk.own) >= len(chunk.addresses):
        raise DecodeError("inconsistent", f"own names an address beyond the {len(chunk.addresses)} listed")


def encode_chunk(head: dict[str, Any], addresses: Sequence[str], columns: dict[str, Any]) -> bytes:
    """Encode one raw chunk: `head` holds the scalar fields (and chunk 0's ledger), `columns` numpy arrays or lists.

    The same input gives the same bytes, which is what makes a window published again recognisable.
    """
    ordered = {name: columns[name] for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in columns or name in COLUMNS}
    return orjson.dumps(
        {"schema_version": SCHEMA_VERSION, **head, "addresses": list(addresses), **ordered},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def as_repeat(value: bytes) -> bytes:
    """Return an encoded chunk that says `maybe_repeat`, as `encode_chunk` writes it, without decoding it.

    Within a string a quotation mark is escaped and no other member of a chunk is a list of this name, so the first
    place found is the right one.
    """
    return value.replace(b',"addresses":[', b',"maybe_repeat":true,"addresses":[', 1)
