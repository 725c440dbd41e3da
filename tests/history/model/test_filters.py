# SPDX-License-Identifier: Apache-2.0
"""Filters want the same of a topic and of the flow log's columns, and what tables print is understood."""

import ipaddress
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from history.model.filters import Selection
from history.read import topic_sql
from history.read.batch import FlowBatch
from history.read.flow_sql import ALWAYS, FlowQuery
from history.read.topic_sql import Sieve, TopicRows
from history.replay.table import name_of
from schemas.flow import DIRECTIONS, SCOPES, Endpoint, Flow, Kubernetes, Named, Observer
from sinks.flowlog.rows.columns import END_COLUMNS, flatten
from tests.support.history.rows import database, rows_of, summed
from tests.support.sinks.flows import flow, node, other, pod

ENDS = [
    *(pod(name, zone) for name in ("api", "web") for zone in ("a", "b", None)),
    pod("api", "a", address="10.1.0.9", port=443),
    pod("x", "a", k8s=Kubernetes(namespace=Named("batch"), pod=Named("lonely-0"))),
    node("node-a1", "a"),
    node("node-b1", "b", address="fd00::7"),
    other("external"),
    other("external", None, name="203.0.113.0/24"),
    other("cidr", "b", name="orders-db", address="10.60.0.7"),
    other("cidr", "b", name="rds/orders", address="10.60.0.8"),
    other("unknown", None, reason="vpc_unmapped"),
]
NAMES = [
    "api",
    "shop/api",
    "Deployment/web",
    "shop/Deployment/web",
    "shop/web-0",
    "batch/Pod/lonely-0",
    "node/node-a1",
    "cidr/orders-db",
    "cidr/rds/orders",
    "external",
    "nobody",
]
NETWORKS = ["10.1.0.0/16", "10.60.0.7", "fd00::/8"]


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True)


SELECTIONS = st.builds(
    Selection,
    clusters=some(["lab", "other"]),
    namespaces=some(["shop", "batch"]),
    workloads=some(NAMES),
    pods=some(["lonely-0", "batch/lonely-0"]),
    addresses=some(NETWORKS),
    zones=some(["a", "b"]),
    sources=some([*NAMES, *NETWORKS]),
    destinations=some([*NAMES, *NETWORKS]),
    scopes=some(list(SCOPES)),
    directions=some(list(DIRECTIONS)),
    ports=some([443, 5432]),
    min_bytes=st.sampled_from([0, 2]),
)
FLOWS = st.lists(
    st.builds(
        lambda source, destination, scope, direction, size: flow(
            source=source, destination=destination, scope=scope, direction=direction, bytes=size
        ),
        st.sampled_from(ENDS),
        st.sampled_from(ENDS),
        st.sampled_from(SCOPES),
        st.sampled_from(DIRECTIONS),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100)
@given(FLOWS, SELECTIONS)
def test_a_topics_rows_and_an_archives_columns_are_filtered_alike(flows: list[Flow], selection: Selection) -> None:
    rows = rows_of(flows)
    wanted = [place for place, one in enumerate(flows) if is_wanted(one, selection)]
    topic = TopicRows()
    topic.add(rows)
    assert topic.query(database()).places(selection) == wanted
    table = FlowBatch(rows).table().append_column("place", [list(range(len(rows)))])
    database().from_arrow(table).create_view("flows")
    assert FlowQuery(database(), ALWAYS).places(selection) == wanted


def is_wanted(one: Flow, selection: Selection) -> bool:
    """Say by the flow itself what the filters are to say by its columns."""
    ends = [one.source, one.destination]
    sides = zip(ends, (selection.sources, selection.destinations), strict=True)
    return (
        one.bytes >= selection.min_bytes
        and (not selection.scopes or one.scope in selection.scopes)
        and (not selection.directions or one.direction in selection.directions)
        and (not selection.clusters or one.k8s.cluster.name in selection.clusters)
        and (not selection.ports or any(end.port in selection.ports for end in ends))
        and any(meets(end, selection) for end in ends)
        and all(not texts or {*workloads(end), *pods(end)} & set(texts) or is_in(end, texts) for end, texts in sides)
    )


def meets(end: Endpoint, selection: Selection) -> bool:
    zone = None if end.cloud is UNSET else end.cloud.availability_zone
    return (
        (not selection.namespaces or namespace(end) in selection.namespaces)
        and (not selection.zones or zone in selection.zones)
        and (not selection.workloads or bool(workloads(end) & set(selection.workloads)))
        and (not selection.pods or bool(pods(end) & set(selection.pods)))
        and (not selection.addresses or is_in(end, selection.addresses))
    )


def is_in(end: Endpoint, networks: Collection[str]) -> bool:
    found = (ipaddress.ip_network(text) for text in networks if text in NETWORKS)
    return end.address is not UNSET and any(ipaddress.ip_address(end.address) in network for network in found)


def namespace(end: Endpoint) -> str | None:
    return None if end.k8s is UNSET or end.k8s.namespace is UNSET else end.k8s.namespace.name


def workloads(end: Endpoint) -> set[str]:
    if end.kind == "pod":
        assert end.k8s is not UNSET and end.k8s.pod is not UNSET
        within, found = namespace(end), {f"{namespace(end)}/Pod/{end.k8s.pod.name}"}
        if end.k8s.workload is not UNSET:
            kind, name = end.k8s.workload.kind, end.k8s.workload.name
            found |= {name, f"{kind}/{name}", f"{within}/{name}", f"{within}/{kind}/{name}"}
        return found
    if end.kind == "node":
        assert end.k8s is not UNSET and end.k8s.node is not UNSET
        return {f"node/{end.k8s.node.name}"}
    return {end.kind, f"{end.kind}/{end.name}"} - {"cidr"}


def pods(end: Endpoint) -> set[str]:
    if end.k8s is UNSET or end.k8s.pod is UNSET:
        return set()
    return {end.k8s.pod.name, f"{namespace(end)}/{end.k8s.pod.name}"}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: flatten(end).values[0])
def test_what_a_table_prints_is_accepted(end: Any) -> None:
    one = flow(source=end, destination=end)
    (row,) = rows_of([one])
    (traffic,) = summed([one]).traffic
    label = traffic.source.label
    for text in (label, name_of(dict(zip(END_COLUMNS, row.source.values, strict=True)))):
        assert Sieve(Selection(sources=[text], destinations=[text])).wanted([row]), text
    assert Sieve(Selection(workloads=[label])).wanted([row]), label


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/b/c/d/e", "10.42.1.7/24"])
def test_what_no_end_goes_by_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Selection(sources=[text])


def test_an_end_that_comes_again_is_told_to_the_database_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    numbered = topic_sql._numbered

    def counting(names: Any, rows: Any, first: int = 0) -> Any:
        if names == END_COLUMNS:
            told.append(len(rows))
        return numbered(names, rows, first)

    monkeypatch.setattr(topic_sql, "_numbered", counting)
    sieve, rows = Sieve(Selection(zones=["a"])), rows_of([flow(source=end, destination=ENDS[0]) for end in ENDS])
    wanted = [sieve.wanted(part) for part in (rows[:4], rows, rows)]
    assert wanted == [rows[:4], rows, rows]
    assert sum(told) == len(ENDS)


def test_what_a_forger_never_repeats_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_sql, "MAX_ENDS", 10)
    sieve, held, [row] = Sieve(Selection(zones=["a"])), [], rows_of([flow(source=ENDS[0])])
    for number in range(30):
        assert sieve.wanted([row._replace(observer=Observer(f"node-{number}"))])
        held.append(len(sieve._asked._by_name))
    assert max(held) == 10
