# SPDX-License-Identifier: Apache-2.0
"""Two clusters on one Kafka, each with its own API, topics and enricher, and traffic between them."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit.result import Audit
from history.audit.command import AuditSettings, audit_range
from history.model.time_range import TimeRange
from history.replay import command as replay
from lab.kafka.broker import Broker
from lab.plan import Node, Plan, Workload
from schemas.amount import Amount
from schemas.flow import Flow, decode_flow
from schemas.ids import Origin
from schemas.ledger import encode_ledger
from schemas.raw import decode_chunk
from tests.support.builders import collector_entry
from tests.support.enricher.api_process import PLAN, api_at
from tests.support.enricher.build import BOOT, END, START, encoded, row
from tests.support.enricher.processes import running, topology_file
from tests.support.enricher.topics import Topics
from tests.support.services import eventually

# In the VPC of the shop: a node there has the name of one here, and is in another zone.
DATA = dataclasses.replace(
    PLAN,
    prefix="zb",
    cluster="data",
    nodes=tuple(
        Node(name, n, f"lab-1{zone}", "lab-1", f"192.168.50.{n}", f"fd50::{n}")
        for name, n, zone in (("node-a1", 7, "b"), ("node-x", 8, "a"))
    ),
    workloads=(Workload("data", "StatefulSet", "db", ("node-a1", "node-x"), (5432,)),),
    services=(),
    streams=(),
)
EGRESS, INGRESS = 0, 1


def address(plan: Plan, workload: str, node: str) -> str:
    return next(pod.address_v4 for pod in plan.pods_of(workload) if pod.node == node)


WEB = address(PLAN, "shop/web", "node-a1")
DB, NEAR_DB = address(DATA, "data/db", "node-a1"), address(DATA, "data/db", "node-x")


def both(broker: Broker) -> tuple[Topics, Topics]:
    shop, data = (dataclasses.replace(Topics.make(broker.bootstrap), cluster=name) for name in ("shop", "data"))
    return shop, data


def others(topics: Topics) -> list[str]:
    return ["--other-clusters", f"{topics.cluster}={topics.settings.topic_prefix}"]


def send(topics: Topics, node: str, rows: list[dict[str, Any]]) -> None:
    """Publish a window as the collector of a node does: the chunk, and its entry in the ledger."""
    value = encoded(rows, cluster=topics.cluster, node=node, sequence=1)
    topics.produce([value], key=node.encode())
    chunk = decode_chunk(value)
    size = Amount(sum(chunk.bytes), sum(chunk.packets), len(rows))
    entry = collector_entry(1, size.bytes, Origin(topics.cluster, node, BOOT))
    head, _, _ = chunk.id.rpartition("/")
    told = msgspec.structs.replace(entry, id=head, start_ms=START, end_ms=END, taken=size, given=size)
    topics._produce(topics.settings.topics.ledger, [(0, told.key, encode_ledger(told))])


def audited(topics: Topics) -> Audit:
    settings = AuditSettings(**topics.settings.model_dump())
    return asyncio.run(audit_range(settings, TimeRange(START, END), END + 3_600_000))


def told(flow: Flow) -> tuple[str, str, str, str, int]:
    """Return the direction, the scope, the destination's workload and cluster, and the bytes."""
    k8s: Any = msgspec.to_builtins(flow.destination.k8s)
    cluster = k8s.get("cluster", {}).get("name", flow.k8s.cluster.name)
    return flow.direction, flow.scope, k8s["workload"]["name"], cluster, flow.bytes


def test_traffic_between_two_clusters_is_named_at_both_ends_and_counted_once(
    broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shop, data = both(broker)
    (tmp_path / "shop").mkdir()
    (tmp_path / "data").mkdir()
    with api_at(tmp_path / "shop") as here, api_at(tmp_path / "data", DATA) as there:
        here.start()
        there.start()
        flags = [*shop.flags, *others(data), "--kubeconfig", str(here.kubeconfig)]
        back = [*data.flags, *others(shop), "--kubeconfig", str(there.kubeconfig)]
        with running(flags, tmp_path / "log") as one, running(back, tmp_path / "log-data") as other:
            for enricher in (one, other):
                eventually(enricher.ready)
            eventually(lambda: len(shop.topology()) > len(PLAN.pods) and len(data.topology()) > len(DATA.pods))
            requests, replies = row(WEB, DB, bytes=700), row(DB, WEB, src_port=5432, dst_port=0, bytes=9_000)
            send(shop, "node-a1", [requests, row(WEB, NEAR_DB, bytes=11), replies | {"direction": INGRESS}])
            send(data, "node-a1", [replies, requests | {"direction": INGRESS}])
            eventually(lambda: len(shop.ledger()) == len(data.ledger()) == 1)
    assert [told(flow) for flow in shop.flows()] == [
        ("egress", "cross_zone", "db", "data", 700),
        ("egress", "same_zone", "db", "data", 11),
    ]
    assert [told(flow) for flow in data.flows()] == [("egress", "cross_zone", "web", "shop", 9_000)]
    for topics, counted_there in ((shop, 9_000), (data, 700)):
        audit = audited(topics)
        assert f"{audit.hops['enricher'].aside['sender_in_other_cluster'].bytes}" == f"{counted_there}"
        assert (audit.hops["enricher"].taken, audit.hops["collector"].given) == (audit.seen, audit.seen)
        assert (audit.mismatches, f"{audit.ratio:.6f}", audit.unmetered_senders()) == (0, "1.000000", {})
    rejoined = f"{shop.settings.topic_prefix}again"
    span = ["--from", "2026-11-22", "--to", "2026-11-23", "--from-raw", "--to-topic", rejoined]
    own = [flag for flag in shop.flags if flag not in ("--cluster", "shop")]
    assert replay.main([*own, *span, *others(data)]) == 0, capfd.readouterr()
    assert [decode_flow(record.value) for record in shop.records(rejoined)] == shop.flows()


def test_a_cluster_that_has_no_topics_is_one_line_in_readyz(broker: Broker, tmp_path: Path) -> None:
    shop, _ = both(broker)
    with api_at(tmp_path) as api:
        api.start()
        flags = [*shop.flags, "--kubeconfig", str(api.kubeconfig), "--other-clusters", "data=nowhere."]
        with running(flags, tmp_path / "log") as enricher:
            eventually(lambda: "topic nowhere.topology.v1 does not exist" in enricher.get("/readyz")[1])


def test_an_enricher_of_another_cluster_is_refused_where_one_is_at_work(topics: Topics, tmp_path: Path) -> None:
    states = ["--topology", str(topology_file(tmp_path))]
    with running([*topics.flags, *states], tmp_path / "log") as first:
        eventually(lambda: works(tmp_path / "log"))
        renamed = dataclasses.replace(topics, cluster="prod-us")
        with running([*renamed.flags, *states], tmp_path / "second") as second:
            assert second.wait() == 2
        assert "an enricher of cluster 'prod-eu' is at work in the group" in (tmp_path / "second").read_text()
        with running([*topics.flags, *states], tmp_path / "third") as third:
            eventually(lambda: works(tmp_path / "third"))
            assert third.terminate() == 0
        assert first.terminate() == 0
    with running([*renamed.flags, *states], tmp_path / "after"):
        eventually(lambda: works(tmp_path / "after"))


def works(log: Path) -> bool:
    return "took over a partition" in log.read_text()
