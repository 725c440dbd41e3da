# SPDX-License-Identifier: Apache-2.0
"""A small cluster's index, and a chunk joined with it; its books are checked each time."""

from collections.abc import Iterable
from typing import Any

from enricher.delivery.outgoing.recovery import Tail, read_back
from enricher.delivery.outgoing.unit import UnitWriter
from enricher.index.cidrs import CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, Out, join, resolve
from enricher.join.policy import DEFAULT, Policy
from schemas.amount import NOTHING
from schemas.flow import Flow, decode_flow
from schemas.topics import TopicNames
from tests.support.builders import total
from tests.support.enricher.build import chunk, node, pod

A1, A2, B1, HOST_B = "10.42.1.17", "10.42.1.18", "10.42.2.9", "192.168.0.21"
RDS, INTERNET = "10.9.7.4", "8.8.8.8"
WRITER = UnitWriter(TopicNames(), 3)


def index() -> Index:
    made = Index()
    for state in (
        node("node-a1", "192.168.0.11", "eu-west-1a", pod_cidrs=("10.42.1.0/24",)),
        node("node-b1", HOST_B, "eu-west-1b", pod_cidrs=("10.42.2.0/24",)),
        pod("api-1", A1, "node-a1"),
        pod("api-2", A2, "node-a1"),
        pod("db-0", B1, "node-b1"),
        pod("six", "fd00:42::17", "node-a1"),
    ):
        made.apply(state)
    return made


def resolver(states: Index | None = None) -> Resolver:
    return Resolver(states or index(), CidrMap([]))


def joined(
    rows: list[dict[str, Any]],
    out: Out | None = None,
    policy: Policy = DEFAULT,
    states: Index | None = None,
    **head: Any,
) -> Joined:
    raw = chunk(rows, **head)
    found = join(raw, resolve(raw, resolver(states)), 3, 88123, out, policy)
    accounted = total({"out": out.amount if out else NOTHING, "given": found.given, **found.aside})
    assert (found.taken.bytes, found.taken.packets) == (accounted.bytes, accounted.packets)
    assert total(found.by_scope).bytes == found.given.bytes
    assert total(found.senders) == total(found.aside)
    assert len(found.numbers) == len(found.values) == found.given.rows
    assert found.numbers == sorted(set(found.numbers))
    assert found.numbers == [int(decode_flow(value).id.rpartition("/")[2]) for value in found.values]
    return found


def flows(rows: list[dict[str, Any]], **overrides: Any) -> list[Flow]:
    return [decode_flow(value) for value in joined(rows, **overrides).values]


def out_of(values: Iterable[bytes]) -> Out:
    """Return what is known of flows read back."""
    tail = Tail()
    for value in values:
        tail.add(read_back(value, b"node-a1", 3))
    [out] = tail.chunks.values() or [Out()]
    return out
