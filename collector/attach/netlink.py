# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of this network namespace's devices and routes: rtnetlink, /proc/net/dev.

Which of them are uplinks is decided in `uplinks`, without any of this.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path

from collector.attach import dump
from collector.attach.uplinks import KernelRoute, Link
from collector.kernel.epoch_record import DeviceCounters

_DEVICES = Path("/proc/thread-self/net/dev")
_SOCKETS = (Path("/proc/thread-self/net/udp"), Path("/proc/thread-self/net/udp6"))
# include/uapi/linux/rtnetlink.h, if_link.h
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_GROUPS = 0x1 | 0x40 | 0x400  # RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_LINK = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 5, 10, 18, 29
_IFLA_LINK_NETNSID, _IFLA_PHYS_PORT_NAME = 37, 38
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_PORT_ATTRIBUTES = {"vxlan": 15, "geneve": 5}  # IFLA_VXLAN_PORT, IFLA_GENEVE_PORT: in network byte order
_SKIP_STATS = struct.pack("=HHI", 8, _IFLA_EXT_MASK, 1 << 3)
_ROUTE = struct.Struct("=BBBBBBBBI")
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 4, 5, 9
_HOP = struct.Struct("=HBBi")


def read() -> tuple[list[Link], list[KernelRoute]]:
    """Return all devices, and all routes of all tables. Raises OSError."""
    links = dump.ask(_RTM_GETLINK, bytes(_LINK.size) + _SKIP_STATS, _RTM_NEWLINK)
    routes = dump.ask(_RTM_GETROUTE, bytes(_ROUTE.size), _RTM_NEWROUTE)
    return links_of(links), [route for message in routes for route in routes_of(message)]


def links_of(messages: Iterable[bytes]) -> list[Link]:
    """Return what RTM_NEWLINK messages say: all of them, because a device says who its master is, not of what kind."""
    told = []
    for message in messages:
        _, arphrd, index, flags, _ = _LINK.unpack_from(message)
        attributes = dump.attributes(message, _LINK.size)
        info = dump.attributes(attributes.get(_IFLA_LINKINFO, b""))
        told.append((index, arphrd, flags, attributes, _text(info.get(_IFLA_INFO_KIND)), info))
    kinds = {index: kind for index, *_, kind, _ in told}
    return [
        Link(
            index=index,
            name=_text(attributes.get(_IFLA_IFNAME)),
            kind=kind,
            flags=flags,
            arphrd=arphrd,
            master_kind=kinds.get(_number(attributes.get(_IFLA_MASTER)), ""),
            phys_port=_text(attributes.get(_IFLA_PHYS_PORT_NAME)),
            port=_port(kind, info),
            # With a namespace's id it is an index there: the other end of a veth pair, for one.
            lower=0 if _IFLA_LINK_NETNSID in attributes else _number(attributes.get(_IFLA_LINK)),
        )
        for index, arphrd, flags, attributes, kind, info in told
    ]


def _port(kind: str, info: Mapping[int, bytes]) -> int:
    if kind not in _PORT_ATTRIBUTES:
        return 0
    options = dump.attributes(info.get(_IFLA_INFO_DATA, b""))
    return int.from_bytes(options.get(_PORT_ATTRIBUTES[kind], b""), "big")


def routes_of(message: bytes) -> Iterator[KernelRoute]:
    """Yield what one RTM_NEWROUTE message says, a `KernelRoute` for each next hop."""
    _, prefix_length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(message)
    attributes = dump.attributes(message, _ROUTE.size)
    for oif, hop in _hops(attributes):
        if oif:
            yield KernelRoute(oif, prefix_length, _RTA_GATEWAY in hop, kind)


def _hops(attributes: Mapping[int, bytes]) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """Yield the device of each next hop, and its attributes."""
    hops = attributes.get(_RTA_MULTIPATH)
    if hops is None:
        yield _number(attributes.get(_RTA_OIF)), attributes
        return
    at = 0
    while at + _HOP.size <= len(hops):
        length, _, _, oif = _HOP.unpack_from(hops, at)
        yield oif, dump.attributes(hops[at : at + length], _HOP.size)
        at += max(_HOP.size, length + 3 & ~3)


def _text(value: bytes | None) -> str:
    return (value or b"").partition(b"\0")[0].decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", sys.byteorder)


async def changes() -> AsyncIterator[None]:
    """Yield when a device or a default route came, went or changed. Raises OSError when messages were lost."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as told:
        told.bind((0, _GROUPS))
        while True:
            answer = await loop.sock_recv(told, dump.ROOM)
            if any(_matters(kind, message) for kind, _, message in dump.messages(answer)):
                yield


def _matters(kind: int, message: bytes) -> bool:
    if kind in (_RTM_NEWLINK, _RTM_DELLINK):
        return True
    return kind in (_RTM_NEWROUTE, _RTM_DELROUTE) and _ROUTE.unpack_from(message)[1] == 0


def bound_ports() -> set[int]:
    """Return the ports that UDP sockets of this network namespace are bound to."""
    return {port for path in _SOCKETS if path.exists() for port in parse_sockets(path.read_text())}


def parse_sockets(text: str) -> set[int]:
    """Read /proc/net/udp or udp6 (net/ipv4/udp.c): the second column is the local address, ":", the port in hex."""
    return {int(line.split()[1].rpartition(":")[2], 16) for line in text.splitlines()[1:]}


def device_counters() -> dict[str, DeviceCounters]:
    """Return tx_bytes, tx_packets, rx_bytes, rx_packets of every device; one read, as cheap as it gets."""
    return parse_devices(_DEVICES.read_text(errors="replace"))  # a name may be any bytes


def parse_devices(text: str) -> dict[str, DeviceCounters]:
    """Read /proc/net/dev (net/core/net-procfs.c): eight receive columns, then eight transmit columns."""
    found = {}
    # Not by `splitlines`: a device's name may have what that takes for a line's end, such as \x1c.
    for line in text.rstrip("\n").split("\n")[2:]:
        name, _, columns = line.partition(":")
        numbers = [int(column) for column in columns.split()]
        found[name.strip(" ")] = (numbers[8], numbers[9], numbers[0], numbers[1])
    return found
