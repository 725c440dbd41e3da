# SPDX-License-Identifier: Apache-2.0
"""Hook tc on real packets, by TCX and by clsact: the truth is what the fabric saw, behind all segmentation."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.collector import metered, netlab, super_packets
from tests.support.collector.metered import Metered
from tests.support.collector.netlab import (
    node_address,
    node_address6,
    pod_address,
    pod_address6,
    send_tcp,
    send_udp,
    wait_until,
)

TCP, UDP = 6, 17
A4, A6 = pod_address(1, 1), pod_address6(1, 1)
B4, B6 = pod_address(2, 1), pod_address6(2, 1)
Meters = dict[int, Metered]


@pytest.fixture(scope="module", params=["tcx", "clsact", "clsact-by-helper"])
def _meters_at_tc(nodes: None, request: pytest.FixtureRequest) -> Iterator[Meters]:
    by: str = request.param
    with metered.both_nodes("tc", hook="tc", direct_loads=by != "clsact-by-helper", use_tcx=by == "tcx") as made:
        yield made


@pytest.fixture
def meters(_meters_at_tc: Meters) -> Meters:
    for meter in _meters_at_tc.values():
        meter.forget()
    return _meters_at_tc


@pytest.mark.parametrize(
    ("a", "b", "headers"), [pytest.param(A4, B4, 28, id="ipv4"), pytest.param(A6, B6, 48, id="ipv6")]
)
def test_udp_is_counted_to_the_byte_at_sender_and_receiver(meters: Meters, a: str, b: str, headers: int) -> None:
    send_udp("pod11", "pod21", b, count=7, size=1000)
    expected = (7 * (1000 + headers), 7)
    assert meters[1].sum(src=a, dst=b, protocol=UDP, direction="egress", src_port=0, dst_port=5353) == expected
    assert meters[2].sum(src=a, dst=b, protocol=UDP, direction="ingress", src_port=0, dst_port=5353) == expected
    assert {chunk_hook(meter) for meter in meters.values()} == {"tc"}


def _send_tcp_and_compare(meters: Meters, sender: str, receiver: str, a: str, b: str, size: int) -> None:
    flows = [(a, b), (b, a)]
    netlab.count_on_fabric(flows)
    send_tcp(sender, receiver, b, at=b, port=8080, at_port=8080, size=size)

    def same() -> bool:
        truth = netlab.fabric_counts(flows)
        forward = [
            meters[1].sum(src=a, dst=b, protocol=TCP, direction="egress", dst_port=8080),
            meters[2].sum(src=a, dst=b, protocol=TCP, direction="ingress", dst_port=8080),
        ]
        back = [
            meters[2].sum(src=b, dst=a, protocol=TCP, direction="egress", src_port=8080),
            meters[1].sum(src=b, dst=a, protocol=TCP, direction="ingress", src_port=8080),
        ]
        return forward == [truth[a, b]] * 2 and back == [truth[b, a]] * 2 and truth[a, b][0] > size

    assert wait_until(same), f"wire {netlab.fabric_counts(flows)}, counted {(meters[1].of(a, b), meters[2].of(a, b))}"


@pytest.mark.parametrize(("a", "b"), [pytest.param(A4, B4, id="ipv4"), pytest.param(A6, B6, id="ipv6")])
def test_tcp_super_packets_count_what_the_fabric_saw(meters: Meters, a: str, b: str) -> None:
    _send_tcp_and_compare(meters, "pod11", "pod21", a, b, 5_000_000)


@pytest.mark.parametrize(
    ("sender", "receiver", "a", "b"),
    [
        pytest.param("node1", "node2", node_address(1), node_address(2), id="host-ipv4"),
        pytest.param("node1", "node2", node_address6(1), node_address6(2), id="host-ipv6"),
        pytest.param("pod11", "pod21", A4, B4, id="forwarded-ipv4"),
        pytest.param("pod11", "pod21", A6, B6, id="forwarded-ipv6"),
    ],
)
def test_big_tcp(meters: Meters, sender: str, receiver: str, a: str, b: str) -> None:
    with super_packets.beyond_64_kib():
        _send_tcp_and_compare(meters, sender, receiver, a, b, 20_000_000)
        assert super_packets.longer("node1") > 10


@pytest.mark.parametrize(("a", "b"), [pytest.param(A4, B4, id="ipv4"), pytest.param(A6, B6, id="ipv6")])
def test_udp_super_packets_count_what_the_fabric_saw(meters: Meters, a: str, b: str) -> None:
    netlab.count_on_fabric([(a, b)])
    with netlab.udp_server("pod21", b, 5353) as server, netlab.new_socket("pod11", b, socket.SOCK_DGRAM) as client:
        client.setsockopt(UDP, 103, 700)  # UDP_SEGMENT
        client.sendto(b"x" * 10_000, (b, 5353))
        sizes = [len(server.recv(65536)) for _ in range(15)]
    assert sizes == [700] * 14 + [200]
    truth = netlab.fabric_counts([(a, b)])[a, b]
    assert truth[1] == 15
    assert meters[1].sum(src=a, dst=b, protocol=UDP, direction="egress") == truth


@pytest.mark.parametrize(
    ("sender", "a", "b"),
    [
        pytest.param("pod11", A4, B4, id="pod-ipv4"),
        pytest.param("pod11", A6, B6, id="pod-ipv6"),
        pytest.param("node1", node_address(1), B4, id="host-ipv4"),
        pytest.param("node1", node_address6(1), B6, id="host-ipv6"),
    ],
)
def test_fragments_are_counted_one_by_one_and_only_the_first_has_ports(
    meters: Meters, sender: str, a: str, b: str
) -> None:
    netlab.count_on_fabric([(a, b)])
    send_udp(sender, "pod21", b, count=5, size=8000)
    truth = netlab.fabric_counts([(a, b)])[a, b]
    assert truth[1] == 30
    assert meters[1].sum(src=a, dst=b, protocol=UDP, direction="egress") == truth
    assert meters[1].sum(src=a, dst=b, direction="egress", dst_port=5353)[1] == 5


def test_nothing_within_the_node_is_seen(meters: Meters) -> None:
    other, host = pod_address(1, 2), node_address(1)
    send_udp("pod11", "pod12", other)
    send_udp("pod11", "node1", host)
    send_udp("node1", "node1", "127.0.0.1")
    assert meters[1].sum(src=A4) == meters[1].sum(dst="127.0.0.1") == (0, 0)
    assert meters[1].aside("loopback") == (0, 0)


def test_traffic_between_hosts_and_from_an_unmetered_sender(meters: Meters) -> None:
    send_udp("node1", "node2", node_address(2))
    send_udp("fabric", "node1", node_address(1))
    send_udp("fabric", "pod11", A4)
    assert meters[1].sum(src=node_address(1), dst=node_address(2), direction="egress") == (7 * 1028, 7)
    assert meters[2].sum(src=node_address(1), dst=node_address(2), direction="ingress") == (7 * 1028, 7)
    assert meters[1].sum(src=netlab.CLIENT, dst=node_address(1), direction="ingress") == (7 * 1028, 7)
    assert meters[1].sum(src=netlab.CLIENT, dst=A4, direction="ingress") == (7 * 1028, 7)
    assert meters[1].sum(src=netlab.CLIENT, direction="egress") == (0, 0)


def test_a_masqueraded_pod_is_the_sender_all_the_same(meters: Meters) -> None:
    """Its replies come in for the node: who of it asked, nobody knows there yet."""
    seen = [(node_address(1), netlab.CLIENT)]
    netlab.count_on_fabric(seen)
    send_tcp("pod11", "fabric", netlab.CLIENT, at=netlab.CLIENT, port=8081, at_port=8081, size=2_000_000)

    def same() -> bool:
        truth = netlab.fabric_counts(seen)[seen[0]]
        return meters[1].sum(src=A4, dst=netlab.CLIENT, direction="egress", dst_port=8081, dnat=0) == truth

    assert wait_until(same), f"wire {netlab.fabric_counts(seen)}, counted {meters[1].of(netlab.CLIENT)}"
    assert netlab.fabric_counts(seen)[seen[0]][0] > 2_000_000
    assert meters[1].sum(src=node_address(1), dst=netlab.CLIENT) == (0, 0)
    assert meters[1].sum(src=netlab.CLIENT, dst=node_address(1), src_port=8081, direction="ingress", dnat=2)[1] > 2
    assert meters[1].sum(src=netlab.CLIENT, dst=A4) == (0, 0)


@pytest.mark.parametrize(
    ("service", "a", "b"),
    [pytest.param(netlab.CLUSTER_IP, A4, B4, id="ipv4"), pytest.param(netlab.CLUSTER_IP6, A6, B6, id="ipv6")],
)
def test_service_traffic_has_the_pods_addresses_and_is_marked(meters: Meters, service: str, a: str, b: str) -> None:
    flows = [(a, b), (b, a)]
    netlab.count_on_fabric(flows)
    send_tcp("pod11", "pod21", service, at=b, port=80, at_port=8080, size=100_000)

    def same() -> bool:
        truth = netlab.fabric_counts(flows)
        return (
            meters[1].sum(src=a, dst=b, direction="egress", dnat=1, dst_port=8080) == truth[a, b]
            and meters[1].sum(src=b, dst=a, direction="ingress", src_port=8080) == truth[b, a]
        )

    assert wait_until(same), f"wire {netlab.fabric_counts(flows)}, counted {meters[1].of(a, b, service)}"
    assert meters[1].sum(dst=service) == meters[1].sum(src=service) == (0, 0)


def test_a_node_port_is_a_relay_and_its_replies_have_the_backends_address(meters: Meters) -> None:
    """What came in for the NodePort is also an ingress: that it will be sent on is not known there yet."""
    client, node = netlab.CLIENT, node_address(1)
    relayed = [(node, B4)]
    netlab.count_on_fabric(relayed)
    send_tcp("fabric", "pod21", node, at=B4, port=30080, at_port=8080, size=500_000)

    def same() -> bool:
        truth = netlab.fabric_counts(relayed)[relayed[0]]
        return meters[1].sum(src=client, dst=B4, direction="relay", dst_port=8080, dnat=1) == truth

    assert wait_until(same), f"wire {netlab.fabric_counts(relayed)}, counted {meters[1].of(client, B4)}"
    assert netlab.fabric_counts(relayed)[relayed[0]][0] > 500_000
    assert meters[1].sum(src=client, dst=node, direction="ingress", dst_port=30080)[0] > 500_000
    assert meters[1].sum(src=B4, dst=client, direction="relay", src_port=8080, dnat=0)[1] >= 3
    assert meters[1].sum(src=node) == (0, 0)


def chunk_hook(meter: Metered) -> str:
    assert meter.meter.current is not None
    return meter.meter.current.meta.hook
