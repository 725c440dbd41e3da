# SPDX-License-Identifier: Apache-2.0
"""The few commands of bpf(2) that a process without bcc needs: maps, pins, links.

Numbers and attribute layouts: include/uapi/linux/bpf.h. Every failure is an `OSError` that names the command.
File descriptors are plain integers; the caller that got one closes it. The calls release the interpreter's lock.
"""

import ctypes
import os
import platform
import struct
from enum import IntEnum

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_libc = ctypes.CDLL(None, use_errno=True)

# union bpf_attr; the kernel wants what it does not know of to be zero.
_ATTR_BYTES = 160

# enum bpf_attach_type
BPF_NETFILTER = 45
TCX_INGRESS = 46
TCX_EGRESS = 47
# enum bpf_prog_type
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_NETFILTER = 32

_BPF_F_BEFORE = 1 << 3

# struct bpf_insn: code, registers (destination, source << 4), offset, immediate.  Of a call, the source register says
# what the immediate numbers: a helper (0) or a kernel function (BPF_PSEUDO_KFUNC_CALL).
INSTRUCTION = struct.Struct("=BBhi")
CALL = 0x85
PSEUDO_KFUNC_CALL = 2


class MapType(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    ARRAY_OF_MAPS = 12


class BpfCommand(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    ENABLE_STATS = 32


def bpf(command: BpfCommand, attributes: bytes) -> int:
    """Make one system call with this prefix of `union bpf_attr`; return what it returns."""
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    return _call(command, buffer)


def _call(command: BpfCommand, buffer: ctypes.Array[ctypes.c_char]) -> int:
    number = _SYSCALL[platform.machine()]
    result: int = _libc.syscall(number, int(command), buffer, _ATTR_BYTES)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf {command.name}: {os.strerror(number)}")
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def map_create(kind: MapType, key_size: int, value_size: int, entries: int, name: str, inner_fd: int = 0) -> int:
    """Create a map and return its file descriptor; `name` of at most 15 letters is for `bpftool map`."""
    attributes = struct.pack("<7I16s", kind, key_size, value_size, entries, 0, inner_fd, 0, name.encode()[:15])
    return bpf(BpfCommand.MAP_CREATE, attributes)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """Return the value of `key` (for a per-CPU map: of all possible CPUs); KeyError if there is none."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    try:
        bpf(BpfCommand.MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, _address(key_buffer), _address(value), 0))
    except FileNotFoundError:
        raise KeyError(key) from None
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Set `key` to `value`. In one array element it is all or nothing as far as the death of this process goes."""
    key_buffer, buffer = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf(BpfCommand.MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, _address(key_buffer), _address(buffer), 0))


def map_delete(fd: int, key: bytes) -> None:
    """Delete `key`; it may be gone already."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        bpf(BpfCommand.MAP_DELETE_ELEM, struct.pack("<IIQQQ", fd, 0, _address(key_buffer), 0, 0))
    except FileNotFoundError:
        return


def map_keys(fd: int, key_size: int) -> list[bytes]:
    """Return all keys of a map that nobody else changes meanwhile."""
    keys: list[bytes] = []
    previous, following = None, ctypes.create_string_buffer(key_size)
    while True:
        try:
            bpf(
                BpfCommand.MAP_GET_NEXT_KEY,
                struct.pack("<IIQQQ", fd, 0, 0 if previous is None else _address(previous), _address(following), 0),
            )
        except FileNotFoundError:
            return keys
        keys.append(following.raw)
        previous = ctypes.create_string_buffer(following.raw, key_size)


def lookup_batch(fd: int, cursor: int | None, keys: int, values: int, room: int) -> tuple[int, int | None]:
    """Copy up to `room` entries of a hash map to the addresses `keys` and `values`.

    Returns how many, and where to go on, or None at the end. `cursor` None begins. Raises OSError ENOSPC if one
    bucket holds more than `room`, EBUSY/EDEADLK/ETIMEDOUT if a bucket's lock was not to be had; nothing is lost
    then, ask again.
    """
    place_in = ctypes.create_string_buffer(struct.pack("<I", cursor or 0), 4)
    place_out = ctypes.create_string_buffer(4)
    attributes = struct.pack(
        "<QQQQIIQQ", 0 if cursor is None else _address(place_in), _address(place_out), keys, values, room, fd, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    try:
        _call(BpfCommand.MAP_LOOKUP_BATCH, buffer)
    except FileNotFoundError:  # the end; entries up to it have been copied
        return struct.unpack_from("<I", buffer.raw, 32)[0], None
    return struct.unpack_from("<I", buffer.raw, 32)[0], struct.unpack("<I", place_out.raw)[0]


def delete_batch(fd: int, keys: int, count: int) -> int:
    """Delete `count` keys of a hash map from the address `keys`; return how many, up to the first that is gone."""
    buffer = ctypes.create_string_buffer(struct.pack("<QQQQIIQQ", 0, 0, keys, 0, count, fd, 0, 0), _ATTR_BYTES)
    try:
        _call(BpfCommand.MAP_DELETE_BATCH, buffer)
    except FileNotFoundError:
        return int(struct.unpack_from("<I", buffer.raw, 32)[0])
    return count


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link at `path` on a bpffs: it outlives this process."""
    name = ctypes.create_string_buffer(path.encode())
    bpf(BpfCommand.OBJ_PIN, struct.pack("<QII", _address(name), fd, 0))


def obj_get(path: str) -> int:
    """Open what is pinned at `path`; raises FileNotFoundError if nothing is."""
    name = ctypes.create_string_buffer(path.encode())
    return bpf(BpfCommand.OBJ_GET, struct.pack("<QII", _address(name), 0, 0))


def _info(fd: int) -> bytes:
    """Return what the kernel says of an object: struct bpf_prog_info, bpf_map_info or bpf_link_info."""
    info = ctypes.create_string_buffer(256)
    bpf(BpfCommand.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), _address(info)))
    return info.raw


def _number(fd: int, offset: int) -> int:
    return int(struct.unpack_from("<I", _info(fd), offset)[0])


def prog_id(fd: int) -> int:
    """Return a program's id, as a program array shows it."""
    return _number(fd, 4)


def map_entries(fd: int) -> int:
    """Return how many entries a map has room for."""
    return _number(fd, 16)


def map_value_size(fd: int) -> int:
    """Return the bytes of a map's value."""
    return _number(fd, 12)


def prog_load(kind: int, attach_type: int, instructions: bytes, name: str) -> int:
    """Load a program that is written out, 8 bytes an instruction; return its file descriptor.

    Raises EPERM without the capabilities, EINVAL where the kernel has no such program type.
    """
    code, terms = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    count = len(instructions) // 8
    attributes = struct.pack("<IIQQIIQII", kind, count, _address(code), _address(terms), 0, 0, 0, 0, 0)
    attributes += struct.pack("<16sII", name.encode()[:15], 0, attach_type)
    return bpf(BpfCommand.PROG_LOAD, attributes)


def netfilter_link_create(prog_fd: int, family: int, hook: int, priority: int) -> int:
    """Attach a netfilter program in this process's network namespace; return the link's file descriptor.

    `family`: NFPROTO_IPV4 (2) or NFPROTO_IPV6 (10); `hook`: enum nf_inet_hooks. Raises EBUSY if another BPF
    program has this priority already, EINVAL below kernel 6.4.
    """
    return bpf(BpfCommand.LINK_CREATE, struct.pack("<4I IIiI", prog_fd, 0, BPF_NETFILTER, 0, family, hook, priority, 0))


def netfilter_link_place(fd: int) -> tuple[int, int, int]:
    """Return family, hook and priority of a netfilter link, as `netfilter_link_create` takes them."""
    family, hook, priority = struct.unpack_from("<IIi", _info(fd), 16)
    return family, hook, priority


def tcx_link_create(prog_fd: int, ifindex: int, attach_type: int) -> int:
    """Attach a classifier to a device, before all programs that are there; return the link's file descriptor.

    `attach_type`: `TCX_INGRESS` or `TCX_EGRESS`. Raises ENODEV if there is no such device in this process's network
    namespace, EINVAL below kernel 6.6.
    """
    return bpf(BpfCommand.LINK_CREATE, struct.pack("<4I IIQ", prog_fd, ifindex, attach_type, _BPF_F_BEFORE, 0, 0, 0))


def tcx_link_ifindex(fd: int) -> int:
    """Return the device of a TCX link, 0 if it is gone or the link was detached."""
    return _number(fd, 16)
