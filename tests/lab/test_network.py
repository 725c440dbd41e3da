# SPDX-License-Identifier: Apache-2.0
"""The network of the lab, with real packets; what is counted is compared with what must have been sent."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from lab.errors import LabError
from lab.network import script, setup, truth
from lab.network.namespaces import enter, run
from lab.network.truth import Amount
from lab.plan import Plan, Pod
from lab.traffic.streams import Address, Traffic, traffic
from tests.support.lab.once import add_pod, tcp_once, udp_once

TIMESTAMPS = 12  # bytes of TCP options in every segment but the first, which has 20
HEADERS = {4: 20 + 20 + TIMESTAMPS, 6: 40 + 20 + TIMESTAMPS}
UDP_HEADERS = {4: 20 + 8, 6: 40 + 8}
MSS = {4: 1500 - HEADERS[4], 6: 1500 - HEADERS[6]}


Send = Callable[[Traffic], Awaitable[None]]


# What a busy machine makes of TCP: segments sent again, and others that come out of order, which costs an option more.
UNEVEN = ("RetransSegs", "TCPOFOQueue", "TCPDSACKOldSent", "TCPDSACKOfoSent")


def uneven(plan: Plan) -> int:
    """Return how many segments came twice or out of order, in all namespaces."""
    total = 0
    for namespace in script.namespaces(plan):
        with enter(namespace):
            lines = run(["cat", "/proc/net/snmp", "/proc/net/netstat"]).splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            counters = zip(names.split(), values.split(), strict=True)
            total += sum(int(value) for name, value in counters if name in UNEVEN)
    return total


def counted(plan: Plan, send: Send) -> dict[truth.Pair, Amount]:
    """Send something and return what the truth grew by; again if TCP did not send each segment once and in order."""
    for _ in range(5):
        before = uneven(plan)
        seen = counted_once(plan, send)
        if uneven(plan) == before:
            return seen
    pytest.fail("TCP sent segments again, five times in a row")


def counted_once(plan: Plan, send: Send) -> dict[truth.Pair, Amount]:
    """Send something and return what the truth grew by, ICMPv6 between neighbours left out."""

    async def inside() -> dict[truth.Pair, Amount]:
        async with traffic(plan) as running:
            before = truth.read(plan)
            await send(running)
            after = truth.read(plan)
        grown = {
            pair: Amount(amount.bytes - old.bytes, amount.packets - old.packets)
            for pair, amount in after.items()
            if (old := before.get(pair, Amount(0, 0))) != amount
        }
        return {pair: amount for pair, amount in grown.items() if not any(map(neighbour_discovery, pair))}

    return asyncio.run(inside())


def tcp(namespace: str, goal: Address, request_bytes: int, response_bytes: int = 0) -> Send:
    return lambda _: tcp_once(namespace, goal, request_bytes, response_bytes)


def udp(namespace: str, goal: Address, datagrams: int, datagram_bytes: int) -> Send:
    return lambda _: udp_once(namespace, goal, datagrams, datagram_bytes)


def neighbour_discovery(address: str) -> bool:
    return address.startswith(("fe80:", "ff02:"))


def address(pod: Pod, family: int) -> str:
    return pod.address_v4 if family == 4 else pod.address_v6


def assert_tcp(amount: Amount, payload: int, family: int) -> None:
    """Every segment has its own headers, the first eight bytes more; none is longer than the MTU allows."""
    assert amount.bytes == payload + amount.packets * HEADERS[family] + 8
    assert amount.packets >= -(-payload // MSS[family]) + 2


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "target"),
    [pytest.param("shop/web", "shop/api", id="across nodes"), pytest.param("shop/web", "shop/postgres", id="one node")],
)
def test_the_truth_of_udp_and_tcp_between_pods_is_exact(
    network_plan: Plan, source: str, target: str, family: int
) -> None:
    client, server = network_plan.pods_of(source)[0], network_plan.pods_of(target)[0]
    ours, theirs = address(client, family), address(server, family)
    namespace = script.pod_namespace(network_plan.prefix, client)
    goal = (theirs, server.workload.ports[0])

    datagrams = counted(network_plan, udp(namespace, goal, 100, 37))
    assert datagrams == {(ours, theirs): Amount(100 * (37 + UDP_HEADERS[family]), 100)}

    stream = counted(network_plan, tcp(namespace, goal, 300_000, 20_000))
    assert set(stream) == {(ours, theirs), (theirs, ours)}
    assert_tcp(stream[ours, theirs], 300_000, family)
    assert_tcp(stream[theirs, ours], 20_000, family)
    assert truth.dropped(network_plan) == 0


def test_small_and_fragmented_datagrams_are_counted_as_on_a_wire(network_plan: Plan) -> None:
    client, server = network_plan.pods_of("shop/web")[0], network_plan.pods_of("shop/api")[0]
    namespace, pair = script.pod_namespace(network_plan.prefix, client), (client.address_v4, server.address_v4)
    goal = (server.address_v4, 8080)
    small = counted(network_plan, udp(namespace, goal, 1, 8))
    assert small == {pair: Amount(36, 1)}  # 50 bytes with Ethernet's header, not padded to 60
    large = counted(network_plan, udp(namespace, goal, 1, 4000))
    assert large == {pair: Amount(4000 + 8 + 3 * 20, 3)}


@pytest.mark.parametrize("family", [4, 6])
def test_a_cluster_ip_reaches_every_backend(network_plan: Plan, family: int) -> None:
    client = network_plan.pods_of("shop/web")[0]
    service = network_plan.service("shop/api")
    goal = (service.cluster_ip_v4 if family == 4 else service.cluster_ip_v6, 80)
    namespace = script.pod_namespace(network_plan.prefix, client)

    async def send(running: Traffic) -> None:
        for _ in range(40):
            await tcp_once(namespace, goal, 100, 100)

    seen = {pair[1] for pair in counted(network_plan, send) if pair[0] == address(client, family)}
    assert seen == {address(pod, family) for pod in network_plan.pods_of("shop/api")}


def test_a_service_with_a_backend_on_the_clients_node_is_counted_by_its_pods(network_plan: Plan) -> None:
    client, server = network_plan.pods_of("shop/web")[0], network_plan.pods_of("shop/postgres")[0]
    assert client.node == server.node
    namespace = script.pod_namespace(network_plan.prefix, client)
    seen = counted(network_plan, tcp(namespace, ("10.96.0.11", 5432), 7_000, 90_000))
    assert set(seen) == {(client.address_v4, server.address_v4), (server.address_v4, client.address_v4)}
    assert_tcp(seen[client.address_v4, server.address_v4], 7_000, 4)
    assert_tcp(seen[server.address_v4, client.address_v4], 90_000, 4)


def test_a_node_reaches_cluster_ips_and_its_pods_with_its_own_address(network_plan: Plan) -> None:
    node = network_plan.node("node-a1")
    namespace = script.node_namespace(network_plan.prefix, node.name)
    local = network_plan.pods_of("shop/postgres")[0]
    for goal in (("10.96.0.11", 5432), (local.address_v4, 5432)):
        seen = counted(network_plan, tcp(namespace, goal, 5_000))
        assert_tcp(seen[node.address_v4, local.address_v4], 5_000, 4)


def test_a_pod_reaches_itself_through_its_service(network_plan: Plan) -> None:
    pod = network_plan.pods_of("shop/postgres")[0]
    namespace = script.pod_namespace(network_plan.prefix, pod)
    seen = counted(network_plan, tcp(namespace, ("10.96.0.11", 5432), 5_000))
    both_ways = seen.pop((pod.address_v4, pod.address_v4))
    assert both_ways.bytes == 5_000 + both_ways.packets * HEADERS[4] + 2 * 8
    assert seen == {}


@pytest.mark.parametrize("family", [4, 6])
def test_the_managed_database_sees_pods_and_the_internet_sees_nodes(network_plan: Plan, family: int) -> None:
    pod = network_plan.pods_of("shop/worker")[0]
    node = network_plan.node(pod.node)
    for name, sender in (
        ("orders-db", address(pod, family)),
        ("internet", node.address_v4 if family == 4 else node.address_v6),
    ):
        outside = network_plan.outside(name)
        goal = (outside.address_v4 if family == 4 else outside.address_v6, outside.ports[0])
        namespace = script.pod_namespace(network_plan.prefix, pod)
        seen = counted(network_plan, tcp(namespace, goal, 10_000, 50_000))
        assert_tcp(seen[sender, goal[0]], 10_000, family)
        assert_tcp(seen[goal[0], sender], 50_000, family)


@pytest.mark.parametrize(("source", "target"), [("pod", "shop/api"), ("node", "shop/api"), ("pod", "shop/postgres")])
def test_super_packets_reach_the_hook_and_are_cut_behind_it(network_plan: Plan, source: str, target: str) -> None:
    pod, server = network_plan.pods_of("shop/web")[0], network_plan.pods_of(target)[0]
    node = script.node_namespace(network_plan.prefix, pod.node)
    counter = f"table ip at_hook {{ chain c {{ type filter hook postrouting priority 99; ip daddr {server.address_v4}"
    with enter(node):
        run(["nft", "-f", "-"], counter + " counter; }; }\n")
    namespace = script.pod_namespace(network_plan.prefix, pod) if source == "pod" else node
    goal = (server.address_v4, server.workload.ports[0])
    seen = counted_once(network_plan, tcp(namespace, goal, 500_000))
    with enter(node):
        listed = json.loads(run(["nft", "-j", "list", "table", "ip", "at_hook"]))["nftables"]
        run(["nft", "delete", "table", "ip", "at_hook"])
    rule = next(item["rule"] for item in listed if "rule" in item)
    at_hook = next(part["counter"] for part in rule["expr"] if "counter" in part)
    on_wire = next(amount for pair, amount in seen.items() if pair[1] == server.address_v4)
    assert on_wire.packets > 3 * at_hook["packets"]
    assert on_wire.bytes - at_hook["bytes"] == (on_wire.packets - at_hook["packets"]) * HEADERS[4]


def test_nothing_leads_out(network_plan: Plan) -> None:
    link = script.control_link(network_plan.prefix)
    assert run(["cat", f"/proc/sys/net/ipv4/conf/{link}/forwarding"]).strip() == "0"
    assert run(["ip", "-6", "addr", "show", "dev", link]) == ""
    for namespace in script.namespaces(network_plan):
        with enter(namespace):
            routes = run(["ip", "route"]) + run(["ip", "-6", "route"])
            links = json.loads(run(["ip", "-j", "link"]))
        assert network_plan.control_v4 not in routes
        assert {found["ifname"] for found in links if "link_netnsid" not in found} <= {"lo", "br0"}


def test_a_pod_comes_and_goes_in_a_running_lab(network_plan: Plan) -> None:
    template = network_plan.pods_of("shop/web")[0]
    extra = Pod("shop", "web-extra", template.workload, "node-c1", "10.42.4.99", "fd42:4::99")
    add_pod(network_plan, extra)
    namespace = script.pod_namespace(network_plan.prefix, extra)
    goal = (network_plan.pods_of("shop/postgres")[0].address_v6, 5432)
    seen = counted(network_plan, tcp(namespace, goal, 9_000))
    assert_tcp(seen[extra.address_v6, goal[0]], 9_000, 6)
    setup.remove_pod(network_plan, extra)
    with pytest.raises(LabError, match="not there"), enter(namespace):
        pass


def test_streams_run_at_their_rates(network_plan: Plan) -> None:
    name, seconds = "shop/web -> service:shop/api", 0.0
    wanted = {f"{stream.source} -> {stream.target}" for stream in network_plan.streams}

    async def inside() -> Traffic:
        nonlocal seconds
        loop = asyncio.get_running_loop()
        async with traffic(network_plan) as running:
            began = loop.time()
            streams = asyncio.create_task(running.run(network_plan.streams))
            async with asyncio.timeout(120):
                while running.requests[name] < 60 or set(+running.requests) != wanted:
                    assert not streams.done(), "streams ended by themselves"
                    await asyncio.sleep(0.02)
            seconds = loop.time() - began
            streams.cancel()
            await asyncio.wait([streams])
            return running

    running = asyncio.run(inside())
    assert running.failures == {}
    # 3 replicas, 20 a second each. That a busy machine makes fewer is no fault.
    assert 60 <= running.requests[name] <= 60 * seconds + 3


def test_an_overlapping_fabric_is_refused_in_one_line(network_plan: Plan) -> None:
    with pytest.raises(LabError, match=f"192.168.{network_plan.fabric}.250; choose another"):
        setup.create(network_plan)
