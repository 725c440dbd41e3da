# SPDX-License-Identifier: Apache-2.0
"""One run of the whole pipeline on a lab, and everything that can be known about it afterwards.

Traffic whose truth is known, a kill -9 of each service while more of it flows, then rest: everything is stopped
from the front to the back, so that what the last window saw has arrived everywhere.
"""

import asyncio
import http.client
import http.server
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import confluent_kafka
import orjson
from prometheus_client.parser import text_string_to_metric_families

from audit.result import Audit
from history.audit.command import AuditSettings, audit_range
from history.model.time_range import TimeRange
from lab import cluster
from lab.network import script, truth
from lab.network.namespaces import make_socket
from lab.network.namespaces import run as run_tool
from lab.plan import Node, Plan, Workload
from lab.services import COLLECTOR_PORT, Files, Ports, Tuning
from lab.traffic.streams import traffic
from schemas.topics import TopicNames, topic_specs
from tests.docs.printed.promql import printed_queries
from tests.support.dashboards import ROOT, queries
from tests.support.lab import roles
from tests.support.lab.once import tcp_once, udp_once
from tests.support.servers.prometheus import Prometheus, prometheus

WINDOW_SECONDS = 2
SERVICES = ("collector-node-a1", "enricher", "metrics", "flowlog", "audit")
MEGABYTE = 1_000_000
# What is chosen on a dashboard: nothing, a namespace, a namespace and two workloads.
CHOICES: tuple[dict[str, str], ...] = ({}, {"namespace": "shop"}, {"namespace": "shop", "workload": "(api|web)"})


@dataclass
class Facts:
    """What the run left: the fabric's count, every record of every topic, the sinks' answers, the audit."""

    plan: Plan
    wire: dict[truth.Pair, truth.Amount] = field(default_factory=dict)
    dropped: int = 0
    records: dict[str, list[Any]] = field(default_factory=dict)
    undecodable: bytes = b""
    series: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    shown: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    counted: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    printed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    flow_log: list[Path] = field(default_factory=list)
    jsonl: list[dict[str, Any]] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)
    audit_served: dict[str, float] = field(default_factory=dict)
    audit_command: subprocess.CompletedProcess[str] | None = None

    @property
    def flows(self) -> list[dict[str, Any]]:
        """The enriched flows, as a reader that knows nothing of zonemeter sees them."""
        return [orjson.loads(message.value()) for message in self.records[TopicNames().enriched]]


def with_unmetered_nodes(plan: Plan) -> Plan:
    """Add a node that can have no collector, and one whose collector nobody started, with a pod each."""
    region, fabric = plan.nodes[0].region, plan.fabric
    more = tuple(
        Node(
            name, number, f"{region}{name[-2]}", region, f"192.168.{fabric}.{number}", f"fd50::{number}", metered=False
        )
        for number, name in ((5, "fargate-b1"), (6, "node-c2"))
    )
    batch = Workload("shop", "Deployment", "batch", tuple(node.name for node in more), (8080,))
    return replace(plan, nodes=plan.nodes + more, workloads=(*plan.workloads, batch))


Meanwhile = Callable[[Plan, Ports], Awaitable[None]]


async def kill_each(plan: Plan, _: Ports) -> None:
    """Kill each service once, and keep it away while a window ends."""
    for role in SERVICES:
        await asyncio.to_thread(roles.kill, plan.prefix, role)
        # Not waiting for anything: it is to be away while a window ends and packets go on.
        await asyncio.sleep(1.5 * WINDOW_SECONDS)
        await roles.start(plan.prefix, role)


async def run(plan: Plan, directory: Path, meanwhile: Meanwhile = kill_each) -> Facts:
    """Run the scenario, `meanwhile` while packets flow; nothing of the lab is left, whatever happens."""
    facts = Facts(plan)
    ports = Ports.free()
    begun_ms = time.time_ns() // 1_000_000
    try:
        files = await cluster.up(plan, ports, tuning=Tuning(window_seconds=WINDOW_SECONDS, cut_seconds=2))
        with _scraped(plan, ports, directory) as scraper:
            await _send(plan, ports, facts, meanwhile)
            await _settle(plan, ports, facts, begun_ms)
            _collect(plan, ports, files, facts, scraper, directory)
            _look_at_dashboards(facts, scraper, begun_ms / 1000)
            for query in printed_queries():
                expression = query.expression.replace('"NAME"', '"api"')
                facts.printed[query.expression] = scraper.over(expression, begun_ms / 1000, time.time())
    finally:
        await cluster.down(plan.prefix)
    return facts


@contextmanager
def _scraped(plan: Plan, ports: Ports, directory: Path) -> Iterator[Prometheus]:
    """Have every service scraped, of the collectors one, and the rules evaluated all the time."""
    rules = (ROOT / "k8s/monitoring/alerts.yml").read_text()
    others = {f"zonemeter-{name}": f"127.0.0.1:{getattr(ports, name)}" for name in ("enricher", "flowlog", "audit")}
    with _brought_out(script.node_namespace(plan.prefix, "node-a1")) as others["zonemeter-collector"]:
        without_intervals = re.sub(r"^ +interval: .*\n", "", rules, flags=re.MULTILINE)
        with prometheus([f"127.0.0.1:{ports.metrics}"], directory, others, without_intervals) as scraper:
            yield scraper


@contextmanager
def _brought_out(namespace: str) -> Iterator[str]:
    """Serve the metrics of a collector, which listens in its own network namespace, at an address of this one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # while a collector is stopped, Prometheus does not wait for the answer
                super().handle()

        def do_GET(self) -> None:
            asking = http.client.HTTPConnection("127.0.0.1", COLLECTOR_PORT)
            asking.sock = make_socket(namespace, socket.AF_INET, socket.SOCK_STREAM)
            try:
                asking.sock.settimeout(5)
                asking.sock.connect(("127.0.0.1", COLLECTOR_PORT))
                asking.request("GET", self.path, headers={"Connection": "close"})
                answer = asking.getresponse()
                body = answer.read()
            except OSError:
                self.send_error(502)
                return
            finally:
                asking.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _look_at_dashboards(facts: Facts, scraper: Prometheus, begun: float) -> None:
    """Ask what every panel asks; and, in place of rates, for the counters themselves, which are exact."""
    now = time.time()
    for query in queries():
        for chosen in CHOICES:
            filled = query.filled(int(now - begun) + 1, **chosen)
            key = query.place, "/".join(chosen.values())
            facts.shown[key] = scraper.ask(filled) if query.instant else scraper.over(filled, begun, now)
            facts.counted[key] = scraper.ask(re.sub(r"\b(increase|rate)\(", "last_over_time(", filled))


async def _send(plan: Plan, ports: Ports, facts: Facts, meanwhile: Meanwhile) -> None:
    async with traffic(plan) as senders:
        await _known(plan)
        streams = asyncio.create_task(senders.run(plan.streams), name="streams")
        await meanwhile(plan, ports)
        facts.undecodable = b"\xffnot a chunk"
        _produce(ports, TopicNames().raw, b"node-a1", facts.undecodable)
        await asyncio.sleep(1.5 * WINDOW_SECONDS)
        streams.cancel()
        await asyncio.gather(streams, return_exceptions=True)
        await _known(plan)


async def _known(plan: Plan) -> None:
    """TCP with GSO and UDP, IPv4 and IPv6, across zones, within a node, by ClusterIP, to and from outside."""
    web, api = plan.pods_of("shop/web"), plan.pods_of("shop/api")
    here, there = web[0], api[-1]
    namespace = script.pod_namespace(plan.prefix, here)
    for address in (there.address_v4, there.address_v6):
        await tcp_once(namespace, (address, 8080), 5 * MEGABYTE, 3 * MEGABYTE)
        await udp_once(namespace, (address, 8080), 200, 1_000)
    neighbour = next(pod for pod in plan.pods_of("shop/worker") if pod.node == here.node)
    await tcp_once(namespace, (neighbour.address_v4, 8080), MEGABYTE, MEGABYTE)
    service = plan.service("shop/postgres")
    await tcp_once(namespace, (service.cluster_ip_v4, service.port), 100_000, 2 * MEGABYTE)
    await tcp_once(namespace, (service.cluster_ip_v6, service.port), 100_000, 2 * MEGABYTE)
    for outside in plan.outsides:
        for address in (outside.address_v4, outside.address_v6):
            await tcp_once(namespace, (address, outside.ports[0]), 200_000, MEGABYTE)
    for pod in plan.pods_of("shop/batch"):
        for address in (here.address_v4, here.address_v6):
            await tcp_once(script.pod_namespace(plan.prefix, pod), (address, 8080), 300_000, 600_000)
    await _relayed(plan)


async def _relayed(plan: Plan) -> None:
    """Datagrams from the VPC to a Service's address at a node, which sends them on to a pod elsewhere."""
    database, cart = plan.outside("orders-db"), plan.service("shop/cart")
    namespace = script.outside_namespace(plan.prefix, database)
    for address, via in (
        (cart.cluster_ip_v4, plan.nodes[0].address_v4),
        (cart.cluster_ip_v6, plan.nodes[0].address_v6),
    ):
        run_tool(["ip", "-n", namespace, "route", "replace", address, "via", via, "dev", "eth0", "onlink"])
        await udp_once(namespace, (address, cart.port), 100, 700)


async def _settle(plan: Plan, ports: Ports, facts: Facts, begun_ms: int) -> None:
    """Wait until the wire is quiet, stop the collectors, and wait until the last window is everywhere."""
    await _until(lambda: _quiet(plan), 120)
    facts.wire, facts.dropped = truth.read(plan), truth.dropped(plan)
    await asyncio.to_thread(cluster.stop, plan.prefix, "collector")
    settings = AuditSettings(kafka_bootstrap=f"127.0.0.1:{ports.kafka}", settle_seconds=0)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        now_ms = time.time_ns() // 1_000_000
        facts.audit = await audit_range(settings, TimeRange(begun_ms, now_ms), now_ms)
        if facts.audit.has_arrived and not facts.audit.absent:
            break
        await asyncio.sleep(0.5)
    await _until(lambda: _audit_has_seen(plan, ports, facts), 120)


def _audit_has_seen(plan: Plan, ports: Ports, facts: Facts) -> bool:
    """Return whether the audit's service has come as far as the audit that was made here."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.audit}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    mine = [sample for sample in samples if sample.labels.get("cluster") == plan.cluster]
    facts.audit_served = {
        "/".join([sample.name, *(value for name, value in sample.labels.items() if name != "cluster")]): sample.value
        for sample in mine
    }
    return facts.audit_served.get("zonemeter_audit_seen_bytes") == facts.audit.seen.bytes


def _quiet(plan: Plan) -> bool:
    """Return whether no pod sent anything between two looks."""
    before = truth.read(plan)
    time.sleep(1.0)
    after = truth.read(plan)
    pods = {address for pod in plan.pods for address in (pod.address_v4, pod.address_v6)}
    nodes = {address for node in plan.nodes for address in (node.address_v4, node.address_v6)}
    return all(before.get(pair) == after[pair] for pair in after if set(pair) <= pods - nodes)


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {seconds} s")


def _collect(plan: Plan, ports: Ports, files: Files, facts: Facts, scraper: Prometheus, directory: Path) -> None:
    bootstrap = f"127.0.0.1:{ports.kafka}"
    for spec in topic_specs(TopicNames()):
        facts.records[spec.name] = _read(bootstrap, spec.name)
    for metric in ("zonemeter_zone_bytes_total", "zonemeter_workload_bytes_total", "zonemeter_unknown_bytes_total"):
        facts.series[metric] = scraper.fresh(metric)
    kubezonnet = "pod_cross_zone_network_traffic_bytes_total"
    facts.series[kubezonnet] = scraper.fresh(kubezonnet)
    facts.flow_log = [Path(shutil.copy(path, directory)) for path in files.logs.rglob("*.parquet")]
    facts.audit_command = subprocess.run(
        [
            ".venv/bin/python",
            "-m",
            "cli",
            "audit",
            "--kafka-bootstrap",
            bootstrap,
            "-o",
            "json",
            "--settle-seconds",
            "0",
            "--deep",
            "--archive",
            str(files.logs),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def _produce(ports: Ports, topic: str, key: bytes, value: bytes) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": f"127.0.0.1:{ports.kafka}"})
    producer.produce(topic, key=key, value=value, partition=0)
    assert producer.flush(10) == 0


def _read(bootstrap: str, topic: str) -> list[Any]:
    """Read a whole topic with a client that is not aiokafka."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "e2e", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, n, confluent_kafka.OFFSET_BEGINNING) for n in numbers])
        found, open_ = [], set(numbers)
        deadline = time.monotonic() + 120
        while open_ and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
                open_.discard(message.partition())
            else:
                found.append(message)
        assert not open_, f"{topic}: partitions {open_} were not read to their end"
        return found
    finally:
        consumer.close()
