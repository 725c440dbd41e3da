# SPDX-License-Identifier: Apache-2.0
"""Filters want the same of rows and of the flow log's columns, and what tables print is understood."""

from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history.model.filters import Selection
from history.model.party import Parties
from history.read.archive_sql import WANTED_ADDRESSES, wanted_addresses
from history.read.batch import FlowBatch
from history.replay.table import name_of
from schemas.flow import DIRECTIONS, SCOPES, Flow, Kubernetes, Named, decode_head, decode_observer
from sinks.flowlog.columns import END_COLUMNS, FlatEnd, flatten
from sinks.intake import Row
from tests.support.sinks.flows import encoded, flow, node, other, pod

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
ADDRESS = END_COLUMNS.index("address")
NETWORKS = ["10.1.0.0/16", "10.60.0.7", "fd00::/8"]


def row_of(made: Flow) -> Row[FlatEnd]:
    head = decode_head(encoded(made))
    return Row(head, flatten(made.source), flatten(made.destination), decode_observer(bytes(head.observer)))


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


@settings(max_examples=150)
@given(FLOWS, SELECTIONS)
def test_rows_and_columns_are_filtered_alike(flows: list[Flow], selection: Selection) -> None:
    rows = [row_of(one) for one in flows]
    assert wanted_by_sql(rows, selection) == [place for place, row in enumerate(rows) if selection.wants(row)]


def wanted_by_sql(rows: list[Row[FlatEnd]], selection: Selection) -> list[int]:
    table = FlowBatch(rows).table().append_column("place", [list(range(len(rows)))])
    addresses = {str(end.values[ADDRESS]) for row in rows for end in (row.source, row.destination)}
    with duckdb.connect() as database:
        database.register("flows", table)
        database.register(WANTED_ADDRESSES, wanted_addresses(selection.held(sorted(addresses))))
        condition, parameters = selection.sql(WANTED_ADDRESSES)
        found = database.execute(f"SELECT place FROM flows WHERE {condition} ORDER BY place", parameters).fetchall()
    return [place for (place,) in found]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: flatten(end).values[0])
def test_what_a_table_prints_is_accepted(end: Any) -> None:
    flat = flatten(end)
    one = row_of(flow(source=end, destination=end))
    printed = {Parties().of_flat(flat).label, name_of(dict(zip(END_COLUMNS, flat.values, strict=True)))}
    for text in printed:
        assert Selection(sources=[text], destinations=[text]).wants(one), text
    label = Parties().of_flat(flat).label
    assert Selection(workloads=[label]).wants(one), label


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/b/c/d", "10.42.1.7/24"])
def test_what_no_end_goes_by_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Selection(sources=[text])
