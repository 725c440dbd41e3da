# SPDX-License-Identifier: Apache-2.0
"""Super-packets beyond 64 KiB (BIG TCP) on the first node of `netlab`, and the proof that there were any."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.collector import netlab

# include/uapi/linux/rtnetlink.h, if_link.h
_RTM_NEWLINK, _NLM_F_REQUEST_ACK, _IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE = 16, 5, 41, 63
_USUAL, _BIG = 65_536, 150_000


def count_longer_than(name: str, octets: int) -> None:
    """Count in a namespace what leaves in one piece and longer than that; the table `inet big` is to be deleted."""
    chain = f"type filter hook postrouting priority 0; meta length > {octets} counter name big;"
    netlab.run(name, "nft", "-f", "-", stdin=f"table inet big {{\ncounter big {{ }}\nchain c {{ {chain} }}\n}}\n")


def longer(name: str) -> int:
    told = netlab.run(name, "nft", "list", "counters", "table", "inet", "big")
    return int(re.findall(r"packets (\d+)", told)[0])


def _set_gso_sizes(name: str, device: str, octets: int) -> None:
    """By rtnetlink itself: iproute2 learned of IPv4's attribute in 6.3 only."""

    def send() -> None:
        attributes = struct.pack("=HHIHHI", 8, _IFLA_GSO_MAX_SIZE, octets, 8, _IFLA_GSO_IPV4_MAX_SIZE, octets)
        body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + attributes
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
            netlink.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK, 1, 0) + body)
            assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,)

    netlab.inside(name, send)


@contextmanager
def beyond_64_kib() -> Iterator[None]:
    """Let the first node and its pod send them, and count them.

    A pod's segments must be smaller than the way out: the kernel takes IPv6's jumbo header, which it will remove, for
    part of them when it looks whether they fit.
    """
    devices = (("node1", "eth0"), ("pod11", "eth0"), ("node1", "veth1"))
    defaults = ("0.0.0.0/0 via 169.254.1.1 dev eth0", "::/0 via fe80::1 dev eth0")
    for name, device in devices:
        _set_gso_sizes(name, device, _BIG)
    for default in defaults:
        netlab.ip("pod11", f"route change {default} mtu 1400")
    count_longer_than("node1", 65_575)
    try:
        yield
    finally:
        netlab.run("node1", "nft", "delete", "table", "inet", "big")
        for default in defaults:
            netlab.ip("pod11", f"route change {default}")
        for name, device in devices:
            _set_gso_sizes(name, device, _USUAL)
