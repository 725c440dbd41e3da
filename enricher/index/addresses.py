# SPDX-License-Identifier: Apache-2.0
"""IP addresses and prefixes as packed bytes in network byte order, so that one address has one key. Pure."""

import ipaddress
import socket
from typing import NamedTuple

_V4_MAPPED = bytes(10) + b"\xff\xff"


class Prefix(NamedTuple):
    """A network: its family in bits (32 or 128), its length, and its leading `length` bits as a number."""

    bits: int
    length: int
    network: int

    def __str__(self) -> str:
        packed = (self.network << (self.bits - self.length)).to_bytes(self.bits // 8)
        return f"{ipaddress.ip_address(packed)}/{self.length}"


def pack(text: str) -> bytes | None:
    """Return 4 or 16 bytes in network byte order, an IPv4-mapped IPv6 address as IPv4; None if it is not an address."""
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate in the text
        return None
    return packed[12:] if packed.startswith(_V4_MAPPED) else packed


def prefix_of(packed: bytes, length: int) -> Prefix:
    """Return the prefix of that length which holds the address."""
    bits = 8 * len(packed)
    return Prefix(bits, length, int.from_bytes(packed) >> (bits - length))


def shortened(prefix: Prefix, length: int) -> Prefix:
    """Return the prefix of that length, at most its own, which holds all of `prefix`."""
    return Prefix(prefix.bits, length, prefix.network >> (prefix.length - length))


def parse_prefix(text: str) -> Prefix | None:
    """Parse `address/length`, host bits ignored; None if it is none."""
    address, slash, length = text.partition("/")
    packed = pack(address)
    if packed is None or not slash or not (length.isascii() and length.isdigit()) or int(length) > 8 * len(packed):
        return None
    return prefix_of(packed, int(length))
