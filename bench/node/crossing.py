# SPDX-License-Identifier: Apache-2.0
"""Packets that cross a node: three network namespaces in a row, and a sender that needs no receiver.

    sender --veth--> node (forwards: POST_ROUTING) --veth--> sink (a blackhole)

Packets are written whole to a packet socket, so that ten thousand flows cost no more to send than one.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lab.network import namespaces

PREFIX = f"zmb{os.getpid()}"
NODE = f"{PREFIX}-node"
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP

SENDER, SINK = f"{PREFIX}-sender", f"{PREFIX}-sink"
_SENDER_MAC, _NODE_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # include/uapi/linux/if_packet.h
# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_VNET = struct.Struct("=BBHHHH")
_MSS = 1448


@contextmanager
def built(*, conntrack: bool = True) -> Iterator[socket.socket]:
    """Give a socket that takes `frames`; with `conntrack` the node tracks connections, as one that has Services."""
    try:
        for name in (SENDER, NODE, SINK):
            namespaces.run(["ip", "netns", "add", name])
        _wire()
        if conntrack:
            rules = "table ip t { chain c { type filter hook forward priority 0; ct state invalid accept; }; }"
            namespaces.run(["ip", "netns", "exec", NODE, "nft", "-f", "-"], rules)
        with sender() as out:
            yield out
    finally:
        for name in namespaces.with_prefix(PREFIX):
            namespaces.run(["ip", "netns", "del", name])


def sender() -> socket.socket:
    """Return one more socket that takes `frames`."""
    with namespaces.enter(SENDER):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    out.bind(("eth0", 0x0800))
    return out


def _wire() -> None:
    namespaces.ip_batch(
        [
            f"link add eth0 address {_SENDER_MAC} netns {SENDER} type veth"
            f" peer name pod address {_NODE_MAC} netns {NODE}",
            f"link add eth0 netns {NODE} type veth peer name eth0 netns {SINK}",
        ]
    )
    namespaces.ip_batch(["link set eth0 up", "addr add 10.1.0.2/16 dev eth0"], SENDER)
    namespaces.ip_batch(
        [
            "link set pod up",
            "link set eth0 up",
            "addr add 10.2.0.1/16 dev eth0",
            "route add 10.1.0.0/16 dev pod",
            "route add default via 10.2.0.2",
        ],
        NODE,
    )
    namespaces.ip_batch(["link set eth0 up", "addr add 10.2.0.2/16 dev eth0", "route add blackhole default"], SINK)
    with namespaces.enter(NODE):
        namespaces.write_sysctls(
            {"ipv4/ip_forward": 1, "ipv4/conf/pod/rp_filter": 0, "netfilter/nf_conntrack_tcp_be_liberal": 1}
        )


def frames(
    protocol: int, flows: int, *, payload: int = 36, destination: str = "10.200.0.0", clients: bool = False
) -> list[bytes]:
    """Return one frame for each of `flows` flows, which differ in their destination, counted up from the one given.

    `clients`: they differ in their source instead, counted up from 10.1.1.0. TCP leaves as a super-packet of `payload`
    bytes if that is more than a segment takes; UDP of 36 is 64 bytes long.
    """
    base = int.from_bytes(socket.inet_aton(destination), "big")
    if clients:
        first = int.from_bytes(socket.inet_aton("10.1.1.0"), "big")
        sources = [(first + number).to_bytes(4, "big") for number in range(flows)]
        return [_frame(protocol, source, base.to_bytes(4, "big"), payload) for source in sources]
    here = socket.inet_aton("10.1.0.2")
    return [_frame(protocol, here, (base + number).to_bytes(4, "big"), payload) for number in range(flows)]


def _frame(protocol: int, source: bytes, destination: bytes, payload: int) -> bytes:
    header = 20 if protocol == TCP else 8
    length = 20 + header + payload
    flags = 0x4000 if protocol == TCP else 0  # what is sent over TCP forbids fragmentation
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, flags, 64, protocol, 0, source, destination)
    ip = ip[:10] + _checksum(ip) + ip[12:]
    if protocol == TCP:
        transport = struct.pack("!HHIIBBHHH", 40000, 5432, 1, 1, 0x50, 0x10, 65535, 0, 0)
        super_packet = payload > _MSS
        vnet = _VNET.pack(1, int(super_packet), 54 if super_packet else 0, _MSS if super_packet else 0, 34, 16)
    else:
        transport = struct.pack("!HHHH", 40000, 53, 8 + payload, 0)
        vnet = _VNET.pack(0, 0, 0, 0, 0, 0)
    ethernet = bytes.fromhex((_NODE_MAC + _SENDER_MAC).replace(":", "")) + b"\x08\x00"
    return vnet + ethernet + ip + transport + bytes(payload)


def _checksum(header: bytes) -> bytes:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def send(out: socket.socket, packets: Sequence[bytes], count: int) -> None:
    """Send `count` frames, those given in turn."""
    sendall, whole = out.send, len(packets)
    for number in range(count):
        sendall(packets[number % whole])
