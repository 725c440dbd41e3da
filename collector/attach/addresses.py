# SPDX-License-Identifier: Apache-2.0
"""The node's own addresses, of which a flow's end is on this node whatever Kubernetes knows: one rtnetlink dump.

Read with every window; a node with kube-proxy's IPVS has an address for each Service.
"""

import ipaddress
import socket
import struct
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from collector.attach import dump

# include/uapi/linux/rtnetlink.h, if_addr.h
_MESSAGE = struct.Struct("=BBBBI")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
# struct ifa_cacheinfo: how long it is preferred and valid (s), when it was created and changed (1/100 s since boot).
_CACHEINFO = struct.Struct("=IIII")
_FOREVER = 0xFFFFFFFF
_UNUSABLE = 0x08 | 0x40  # IFA_F_DADFAILED: another host has it; IFA_F_TENTATIVE
_SCOPE_LINK = 253
# The kernel's stamps are by its ticks, which may lag behind its clock by what they missed as it booted; after 497 days
# they begin again from 0.
_LAG_MS = 1000
_STAMPS = 1 << 32
# Of a node's uplinks, that others are told.
MAX_TOLD = 64

_MAPPED = bytes(10) + b"\xff\xff"


class Address(NamedTuple):
    """An address of a device: 16 bytes, IPv4 as ::ffff:a.b.c.d; the device's index; whether it is usable beyond it.

    `since`: when the device got it, in 1/100 s since boot, as far as a stamp of 32 bits tells; None: not known.
    """

    packed: bytes
    ifindex: int
    is_global: bool
    since: int | None = None


class OwnAddresses(NamedTuple):
    """What a window says of its node's addresses. `throughout`: those that it had all the time; `told`: to others.

    `told` is None for a window that ended under an earlier collector: what others may be told is as of its end.
    """

    throughout: frozenset[bytes]
    told: tuple[str, ...] | None


def read() -> list[Address]:
    """Return the addresses of all devices of this network namespace. Raises OSError."""
    made = map(parse, dump.ask(_RTM_GETADDR, bytes(_MESSAGE.size), _RTM_NEWADDR))
    return [address for address in made if address is not None]


def parse(message: bytes) -> Address | None:
    """Return what one RTM_NEWADDR message says; None if nobody can use the address, or it is neither IPv4 nor IPv6."""
    _, _, flags, scope, index = _MESSAGE.unpack_from(message)
    attributes = dump.attributes(message, _MESSAGE.size)
    # IFA_ADDRESS is the other side's of a point-to-point link.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
    if flags & _UNUSABLE or len(address) not in (4, 16):
        return None
    is_global = scope < _SCOPE_LINK and not ipaddress.ip_address(address).is_link_local
    since = _since(attributes.get(_IFA_CACHEINFO, b""))
    return Address(_MAPPED + address if len(address) == 4 else address, index, is_global, since)


def _since(cache: bytes) -> int | None:
    """Return since when the device has the address, at the latest.

    An address that has a lifetime is changed with each renewal of it. One that has none is changed by somebody:
    ifconfig puts another address in its place, which keeps the time of its creation.
    """
    if len(cache) < _CACHEINFO.size:
        return None
    _, valid, created, changed = _CACHEINFO.unpack_from(cache)
    return int(changed if valid == _FOREVER else created)


def packed(found: Iterable[Address]) -> frozenset[bytes]:
    """Return the addresses by themselves."""
    return frozenset(address.packed for address in found)


def there_for(found: Iterable[Address], age_ms: int) -> frozenset[bytes]:
    """Return which of the addresses that were read just now the node has had for so long, as the kernel's stamps tell.

    An address that was taken away and came back has a new stamp. `age_ms` may have time in it that the node was
    suspended for, which no stamp has: then one may be left out.
    """
    return older_than(found, age_ms, time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000)


def older_than(found: Iterable[Address], age_ms: int, uptime_ms: int) -> frozenset[bytes]:
    """Return the addresses that are there for at least so long when the node has been up for so long. Pure."""
    least = (age_ms + _LAG_MS) // 10

    def is_older(since: int) -> bool:
        age = (uptime_ms // 10 - since) % _STAMPS
        return least <= age < _STAMPS - _LAG_MS  # beyond it, the stamp is a little ahead

    return packed(each for each in found if each.since is not None and is_older(each.since))


def told(found: Collection[Address], uplinks: Collection[int]) -> tuple[str, ...]:
    """Return the addresses by which others reach this node, as text: those of its uplinks, `MAX_TOLD` at most."""
    reached = sorted({(a.ifindex, a.packed) for a in found if a.ifindex in uplinks and a.is_global})
    return tuple(dict.fromkeys(_text(packed) for _, packed in reached))[:MAX_TOLD]


def _text(packed: bytes) -> str:
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
