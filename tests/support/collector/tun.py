# SPDX-License-Identifier: Apache-2.0
"""A TUN overlay between the two nodes of `netlab`, as Tailscale, flannel's udp back end or Nebula make one.

On each node a thread reads IP packets from the device and sends each as a datagram to the other node's thread, which
writes it to its own device: IP, UDP, then the packet as it is.
"""

import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.collector import netlab
from tests.support.collector.netlab import node_address, node_address6

# include/uapi/linux/if_tun.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1400
OVERHEAD = {4: 20 + 8, 6: 40 + 8}


@contextmanager
def overlay(device: str, port: int, *, outer6: bool = False) -> Iterator[None]:
    """Pods of the two nodes reach each other through the overlay while the context lasts."""
    daemons = [_Daemon(node, device, port, outer6=outer6) for node in (1, 2)]
    try:
        for daemon in daemons:
            daemon.start()
        yield
    finally:
        for daemon in daemons:
            daemon.stop()


class _Daemon:
    def __init__(self, node: int, device: str, port: int, *, outer6: bool) -> None:
        address = node_address6 if outer6 else node_address
        self.node, self.device = node, device
        self.peer = (address(3 - node), port)
        self.outer = netlab.new_socket(f"node{node}", self.peer[0], socket.SOCK_DGRAM)
        self.outer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.outer.bind((address(node), port))
        self.outer.setblocking(False)
        self.inner = netlab.inside(f"node{node}", self._open)
        self.ended, self.end = os.pipe()
        self.thread = threading.Thread(target=self._carry, daemon=True)

    def _open(self) -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", self.device.encode(), _IFF_TUN | _IFF_NO_PI))
        return descriptor

    def start(self) -> None:
        other = 3 - self.node
        # What leaves by it is what a test sends through it: nothing of what IPv6 says when a device comes up.
        quiet = f'oifname "{self.device}" icmpv6 type {{ mld2-listener-report, nd-router-solicit }} drop'
        chain = f"chain output {{ type filter hook output priority 0; {quiet}; }}"
        netlab.run(f"node{self.node}", "nft", "-f", "-", stdin=f"table ip6 quiet {{\n{chain}\n}}\n")
        netlab.ip(
            f"node{self.node}",
            f"""
            link set {self.device} mtu {MTU} txqueuelen 10000 addrgenmode none
            link set {self.device} up
            route replace 10.42.{other}.1/32 dev {self.device}
            route replace fd42:{other}::1/128 dev {self.device}
            """,
        )
        self.thread.start()

    def stop(self) -> None:
        os.write(self.end, b"x")
        if self.thread.is_alive():
            self.thread.join()
            netlab.run(f"node{self.node}", "nft", "delete", "table", "ip6", "quiet")
        for descriptor in (self.inner, self.ended, self.end):  # with the descriptor the device goes, and its routes
            os.close(descriptor)
        self.outer.close()

    def _carry(self) -> None:
        outer = self.outer.fileno()
        waiting = select.poll()  # select(2) takes no descriptor above 1023, and such there are after a thousand tests
        for descriptor in (self.inner, outer, self.ended):
            waiting.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self.ended in ready:
                return
            if self.inner in ready:
                self.outer.sendto(os.read(self.inner, 65536), self.peer)
            if outer in ready:
                os.write(self.inner, self.outer.recv(65536))
