# SPDX-License-Identifier: Apache-2.0
"""Lists that the kernel gives over rtnetlink: all devices, routes or addresses of this network namespace.

By hand, because they are read with every window or after every change: with 240 devices pyroute2 takes 150 ms, this 20,
and 16 MB that the process never gives back.
"""

import socket
import struct
from collections.abc import Iterator

# include/uapi/linux/netlink.h
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
ROOM = 1 << 18
_TRIES = 3


def ask(request: int, head: bytes, answer: int) -> list[bytes]:
    """Return the bodies of all messages of type `answer` to a dump of type `request`. Raises OSError.

    Asked again where something changed meanwhile, but not without end.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(5)
        for _ in range(_TRIES):
            size = _HEADER.size + len(head)
            asked.send(_HEADER.pack(size, request, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + head)
            found, is_whole = _take(asked, answer)
            if is_whole:
                break
    return found


def _take(asked: socket.socket, answer: int) -> tuple[list[bytes], bool]:
    """Return what is answered, and whether nothing changed meanwhile."""
    found: list[bytes] = []
    is_whole = True
    while True:
        for kind, flags, message in messages(asked.recv(ROOM)):
            is_whole &= not flags & _NLM_F_DUMP_INTR
            if kind == _NLMSG_ERROR:
                number = -int.from_bytes(message[:4], "little", signed=True)
                raise OSError(number, "the kernel does not list this node's devices, routes or addresses")
            if kind == _NLMSG_DONE:
                return found, is_whole
            if kind == answer:
                found.append(message)


def messages(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of each message."""
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, flags, _, _ = _HEADER.unpack_from(answer, at)
        yield kind, flags, answer[at + _HEADER.size : at + length]
        at += max(_HEADER.size, length + 3 & ~3)


def attributes(message: bytes, at: int = 0) -> dict[int, bytes]:
    """Return the attributes from there on, by type."""
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        found[kind & _TYPE] = message[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, length + 3 & ~3)
    return found
