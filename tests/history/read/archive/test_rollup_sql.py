# SPDX-License-Identifier: Apache-2.0
"""What is asked of rollups has the answer that flows give, to the byte: whatever the flows, whatever is asked."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import duckdb
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from history.model.evidence import Evidence
from history.model.filters import Selection
from history.model.grouping import OWNERS, By, Per
from history.model.hints import Present
from history.model.party import FIELDS, Parties
from history.model.rollups import Hours, only_flows_tell
from history.model.states.labels import LabelTime
from history.model.summary import Summary, Traffic
from history.model.time_range import TimeRange
from history.read.archive.rollup_sql import roll_up
from history.read.batch import SCHEMA
from history.read.database import open_database
from history.read.flow_sql import FLOWS, FlowQuery
from schemas.flow import DIRECTIONS, SCOPES, Flow, Kubernetes, Named, Observer, Workload
from sinks.flowlog.rows.parquet import ParquetRows
from tests.support.history.rows import rows_of
from tests.support.history.written import BEGIN_MS, HOUR_MS
from tests.support.sinks.flows import cloud, flow, flow_id, node, other, pod

SPAN = TimeRange(BEGIN_MS, BEGIN_MS + 48 * HOUR_MS)
BROKER = ("10.42.9.9", 9092)
DATABASE = Workload("StatefulSet", "db")
ENDS = [
    *(pod(name, zone, address=address, **port)
      for name in ("api", "web") for zone in ("a", "b", None) for address in ("10.42.1.1", "10.42.1.2")
      for port in ({}, {"port": 5432})),
    pod("kafka", "b", address=BROKER[0], port=BROKER[1]),
    pod("kafka", "b", address=BROKER[0], port=80),
    pod("kafka", "b", address="10.42.9.8", port=BROKER[1]),
    *(pod(name, "a", k8s=Kubernetes(namespace=Named("batch"), pod=Named(name), node=Named("node-a")))
      for name in ("job-1", "job-2")),
    *(pod("db", "b", port=5432, k8s=Kubernetes(Named("data"), Named(name), DATABASE, Named(where), Named("db")))
      for name, where in (("db-0", "node-b"), ("db-1", "node-c"))),
    *(node(name, zone, **port) for name, zone in (("node-a", "a"), ("node-b", "b")) for port in ({}, {"port": 9100})),
    other("external"),
    *(other("external", name=name) for name in ("203.0.113.0/24", "198.51.100.0/24", "s3")),
    *(other("cidr", "b", name=name) for name in ("orders-db", "old/db")),
    *(other("unknown", None, reason=reason) for reason in ("vpc_unmapped", "ambiguous_owner")),
    other("service", "a", k8s=Kubernetes(namespace=Named("shop"), service=Named("cache"))),
    # With names that do not name it.
    other("service", "a", k8s=Kubernetes(Named("shop"), service=Named("dns"), node=Named("node-a"))),
    pod("job-3", "a", k8s=Kubernetes(Named("batch"), Named("job-3"), node=Named("node-a"), service=Named("jobs"))),
]  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "source": st.sampled_from(ENDS),
            "destination": st.sampled_from(ENDS),
            "scope": st.sampled_from(SCOPES),
            "direction": st.sampled_from(DIRECTIONS),
            "bytes": st.integers(0, 2**50),
            "encapsulation": st.sampled_from([UNSET] * 5 + ["vxlan"]),
            "server": st.sampled_from([UNSET, "source", "destination"]),
            "dnat": st.sampled_from([UNSET, True]),
            "observer": st.sampled_from([Observer(f"node-{zone}", cloud(zone)) for zone in "abc"]),
        }
    ),
    min_size=1,
    max_size=40,
)
WHEN = st.lists(st.integers(0, 3 * 360 - 1), min_size=40, max_size=40)
SELECTIONS: list[dict[str, Any]] = [
    {},
    {"namespaces": ["shop"]},
    {"clusters": ["lab"]},
    {"clusters": ["prod"]},
    {"workloads": ["api"]},
    {"workloads": ["StatefulSet/db", "cidr/orders-db"]},
    {"workloads": ["external"]},
    {"workloads": ["external/s3"]},
    {"workloads": ["cidr/old/db"]},
    {"workloads": ["shop/Service/cache"]},
    {"zones": ["b"]},
    {"scopes": ["cross_zone", "unknown"]},
    {"directions": ["relay"]},
    {"ports": [5432, 80]},
    {"sources": ["shop/Deployment/web"]},
    {"destinations": ["data/StatefulSet/db"], "namespaces": ["shop"]},
]
BYS: list[By | None] = [None, "namespace", "workload", "zone", "port", "service", "hour", "day", "label"]
LABELS = [
    LabelTime("shop", 0, BEGIN_MS + HOUR_MS, "web"),
    LabelTime("shop", BEGIN_MS + HOUR_MS, BEGIN_MS + 5 * HOUR_MS // 2, "core"),
    LabelTime("shop", BEGIN_MS + 5 * HOUR_MS // 2, BEGIN_MS + 9 * HOUR_MS, None),
    LabelTime("data", 0, BEGIN_MS + 9 * HOUR_MS, ""),
]


def made(rows: Sequence[dict[str, Any]], when: Sequence[int]) -> list[Flow]:
    """Return flows of the first three hours; the windows' lengths differ, and some end after their hour."""
    found = []
    for number, (row, at) in enumerate(zip(rows, when, strict=False)):
        start = BEGIN_MS + at * 10_000
        length = (10_000, 20_000, 60_000, 2 * HOUR_MS)[number % 4]
        node_name = row["observer"].node
        found.append(flow(id=flow_id(at, number, node_name), start_ms=start, end_ms=start + length, **row))
    return found


@cache
def database() -> duckdb.DuckDBPyConnection:
    return open_database()


def view(flows: Sequence[Flow], hours: Hours | None) -> FlowQuery:
    """Return what answers from flows, or from rollups for those hours."""
    rows = ParquetRows()
    rows.add(rows_of(flows))
    database().register("all_flows", rows.table().cast(SCHEMA))
    parts = []
    for number in range(4):
        hour = TimeRange(BEGIN_MS + number * HOUR_MS, BEGIN_MS + (number + 1) * HOUR_MS)
        of_hour = f"epoch_ms(window_start) BETWEEN {hour.from_ms} AND {hour.to_ms - 1}"
        database().execute(
            f"CREATE OR REPLACE VIEW hour_{number} AS SELECT *, 1 AS flows FROM all_flows WHERE {of_hour}"
        )
        if hours is not None and hours.holds(hour):
            rollup = roll_up(database(), f"hour_{number}", hour).to_arrow_table()
            database().register(f"rollup_{number}", rollup)
            parts.append(f"FROM rollup_{number}")
        else:
            parts.append(f"FROM hour_{number}")
    database().execute(f"CREATE OR REPLACE VIEW {FLOWS} AS {' UNION ALL BY NAME '.join(parts)}")
    return FlowQuery(database(), SPAN)


def answer(query: FlowQuery, parties: Parties, selection: Selection, by: By | None, per: Per | None) -> tuple[Any, ...]:
    summary, present = Summary(), Present()
    query.summarise(parties, summary, selection, by, per, LABELS)
    present.merge(query.present(selection))
    return (
        dict(summary.traffic),
        dict(summary.slots),
        (summary.flows, summary.outer_bytes, summary.metered_ms, summary.observers, summary.clusters),
        (bool(present.flows), present.met, present.values),
    )


@settings(max_examples=8)
@given(ROWS, WHEN, st.sampled_from(SELECTIONS), st.sampled_from(BYS), st.sampled_from([None, "hour", "day", "month"]))
def test_a_report(rows: Any, when: Any, asked: dict[str, Any], by: By | None, per: Per | None) -> None:
    assume(per is None or by in OWNERS)
    selection = Selection(**asked)
    assert only_flows_tell(selection, SPAN, by) == ""
    flows, parties = made(rows, when), Parties([BROKER])
    wanted = answer(view(flows, None), parties, selection, by, per)
    found = answer(view(flows, Hours(SPAN, LABELS if by == "label" else ())), parties, selection, by, per)
    assert found == wanted


@settings(max_examples=8)
@given(ROWS, WHEN, st.sampled_from(SELECTIONS))
def test_evidence_for_advice(rows: Any, when: Any, asked: dict[str, Any]) -> None:
    flows, parties, selection = made(rows, when), Parties([BROKER]), Selection(**asked)

    def gathered(hours: Hours | None) -> tuple[Any, ...]:
        evidence, summary = Evidence(SPAN), Summary()
        view(flows, hours).gather(parties, evidence, summary, selection)
        return dict(evidence.cells), dict(summary.traffic), dict(summary.slots), summary.flows, summary.metered_ms

    assert gathered(Hours(SPAN)) == gathered(None)


def every_pair() -> list[Flow]:
    """Return two flows between each two ends, one each way of all else."""
    rows = [
        {
            "source": source,
            "destination": destination,
            "scope": SCOPES[number % len(SCOPES)],
            "direction": DIRECTIONS[number % len(DIRECTIONS)],
            "bytes": 1_000 + number,
            "encapsulation": UNSET if number % 5 else "vxlan",
            "server": (UNSET, "source", "destination")[number % 7 % 3],
            "dnat": True if number % 11 % 2 else UNSET,
            "observer": Observer(f"node-{'abc'[number % 3]}", cloud("abc"[number % 3])),
        }
        for number, (source, destination) in enumerate(list(product(ENDS, ENDS)) * 2)
    ]
    return made(rows, [number * 7 % 1080 for number in range(len(rows))])


def test_every_pair_of_ends_every_filter_and_every_grouping() -> None:
    flows, parties = every_pair(), Parties([BROKER])
    asked: list[tuple[dict[str, Any], By | None, Per | None]] = [
        *((selection, None, None) for selection in SELECTIONS),
        *(({}, by, None) for by in BYS),
    ]
    asked += [({}, "namespace", "hour"), ({}, "workload", "day"), ({}, "label", "month")]
    for selection, by, _ in asked:
        assert only_flows_tell(Selection(**selection), SPAN, by) == ""
    answers = []
    for hours in (None, Hours(SPAN, LABELS)):
        query = view(flows, hours)
        evidence, summary = Evidence(SPAN), Summary()
        query.gather(parties, evidence, summary, Selection())
        found = [answer(query, parties, Selection(**selection), by, per) for selection, by, per in asked]
        answers.append([dict(evidence.cells), dict(summary.traffic), *found])
    for number, (wanted, found) in enumerate(zip(*answers, strict=True)):
        assert found == wanted, (["cells", "traffic", *asked])[number]


def test_sums_are_those_of_rows_one_by_one() -> None:
    """A statement tells ends apart by fewer columns than an end has; these tell the same, and outer packets none."""
    flows, parties, summary = every_pair(), Parties([BROKER]), Summary()
    view(flows, None).summarise(parties, summary, Selection())
    query = "SELECT * EXCLUDE (window_start, window_end) FROM all_flows"
    rows = database().sql(query).to_arrow_table().to_pylist()
    regions = {row[f"{side}_zone"]: row[f"{side}_region"] for row in rows for side in ("src", "dst")}
    traffic: dict[Traffic, int] = defaultdict(int)
    for row in rows:
        if row["encapsulation"] is not None:
            continue
        source, destination = (
            parties.of(
                [row[f"{side}_{name}"] for name in FIELDS],
                broker=row[f"{other_side}_kind"] == "node" and (row[f"{side}_address"], row[f"{side}_port"]) == BROKER,
            )
            for side, other_side in (("src", "dst"), ("dst", "src"))
        )
        if row["direction"] == "relay":
            source = parties.at(source, row["observer_zone"], regions.get(row["observer_zone"], ""))
        traffic[Traffic(row["scope"], source, destination, row["direction"] == "ingress")] += row["bytes"]
    assert dict(summary.traffic) == traffic
    assert summary.outer_bytes == sum(row["bytes"] for row in rows) - sum(traffic.values()) > 0
    assert summary.observers == {row["observer_node"] for row in rows}
    assert summary.clusters == {row["cluster"] for row in rows}


def test_rollups_are_rolled_up_again_to_the_same_sums() -> None:
    flows, parties = every_pair(), Parties([BROKER])
    asked: list[tuple[dict[str, Any], By | None]] = [({}, None), ({}, "port"), ({"workloads": ["external"]}, "service")]
    wanted = [answer(view(flows, None), parties, Selection(**selection), by, None) for selection, by in asked]
    view(flows, Hours(SPAN))
    again = roll_up(database(), FLOWS, TimeRange(BEGIN_MS, BEGIN_MS + 24 * HOUR_MS)).to_arrow_table()
    database().register("again", again)
    [(hourly,)] = database().execute(f"SELECT count(*) FROM {FLOWS}").fetchall()
    assert len(again) < hourly
    database().execute(f"CREATE OR REPLACE VIEW {FLOWS} AS FROM again")
    query = FlowQuery(database(), SPAN)
    for (selection, by), (traffic, _, *others) in zip(asked, wanted, strict=True):
        found, _, *rest = answer(query, parties, Selection(**selection), by, None)
        assert found == traffic
        assert rest == others


def test_fewer_rows_are_asked() -> None:
    """The tests above would hold if nothing were summed up."""
    rows = [{"source": ENDS[0], "destination": ENDS[4]}] * 30
    view([flow(id=flow_id(at), start_ms=BEGIN_MS + at * 10_000, end_ms=BEGIN_MS + at * 10_000 + 10_000, **row)
          for at, row in enumerate(rows)], Hours(SPAN))  # fmt: skip
    assert database().execute(f"SELECT count(*) FROM {FLOWS} WHERE scope IS NOT NULL").fetchall() == [(1,)]
