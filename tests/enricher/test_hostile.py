# SPDX-License-Identifier: Apache-2.0
"""Hostile raw chunks and topology through the join: refused or taken, and what comes out is as it must be."""

from contextlib import suppress

from aiokafka.structs import ConsumerRecord
from hypothesis import example, given
from hypothesis import strategies as st

from enricher.delivery.incoming.earlier import BootStates
from enricher.delivery.outgoing.recovery import Tail, read_back
from enricher.delivery.outgoing.unit import UnitWriter
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.join.policy import NodeNames, Policy
from schemas.errors import DecodeError
from schemas.flow import decode_flow
from schemas.ledger import decode_ledger
from schemas.raw import RawChunk, decode_chunk
from schemas.topics import TopicNames
from schemas.topology import decode_topology, encode_topology
from tests.support.builders import raw_chunk
from tests.support.enricher.build import END, START, node, pod, service
from tests.support.hostile import EXAMPLES, hostile
from tests.support.sinks import flows

ADDRESSES = ["10.42.1.7", "10.42.2.9", "fd00:42::17", "8.8.8.8"]
RAW = raw_chunk(
    ADDRESSES,
    {"start_ms": START, "end_ms": END},
    src=[0, 1, 2, 0],
    dst=[1, 0, 0, 3],
    bytes=[1_500, 7, 40, 2**40],
    packets=[1, 1, 1, 9],
    direction=[0, 1, 2, 0],
    dnat=[None, 1, 0, 0],
)
STATES = [
    node("node-a1", "10.0.0.1", pod_cidrs=("10.42.1.0/24",)),
    node("node-b1", "10.0.0.2", "eu-west-1b", pod_cidrs=("10.42.2.0/24",)),
    pod("web-0", ADDRESSES[0], "node-a1"),
    pod("db-0", ADDRESSES[1], "node-b1"),
    service("db", "10.96.0.1"),
]
CHUNKS = hostile(RAW)
POLICIES = st.sampled_from([Policy(NodeNames(["fargate-*"])), Policy(NodeNames([]), detail="workload")])


def index() -> Index:
    made = Index()
    for state in STATES:
        made.apply(state)
    return made


def enriched(chunk: RawChunk, states: Index, policy: Policy) -> None:
    """Join a chunk and look at everything that would be published."""
    joined = join(chunk, resolve(chunk, Resolver(states, CidrMap([]))), 0, 7, None, policy)
    flows = [decode_flow(value) for value in joined.values]
    assert sum(flow.bytes for flow in flows) == joined.given.bytes
    writer = UnitWriter(TopicNames(), 0)
    for record in (writer.enriched(chunk, joined, None, END), writer.repeat(chunk, 9, END)):
        entry = decode_ledger(record.value)
        assert entry.balance() is None
        assert entry.key == record.key


@EXAMPLES
@given(CHUNKS, POLICIES)
def test_a_chunk_that_is_taken_becomes_flows_that_can_be_read(value: bytes, policy: Policy) -> None:
    try:
        chunk = decode_chunk(value)
    except DecodeError:
        return
    enriched(chunk, index(), policy)


@EXAMPLES
@given(st.lists(hostile(*map(encode_topology, STATES)), max_size=6), POLICIES)
def test_topology_that_is_taken_can_be_joined_with(values: list[bytes], policy: Policy) -> None:
    states = index()
    for value in values:
        try:
            state = decode_topology(value)
        except DecodeError:
            continue
        states.apply(state)
        assert decode_topology(encode_topology(state)) == state
    enriched(decode_chunk(RAW), states, policy)
    states.prune(START)


@EXAMPLES
@given(hostile(RAW, flows.encoded(flows.flow())))
@example(b'{"cluster":"\xff"}')
@example(b'{"id":"\xff"}')
@example(b'{"x":' + b"[" * 200_000)
@example(b'{"id":"c/n/b/1/1/0/1","bytes":1,"packets":1,"rows":[%d]}' % 2**63)
@example(b" " * 2**21)
def test_what_is_read_back_after_a_start_is_taken_or_refused(value: bytes) -> None:
    BootStates("prod").note([ConsumerRecord("raw", 0, 0, 0, 0, b"node-a1", value, None, 7, len(value), ())], START)
    with suppress(DecodeError):
        Tail().add(read_back(value, b"node-a1", 3))
