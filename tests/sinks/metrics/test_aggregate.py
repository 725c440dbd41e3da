# SPDX-License-Identifier: Apache-2.0
"""Flow in, expected counters out; budgets fold and totals stay exact."""

from typing import Any

import pytest

from schemas.flow import Cloud, Kubernetes, Named, Observer
from sinks.intake import Intake, Lane
from sinks.metrics.aggregate import DELAYED_MS, Aggregate
from sinks.metrics.ends import Ends
from sinks.metrics.family import Changes
from tests.support.sinks.flows import END_MS, EXTERNAL, cloud, encoded, flow, flow_id, node, other, pod, records

ZONE, PACKETS = "zonemeter_zone_bytes_total", "zonemeter_zone_packets_total"
WORKLOAD, UNKNOWN = "zonemeter_workload_bytes_total", "zonemeter_unknown_bytes_total"
OUTER, KUBEZONNET = "zonemeter_encapsulation_bytes_total", "pod_cross_zone_network_traffic_bytes_total"
API_POSTGRES = ("lab", "shop", "Deployment", "api", "a", "shop", "Deployment", "postgres", "b", "cross_zone")

Counters = dict[str, dict[tuple[str, ...], int]]


class Counting:
    """An aggregate with its intake."""

    def __init__(self, max_series: int = 100, kubezonnet_max_series: int | None = 100) -> None:
        self.aggregate = Aggregate(max_series, kubezonnet_max_series)
        self.intake = Intake(Ends().make)
        self.lane = Lane(0)
        self.rows = 0

    def count(self, *flows: dict[str, Any]) -> None:
        values = [encoded(flow(id=flow_id(1, self.rows + row), **fields)) for row, fields in enumerate(flows)]
        self.rows += len(values)
        self.count_values(values)

    def count_values(self, values: list[bytes]) -> None:
        """Count flows as they stand in the topic."""
        batch = self.intake.take(self.lane, records(values), END_MS)
        assert not batch.refused
        self.aggregate.add(batch.rows, self.lane.books)

    def counters(self) -> Counters:
        self.aggregate.fold(END_MS)
        return {
            name: {series.labels: series.value for series in family.served}
            for name, family in self.aggregate.families.items()
            if family.served
        }


def zones(src: str, dst: str, scope: str) -> Counters:
    return {ZONE: {("lab", src, dst, scope): 1000}, PACKETS: {("lab", src, dst, scope): 2}}


def workload(*labels: str) -> Counters:
    return {WORKLOAD: {labels: 1000}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {},
            zones("a", "b", "cross_zone") | workload(*API_POSTGRES) | {KUBEZONNET: {("shop", "api-0"): 1000}},
            id="pods",
        ),
        pytest.param(
            {"scope": "same_zone", "destination": pod("web", "a")},
            zones("a", "a", "same_zone")
            | workload("lab", "shop", "Deployment", "api", "a", "shop", "Deployment", "web", "a", "same_zone"),
            id="same-zone-is-not-kubezonnets",
        ),
        pytest.param(
            {"source": node("node-a1", "a")},
            zones("a", "b", "cross_zone")
            | workload("lab", "", "Node", "node-a1", "a", "shop", "Deployment", "postgres", "b", "cross_zone")
            | {KUBEZONNET: {("_node_", "node-a1"): 1000}},
            id="host-traffic-is-kubezonnets-node",
        ),
        pytest.param(
            {"destination": EXTERNAL, "scope": "external"},
            zones("a", "", "external")
            | workload("lab", "shop", "Deployment", "api", "a", "", "external", "", "", "external"),
            id="external",
        ),
        pytest.param(
            {"source": other("cidr", "c", name="rds"), "direction": "ingress"},
            zones("c", "b", "cross_zone")
            | workload("lab", "", "cidr", "rds", "c", "shop", "Deployment", "postgres", "b", "cross_zone"),
            id="cidr-by-name",
        ),
        pytest.param(
            {"source": other("unknown", reason="late_index"), "scope": "unknown"},
            zones("", "b", "unknown")
            | workload("lab", "", "unknown", "", "", "shop", "Deployment", "postgres", "b", "unknown")
            | {UNKNOWN: {("lab", "late_index"): 1000}},
            id="unknown-source",
        ),
        pytest.param(
            {
                "source": other("unknown", "a", reason="late_index"),
                "destination": other("unknown", reason="vpc_unmapped"),
                "scope": "unknown",
            },
            zones("a", "", "unknown")
            | workload("lab", "", "unknown", "", "a", "", "unknown", "", "", "unknown")
            | {UNKNOWN: {("lab", "vpc_unmapped"): 1000}},
            id="unknown-source-on-a-known-node",
        ),
        pytest.param(
            {"destination": other("unknown", reason="\n" * 50), "scope": "unknown"},
            zones("a", "", "unknown")
            | workload("lab", "shop", "Deployment", "api", "a", "", "unknown", "", "", "unknown")
            | {UNKNOWN: {("lab", "other"): 1000}},
            id="unknown-for-a-reason-nobody-knows",
        ),
        pytest.param(
            {"destination": pod("web", None, reason="zone_missing"), "scope": "unknown"},
            zones("a", "", "unknown")
            | workload("lab", "shop", "Deployment", "api", "a", "shop", "Deployment", "web", "", "unknown")
            | {UNKNOWN: {("lab", "zone_missing"): 1000}},
            id="zone-missing",
        ),
        pytest.param(
            {"source": EXTERNAL, "direction": "relay", "observer": Observer("node-c", cloud("c"))},
            zones("c", "b", "cross_zone")
            | workload("lab", "", "external", "", "c", "shop", "Deployment", "postgres", "b", "cross_zone"),
            id="relay-leaves-the-observers-zone",
        ),
        pytest.param(
            {"direction": "relay", "scope": "unknown", "observer": Observer("node-c")},
            zones("", "b", "unknown")
            | workload("lab", "shop", "Deployment", "api", "", "shop", "Deployment", "postgres", "b", "unknown")
            | {UNKNOWN: {("lab", "zone_missing"): 1000}},
            id="relay-by-an-observer-without-a-zone",
        ),
        pytest.param(
            {
                "source": other("unknown", address="10.9.9.9", reason="vpc_unmapped"),
                "direction": "relay",
                "scope": "unknown",
                "observer": Observer("node-c"),
            },
            zones("", "b", "unknown")
            | workload("lab", "", "unknown", "", "", "shop", "Deployment", "postgres", "b", "unknown")
            | {UNKNOWN: {("lab", "zone_missing"): 1000}},
            id="relay-of-nobodys-by-an-observer-without-a-zone",
        ),
        pytest.param(
            {
                "source": other(
                    "pod", cloud=Cloud(zone_id="z"), k8s=Kubernetes(namespace=Named("x"), pod=Named("bare"))
                ),
                "scope": "unknown",
            },
            zones("", "b", "unknown")
            | workload("lab", "x", "Pod", "bare", "", "shop", "Deployment", "postgres", "b", "unknown")
            | {UNKNOWN: {("lab", "zone_missing"): 1000}},
            id="bare-pod",
        ),
        pytest.param(
            {"destination": other("service", "b", k8s=Kubernetes(namespace=Named("shop"), service=Named("postgres")))},
            zones("a", "b", "cross_zone")
            | workload("lab", "shop", "Deployment", "api", "a", "shop", "Service", "postgres", "b", "cross_zone")
            | {KUBEZONNET: {("shop", "api-0"): 1000}},
            id="service",
        ),
        pytest.param(
            {"source": node("node-a", "a"), "destination": node("node-b", "b"), "encapsulation": "vxlan"},
            {OUTER: {("lab", "node-a", "node-b", "vxlan"): 1000}},
            id="outer-packets-stay-out-of-the-totals",
        ),
        pytest.param(
            {"source": node("node-a", "a"), "destination": EXTERNAL, "encapsulation": "martian"},
            {OUTER: {("lab", "node-a", "", "other"): 1000}},
            id="outer-packets-of-an-overlay-nobody-knows",
        ),
    ],
)
def test_one_flow(fields: dict[str, Any], expected: Counters) -> None:
    counting = Counting()
    counting.count(fields)
    assert counting.counters() == expected


def test_outer_packets_are_put_aside_in_the_books() -> None:
    counting = Counting()
    counting.count({}, {"encapsulation": "vxlan", "bytes": 50})
    [record] = counting.lane.books.records("metrics", "1", 0, END_MS)
    assert (record.given.bytes, record.aside["encapsulation"].bytes, record.taken.bytes) == (1000, 50, 1050)
    assert record.balance() is None


def test_ports_and_addresses_are_no_series() -> None:
    counting = Counting()
    counting.count(*({"destination": pod("postgres", "b", port=port, address=f"10.0.0.{port}")} for port in range(50)))
    assert counting.counters()[WORKLOAD] == {API_POSTGRES: 50_000}


@pytest.mark.parametrize("max_series", [0, 1, 7, 30, 100])
def test_beyond_the_budget_pairs_are_folded_and_totals_stay_exact(max_series: int) -> None:
    counting = Counting(max_series, kubezonnet_max_series=max_series)
    sent = [{"source": pod(f"app-{number % 30}", "a"), "bytes": 100 + number} for number in range(90)]
    counting.count(*sent[:45])
    counting.counters()
    counting.count(*sent[45:])
    counters = counting.counters()
    total = sum(100 + number for number in range(90))
    other_ = ("lab", "_other_", "_other_", "_other_", "a", "_other_", "_other_", "_other_", "b", "cross_zone")
    for family, folded in ((WORKLOAD, other_), (KUBEZONNET, ("_other_", "_other_"))):
        assert sum(counters[family].values()) == total
        assert len(counters[family].keys() - {folded}) == min(max_series, 30)
        assert (folded in counters[family]) == (max_series < 30)
    assert counters[ZONE] == {("lab", "a", "b", "cross_zone"): total}


def test_kubezonnets_metric_can_be_switched_off() -> None:
    counting = Counting(kubezonnet_max_series=None)
    counting.count({})
    assert KUBEZONNET not in counting.counters()


def test_fold_returns_what_changed_and_nothing_else() -> None:
    counting = Counting()
    counting.count({}, {"destination": EXTERNAL, "scope": "external"})
    assert len(counting.aggregate.fold(END_MS).samples) == 7
    assert counting.aggregate.fold(END_MS) == Changes()
    counting.count({})
    changed = {series.family: series.value for series in counting.aggregate.fold(END_MS).samples}
    assert changed == {ZONE: 2000, PACKETS: 4, WORKLOAD: 2000, KUBEZONNET: 2000}


def test_restored_series_go_on_and_keep_their_budget() -> None:
    before = Counting(max_series=2)
    before.count({}, {"source": pod("web", "a")}, {"source": pod("late", "a")})
    samples = before.aggregate.fold(END_MS).samples
    after = Counting(max_series=2)
    for sample in samples:
        after.aggregate.restore(sample)
    assert after.counters() == before.counters()
    after.count({}, {"source": pod("later", "a")})
    before.count({}, {"source": pod("later", "a")})
    assert after.counters() == before.counters()
    numbers = [series.number for family in after.aggregate.families.values() for series in family.served]
    assert len(numbers) == len(set(numbers))


def test_bytes_that_come_late_are_counted_a_second_time_by_cluster() -> None:
    counting = Counting()
    sent = [
        flow(id=flow_id(1, 0)),
        flow(id=flow_id(1, 1), bytes=500),
        flow(id=flow_id(1, 2), encapsulation="vxlan"),
        flow(id=flow_id(2, 0), start_ms=END_MS, end_ms=END_MS + 10_000, bytes=70),
    ]
    batch = counting.intake.take(counting.lane, records(encoded(each) for each in sent), END_MS + 10_000)
    counting.aggregate.note_delayed(batch.rows, END_MS + DELAYED_MS)
    assert counting.counters() == {}
    counting.aggregate.note_delayed(batch.rows, END_MS + DELAYED_MS + 1)
    assert counting.counters() == {"zonemeter_delayed_bytes_total": {("lab",): 1500}}
    counting.aggregate.note_delayed(batch.rows[3:], END_MS + DELAYED_MS + 20_000)
    assert counting.counters() == {"zonemeter_delayed_bytes_total": {("lab",): 1570}}
