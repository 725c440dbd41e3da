# SPDX-License-Identifier: Apache-2.0
"""Two nodes on a fabric in network namespaces, two pods each, and sockets inside them.

Only what the collector's tests need; the lab proper is a room of its own. Everything is named zmt-<pid>-..., and
`tear_down` removes it.
"""

import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from lab.network import namespaces
from tests.support.services import DEADLINE_SECONDS, pause

T = TypeVar("T")

_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h: beyond net.core.rmem_max
PREFIX = f"zmt-{os.getpid()}"
CLUSTER_IP, CLUSTER_IP_LOCAL, CLUSTER_IP6 = "10.96.0.10", "10.96.0.11", "fd96::10"
CLIENT, CLIENT6 = "192.168.50.99", "fd50::99"  # on the fabric, no node of the cluster
# Each connection has a client's port of its own. Of two connections with one port, to a pod and to the Service before
# it, source NAT gives the later one any port from 1024 on, which tc's ingress takes for the service if it is the lower.
# Above net.ipv4.ip_local_port_range, so that the kernel gives them to nobody.
_client_ports = itertools.cycle(range(61_000, 65_536))


def ns(name: str) -> str:
    return f"{PREFIX}-{name}"


def pod_address(node: int, pod: int) -> str:
    return f"10.42.{node}.{pod}"


def pod_address6(node: int, pod: int) -> str:
    return f"fd42:{node}::{pod}"


def node_address(node: int) -> str:
    return f"192.168.50.{node}"


def node_address6(node: int) -> str:
    return f"fd50::{node}"


def ip(name: str, commands: str) -> None:
    """Run `ip` commands, one a line, in a namespace."""
    namespaces.ip_batch((line.strip() for line in commands.strip().splitlines()), ns(name))


def add_namespace(name: str) -> None:
    subprocess.run(["ip", "netns", "add", ns(name)], check=True)
    ip(name, "link set lo up")


def del_namespace(name: str) -> None:
    subprocess.run(["ip", "netns", "del", ns(name)], check=True)


def run(name: str, *command: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{ns(name)}", *command], input=stdin, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def build() -> None:
    add_namespace("fabric")
    ip(
        "fabric",
        f"""
        link add br0 address {_lladdr(CLIENT6)} type bridge mcast_snooping 0
        link set br0 up
        addr add {CLIENT}/24 dev br0
        addr add {CLIENT6}/64 dev br0 nodad
        """,
    )
    for node in (1, 2):
        _build_node(node)
    for node, other in ((1, 2), (2, 1)):
        ip(
            f"node{node}",
            f"""
            route add 10.42.{other}.0/24 via {node_address(other)}
            route add fd42:{other}::/64 via {node_address6(other)}
            route add default via {CLIENT}
            route add default via {CLIENT6}
            """,
        )
        ip(
            "fabric",
            f"""
            route add 10.42.{node}.0/24 via {node_address(node)}
            route add fd42:{node}::/64 via {node_address6(node)}
            """,
        )
    _introduce({"node1": "eth0", "node2": "eth0", "fabric": "br0"})


def _introduce(devices: dict[str, str]) -> None:
    """Give each its neighbours' link addresses: nobody asks for them, and what goes between two is what a test sends.

    IPv6 would ask in packets from one address to the other: the first time, and again half a minute later.
    """
    addresses = {"node1": node_address6(1), "node2": node_address6(2), "fabric": CLIENT6}
    for name, device in devices.items():
        others = (address for other, address in addresses.items() if other != name)
        ip(name, "\n".join(f"neigh add {to} lladdr {_lladdr(to)} dev {device} nud permanent" for to in others))


def _lladdr(address6: str) -> str:
    return f"02:00:00:00:01:{address6.rpartition(':')[2]:0>2}"


def _build_node(node: int) -> None:
    name = f"node{node}"
    add_namespace(name)
    ip(
        name,
        f"""
        link add eth0 address {_lladdr(node_address6(node))} type veth peer name n{node} netns {ns("fabric")}
        addr add {node_address(node)}/24 dev eth0 broadcast +
        addr add {node_address6(node)}/64 dev eth0 nodad
        link set eth0 up
        """,
    )
    ip("fabric", f"link set n{node} master br0 up")
    run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    # The fabric must see segments: what leaves an uplink is what the wire would carry.
    run(name, "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
    for pod in (1, 2):
        _build_pod(node, pod)


def _build_pod(node: int, pod: int) -> None:
    name, pod_name = f"node{node}", f"pod{node}{pod}"
    add_namespace(pod_name)
    ip(
        name,
        f"""
        link add veth{pod} type veth peer name eth0 netns {ns(pod_name)}
        link set veth{pod} up
        addr add fe80::1/64 dev veth{pod} nodad
        route add {pod_address(node, pod)}/32 dev veth{pod}
        route add {pod_address6(node, pod)}/128 dev veth{pod}
        """,
    )
    run(name, "sysctl", "-qw", f"net.ipv4.conf.veth{pod}.proxy_arp=1")
    ip(
        pod_name,
        f"""
        addr add {pod_address(node, pod)}/32 dev eth0
        addr add {pod_address6(node, pod)}/128 dev eth0 nodad
        link set eth0 up
        route add 169.254.1.1 dev eth0
        route add default via 169.254.1.1
        route add default via fe80::1 dev eth0
        """,
    )


def add_services(node: int) -> None:
    """ClusterIPs by DNAT, masquerade of what leaves the cluster, and a NodePort that leads to another node."""
    run(
        f"node{node}",
        "nft",
        "-f",
        "-",
        stdin=f"""
        table inet services {{
          chain translate {{
            ip daddr {CLUSTER_IP} tcp dport 80 dnat ip to {pod_address(2, 1)}:8080
            ip daddr {CLUSTER_IP_LOCAL} tcp dport 80 dnat ip to {pod_address(1, 2)}:8080
            ip6 daddr {CLUSTER_IP6} tcp dport 80 dnat ip6 to [{pod_address6(2, 1)}]:8080
            ip daddr {node_address(1)} tcp dport 30080 dnat ip to {pod_address(2, 1)}:8080
          }}
          chain prerouting {{ type nat hook prerouting priority -100; jump translate; }}
          chain output {{ type nat hook output priority -100; jump translate; }}
          chain postrouting {{
            type nat hook postrouting priority 100;
            ip saddr 10.42.0.0/16 ip daddr != 10.42.0.0/16 masquerade
            ip saddr {CLIENT} ct status dnat masquerade
          }}
        }}
    """,
    )


def add_vxlan(node: int, other: int, *, outer6: bool = False) -> None:
    """Add a VXLAN to the other node, down; with addresses 10.99.0.N and fd99::N, and nothing to ask the network for.

    Neighbours are given, and what IPv6 says when a device comes up is dropped before it is sent: what leaves in it is
    what a test sends through it.
    """
    address = node_address6 if outer6 else node_address
    ends = f"local {address(node)} remote {address(other)}"
    ip(
        f"node{node}",
        f"""
        link add vx0 address 02:00:00:00:00:0{node} type vxlan id 7 dstport 8472 {ends} dev eth0
        link set vx0 addrgenmode none
        addr add 10.99.0.{node}/24 dev vx0
        addr add fd99::{node}/64 dev vx0 nodad
        neigh add 10.99.0.{other} lladdr 02:00:00:00:00:0{other} dev vx0 nud permanent
        neigh add fd99::{other} lladdr 02:00:00:00:00:0{other} dev vx0 nud permanent
        """,
    )
    quiet = "icmpv6 type { mld2-listener-report, nd-router-solicit, nd-neighbor-solicit } drop"
    chain = f'chain output {{ type filter hook output priority 0; oifname "vx0" {quiet}; }}'
    run(f"node{node}", "nft", "-f", "-", stdin=f"table ip6 quiet {{\n{chain}\n}}\n")


def del_vxlan(node: int) -> None:
    """Undo `add_vxlan`."""
    ip(f"node{node}", "link del vx0")
    run(f"node{node}", "nft", "delete", "table", "ip6", "quiet")


def tear_down() -> None:
    listed = subprocess.run(["ip", "-j", "netns"], capture_output=True, text=True, check=True).stdout
    for entry in json.loads(listed or "[]"):
        if entry["name"].startswith(PREFIX + "-"):
            subprocess.run(["ip", "netns", "del", entry["name"]], check=True)


def inside(name: str, call: Callable[[], T]) -> T:
    """Call in a thread that has entered the namespace; a socket made there stays there."""

    def body() -> T:
        namespaces.move(ns(name))
        return call()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(body).result()


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def new_socket(name: str, address: str, kind: int, protocol: int = 0) -> socket.socket:
    made = inside(name, lambda: socket.socket(family(address), kind, protocol))
    made.settimeout(DEADLINE_SECONDS)
    return made


def client_socket(name: str, address: str, kind: int, port: int = 0) -> socket.socket:
    """Return a socket bound to a port that no connection before it had, or to this one."""
    client = new_socket(name, address, kind)
    client.bind(("::" if ":" in address else "0.0.0.0", port or next(_client_ports)))
    return client


def udp_server(name: str, address: str, port: int) -> socket.socket:
    server = new_socket(name, address, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind((address, port))
    return server


def send_udp(
    sender: str, receiver: str, address: str, *, count: int = 7, size: int = 1000, port: int = 5353, sport: int = 0
) -> None:
    """Send `count` datagrams and return when all have been received."""
    datagrams = socket.SOCK_DGRAM
    with udp_server(receiver, address, port) as server, client_socket(sender, address, datagrams, sport) as client:
        for _ in range(count):
            client.sendto(b"x" * size, (address, port))
            assert len(server.recv(65536)) == size


def send_tcp(sender: str, receiver: str, to: str, *, at: str, port: int, at_port: int, size: int) -> None:
    """Send `size` bytes to `to`:`port`, which arrive at `at`:`at_port`; both sides close.

    What is under way at once is bounded, so that a queue between hook and counter (net.core.netdev_max_backlog, 1,000
    packets) cannot run over on a busy machine: the two would rightly differ by what it dropped.
    """
    stream = socket.SOCK_STREAM
    with new_socket(receiver, at, stream) as server, client_socket(sender, to, stream) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 512 << 10)
        server.bind((at, at_port))
        server.listen()
        received: list[int] = []

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(DEADLINE_SECONDS)
                total = 0
                while part := connection.recv(1 << 20):
                    total += len(part)
                received.append(total)

        thread = threading.Thread(target=take)
        thread.start()
        client.connect((to, port))
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        thread.join()
        assert received == [size]


def count_on_fabric(flows: list[tuple[str, str]], match: str = "") -> None:
    """Count at the fabric's end of each uplink what comes in from a to b: behind segmentation and fragmentation."""
    count_at("fabric", ("n1", "n2"), flows, match)


def fabric_counts(flows: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return bytes and packets for each of the flows given to `count_on_fabric`."""
    return counts_at("fabric", flows)


def count_at(name: str, devices: tuple[str, ...], flows: list[tuple[str, str]], match: str = "") -> None:
    """Count what comes in from a to b at these devices of a namespace, as the wire brings it: before defragmentation.

    IP-layer bytes. `match` narrows it, in the words of nft. Replaces what was counted there before.
    """
    rules = []
    for index, (a, b) in enumerate(flows):
        kind = "ip6" if ":" in a else "ip"
        rules.append(f"counter c{index} {{ }}")
        rules.extend(
            f"chain c{index}_{device} {{ type filter hook ingress device {device} priority 0; "
            f"{kind} saddr {a} {kind} daddr {b} {match} counter name c{index}; }}"
            for device in devices
        )
    run(
        name,
        "nft",
        "-f",
        "-",
        stdin="table netdev truth\ndelete table netdev truth\ntable netdev truth {\n" + "\n".join(rules) + "\n}\n",
    )


def counts_at(name: str, flows: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return bytes and packets for each of the flows given to `count_at`."""
    listed = json.loads(run(name, "nft", "-j", "list", "counters", "table", "netdev", "truth"))["nftables"]
    found = {e["counter"]["name"]: (e["counter"]["bytes"], e["counter"]["packets"]) for e in listed if "counter" in e}
    return {flow: found[f"c{index}"] for index, flow in enumerate(flows)}


@contextmanager
def link_mtu(name: str, device: str, octets: int) -> Iterator[None]:
    """Give a device another MTU for a while."""
    old = json.loads(run(name, "ip", "-j", "link", "show", device))[0]["mtu"]
    ip(name, f"link set {device} mtu {octets}")
    try:
        yield
    finally:
        ip(name, f"link set {device} mtu {old}")


def wait_until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> bool:
    """Return whether it comes true within this time."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return True
        if began > deadline:
            return False
        pause(began)
