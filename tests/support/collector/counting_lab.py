# SPDX-License-Identifier: Apache-2.0
"""The two nodes of `netlab` with what a cluster's service proxy sets up on them, and pods on a bridge besides.

Each way of a packet that docs/counting.md has a row for is a `Way`: who asks whom, at which address.
"""

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from tests.support.collector import netlab
from tests.support.collector.netlab import CLIENT, CLIENT6, node_address, node_address6, pod_address, pod_address6

REQUESTS, REQUEST_BYTES, REPLIES, REPLY_BYTES = 5, 1000, 3, 200
SERVER_PORT = 8080
_CLIENT_PORTS = itertools.count(45_000)

# What a service's address and port lead to, and whether the node puts its own address in. The ports tell them apart.
SERVICES = ("10.96.0.10", "fd96::10")
BALANCERS = ("203.0.113.10", "fd03::10")
TO_REMOTE, TO_LOCAL, TO_BRIDGED, TO_ITSELF, TO_ITSELF_BRIDGED = 81, 82, 83, 84, 85
NODE_PORTS = 30_000  # and the port above
MASQUERADED = 100  # to be added to a port above


@dataclass(frozen=True, slots=True)
class Way:
    """Who asks (a namespace), at which address and port, and who answers where. Addresses: IPv4, IPv6."""

    client: str
    client_at: tuple[str, str]
    to: tuple[str, str]
    server: str
    server_at: tuple[str, str]
    port: int = SERVER_PORT
    while_: Callable[[], AbstractContextManager[None]] = nullcontext


def pod(node: int, number: int) -> tuple[str, str]:
    return pod_address(node, number), pod_address6(node, number)


A, B, OUTSIDE = (node_address(1), node_address6(1)), (node_address(2), node_address6(2)), (CLIENT, CLIENT6)
REMOTE = pod(2, 1)


@contextmanager
def through_a() -> Iterator[None]:
    """Let the world outside send through the first node what is meant for the second's pod."""
    netlab.ip("fabric", f"route add {REMOTE[0]}/32 via {A[0]}\nroute add {REMOTE[1]}/128 via {A[1]}")
    try:
        yield
    finally:
        netlab.ip("fabric", f"route del {REMOTE[0]}/32 via {A[0]}\nroute del {REMOTE[1]}/128 via {A[1]}")


@contextmanager
def through_overlay() -> Iterator[None]:
    """Let the pods' traffic between the nodes go through the VXLAN."""
    for node, other in ((1, 2), (2, 1)):
        netlab.ip(
            f"node{node}",
            f"""
            route add 10.42.{other}.1/32 via 10.99.0.{other} dev vx0 onlink
            route add fd42:{other}::1/128 via fd99::{other} dev vx0 onlink
            """,
        )
    try:
        yield
    finally:
        for node, other in ((1, 2), (2, 1)):
            netlab.ip(f"node{node}", f"route del 10.42.{other}.1/32 dev vx0\nroute del fd42:{other}::1/128 dev vx0")


def ways(network: str) -> dict[str, Way]:
    """Return each way by its row's name; `network`: how the first node's pods are attached."""
    first, second = (1, 2) if network == "routed" else (3, 4)
    client, server = pod(1, first), pod(1, second)
    me, you, there = f"pod1{first}", f"pod1{second}", "pod21"
    local, itself = (TO_LOCAL, TO_ITSELF) if network == "routed" else (TO_BRIDGED, TO_ITSELF_BRIDGED)
    remote, masquerade = TO_REMOTE, MASQUERADED
    if network == "vxlan":
        return {"pod-pod-overlay": Way("pod11", pod(1, 1), REMOTE, "pod21", REMOTE, while_=through_overlay)}
    same_node = {"routed": "pod-pod", "bridge-nf": "pod-pod-bridge-nf", "bridge": "pod-pod-bridge"}[network]
    return {
        same_node: Way(me, client, server, you, server),
        "pod-pod-nodes": Way(me, client, REMOTE, there, REMOTE),
        "host-pod": Way("node1", A, server, you, server),
        "host-pod-nodes": Way("node1", A, REMOTE, there, REMOTE),
        "pod-host": Way(me, client, A, "node1", A),
        "pod-host-nodes": Way(me, client, B, "node2", B),
        "host-host": Way("node1", A, B, "node2", B),
        "host-itself": Way("node1", A, A, "node1", A),
        "outside-pod": Way("fabric", OUTSIDE, server, you, server),
        "outside-host": Way("fabric", OUTSIDE, A, "node1", A),
        "pod-outside": Way(me, client, OUTSIDE, "fabric", OUTSIDE),
        "host-outside": Way("node1", A, OUTSIDE, "fabric", OUTSIDE),
        "clusterip": Way(me, client, SERVICES, you, server, local),
        "clusterip-nodes": Way(me, client, SERVICES, there, REMOTE, remote),
        "clusterip-host": Way("node1", A, SERVICES, you, server, local),
        "clusterip-host-nodes": Way("node1", A, SERVICES, there, REMOTE, remote),
        "hairpin": Way(me, client, SERVICES, me, client, itself),
        "nodeport": Way("fabric", OUTSIDE, A, you, server, NODE_PORTS + local),
        "nodeport-masquerade": Way("fabric", OUTSIDE, A, you, server, NODE_PORTS + local + masquerade),
        "nodeport-nodes": Way("fabric", OUTSIDE, A, there, REMOTE, NODE_PORTS + remote),
        "nodeport-nodes-masquerade": Way("fabric", OUTSIDE, A, there, REMOTE, NODE_PORTS + remote + masquerade),
        "nodeport-from-pod": Way(me, client, A, there, REMOTE, NODE_PORTS + remote + masquerade),
        "nodeport-and-back": Way(me, client, B, you, server, NODE_PORTS + local + masquerade),
        "balancer": Way("fabric", OUTSIDE, BALANCERS, you, server, local),
        "balancer-masquerade": Way("fabric", OUTSIDE, BALANCERS, you, server, local + masquerade),
        "balancer-nodes": Way("fabric", OUTSIDE, BALANCERS, there, REMOTE, remote),
        "balancer-nodes-masquerade": Way("fabric", OUTSIDE, BALANCERS, there, REMOTE, remote + masquerade),
        "router": Way("fabric", OUTSIDE, REMOTE, there, REMOTE, while_=through_a),
    }


def add_services() -> None:
    """As kube-proxy does it: translate the destination, mark what is to get the node's address as its source."""
    targets = {TO_REMOTE: REMOTE, TO_LOCAL: pod(1, 2), TO_BRIDGED: pod(1, 4)}
    targets |= {TO_ITSELF: pod(1, 1), TO_ITSELF_BRIDGED: pod(1, 3)}
    translate, masquerade = [], []
    for number, kind in enumerate(("ip", "ip6")):
        for port, target in targets.items():
            to = f"dnat {kind} to {f'[{target[1]}]' if number else target[0]}:{SERVER_PORT}"
            translate.append(f"{kind} daddr {SERVICES[number]} udp dport {port} {to}")
            for mark, more in (("", 0), ("meta mark set 0x4000", MASQUERADED)):
                translate += [
                    f"{kind} daddr {BALANCERS[number]} udp dport {port + more} {mark} {to}",
                    f"meta nfproto {('ipv4', 'ipv6')[number]} fib daddr type local "
                    f"udp dport {NODE_PORTS + port + more} {mark} {to}",
                ]
        masquerade += [f"{kind} saddr {p[number]} {kind} daddr {p[number]} masquerade" for p in (pod(1, 1), pod(1, 3))]
    lines = "\n".join(translate), "\n".join(masquerade)
    text = f"""
        table inet services {{
          chain translate {{
            {lines[0]}
          }}
          chain prerouting {{ type nat hook prerouting priority -100; jump translate; }}
          chain output {{ type nat hook output priority -100; jump translate; }}
          chain postrouting {{
            type nat hook postrouting priority 100;
            meta mark 0x4000 masquerade
            ip saddr 10.42.0.0/16 ip daddr != {{ 10.42.0.0/16, {A[0]}, {B[0]} }} masquerade
            ip6 saddr fd42::/16 ip6 daddr != {{ fd42::/16, {A[1]}, {B[1]} }} masquerade
            {lines[1]}
          }}
        }}
    """
    for node in (1, 2):
        netlab.run(f"node{node}", "nft", "-f", "-", stdin=text)
    netlab.ip("fabric", f"route add {BALANCERS[0]}/32 via {A[0]}\nroute add {BALANCERS[1]}/128 via {A[1]}")


def add_bridge() -> None:
    """Two more pods on the first node, which see each other at layer 2; the node answers for everything else."""
    netlab.ip(
        "node1", "link add cni0 type bridge mcast_snooping 0\nlink set cni0 up\naddr add fe80::1/64 dev cni0 nodad"
    )
    for number, other in ((3, 4), (4, 3)):
        name, (v4, v6), (other4, other6) = f"pod1{number}", pod(1, number), pod(1, other)
        netlab.add_namespace(name)
        netlab.ip(
            "node1",
            f"""
            link add port{number} type veth peer name eth0 netns {netlab.ns(name)}
            link set port{number} master cni0 up
            link set port{number} type bridge_slave hairpin on
            route add {v4}/32 dev cni0
            route add {v6}/128 dev cni0
            """,
        )
        netlab.ip(
            name,
            f"""
            addr add {v4}/32 dev eth0
            addr add {v6}/128 dev eth0 nodad
            link set eth0 up
            route add 169.254.1.1 dev eth0
            route add default via 169.254.1.1
            route add default via fe80::1 dev eth0
            route add {other4}/32 dev eth0
            route add {other6}/128 dev eth0
            """,
        )
    netlab.run("node1", "sysctl", "-qw", "net.ipv4.conf.cni0.proxy_arp=1")


def show_bridge_to_netfilter(*, on: bool) -> None:
    names = ("iptables", "ip6tables")
    netlab.run("node1", "sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{name}={int(on)}" for name in names))


def exchange(way: Way, family: int) -> None:
    """Ask and answer in datagrams; return when all have arrived."""
    with (
        way.while_(),
        netlab.udp_server(way.server, way.server_at[family], SERVER_PORT) as server,
        netlab.new_socket(way.client, way.client_at[family], socket.SOCK_DGRAM) as client,
    ):
        client.bind((way.client_at[family], next(_CLIENT_PORTS)))
        for _ in range(REQUESTS):
            client.sendto(bytes(REQUEST_BYTES), (way.to[family], way.port))
            data, sender = server.recvfrom(4096)
            assert len(data) == REQUEST_BYTES
        for _ in range(REPLIES):
            server.sendto(bytes(REPLY_BYTES), sender)
            assert len(client.recv(4096)) == REPLY_BYTES
