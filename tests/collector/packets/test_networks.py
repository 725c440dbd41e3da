# SPDX-License-Identifier: Apache-2.0
"""Whole networks in the kernel: what metered senders sent put aside, peers on the internet folded."""

import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.kernel import networks
from collector.kernel.layout import NETWORK_CLUSTER, NETWORK_KEPT
from collector.main import check_folding
from collector.settings import CollectorSettings
from collector.window.encode import address_text
from common.errors import Refusal
from enricher.index.cidrs import is_public
from schemas.raw import Hook
from tests.support.collector import metered, netlab
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import pod_address, pod_address6, wait_until

A, A6 = pod_address(1, 2), pod_address6(1, 2)
CLUSTER = ["10.42.0.0/16", "fd42::/16", "54.10.0.0/16"]


def bits_of(address: str, cluster: str) -> int:
    """What the longest prefix says, looked for the slow way."""
    found = networks.entries(networks.parse_networks(cluster))
    packed = ipaddress.ip_address(address).packed
    packed = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    number = int.from_bytes(packed)
    holding = [
        (length, bits)
        for (length, prefix), bits in found.items()
        if number >> (128 - length) == int.from_bytes(prefix) >> (128 - length)
    ]
    return max(holding)[1] if holding else 0


@given(st.ip_addresses(v=4) | st.sampled_from([n[0] for n in map(ipaddress.ip_network, networks._NOT_GLOBAL)]))
def test_no_address_that_is_not_public_is_folded_and_no_prefix_holds_one(address: ipaddress.IPv4Address) -> None:
    whole = [ipaddress.ip_network(f"{address}/24", strict=False)[at] for at in (0, 255)]
    if not bits_of(str(address), "") & NETWORK_KEPT:
        assert all(is_public(one.packed) for one in (address, *whole))
    elif is_public(address.packed):
        assert any(not is_public(one.packed) for one in ipaddress.ip_network(f"{address}/24", strict=False))


@pytest.mark.parametrize(
    ("address", "cluster", "bits"),
    [
        pytest.param("10.42.1.1", "10.42.0.0/16", NETWORK_CLUSTER | NETWORK_KEPT, id="pod"),
        pytest.param("10.43.1.1", "10.42.0.0/16", NETWORK_KEPT, id="private"),
        pytest.param("54.10.1.1", "54.10.0.0/16", NETWORK_CLUSTER | NETWORK_KEPT, id="public node"),
        pytest.param("54.11.1.1", "54.10.0.0/16", 0, id="internet"),
        pytest.param("192.168.1.1", "192.0.0.0/8", NETWORK_CLUSTER | NETWORK_KEPT, id="special within ours"),
        pytest.param("fd42::1", "fd42::/32", NETWORK_CLUSTER | NETWORK_KEPT, id="ipv6 pod"),
        pytest.param("fd43::1", "fd42::/32", 0, id="ipv6 of others"),
        pytest.param("::ffff:10.42.1.1", "10.42.0.0/16", NETWORK_CLUSTER | NETWORK_KEPT, id="mapped"),
    ],
)
def test_the_longest_prefix_says_what_all_that_hold_it_say(address: str, cluster: str, bits: int) -> None:
    assert bits_of(address, cluster) == bits


@pytest.mark.parametrize(
    "text", ["10.42.0.0/40", "10.42.0.1/16", "0.0.0.0/0", "::/0", "pods", "10.42.0.0/16,,x"], ids=str
)
def test_no_list_of_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        networks.parse_networks(text)


def test_nothing_is_folded_before_the_clusters_own_networks_are_named() -> None:
    with pytest.raises(Refusal, match="cluster_cidrs is empty"):
        check_folding(CollectorSettings(kafka_bootstrap="k:9092", cluster="c", node="n", external_addresses="none"))


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        pytest.param("ff001800000000000000ffff01020300", "1.2.3.0/24", id="prefix"),
        pytest.param("ff000000000000000000ffff00000000", "0.0.0.0/0", id="none"),
        pytest.param("00000000000000000000ffff01020300", "1.2.3.0", id="address"),
        pytest.param("ff020000000000000000000000000001", "ff02::1", id="ipv6 group"),
    ],
)
def test_how_a_folded_address_is_written(packed: str, text: str) -> None:
    assert address_text(bytes.fromhex(packed)) == text


@pytest.fixture(scope="module")
def deaf_pod(nodes: None) -> Iterator[None]:
    netlab.run(
        "pod12",
        "nft",
        "-f",
        "-",
        stdin="table inet d { chain c { type filter hook prerouting priority -500; drop; }; }",
    )
    yield
    netlab.run("pod12", "nft", "delete", "table", "inet", "d")


@pytest.fixture
def without_ipv6(nodes: None) -> Iterator[None]:
    """Nothing but what a test sends: neighbour discovery, too, may be what finds no room in a map."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -500; meta nfproto ipv6 drop; }}; "
        for hook in ("prerouting", "output")
    )
    netlab.run("node1", "nft", "-f", "-", stdin=f"table inet quiet {{ {chains} }}")
    yield
    netlab.run("node1", "nft", "delete", "table", "inet", "quiet")


def send(sources: list[str], length: int = 128) -> None:
    """Send one packet from each source, as if from afar, to the pod."""
    with netlab.new_socket("fabric", A, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for source in sources:
            header = struct.pack(
                "!BBHHHBBH4s4s",
                *(0x45, 0, length, 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(A)),
            )
            udp = struct.pack("!HHHH", 40000, 443, length - 20, 0)
            out.sendto(header + udp + bytes(length - 28), (A, 0))


@pytest.mark.parametrize(
    ("external", "expected"),
    [
        pytest.param("full", {"8.8.8.8", "8.8.8.9", "8.8.9.9", "54.11.0.1", "192.168.77.7", "100.64.0.1"}, id="full"),
        pytest.param("prefix", {"8.8.8.0/24", "8.8.9.0/24", "54.11.0.0/24", "192.168.77.7", "100.64.0.1"}, id="prefix"),
        pytest.param("none", {"0.0.0.0/0", "192.168.77.7", "100.64.0.1"}, id="none"),
    ],
)
def test_who_is_folded_and_who_is_put_aside(deaf_pod: None, external: str, expected: set[str]) -> None:
    wanted = metered.request(metered.pin_dir("nets"), cluster_cidrs=CLUSTER, external_addresses=external)
    meter = Metered("node1", wanted)
    outside = ["8.8.8.8", "8.8.8.9", "8.8.9.9", "54.11.0.1", "192.168.77.7", "100.64.0.1"]
    try:
        send(outside)
        send(["10.42.2.1", "54.10.200.3"] * 5)
        netlab.send_udp("pod11", "node1", netlab.node_address(1), count=3)  # not received from elsewhere: it counts
        assert meter.sum(dst=A) == (len(outside) * 128, len(outside))
        assert {flow.src for flow in meter.flows if flow.dst == A} == expected
        assert meter.aside("sender_in_cluster") == (10 * 128, 10)
        assert meter.sum(src=pod_address(1, 1))[1] == 3
    finally:
        meter.detach()


@pytest.mark.parametrize("hook", ["netfilter", "tc"])
@pytest.mark.parametrize(
    ("external", "expected"),
    [
        pytest.param("full", {"8.8.8.8", "8.8.8.9", "54.11.0.1", "54.10.0.1"}, id="full"),
        pytest.param("prefix", {"8.8.8.0/24", "54.11.0.0/24", "54.10.0.1"}, id="prefix"),
        pytest.param("none", {"0.0.0.0/0", "54.10.0.1"}, id="none"),
    ],
)
def test_what_is_sent_to_the_crowd_is_folded_as_well(
    deaf_pod: None, hook: Hook, external: str, expected: set[str]
) -> None:
    wanted = metered.request(metered.pin_dir("nets"), cluster_cidrs=CLUSTER, external_addresses=external, hook=hook)
    meter = Metered("node1", wanted)
    peers = ["8.8.8.8", "8.8.8.9", "54.11.0.1", "54.10.0.1"]
    try:
        with netlab.new_socket("pod12", A, socket.SOCK_DGRAM) as out:
            for peer in peers * 5:
                out.sendto(bytes(100), (peer, 443))
        sent = {"src": A, "protocol": 17, "direction": "egress"}
        assert wait_until(lambda: meter.sum(**sent) == (len(peers) * 5 * 128, len(peers) * 5)), meter.flows
        assert {flow.dst for flow in meter.flows if flow.src == A and flow.protocol == 17} == expected
    finally:
        meter.detach()


def test_ipv6_senders_of_the_cluster_are_put_aside(nodes: None) -> None:
    meter = Metered("node1", metered.request(metered.pin_dir("nets"), cluster_cidrs=CLUSTER))
    try:
        netlab.send_udp("pod21", "pod11", pod_address6(1, 1), count=4, size=100)
        netlab.send_udp("fabric", "pod11", pod_address6(1, 1), count=5, size=100)
        assert meter.sum(dst=pod_address6(1, 1)) == (5 * 148, 5)
        assert meter.aside("sender_in_cluster")[1] >= 4  # neighbour discovery of the cluster's own too
    finally:
        meter.detach()


def test_a_crowd_of_clients_does_not_fill_the_map(deaf_pod: None, without_ipv6: None) -> None:
    """Without folding the same crowd does, and what finds no room is counted to the byte."""
    crowd = [f"{20 + number % 7}.1.{number // 256 % 256}.{number % 256}" for number in range(20_000)]
    assert len(set(crowd)) == len(crowd)
    room = 2 * 144 * 4096
    for external, full in (("prefix", False), ("none", False), ("full", True)):
        wanted = metered.request(
            metered.pin_dir("nets"), cluster_cidrs=CLUSTER, external_addresses=external, map_memory=room
        )
        meter = Metered("node1", wanted)
        try:
            send(crowd)
            books = meter.collect()
            lost = books.lost.get("map_full")
            kept = meter.sum(dst=A)
            gone = (lost.bytes, lost.packets) if lost else (0, 0)
            assert (kept[0] + gone[0], kept[1] + gone[1]) == (len(crowd) * 128, len(crowd))
            assert (gone != (0, 0)) is full
        finally:
            meter.detach()
