# SPDX-License-Identifier: Apache-2.0
"""How the kernel's maps look from here: numpy dtypes of keys, values and pinned records.

`bpf/layout.h` says the same in C; `compile_flags` hands these numbers to the compiler, which refuses a difference.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.raw import ENCAPSULATIONS

# Addresses in network byte order, IPv4 as ::ffff:a.b.c.d; ports in host byte order.
KEY = np.dtype(
    [
        ("src", "u1", 16),
        ("dst", "u1", 16),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("protocol", "u1"),
        ("direction", "u1"),
        ("connection", "u1"),
        ("encapsulation", "u1"),
    ]
)
# IP-layer bytes and packets as they leave the source node.
TALLY = np.dtype([("bytes", "<u8"), ("packets", "<u8")])


def fast_entry(key: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of an entry of one CPU's own, whose `state` is `FAST_TAKEN` if it has a flow."""
    return np.dtype([("key", key), ("state", "<u8"), ("tally", TALLY)])


FAST_ENTRY = fast_entry(KEY)
FAST_TAKEN = 2

# Of `connection`: below the shift enum dnat, above it enum server.
DNAT_NO_CONNTRACK = 2
SERVER_SHIFT = 2
SERVER_UNKNOWN, SERVER_DESTINATION, SERVER_SOURCE = range(3)

# enum counter of layout.h; a new one goes to the end, for the sake of earlier versions' maps. After the first, "aside"
# and "lost" with their reasons.
HOOK_COUNTER = 0
ASIDE = {"loopback": 1, "looped_back": 2, "malformed": 3, "sender_in_cluster": 6, "copied": 7, "second_pass": 8}
LOST = {"map_full": 4, "map_busy": 5}
COUNTERS = 1 + len(ASIDE) + len(LOST)
# Room for an epoch's counters, in the map and in the pinned record, whatever their number: a later version reads what
# an earlier one left.
COUNTER_ROOM = 16

CONTROL = np.dtype([("epoch", "<u4"), ("tunnels", "<u4")])
DEADMAN = np.dtype([("stopped_ns", "<u8"), ("looked", "<u8")])
TUNNEL_KEY = np.dtype([("port", "<u2"), ("protocol", "u1"), ("local", "u1")])
# Ports from 1 up to this are services: registered ones, and Kubernetes' NodePorts (30000 to 32767).
SERVICE_PORTS = 32768
# What the program knows of a network: bits.
NETWORK_CLUSTER, NETWORK_KEPT = 1, 2
UPLINK_SLOTS = 256
# Devices that lead out of a node, and looks of outer packets. A node may have a tunnel device for each other node.
MOST_UPLINKS, MOST_TUNNELS = 8192, 1024
UPLINKS_SHARE_A_SLOT = 0xFFFFFFFF

# Of a hash in the kernel (kernel/bpf/hashtab.c): struct bucket, and struct htab_elem with the key and the value.
_BUCKET_BYTES = 16
_ELEMENT_BYTES = 48 + KEY.itemsize + TALLY.itemsize

# Of --map-memory, what the CPUs' own entries may take: one part in so many. More than 4,096 a CPU leave its cache.
_FAST_SHARE = 16
_LEAST_FAST_BITS, _MOST_FAST_BITS = 6, 12

Rows = NDArray[np.void]  # of KEY + TALLY
ROW = np.dtype([("key", KEY), ("tally", TALLY)])


def dtype_of(description: Any) -> np.dtype[Any]:
    """Return the dtype of a `descr`, also of one that has been JSON: how another version's maps look."""
    fields = []
    for name, kind, *shape in description:
        inner = kind if isinstance(kind, str) else dtype_of(kind)
        fields.append((name, inner, *(tuple(each) for each in shape)))
    return np.dtype(fields)


def converted(rows: Rows) -> Rows:
    """Return rows of another version's key as this one's, in the same order: what it did not know is 0."""
    if rows.dtype == ROW:
        return rows
    made = np.zeros(len(rows), ROW)
    known = rows["key"].dtype.names or ()
    for name in KEY.names or ():
        if name in known:
            made["key"][name] = rows["key"][name]
    if "dnat" in known:  # before `connection`, which it is the lower part of
        made["key"]["connection"] = rows["key"]["dnat"]
    made["tally"] = rows["tally"]
    return made


def dnat_of(keys: Rows) -> NDArray[np.uint8]:
    """Return of each key whether the packets' destination was translated: 0, 1 or `DNAT_NO_CONNTRACK`."""
    found: NDArray[np.uint8] = keys["connection"] & np.uint8((1 << SERVER_SHIFT) - 1)
    return found


def server_of(keys: Rows) -> NDArray[np.uint8]:
    """Return of each key which end is the server, as `SERVER_*`."""
    found: NDArray[np.uint8] = keys["connection"] >> np.uint8(SERVER_SHIFT)
    return found


def compile_flags() -> dict[str, int]:
    """Return the numbers that layout.h asserts, by macro name."""
    flags = {f"LAYOUT_KEY_{name.upper()}": _offset(KEY, name) for name in KEY.names or () if name != "src"}
    return flags | {
        "LAYOUT_KEY_SIZE": KEY.itemsize,
        "LAYOUT_TALLY_SIZE": TALLY.itemsize,
        "LAYOUT_FAST_SIZE": FAST_ENTRY.itemsize,
        "LAYOUT_FAST_STATE": _offset(FAST_ENTRY, "state"),
        "LAYOUT_FAST_TALLY": _offset(FAST_ENTRY, "tally"),
        "LAYOUT_FAST_TAKEN": FAST_TAKEN,
        "LAYOUT_COUNTERS": COUNTERS,
        "LAYOUT_COUNTER_ROOM": COUNTER_ROOM,
        "LAYOUT_SERVER_SHIFT": SERVER_SHIFT,
        "LAYOUT_SERVICE_PORTS": SERVICE_PORTS,
        "LAYOUT_UPLINK_SLOTS": UPLINK_SLOTS,
        "LAYOUT_MOST_UPLINKS": MOST_UPLINKS,
        "LAYOUT_MOST_TUNNELS": MOST_TUNNELS,
        "LAYOUT_NETWORK_CLUSTER": NETWORK_CLUSTER,
        "LAYOUT_NETWORK_KEPT": NETWORK_KEPT,
        "LAYOUT_ENCAPSULATION_ESP": ENCAPSULATIONS.index("esp"),
    }


def _offset(of: np.dtype[Any], name: str) -> int:
    assert of.fields is not None
    return of.fields[name][1]


def entries_for(map_memory: int) -> int:
    """Return how many flows each of the two maps may hold within their part of `map_memory`, as `map_bytes` has it."""
    each = (map_memory - map_memory // _FAST_SHARE) // 2
    return max(1, *(min(1 << k, (each - _BUCKET_BYTES * (1 << k)) // _ELEMENT_BYTES) for k in range(32)))


def fast_bits(map_memory: int, cpus: int) -> int | None:
    """Return how many entries each CPU has of its own in an epoch, as a power of two; None if few are worth nothing."""
    each = map_memory // _FAST_SHARE // (2 * cpus * FAST_ENTRY.itemsize)
    bits = min(each.bit_length() - 1, _MOST_FAST_BITS)
    return bits if bits >= _LEAST_FAST_BITS else None


def map_bytes(entries: int, cpus: int) -> int:
    """Return what a flow map of so many entries takes in the kernel, but for a constant below 1 KiB.

    htab_map_mem_usage() in kernel/bpf/hashtab.c, preallocated and shared: a power of two of buckets, the elements, and
    for each possible CPU one spare, a pointer to it and eight locks' counters.
    """
    buckets = 1 << (entries - 1).bit_length()
    return _BUCKET_BYTES * buckets + _ELEMENT_BYTES * (entries + cpus) + cpus * (8 + 8 * 4)


def uplink_slots(uplinks: set[int]) -> list[int]:
    """Return what stands in each slot for these ifindexes: the one that has it, 0, or `UPLINKS_SHARE_A_SLOT`."""
    slots = [0] * UPLINK_SLOTS
    for ifindex in uplinks:
        slot = ifindex % UPLINK_SLOTS
        slots[slot] = UPLINKS_SHARE_A_SLOT if slots[slot] else ifindex
    return slots


def port_bits(listed: Iterable[int]) -> bytes:
    """Return the bitmap of services from `SERVICE_PORTS` on: bit p % 8 of byte (p - SERVICE_PORTS) // 8."""
    bits = np.zeros(65536 - SERVICE_PORTS, dtype=np.uint8)
    bits[[port - SERVICE_PORTS for port in listed if port >= SERVICE_PORTS]] = 1
    return np.packbits(bits, bitorder="little").tobytes()
