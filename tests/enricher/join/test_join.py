# SPDX-License-Identifier: Apache-2.0
"""One raw chunk to flows and books."""

from collections.abc import Iterable
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.delivery.outgoing.recovery import Tail, read_back
from enricher.delivery.outgoing.unit import ChunkRun, UnitWriter, not_out
from enricher.index.cidrs import Cidr, CidrMap
from enricher.index.ownership import Index
from enricher.index.resolve import Resolver
from enricher.join.join import Joined, Out, join, late_sources, resolve
from enricher.join.policy import DEFAULT, NodeNames, Policy
from schemas.amount import NOTHING, Amount
from schemas.errors import DecodeError
from schemas.flow import Flow, decode_flow
from schemas.ledger import decode_ledger
from schemas.raw import ENCAPSULATIONS
from schemas.topics import TopicNames
from schemas.topology import Served
from tests.support.builders import total
from tests.support.enricher.build import END, START, chunk, node, pod, row

A1, A2, B1, HOST_B = "10.42.1.17", "10.42.1.18", "10.42.2.9", "192.168.0.21"
RDS, INTERNET = "10.9.7.4", "8.8.8.8"


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


DB: Any = ("postgres", "tcp", 5432)
HEADLESS: Any = ("postgres-hl", "tcp", 5432, True)
REQUEST, REPLY = {"server": 1}, {"src_port": 5432, "dst_port": 0, "server": 2}


def served_by(*ports: Any) -> Index:
    made = index()
    made.apply(pod("db-0", B1, "node-b1", resource_version="101", served=tuple(Served(*each) for each in ports)))
    return made


def services_of(flow: Flow) -> tuple[str | None, ...]:
    ends = (flow.source.k8s, flow.destination.k8s)
    return tuple(k8s.service.name if k8s and k8s.service else None for k8s in ends)


@pytest.mark.parametrize(
    ("ports", "fields", "service"),
    [
        pytest.param([DB], {}, "postgres", id="one"),
        pytest.param([DB], {"dnat": 1}, "postgres", id="reached by its address"),
        pytest.param([DB, ("metrics", "tcp", 9187)], {}, "postgres", id="another's is another port"),
        pytest.param([DB, ("web", "udp", 5432)], {}, "postgres", id="or of another protocol"),
        pytest.param([HEADLESS], {}, "postgres-hl", id="only a headless one"),
        pytest.param([HEADLESS, DB], {}, "postgres", id="one with an address goes before it"),
        pytest.param([DB, ("postgres-ro", "tcp", 5432)], {}, None, id="two: neither"),
        pytest.param([HEADLESS, ("db-hl", "tcp", 5432, True)], {}, None, id="two headless ones: neither"),
        pytest.param([DB], {"protocol": 17}, None, id="none of this protocol"),
        pytest.param([], {}, None, id="none"),
    ],
)
def test_both_legs_name_the_server_and_its_service(
    ports: list[Any], fields: dict[str, Any], service: str | None
) -> None:
    rows = [row(A1, B1, **REQUEST, **fields), row(B1, A1, **REPLY, **fields), row(A2, A1, **REQUEST)]
    request, reply, plain = flows(rows, states=served_by(*ports))
    assert (request.server, reply.server, plain.server) == ("destination", "source", "destination")
    assert services_of(request) == (None, service)
    assert services_of(reply) == (service, None)
    assert services_of(plain) == (None, None)
    assert request.destination.port == reply.source.port == 5432
    [unnamed] = flows([row(A1, B1)])
    both = (request.destination, unnamed.destination)
    assert both[0].k8s, both[1].k8s
    assert msgspec.structs.replace(both[0].k8s, service=msgspec.UNSET) == both[1].k8s
    assert (both[0].address, both[0].cloud) == (both[1].address, both[1].cloud)


@pytest.mark.parametrize("fields", [{}, {"server": 0}, {"server": 2}, {"server": 1, "dst_port": 9187}])
def test_no_service_is_named_of_who_is_not_known_to_serve_at_that_port(fields: dict[str, Any]) -> None:
    found = flows([row(A1, B1, **fields), row(A2, A1, server=1)], states=served_by(DB))[0]
    assert services_of(found) == (None, None)
    assert found.server == (msgspec.UNSET, "destination", "source")[fields.get("server", 0)]


def test_a_service_that_came_within_the_window_is_not_named_of_all_of_it() -> None:
    made = index()
    made.apply(pod("db-0", B1, "node-b1", resource_version="101", from_ms=START + 5000, served=(Served(*DB),)))
    rows = [row(A1, B1, **REQUEST)]
    assert services_of(flows(rows, states=made)[0]) == (None, None)
    later = flows(rows, states=made, start_ms=END, end_ms=END + 10_000)
    assert services_of(later[0]) == (None, "postgres")


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


WRITER = UnitWriter(TopicNames(), 3)


def out_of(values: Iterable[bytes]) -> Out:
    """Return what is known of flows read back."""
    tail = Tail()
    for value in values:
        tail.add(read_back(value, b"node-a1", 3))
    [out] = tail.chunks.values() or [Out()]
    return out


def test_resumed_after_any_row_the_books_are_the_same() -> None:
    rows = [row(A1, B1, bytes=100 + i) if i % 3 else row(B1, A1, direction=1, bytes=7 + i) for i in range(10)]
    raw = chunk(rows)
    whole = joined(rows)
    entry = decode_ledger(WRITER.enriched(raw, whole, None, END).value)
    for cut in range(len(whole.values) + 1):
        out = out_of(whole.values[:cut])
        rest = joined(rows, out)
        assert list(whole.values[cut:]) == list(rest.values)
        assert decode_ledger(WRITER.enriched(raw, rest, out, END).value) == entry


ROWS = [row(A1, B1, bytes=100), row(A1, A2, bytes=50), row(B1, A1, direction=1, bytes=7)]


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"bytes": 99}, id="fewer bytes"),
        pytest.param({"packets": 1}, id="fewer packets"),
        pytest.param({"number": 1}, id="another row's number"),
        pytest.param({"rows": [0, 1]}, id="two rows"),
        pytest.param({"rows": [0, 0]}, id="a row twice"),
        pytest.param({"number": 3 * 10**14}, id="a number that no enricher comes to"),
        pytest.param({"number": 999, "rows": [2**53 - 1]}, id="a row that no chunk has"),
    ],
)
def test_a_flow_that_does_not_fit_its_chunk_stands_for_nothing(forged: dict[str, Any]) -> None:
    raw = chunk(ROWS)
    true = orjson.loads(next(iter(joined(ROWS).values)))
    assert out_of([orjson.dumps(true)]).fits(raw)
    number = forged.pop("number", 0)
    value = orjson.dumps(true | forged | {"id": f"{raw.id}/{number}"})
    assert not out_of([value]).fits(raw)
    assert not out_of([value]).fits(chunk([]))


@pytest.mark.parametrize(
    ("changed", "key", "partition"),
    [
        pytest.param({}, b"node-b1", 3, id="another node's key"),
        pytest.param({}, None, 3, id="no key"),
        pytest.param({}, b"node-a1", 4, id="another partition"),
        pytest.param({"scope": "near"}, b"node-a1", 3, id="no sink takes it"),
        pytest.param({"id": "prod/node-a1/x/0"}, b"node-a1", 3, id="no id"),
        pytest.param({"attribution_version": 1}, b"node-a1", 3, id="joined again by a replay"),
    ],
)
def test_what_no_enricher_wrote_is_not_out(changed: dict[str, Any], key: bytes | None, partition: int) -> None:
    value = next(iter(joined(ROWS).values))
    read_back(value, b"node-a1", 3)
    with pytest.raises(DecodeError):
        read_back(orjson.dumps(orjson.loads(value) | changed), key, partition)


def test_what_is_out_is_left_out() -> None:
    raw = chunk([row(A1, B1), row(B1, A1, direction=1), row(A1, A2)])
    run = WRITER.flows(raw, joined([row(A1, B1), row(B1, A1, direction=1), row(A1, A2)]), END)
    other = ChunkRun(msgspec.structs.replace(raw, sequence=raw.sequence + 1), [0], run.run)
    [rest, untouched] = not_out([run, other], {raw.id: Out(0, Amount(0, 0, 1)), "third": Out(9)})
    assert (rest.numbers, list(rest.run.values), untouched) == ([2], list(run.run.values)[1:], other)
    assert not_out([run], {raw.id: Out(2, Amount(0, 0, 2))}) == []
    assert not_out([run], {raw.id: Out(2, Amount(0, 0, 1))}) == [run], "the second row alone is not our doing"


def test_a_time_too_far_ahead_is_cut_to_what_kafka_takes() -> None:
    raw = chunk([row(A1, B1)])
    assert WRITER.flows(raw, joined([row(A1, B1)]), START).run.timestamp_ms == END
    assert WRITER.flows(raw, joined([row(A1, B1)]), START - 86_400_000).run.timestamp_ms == START - 83_400_000


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
