# SPDX-License-Identifier: Apache-2.0
"""The whole way, from packets to the flow log, held against counts that owe zonemeter nothing."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import orjson
import pytest

import schemas
from lab.plan import Plan
from schemas.topics import TopicNames
from tests.alerts.metric_names import named
from tests.e2e import scenario
from tests.e2e.scenario import Facts

TOPICS = TopicNames()
SCHEMA_OF = {
    TOPICS.raw: "raw.v1",
    TOPICS.enriched: "flow.v1",
    TOPICS.ledger: "ledger.v1",
    TOPICS.topology: "topology.v1",
    TOPICS.dead_letter: "dead-letter.v1",
}
Pair = tuple[str, str]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def facts(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return asyncio.run(scenario.run(scenario.with_unmetered_nodes(plan), tmp_path_factory.mktemp("e2e")))


def metered(facts: Facts, kinds: tuple[set[str], set[str]]) -> dict[Pair, tuple[int, int]]:
    """Return bytes and packets per pair of addresses of these kinds, each packet once."""
    sums: dict[Pair, tuple[int, int]] = {}
    for flow in facts.flows:
        if (
            flow["direction"] != "relay"
            and flow["source"]["kind"] in kinds[0]
            and flow["destination"]["kind"] in kinds[1]
        ):
            pair = (flow["source"]["address"], flow["destination"]["address"])
            size, packets = sums.get(pair, (0, 0))
            sums[pair] = (size + flow["bytes"], packets + flow["packets"])
    return sums


def counted(facts: Facts, pairs: set[Pair]) -> dict[Pair, tuple[int, int]]:
    return {pair: (facts.wire[pair].bytes, facts.wire[pair].packets) for pair in pairs if pair in facts.wire}


def nodes_by_address(facts: Facts) -> dict[str, str]:
    """Return whose addresses the cluster's are: each node's own and its pods'."""
    own = {a: node.name for node in facts.plan.nodes for a in (node.address_v4, node.address_v6)}
    return own | {a: pod.node for pod in facts.plan.pods for a in (pod.address_v4, pod.address_v6)}


def addresses(facts: Facts) -> tuple[set[str], set[str]]:
    """Return the addresses of pods that own theirs, and of the hosts outside."""
    own = {a for pod in facts.plan.pods if not pod.workload.host_network for a in (pod.address_v4, pod.address_v6)}
    return own, {a for outside in facts.plan.outsides for a in (outside.address_v4, outside.address_v6)}


def test_between_pods_every_byte_and_packet_is_what_the_wire_saw(facts: Facts) -> None:
    pods, _ = addresses(facts)
    node_of = nodes_by_address(facts)
    seen = {node.name for node in facts.plan.nodes if node.metered}
    pairs = {
        pair
        for pair in facts.wire
        if set(pair) <= pods and (node_of[pair[0]] in seen or node_of[pair[0]] == "fargate-b1")
    }
    wire = counted(facts, pairs)
    assert facts.dropped == 0
    assert len(wire) > 10
    assert any(":" in source for source, _ in wire)
    assert sum(size for size, _ in wire.values()) > 30 * scenario.MEGABYTE
    assert metered(facts, ({"pod"}, {"pod"})) == wire


def test_what_a_managed_database_sends_is_counted_on_receipt(facts: Facts) -> None:
    pods, _ = addresses(facts)
    (database,) = (outside for outside in facts.plan.outsides if outside.zone)
    pairs = {
        pair
        for pair in facts.wire
        if (pair[0] in (database.address_v4, database.address_v6) and pair[1] in pods)
        or (pair[1] in (database.address_v4, database.address_v6) and pair[0] in pods)
    }
    received = metered(facts, ({"cidr"}, {"pod"})) | metered(facts, ({"pod"}, {"cidr"}))
    assert received == counted(facts, pairs)
    sent = [f for f in facts.flows if f["source"].get("name") == database.name and f["destination"]["address"] in pods]
    scopes = {f["scope"] for f in sent}
    assert scopes <= {"cross_zone", "same_zone"}
    assert scopes


def test_receivers_and_senders_agree_to_the_byte_and_find_who_has_no_collector(facts: Facts) -> None:
    node_of = nodes_by_address(facts)
    seen = {node.name for node in facts.plan.nodes if node.metered}
    pods, _ = addresses(facts)
    sent: Counter[str] = Counter()
    for (source, destination), amount in facts.wire.items():
        here, there = node_of.get(source), node_of.get(destination)
        if here and there in seen and here != there and pods & {source, destination}:
            sent[here] += amount.bytes
    received = {kind: by_node(facts, kind) for kind in ("senders", "unmetered")}
    assert received["senders"] + received["unmetered"] - between_hosts(facts, pods) == sent
    assert received["unmetered"].keys() == {"fargate-b1"}
    assert received["senders"].keys() - facts.audit.nodes_metered == {"node-c2"}
    from_fargate = [flow for flow in facts.flows if node_of.get(flow["source"]["address"]) == "fargate-b1"]
    from_fargate = [flow for flow in from_fargate if flow["source"]["kind"] == "pod"]
    assert {(f["direction"], f["scope"]) for f in from_fargate} == {("ingress", "cross_zone")}


def between_hosts(facts: Facts, pods: set[str]) -> Counter[str]:
    """Return what nodes received from nodes, by sender: neighbour discovery, which went on when the wire was read."""
    node_of = nodes_by_address(facts)
    sums: Counter[str] = Counter()
    for message in facts.records[TOPICS.raw]:
        if message.value() == facts.undecodable:
            continue
        chunk = orjson.loads(message.value())
        for src, dst, direction, size in zip(*(chunk[c] for c in ("src", "dst", "direction", "bytes")), strict=True):
            source, destination = chunk["addresses"][src], chunk["addresses"][dst]
            if direction == 1 and source in node_of and not pods & {source, destination}:
                sums[node_of[source]] += size
    return sums


def by_node(facts: Facts, kind: str) -> Counter[str]:
    """Return the bytes of all of the enricher's ledger entries by the sender's node; the newest of each key counts."""
    entries = {message.key(): orjson.loads(message.value()) for message in facts.records[TOPICS.ledger]}
    sums: Counter[str] = Counter()
    for entry in entries.values():
        if entry["hop"] == "enricher":
            for node, amount in entry.get(kind, {}).items():
                sums[node] += amount["bytes"]
    return sums


def test_what_a_node_relays_is_counted_on_its_second_way_and_on_receipt(facts: Facts) -> None:
    """Each of the two ways is billed: from the VPC to the node, which only the receiver can tell, and to the pod."""
    database = facts.plan.outside("orders-db")
    carts = {a for pod in facts.plan.pods_of("shop/cart") for a in (pod.address_v4, pod.address_v6)}
    sources = (database.address_v4, database.address_v6)
    pairs = {(source, cart) for source in sources for cart in carts}
    second_way = counted(facts, pairs)
    assert {":" in source for source, _ in second_way} == {True, False}
    for direction in ("relay", "ingress"):
        found: dict[Pair, tuple[int, int]] = {}
        for flow in facts.flows:
            pair = (flow["source"]["address"], flow["destination"]["address"])
            if flow["direction"] == direction and pair in pairs:
                size, packets = found.get(pair, (0, 0))
                found[pair] = (size + flow["bytes"], packets + flow["packets"])
        assert found == second_way
    relayed = [flow for flow in facts.flows if flow["direction"] == "relay"]
    assert {(flow["observer"]["node"], flow["scope"], flow["dnat"]) for flow in relayed} == {
        ("node-a1", "cross_zone", True)
    }


def test_what_goes_to_the_internet_is_counted_before_masquerade(facts: Facts) -> None:
    (internet,) = (outside for outside in facts.plan.outsides if not outside.zone)
    nodes = {a for node in facts.plan.nodes for a in (node.address_v4, node.address_v6)}
    for address in (internet.address_v4, internet.address_v6):
        flows = [f for f in facts.flows if f["destination"]["address"] == address]
        assert {f["scope"] for f in flows} == {"external"}
        assert {f["source"]["kind"] for f in flows} == {"pod"}
        wire = sum(amount.bytes for (s, d), amount in facts.wire.items() if s in nodes and d == address)
        assert sum(f["bytes"] for f in flows) == wire


def test_services_are_resolved_to_the_pod_behind_them(facts: Facts) -> None:
    service_addresses = {a for s in facts.plan.services for a in (s.cluster_ip_v4, s.cluster_ip_v6)}
    assert not {f["destination"]["address"] for f in facts.flows} & service_addresses
    to_postgres = [f for f in facts.flows if f["destination"].get("port") == 5432 and f["direction"] == "egress"]
    assert to_postgres
    assert all(f["dnat"] is True for f in to_postgres)
    assert {f["destination"]["k8s"]["workload"]["name"] for f in to_postgres} == {"postgres"}


def test_requests_and_replies_say_who_serves_and_by_which_service(facts: Facts) -> None:
    of_pods = [f for f in facts.flows if f["source"]["kind"] == f["destination"]["kind"] == "pod"]
    of_pods = [f for f in of_pods if f["network"]["transport"] in ("tcp", "udp") and f["direction"] == "egress"]
    for service in facts.plan.services:
        workload = service.workload.partition("/")[2]
        legs = Counter(
            (flow.get("server"), flow[flow["server"]]["k8s"].get("service", {}).get("name"))
            for flow in of_pods
            for side in ("source", "destination")
            if flow[side]["k8s"]["workload"]["name"] == workload and flow[side].get("port") == service.target_port
            if flow["network"]["transport"] == service.protocol
        )
        assert legs.keys() == {("destination", service.name), ("source", service.name)}
    named = [(f, side) for f in of_pods for side in ("source", "destination") if "service" in f[side]["k8s"]]
    assert {flow["server"] == side for flow, side in named} == {True}
    with duckdb.connect() as connection:
        connection.read_parquet([str(path) for path in facts.flow_log]).create_view("flows")
        query = "select server, coalesce(src_service, dst_service) from flows where coalesce(src_port, dst_port) = 5432"
        rows = connection.execute(f"{query} and direction = 'egress'").fetchall()
    assert set(rows) == {("destination", "postgres"), ("source", "postgres")}


def test_every_pod_is_named_with_its_workload_and_zone(facts: Facts) -> None:
    where = {
        a: pod for pod in facts.plan.pods for a in (pod.address_v4, pod.address_v6) if not pod.workload.host_network
    }
    zone_of = {node.name: node.zone for node in facts.plan.nodes}
    seen = 0
    for flow in facts.flows:
        for side in ("source", "destination"):
            end = flow[side]
            if end["kind"] != "pod":
                continue
            pod = where[end["address"]]
            assert end["k8s"]["pod"]["name"] == pod.name
            assert end["k8s"]["workload"] == {"kind": pod.workload.kind, "name": pod.workload.name}
            assert end["cloud"]["availability_zone"] == zone_of[pod.node]
            seen += 1
    assert seen > 100


def test_scopes_follow_from_the_zones(facts: Facts) -> None:
    for flow in facts.flows:
        sender = flow["observer" if flow["direction"] == "relay" else "source"]
        source, destination = sender.get("cloud"), flow["destination"].get("cloud")
        if flow["scope"] in ("same_zone", "same_node"):
            assert source == destination
        elif flow["scope"] == "cross_zone":
            assert source["availability_zone"] != destination["availability_zone"]
    assert {"same_node", "same_zone", "cross_zone", "external"} <= {f["scope"] for f in facts.flows}
    # Neighbour discovery (RFC 4861) with link-local addresses, groups and the router, which is in no map.
    unknown = [flow for flow in facts.flows if flow["scope"] == "unknown"]
    assert {flow["network"]["transport"] for flow in unknown} <= {"icmp"}
    assert sum(f["bytes"] for f in unknown) < 0.001 * sum(f["bytes"] for f in facts.flows)


@pytest.mark.parametrize("topic", SCHEMA_OF)
def test_every_record_of_every_topic_validates(facts: Facts, topic: str) -> None:
    folder = Path(schemas.__file__).parent
    schema = json.loads((folder / f"{SCHEMA_OF[topic]}.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    records = [message.value() for message in facts.records[topic] if message.value() is not None]
    assert records
    for record in records:
        if record != facts.undecodable:
            validator.validate(orjson.loads(record))


def test_flows_carry_the_contracts_key_headers_time_and_partition(facts: Facts) -> None:
    raw_partition = {(m.partition(), m.offset()) for m in facts.records[TOPICS.raw]}
    for message in facts.records[TOPICS.enriched]:
        flow = orjson.loads(message.value())
        assert message.key() == flow["observer"]["node"].encode()
        assert dict(message.headers()) == {"content-type": b"application/json", "schema": b"zonemeter.flow.v1"}
        assert message.timestamp()[1] == flow["end_ms"]
        assert message.partition() == flow["raw"]["partition"]
        assert (flow["raw"]["partition"], flow["raw"]["offset"]) in raw_partition


def test_what_is_no_chunk_is_a_dead_letter_with_its_reason(facts: Facts) -> None:
    letters = [orjson.loads(message.value()) for message in facts.records[TOPICS.dead_letter]]
    assert [(letter["reason"], letter["topic"], letter["value_size"]) for letter in letters] == [
        ("not_json", TOPICS.raw, len(facts.undecodable))
    ]


def test_the_ledger_closes_after_a_kill_of_every_service(facts: Facts) -> None:
    audit = facts.audit
    assert audit.shortfalls == []
    assert audit.gaps == []
    assert audit.gone == []
    assert audit.has_arrived
    assert audit.ratio == 1.0
    assert audit.absent == []
    assert audit.nodes_metered == {node.name for node in facts.plan.nodes if node.metered}
    assert audit.nodes_in_cluster == {node.name for node in facts.plan.nodes}
    assert facts.audit_command is not None
    assert facts.audit_command.returncode == 0, facts.audit_command.stderr
    assert orjson.loads(facts.audit_command.stdout)["ratio"] == 1.0


def test_the_audit_finds_in_topics_and_files_what_the_ledger_says(facts: Facts) -> None:
    assert facts.audit_command is not None
    answer = orjson.loads(facts.audit_command.stdout)
    assert answer["deep"]["faults"] == 0
    assert [found["what"] for found in answer["deep"]["findings"] if found["source"] != "raw"] == []
    read = answer["deep"]["read"]
    assert read["enriched"] == read["archive"]
    assert read["enriched"]["rows"] == len(facts.flows)
    assert read["ledger"] == read["raw"]


def test_the_audits_service_says_the_same(facts: Facts) -> None:
    served = facts.audit_served
    assert served["zonemeter_audit_ratio"] == 1.0
    assert served["zonemeter_audit_nodes/metered"] == len(facts.audit.nodes_metered)
    assert served["zonemeter_audit_nodes/in_cluster"] == len(facts.plan.nodes)
    for name in ("gaps", "interleaved_nodes", "foreign_source_bytes", "unmeasured_seconds"):
        assert served[f"zonemeter_audit_{name}"] == 0
    unmetered = sum(amount.bytes for amount in facts.audit.unmetered_senders().values())
    assert served["zonemeter_audit_unmetered_sender_bytes"] == unmetered


def test_no_id_appears_twice_in_the_flow_log_and_none_is_missing(facts: Facts) -> None:
    files = [str(path) for path in facts.flow_log]
    with duckdb.connect() as connection:
        rows = connection.execute("select id, bytes, packets, scope from read_parquet(?)", [files]).fetchall()
    assert [key for key, count in Counter(row[0] for row in rows).items() if count > 1] == []
    enriched = {f["id"]: (f["bytes"], f["packets"], f["scope"]) for f in facts.flows}
    assert {row[0]: tuple(row[1:]) for row in rows} == enriched


def test_prometheus_has_exactly_what_the_topic_has(facts: Facts) -> None:
    once = {f["id"]: f for f in facts.flows}.values()
    expected: Counter[tuple[str, str, str]] = Counter()
    for flow in once:
        sender = flow["observer" if flow["direction"] == "relay" else "source"]
        zones = [end.get("cloud", {}).get("availability_zone", "") for end in (sender, flow["destination"])]
        expected[zones[0], zones[1], flow["scope"]] += flow["bytes"]
    assert {
        (labels.get("src_zone", ""), labels.get("dst_zone", ""), labels["scope"]): value
        for labels, value in samples(facts.series["zonemeter_zone_bytes_total"])
    } == expected
    workload_total = sum(value for _, value in samples(facts.series["zonemeter_workload_bytes_total"]))
    assert workload_total == sum(expected.values())


def test_kubezonnets_own_metric_is_each_pods_cross_zone_bytes(facts: Facts) -> None:
    expected: Counter[str] = Counter()
    for flow in {f["id"]: f for f in facts.flows}.values():
        if flow["scope"] == "cross_zone" and flow["source"]["kind"] == "pod":
            expected[flow["source"]["k8s"]["pod"]["name"]] += flow["bytes"]
    found = {
        labels["pod"]: value
        for labels, value in samples(facts.series["pod_cross_zone_network_traffic_bytes_total"])
        if labels["namespace"] != "_node_"
    }
    assert found == expected


# Without a fault in this run they have nothing to show.
MAY_BE_EMPTY = {
    "health: Coverage: seen by the hook, put aside, lost C",
    "health: Faults, a minute B",
    "health: Faults, a minute C",
}


# What such a query asks for need not be there.
IS_A_CONDITION = re.compile(r"[<>=] [\d.]+$|\bunless\b")
# No series before the first event: an overlay's packet, a list or watch that failed, a chunk that waited for a pod, a
# window that came ten minutes late; or none at all, because it is off by default.
WITHOUT_AN_EVENT = {
    "kubecost_pod_network_egress_bytes_total",
    "zonemeter_delayed_bytes_total",
    "zonemeter_encapsulation_bytes_total",
    "zonemeter_enricher_kube_failures_total",
    "zonemeter_enricher_index_waits_total",
}


def test_every_panel_of_the_dashboards_shows_something(facts: Facts) -> None:
    assert {place for (place, _), answer in facts.shown.items() if not answer} <= MAY_BE_EMPTY


@pytest.mark.parametrize("chosen", scenario.CHOICES, ids=str)
def test_what_is_chosen_on_a_dashboard_is_counted_once_whichever_end_it_is(
    facts: Facts, chosen: dict[str, str]
) -> None:
    expected: Counter[str] = Counter()
    for flow in {f["id"]: f for f in facts.flows}.values():
        if any(is_chosen(flow[side].get("k8s", {}), chosen) for side in ("source", "destination")):
            expected[flow["scope"]] += flow["bytes"]
    key = "/".join(chosen.values())
    by_scope = facts.counted["dashboard: Traffic by scope A", key]
    assert {labels["scope"]: value for labels, value in samples(by_scope)} == expected
    [(_, cross_zone)] = samples(facts.counted["dashboard: Cross-zone A", key])
    assert cross_zone == expected["cross_zone"]
    within = [scope for scope in expected if scope not in ("unknown", "external")]
    matrix = facts.counted["dashboard: Zones x zones (rows send to columns) A", key]
    assert sum(value for _, value in samples(matrix)) == sum(expected[scope] for scope in within)


def test_every_query_that_a_document_prints_has_an_answer(facts: Facts) -> None:
    empty = [query for query, answer in facts.printed.items() if not answer]
    assert [query for query in empty if not IS_A_CONDITION.search(query) and not named(query) & WITHOUT_AN_EVENT] == []


def is_chosen(end: dict[str, Any], chosen: dict[str, str]) -> bool:
    names = {what: end.get(what, {}).get("name", "") for what in chosen}
    return all(re.fullmatch(pattern, names[what]) for what, pattern in chosen.items())


def samples(result: list[dict[str, Any]]) -> list[tuple[dict[str, str], int]]:
    return [(sample["metric"], int(sample["value"][1])) for sample in result]
