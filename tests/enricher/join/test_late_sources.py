# SPDX-License-Identifier: Apache-2.0
"""Senders that may be pods which the index has not heard of yet."""

from typing import Any

import msgspec
import pytest

from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import late_sources, resolve
from schemas.amount import Amount
from schemas.flow import decode_flow
from tests.support.enricher.build import chunk, node, pod, row
from tests.support.enricher.joined import A1, B1, RDS, joined, resolver


def test_late_sources_are_senders_of_the_observing_node_only() -> None:
    rows = [
        row("10.42.1.99", B1),
        row("10.42.2.99", A1),
        row(A1, "10.42.1.98"),
        row("10.42.1.97", A1, direction=1),
    ]
    raw = chunk(rows)
    assert late_sources(raw, resolve(raw, resolver())) == {"10.42.1.99", "10.42.2.99"}, "also of another's podCIDR"


SUBNET = "10.9.8.5"
NO_CIDRS = [
    node("node-a1", "10.9.8.1", "eu-west-1a"),
    node("node-b1", "10.9.9.1", "eu-west-1b"),
    pod("api-1", "10.9.8.17", "node-a1"),
]


@pytest.mark.parametrize(
    ("fields", "waited_for"),
    [
        pytest.param({"src": SUBNET, "dst": "10.9.9.1"}, True, id="a sender of this node"),
        pytest.param({"src": SUBNET, "dst": "10.9.9.1", "direction": 1}, False, id="it came from elsewhere"),
        pytest.param({"src": SUBNET, "dst": "10.9.9.1", "direction": 2}, False, id="it was relayed"),
        pytest.param({"src": "10.9.8.17", "dst": SUBNET}, False, id="a receiver"),
        pytest.param({"src": "10.9.8.1", "dst": "10.9.9.1"}, False, id="the node itself"),
        pytest.param({"src": "10.9.8.17", "dst": "10.9.9.1"}, False, id="a pod that is known"),
        pytest.param(
            {"src": "10.9.7.4", "dst": "10.9.9.1"}, True, id="what the map names, for it may be a subnet of pods"
        ),
        pytest.param({"src": "11.0.3.7", "dst": "10.9.9.1"}, True, id="public: clusters are numbered so, too"),
        pytest.param({"src": "169.254.172.2", "dst": "10.9.9.1"}, False, id="of the node's own link"),
        pytest.param({"src": "203.0.113.0/24", "dst": "10.9.9.1"}, False, id="many, folded into one"),
        pytest.param({"src": "fe80::1", "dst": "ff02::1"}, False, id="of the link"),
        pytest.param({"src": "junk", "dst": "10.9.9.1"}, False, id="no address"),
    ],
)
def test_without_pod_cidrs_any_sender_of_this_node_may_be_a_pod(fields: dict[str, Any], waited_for: bool) -> None:
    states = Index()
    for state in NO_CIDRS:
        states.apply(state)
    mapped = Cidr(cidr="10.9.7.0/24", name="subnet-b", zone="eu-west-1b", region="eu-west-1")
    raw = chunk([row(**fields)])
    late = late_sources(raw, resolve(raw, Resolver(states, CidrMap([mapped]))))
    assert late == ({fields["src"]} if waited_for else set())


def test_a_sender_nobody_knows_is_on_the_node_that_sent_and_counted_as_late() -> None:
    states = Index()
    for state in NO_CIDRS:
        states.apply(state)
    rows = [row(SUBNET, "10.9.9.1", bytes=700), row("10.9.8.17", SUBNET, bytes=80), row("10.9.8.17", RDS, bytes=9)]
    found = joined(rows, states=states)
    late, back, unmapped = (decode_flow(value) for value in found.values)
    assert msgspec.to_builtins(late.source) == {
        "kind": "unknown",
        "address": SUBNET,
        "reason": "late_index",
        "k8s": {"node": {"name": "node-a1"}},
        "cloud": {"availability_zone": "eu-west-1a", "region": "eu-west-1"},
    }
    assert [late.scope, back.scope, unmapped.scope] == ["cross_zone", "same_node", "unknown"]
    assert unmapped.destination.reason == "vpc_unmapped"
    assert found.late == Amount(780, 20, 2)
