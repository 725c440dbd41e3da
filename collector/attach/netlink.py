# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of this network namespace's devices and routes: rtnetlink through pyroute2, /proc/net/dev.

Which of them are uplinks is decided in `uplinks`, without any of this.
"""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from collector.attach.rtnetlink import RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE, RTMGRP_LINK, AsyncIPRoute, IPRoute
from collector.attach.uplinks import KernelRoute, Link
from collector.kernel.epoch_record import DeviceCounters

_DEVICES = Path("/proc/thread-self/net/dev")
_SOCKETS = (Path("/proc/thread-self/net/udp"), Path("/proc/thread-self/net/udp6"))
_PORT_ATTRIBUTES = {"vxlan": "IFLA_VXLAN_PORT", "geneve": "IFLA_GENEVE_PORT"}


def read() -> tuple[list[Link], list[KernelRoute]]:
    """Return all devices, and all routes of all tables."""
    with IPRoute() as socket:
        messages = list(socket.link("dump"))
        routes = [route for message in socket.get_routes() for route in routes_of(message)]
    kinds = {message["index"]: _kind(message) for message in messages}
    return [link_of(message, kinds) for message in messages], routes


def link_of(message: Any, kinds: dict[int, str]) -> Link:
    """Return what one RTM_NEWLINK message says; `kinds` by index, for the kind of its master."""
    kind = _kind(message)
    port = 0
    if kind in _PORT_ATTRIBUTES:
        options = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        port = (options.get_attr(_PORT_ATTRIBUTES[kind]) if options else None) or 0
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        flags=message["flags"],
        arphrd=message["ifi_type"],
        master_kind=kinds.get(message.get_attr("IFLA_MASTER") or 0, ""),
        phys_port=message.get_attr("IFLA_PHYS_PORT_NAME") or "",
        port=port,
        # With a namespace's id it is an index there: the other end of a veth pair, for one.
        lower=0 if message.get_attr("IFLA_LINK_NETNSID") is not None else message.get_attr("IFLA_LINK") or 0,
    )


def routes_of(message: Any) -> Iterable[KernelRoute]:
    """Yield what one RTM_NEWROUTE message says, a `KernelRoute` for each next hop."""
    hops = message.get_attr("RTA_MULTIPATH") or [message]
    for hop in hops:
        oif = hop.get("oif") or (message.get_attr("RTA_OIF") if hop is message else 0)
        if oif:
            yield KernelRoute(oif, message["dst_len"], hop.get_attr("RTA_GATEWAY") is not None, message["type"])


def _kind(message: Any) -> str:
    return message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""


async def changes() -> AsyncIterator[None]:
    """Yield when a device or a default route came, went or changed. Raises OSError when messages were lost."""
    async with AsyncIPRoute() as socket:
        await socket.bind(groups=RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE)
        while True:
            async for message in socket.get():
                if "LINK" in message["event"] or message.get("dst_len") == 0:
                    yield


def bound_ports() -> set[int]:
    """Return the ports that UDP sockets of this network namespace are bound to."""
    return {port for path in _SOCKETS if path.exists() for port in parse_sockets(path.read_text())}


def parse_sockets(text: str) -> set[int]:
    """Read /proc/net/udp or udp6 (net/ipv4/udp.c): the second column is the local address, ":", the port in hex."""
    return {int(line.split()[1].rpartition(":")[2], 16) for line in text.splitlines()[1:]}


def device_counters() -> dict[str, DeviceCounters]:
    """Return tx_bytes, tx_packets, rx_bytes, rx_packets of every device; one read, as cheap as it gets."""
    return parse_devices(_DEVICES.read_text())


def parse_devices(text: str) -> dict[str, DeviceCounters]:
    """Read /proc/net/dev (net/core/net-procfs.c): eight receive columns, then eight transmit columns."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, columns = line.partition(":")
        numbers = [int(column) for column in columns.split()]
        found[name.strip()] = (numbers[8], numbers[9], numbers[0], numbers[1])
    return found
