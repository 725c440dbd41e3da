# SPDX-License-Identifier: Apache-2.0
"""Nodes' further addresses as history: who had one when, what others make of it, and what it costs whoever lies."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from common.kafka.publish import Record
from common.service.running import Service
from enricher.delivery.topology_topic import TopologyTopic
from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.reachable import MOST_A_DAY, MOST_ADDRESSES, heard
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.kube.cluster import ClusterView
from enricher.kube.states.objects import Node
from enricher.metrics import EnricherMetrics
from enricher.settings import EnricherSettings
from schemas.amount import Amount
from schemas.flow import Flow, decode_flow
from schemas.raw import MAX_NODE_ADDRESSES, RawChunk
from schemas.topology import TopologyState, decode_topology, encode_topology
from tests.support.enricher.build import START, chunk, node, pod, row, service

WINDOW = 10_000
CARD, VIRTUAL, POD_A, POD_B, HOST_A = "172.20.0.11", "192.168.0.100", "10.42.1.17", "10.42.2.9", "192.168.0.11"
STATES = [
    node("node-a1", HOST_A, "eu-west-1a"),
    node("node-b1", "192.168.0.21", "eu-west-1b"),
    node("node-c1", "192.168.0.31", "eu-west-1c"),
    pod("api-1", POD_A, "node-a1"),
    pod("db-0", POD_B, "node-b1"),
]


class World:
    """A cluster that hears chunks; windows are numbered from START."""

    def __init__(self, *states: TopologyState, cidrs: tuple[Cidr, ...] = (), live: bool = True) -> None:
        self.now = START
        self.index = Index()
        self.unheard: Counter[str] = Counter()
        self.cluster = ClusterView(
            self.index, live=live, clock=lambda: self.now, tell_unheard=lambda what: self.unheard.update([what])
        )
        self.cluster.load([*STATES, *states])
        self.resolver = Resolver(self.index, CidrMap(list(cidrs)))

    def hear(self, window: int, name: str, *addresses: str, **head: Any) -> None:
        raw = self.chunk(window, [], node=name, **head)
        self.now = max(self.now, START + (window + 1) * WINDOW)
        self.cluster.hear(msgspec.structs.replace(raw, node_addresses=list(addresses)))

    def chunk(self, window: int, rows: list[dict[str, Any]], **head: Any) -> RawChunk:
        times = {"start_ms": START + window * WINDOW, "end_ms": START + (window + 1) * WINDOW}
        return chunk(rows, **(times | head))

    def whose(self, address: str, window: int) -> tuple[str, str | None, str | None]:
        found = self.resolver.window(START + window * WINDOW, START + (window + 1) * WINDOW).resolve(address)
        return found.kind, found.node, found.reason

    def join(self, window: int, rows: list[dict[str, Any]], **head: Any) -> tuple[dict[str, Amount], list[Flow]]:
        raw = self.chunk(window, rows, **head)
        joined = join(raw, resolve(raw, self.resolver), 0, 0)
        return joined.aside, [decode_flow(value) for value in joined.values]


NOBODY = ("unknown", None, "vpc_unmapped")


def test_what_a_second_card_sends_counts_once_and_what_it_gets_has_a_scope() -> None:
    world = World()
    rows = [row(CARD, POD_B, direction=1, bytes=700), row(POD_B, CARD)]
    aside, flows = world.join(0, rows, node="node-b1")
    assert (aside, [flow.scope for flow in flows]) == ({}, ["unknown", "unknown"])
    world.hear(0, "node-a1", HOST_A, CARD)
    aside, [flow] = world.join(0, rows, node="node-b1")
    assert aside == {"sender_in_cluster": Amount(700, 10, 1)}
    assert (flow.scope, flow.destination.kind) == ("cross_zone", "node")
    assert world.whose(CARD, -1) == NOBODY, "as of then: nobody said so before"


def test_a_public_address_of_a_node_is_no_internet() -> None:
    world = World()
    assert world.whose("198.41.0.4", 0) == ("external", None, None)
    world.hear(0, "node-a1", HOST_A, "198.41.0.4")
    assert world.whose("198.41.0.4", 0) == ("node", "node-a1", None)


def test_a_virtual_address_that_moves_is_both_nodes_in_that_window_alone() -> None:
    world = World()
    world.hear(0, "node-a1", HOST_A, VIRTUAL)
    world.hear(1, "node-a1", HOST_A)
    world.hear(1, "node-b1", VIRTUAL)
    assert [world.whose(VIRTUAL, window) for window in (0, 1, 2)] == [
        ("node", "node-a1", None),
        ("unknown", None, "ambiguous_owner"),
        ("node", "node-b1", None),
    ]
    [aside, _] = world.join(1, [row(VIRTUAL, POD_A, direction=1)], node="node-c1")
    assert aside == {"sender_in_cluster": Amount(1000, 10, 1)}, "whoever of them sent it has counted it"


def test_whoever_is_dead_says_no_more_and_the_next_holder_counts() -> None:
    world = World()
    world.hear(0, "node-a1", VIRTUAL)
    world.hear(5, "node-b1", VIRTUAL)
    assert [world.whose(VIRTUAL, window)[1] for window in (0, 4, 6)] == ["node-a1", "node-a1", "node-b1"]


def test_who_sends_from_an_address_that_another_node_says_it_has_is_where_it_sends() -> None:
    world = World()
    world.hear(0, "node-b1", VIRTUAL)
    aside, [flow] = world.join(0, [row(VIRTUAL, POD_A)], node="node-a1")
    assert (flow.scope, flow.source.reason, aside) == ("same_node", "late_index", {})


def test_addresses_that_come_and_go() -> None:
    world = World()
    said: list[list[str]] = [[HOST_A], [CARD], [CARD], [VIRTUAL, CARD], [VIRTUAL], [VIRTUAL], [], [], [CARD]]
    for window, addresses in enumerate(said):
        world.hear(window, "node-a1", *addresses)
    held = {
        address: [window for window in range(-1, 10) if world.whose(address, window)[0] == "node"]
        for address in (CARD, VIRTUAL)
    }
    assert held == {CARD: [1, 2, 3, 4, 8, 9], VIRTUAL: [3, 4, 5, 6]}
    states = list(world.cluster.told.values())
    again = Index()
    for state in [*STATES, *map(decode_topology, map(encode_topology, states))]:
        again.apply(state)
    # The same chunks once more, as after a crash, change nothing.
    for window, addresses in enumerate(said):
        raw = msgspec.structs.replace(world.chunk(window, [], node="node-a1"), node_addresses=addresses)
        assert heard(again, raw, world.now) == []


@pytest.mark.parametrize(
    ("address", "owner", "cidrs", "kind"),
    [
        pytest.param("10.42.9.9", pod("web-1", "10.42.9.9", "node-c1"), (), "pod", id="a pod's"),
        pytest.param("192.168.0.31", None, (), "node", id="a node's"),
        pytest.param("10.96.0.7", service("web", "10.96.0.7"), (), "service", id="a service's"),
        pytest.param("172.20.0.9", None, (Cidr(cidr="172.20.0.0/24", name="db"),), "cidr", id="what the map names"),
    ],
)
def test_what_somebody_is_known_to_have_no_node_can_claim(
    address: str, owner: TopologyState | None, cidrs: tuple[Cidr, ...], kind: str
) -> None:
    world = World(*([owner] if owner else []), cidrs=cidrs)
    before = world.whose(address, 0)
    world.hear(0, "node-a1", address)
    assert world.whose(address, 0) == before
    assert before[0] == kind


def test_what_the_map_says_is_ours_a_node_may_claim() -> None:
    world = World(cidrs=(Cidr(cidr="172.20.0.0/24", name="cards", ours=True),))
    world.hear(0, "node-a1", CARD)
    assert world.whose(CARD, 0) == ("node", "node-a1", None)
    assert world.whose("172.20.0.12", 0)[0] == "cidr"


def test_what_is_not_believed() -> None:
    world = World()
    world.hear(0, "stranger", CARD)
    world.hear(0, "node-a1", "junk", "203.0.113.0/24", HOST_A)
    ahead = msgspec.structs.replace(world.chunk(100, [], node="node-a1"), node_addresses=[CARD])
    world.cluster.hear(ahead)
    world.cluster.hear(world.chunk(0, [], node="node-a1"))  # of an earlier version: it says nothing
    assert world.cluster.told == {}
    gone = World(msgspec.structs.replace(STATES[0], to_ms=START + WINDOW))
    gone.now = START + 10 * WINDOW
    gone.hear(0, "node-a1", CARD)
    assert gone.cluster.told == {}, "nobody would end it"


def test_lies_without_end_are_few_states_of_bounded_length() -> None:
    world, day = World(), 8640
    for window in range(0, 3 * day, 8):
        many = [f"172.{window % 250}.0.{number}" for number in range(MAX_NODE_ADDRESSES)]
        world.hear(window, "node-a1", *many)
    states = world.index.states_of("addresses/node-a1")
    assert len(states) == 3 * MOST_A_DAY
    assert {len(state.addresses) for state in states} <= {MOST_ADDRESSES, 2 * MOST_ADDRESSES}
    told = len(range(0, 3 * day, 8))
    assert world.unheard == {"addresses": told, "change": told - 3 * MOST_A_DAY}


def test_what_a_node_says_within_the_bounds_is_heard_whole() -> None:
    world = World()
    for window in range(MOST_A_DAY):
        world.hear(window, "node-a1", f"172.20.1.{window}", *(f"172.20.0.{n}" for n in range(MOST_ADDRESSES - 1)))
        world.hear(window, "node-b1", HOST_A)
    assert not world.unheard
    world.hear(MOST_A_DAY, "node-a1", CARD)
    assert world.unheard == {"change": 1}


def test_a_node_that_goes_takes_its_addresses_along() -> None:
    world = World()
    world.hear(0, "node-a1", CARD)
    metadata = {"name": "node-a1", "uid": "uid-node-a1", "resourceVersion": "60", "creationTimestamp": None}
    found = msgspec.convert({"metadata": metadata, "status": {"addresses": []}}, Node)
    world.cluster.begin()
    world.now = START + 7 * WINDOW
    world.cluster.drop(found)
    assert [world.whose(CARD, window) for window in (6, 7)] == [("node", "node-a1", None), NOBODY]
    [state] = world.cluster.told.values()
    assert state.to_ms == world.now


class Kafka:
    """Takes records."""

    def __init__(self) -> None:
        self.taken: list[Record] = []

    async def publish(self, records: list[Record]) -> None:
        self.taken += records


def test_who_read_it_writes_it_and_who_reads_the_topic_knows_it() -> None:
    world, kafka = World(), Kafka()
    world.hear(0, "node-a1", CARD)
    world.cluster.pending[b"pod/uid-api-1/100"] = STATES[3]
    made = Service("enricher")
    topic = TopologyTopic(made, EnricherSettings(), world.cluster, EnricherMetrics(made.registry, world.index))

    async def write() -> None:
        task = asyncio.create_task(topic.write(kafka, lambda: False))  # type: ignore[arg-type]
        async with asyncio.timeout(120):
            while world.cluster.told:  # noqa: ASYNC110 - another task empties it
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(write())
    assert [record.key for record in kafka.taken] == [f"addresses/node-a1/{START}".encode()]
    assert list(world.cluster.pending) == [b"pod/uid-api-1/100"], "that is the writer's"
    other = World(decode_topology(kafka.taken[0].value))
    assert other.whose(CARD, 0) == ("node", "node-a1", None)


def test_without_a_topic_nothing_waits_to_be_written() -> None:
    world = World(live=False)
    world.hear(0, "node-a1", CARD)
    assert (world.whose(CARD, 0), world.cluster.told) == (("node", "node-a1", None), {})
