# SPDX-License-Identifier: Apache-2.0
"""One raw chunk to flows and books."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import join, resolve
from enricher.join.policy import NodeNames, Policy
from schemas.amount import NOTHING, Amount
from schemas.flow import decode_flow
from schemas.raw import ENCAPSULATIONS
from tests.support.builders import total
from tests.support.enricher.build import START, chunk, node, pod, row
from tests.support.enricher.joined import A1, A2, B1, HOST_B, INTERNET, RDS, flows, index, joined


def test_a_flow_is_written_as_the_contract_says() -> None:
    [value] = joined([row(A1, B1, dnat=1, bytes=1048576, packets=742)]).values
    assert value == orjson.dumps(orjson.loads(value))
    assert value == (
        b'{"id":"prod-eu/node-a1/5be6c2f0a91d/3/8121/0/0","start_ms":1795384000000,"end_ms":1795384010000,'
        b'"scope":"cross_zone","bytes":1048576,"packets":742,"direction":"egress","dnat":true,'
        b'"network":{"transport":"tcp","type":"ipv4"},'
        b'"source":{"kind":"pod","address":"10.42.1.17","k8s":{"namespace":{"name":"shop"},"pod":{"name":"api-1"},'
        b'"workload":{"kind":"Deployment","name":"api"},"node":{"name":"node-a1"}},'
        b'"cloud":{"availability_zone":"eu-west-1a","region":"eu-west-1"}},'
        b'"destination":{"kind":"pod","address":"10.42.2.9","port":5432,"k8s":{"namespace":{"name":"shop"},'
        b'"pod":{"name":"db-0"},"workload":{"kind":"Deployment","name":"db"},"node":{"name":"node-b1"}},'
        b'"cloud":{"availability_zone":"eu-west-1b","region":"eu-west-1"}},'
        b'"observer":{"node":"node-a1","cloud":{"availability_zone":"eu-west-1a","region":"eu-west-1"}},'
        b'"k8s":{"cluster":{"name":"prod-eu"}},"raw":{"partition":3,"offset":88123}}'
    )


@pytest.mark.parametrize(
    ("fields", "scope"),
    [
        pytest.param({"src": A1, "dst": A2}, "same_node", id="pods of one node"),
        pytest.param({"src": A1, "dst": "192.168.0.11"}, "same_node", id="pod to its node"),
        pytest.param({"src": A1, "dst": B1}, "cross_zone", id="to another zone"),
        pytest.param({"src": A1, "dst": INTERNET}, "external", id="to the internet"),
        pytest.param({"src": A1, "dst": RDS}, "unknown", id="to somewhere unmapped"),
        pytest.param({"src": INTERNET, "dst": A1, "direction": 1}, "external", id="from the internet"),
        pytest.param({"src": RDS, "dst": A1, "direction": 1}, "unknown", id="from somewhere unmapped"),
        pytest.param({"src": INTERNET, "dst": B1, "direction": 2}, "cross_zone", id="relayed to another zone"),
        pytest.param({"src": B1, "dst": A1, "direction": 2}, "same_node", id="relayed to the observer's own pod"),
        pytest.param({"src": A1, "dst": INTERNET, "direction": 2}, "external", id="relayed to the internet"),
    ],
)
def test_scope_of_a_row(fields: dict[str, Any], scope: str) -> None:
    [flow] = flows([row(**fields)])
    assert flow.scope == scope


@pytest.mark.parametrize(
    ("source", "destination", "scope"),
    [
        pytest.param("10.42.1.90", A1, "unknown", id="a pod of the new one to one of the old"),
        pytest.param(A1, "10.42.1.90", "unknown", id="and back"),
        pytest.param("192.168.0.99", A1, "unknown", id="the new one to a pod of the old"),
        pytest.param("10.42.1.90", "192.168.0.99", "same_node", id="on the new one"),
        pytest.param(A1, A2, "same_node", id="on the old one"),
    ],
)
def test_a_node_that_came_back_elsewhere_under_its_name_is_not_the_same_node(
    source: str, destination: str, scope: str
) -> None:
    known, gone, back = Index(), START - 60_000, START - 30_000
    known.apply(node("node-a1", "192.168.0.11", "eu-west-1a", to_ms=gone))
    known.apply(node("node-a1", "192.168.0.99", "eu-west-1b", uid="another", from_ms=back))
    for name, address in (("api-1", A1), ("api-2", A2)):
        known.apply(pod(name, address, "node-a1"))
    known.apply(pod("api-3", "10.42.1.90", "node-a1", acquired_from_ms=back, acquired_by_ms=back + 5_000))
    [flow] = flows([row(source, destination)], states=known)
    assert flow.scope == scope


def test_a_relayed_flow_keeps_its_source_as_addressed() -> None:
    [flow] = flows([row(INTERNET, B1, direction=2)])
    assert (flow.direction, flow.source.kind, flow.observer.node) == ("relay", "external", "node-a1")


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        pytest.param(B1, False, id="pod"),
        pytest.param(HOST_B, False, id="node"),
        pytest.param("10.42.2.200", False, id="in a podCIDR"),
        pytest.param(RDS, True, id="not of the cluster"),
        pytest.param(INTERNET, True, id="internet"),
    ],
)
def test_ingress_counts_only_from_senders_that_are_not_metered(source: str, kept: bool) -> None:
    found = joined([row(source, A1, direction=1), row(A1, B1)])
    assert found.aside == ({} if kept else {"sender_in_cluster": Amount(1000, 10, 1)})
    assert found.numbers == ([0, 1] if kept else [1])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"protocol": 17}, {"transport": "udp", "type": "ipv4"}, id="udp"),
        pytest.param({"protocol": 132}, {"transport": "sctp", "type": "ipv4"}, id="sctp"),
        pytest.param({"protocol": 1, "dst_port": 0}, {"transport": "icmp", "type": "ipv4"}, id="icmp"),
        pytest.param(
            {"protocol": 58, "src": "fd00:42::17", "dst": "fd00::9", "dst_port": 0},
            {"transport": "icmp", "type": "ipv6"},
            id="icmpv6",
        ),
        pytest.param({"protocol": 47, "dst_port": 0}, {"transport": "47", "type": "ipv4"}, id="gre"),
    ],
)
def test_network(fields: dict[str, Any], expected: dict[str, str]) -> None:
    [flow] = flows([row(**({"src": A1, "dst": B1} | fields))])
    assert msgspec.to_builtins(flow.network) == expected


def test_what_is_not_known_is_absent() -> None:
    [value] = joined([row(A1, B1, dnat=None, dst_port=0)]).values
    assert b"dnat" not in value
    assert b"encapsulation" not in value
    assert b"port" not in value.replace(b"transport", b"")


def test_ports_dnat_and_encapsulation() -> None:
    [one, other] = flows(
        [
            row(A1, B1, src_port=40000, dst_port=443, dnat=0),
            row(A1, HOST_B, protocol=17, dst_port=4789, encapsulation=1),
        ]
    )
    assert (one.source.port, one.destination.port, one.dnat) == (40000, 443, False)
    assert other.encapsulation == "vxlan"


@pytest.mark.parametrize("number", [len(ENCAPSULATIONS), 255])
def test_an_encapsulation_of_a_later_version_is_an_outer_packet_all_the_same(number: int) -> None:
    [flow] = flows([row(A1, HOST_B, encapsulation=number)])
    assert flow.encapsulation == "other"


def test_an_empty_window_is_nothing() -> None:
    found = joined([])
    assert (len(found.values), found.taken, found.given, found.aside) == (0, NOTHING, NOTHING, {})


def test_unknown_bytes_carry_the_reason_of_the_side_that_lacks_its_zone() -> None:
    rows = [row(A1, RDS, bytes=5), row(RDS, B1, bytes=7, direction=1), row("x", A1, bytes=11, direction=1)]
    assert {reason: amount.bytes for reason, amount in joined(rows).by_reason.items()} == {
        "vpc_unmapped": 12,
        "address_invalid": 11,
    }


def test_a_node_nobody_knows_is_named_without_a_zone() -> None:
    [flow] = flows([row(A1, B1, direction=2)], node="node-z")
    assert (flow.scope, flow.observer.cloud) == ("unknown", msgspec.UNSET)


def test_names_with_quotes_stay_json() -> None:
    [flow] = flows([row(A1, B1)], node='n"1\\', cluster="ü}{")
    assert flow.id == 'ü}{/n"1\\/5be6c2f0a91d/3/8121/0/0'


def test_amounts_near_the_limit_are_exact() -> None:
    found = joined([row(A1, B1, bytes=2**52), row(A1, A2, bytes=2**52 - 1)])
    assert found.given.bytes == 2**53 - 1


ADDRESSES = [A1, A2, B1, HOST_B, RDS, INTERNET, "10.42.2.77", "fd00:42::17", "2a00::1", "junk"]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "src": st.sampled_from(ADDRESSES),
                "dst": st.sampled_from(ADDRESSES),
                "protocol": st.integers(0, 255),
                "src_port": st.integers(0, 65535),
                "dst_port": st.integers(0, 65535),
                "direction": st.integers(0, 2),
                "dnat": st.sampled_from([None, 0, 1]),
                "bytes": st.integers(0, 2**40),
                "packets": st.integers(0, 2**40),
                "encapsulation": st.integers(0, 255),
            }
        ),
        max_size=30,
    )
)
@settings(max_examples=150)
def test_every_row_is_given_out_or_put_aside_and_says_what_the_row_said(rows: list[dict[str, Any]]) -> None:
    found = joined(rows)
    assert found.taken == total({"given": found.given, **found.aside})
    assert found.taken == Amount(sum(r["bytes"] for r in rows), sum(r["packets"] for r in rows), len(rows))
    for number, value in zip(found.numbers, found.values, strict=True):
        flow, raw = decode_flow(value), rows[number]
        assert (flow.bytes, flow.packets) == (raw["bytes"], raw["packets"])
        assert (flow.source.address, flow.destination.address) == (raw["src"], raw["dst"])
        assert (flow.source.port or 0, flow.destination.port or 0) == (raw["src_port"], raw["dst_port"])
        assert (None if flow.dnat is msgspec.UNSET else int(flow.dnat)) == raw["dnat"]


def test_what_is_put_aside_is_split_by_the_node_that_counts_it() -> None:
    rows = [
        row(B1, A1, direction=1, bytes=10),
        row("10.42.2.77", A1, direction=1, bytes=20),
        row(A2, A1, direction=1, bytes=5),
        row(RDS, A1, direction=1, bytes=3),
    ]
    found = joined(rows)
    assert {node: amount.bytes for node, amount in found.senders.items()} == {"node-b1": 30, "node-a1": 5}
    assert found.unmetered == {}


def test_what_a_node_sends_from_another_nodes_addresses_is_told() -> None:
    rows = [
        row(B1, A2, bytes=10),
        row(A1, B1, bytes=20),
        row(B1, A2, direction=1, bytes=40),
        row(B1, A2, direction=2, bytes=80),
        row(RDS, A2, bytes=160),
        row("10.42.2.77", A2, bytes=320),
    ]
    found = joined(rows)
    assert found.foreign_source == {"node-b1": Amount(10, 10, 1)}
    assert found.given.bytes == 10 + 20 + 80 + 160 + 320


def test_an_address_of_two_nodes_is_put_aside_under_no_nodes_name() -> None:
    states = index()
    states.apply(pod("moved", B1, "node-a1", from_ms=START + 5000))
    assert joined([row(B1, A1, direction=1)], states=states).senders == {"?": Amount(1000, 10, 1)}


def test_a_sender_on_a_node_without_a_collector_is_counted_where_it_is_received() -> None:
    states = index()
    states.apply(node("fargate-ip-10-42-9-9", "10.42.9.9", "eu-west-1b"))
    states.apply(pod("batch-0", "10.42.9.9", "fargate-ip-10-42-9-9"))
    rows = [row("10.42.9.9", A1, direction=1, bytes=70), row(B1, A1, direction=1, bytes=5)]
    policy = Policy(NodeNames(["fargate-*", "virtual-*"]))
    found = joined(rows, policy=policy, states=states)
    assert found.senders == {"node-b1": Amount(5, 10, 1)}
    assert found.unmetered == {"fargate-ip-10-42-9-9": Amount(70, 10, 1)}
    [flow] = [decode_flow(value) for value in found.values]
    assert (flow.scope, flow.direction, flow.source.k8s.pod.name) == ("cross_zone", "ingress", "batch-0")  # type: ignore[union-attr]
    assert joined(rows, states=states).unmetered == found.unmetered
    assert joined(rows, policy=Policy(), states=states).senders.keys() == {"node-b1", "fargate-ip-10-42-9-9"}


@pytest.mark.parametrize("name", ["fargate-", "fargate-x"])
def test_patterns_match_whole_names(name: str) -> None:
    names = NodeNames(["fargate-*", "v?"])
    assert name in names
    assert not {f"my-{name}", "v", "vv1", None, ""} & {n for n in (f"my-{name}", "v", "vv1", None, "") if n in names}
    assert name not in NodeNames()


def test_what_each_rule_of_the_cidr_map_took() -> None:
    orders, cache = Cidr(cidr="10.9.7.0/24", name="orders"), Cidr(cidr="10.9.0.0/16", name="all")
    rows = [row(A1, RDS, bytes=1), row(RDS, A1, direction=1, bytes=20), row(RDS, RDS, bytes=300), row(RDS, "10.9.1.1")]
    raw = chunk([*rows, row(B1, A1, direction=1), row(A1, B1)])
    ends = resolve(raw, Resolver(index(), CidrMap([orders, cache])))
    found = join(raw, ends, 0, 0)
    assert found.by_rule == {"10.9.7.0/24": Amount(1321, 40, 4), "10.9.0.0/16": Amount(1000, 10, 1)}
    assert joined(rows).by_rule == {}


def test_outer_packets_are_apart_in_what_is_split() -> None:
    rows = [row(A1, B1, bytes=1), row("192.168.0.11", HOST_B, bytes=20, encapsulation=1)]
    rows += [row(A1, "10.9.9.9", bytes=300), row(A1, "10.9.9.9", bytes=4000, encapsulation=7)]
    found = joined(rows)
    assert {name: amount.bytes for name, amount in found.by_scope.items()} == {
        "cross_zone": 1,
        "unknown": 300,
        "encapsulation": 4020,
    }
    assert {name: amount.bytes for name, amount in found.by_reason.items()} == {"vpc_unmapped": 300}


def test_a_rule_that_outer_packets_alone_meet_took_nothing_of_the_traffic_and_is_met() -> None:
    raw = chunk([row(A1, RDS, bytes=1), row("192.168.0.11", "10.8.0.1", encapsulation=7)])
    rules = [Cidr(cidr="10.9.7.0/24", name="orders"), Cidr(cidr="10.8.0.1/32", name="gateway")]
    found = join(raw, resolve(raw, Resolver(index(), CidrMap(rules))), 0, 0)
    assert found.by_rule == {"10.9.7.0/24": Amount(1, 10, 1), "10.8.0.1/32": NOTHING}
