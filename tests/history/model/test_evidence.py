# SPDX-License-Identifier: Apache-2.0
"""What advice is made of: the bytes of a report, told apart by who serves, at which port, when."""

import msgspec
import pytest

from history.model.evidence import Cell, Evidence
from history.model.filters import Selection
from history.model.party import Parties
from history.model.summary import Summary
from history.model.time_range import MAX_SLOTS, TimeRange
from history.read.archive.opened import FlowArchive
from history.read.archive.sql import ArchiveQuery
from schemas.flow import Flow, Kubernetes, Named, Workload
from tests.support.history.lived import Lived
from tests.support.history.rows import evidence_of, summed
from tests.support.sinks.flows import API, END_MS, POSTGRES, START_MS, flow, pod

SPAN = TimeRange(START_MS, START_MS + 100_000)
SERVED = msgspec.structs.replace(
    POSTGRES,
    k8s=Kubernetes(
        namespace=Named("shop"), workload=Workload("StatefulSet", "postgres"), service=Named("postgres-read")
    ),
)


def only(one: Flow, parties: Parties | None = None) -> tuple[Cell, int]:
    evidence, _ = evidence_of([one], SPAN, parties)
    ((cell, size),) = evidence.cells.items()
    return cell, size


def test_a_request_and_its_reply_have_the_same_server() -> None:
    parties = Parties()
    asked, size = only(flow(source=API, destination=SERVED, server="destination", dnat=True), parties)
    assert (asked.server.label, asked.client.label, asked.port) == (
        "shop/StatefulSet/postgres",
        "shop/Deployment/api",
        5432,
    )
    assert (asked.service, asked.dnat, asked.is_request, size) == ("postgres-read", True, True, 1000)
    answered, _ = only(flow(source=SERVED, destination=API, server="source"), parties)
    assert (answered.server, answered.client, answered.port) == (asked.server, asked.client, 5432)
    assert (answered.service, answered.dnat, answered.is_request) == ("postgres-read", False, False)


def test_without_connection_tracking_the_end_that_kept_its_port_serves() -> None:
    cell, _ = only(flow(source=POSTGRES, destination=API))
    assert (cell.serves, cell.port, cell.server.label) == ("source", 5432, "shop/Deployment/postgres")


@pytest.mark.parametrize("ports", [(None, None), (80, 90)])
def test_where_ports_do_not_tell_nobody_serves(ports: tuple[int | None, int | None]) -> None:
    ends = [
        pod(name, "a") if port is None else pod(name, "a", port=port) for name, port in zip("xy", ports, strict=True)
    ]
    cell, _ = only(flow(source=ends[0], destination=ends[1]))
    assert (cell.serves, cell.port) == (None, 0)


def test_flows_without_a_byte_are_no_evidence() -> None:
    """Anybody who may write into the topic can make some: a part of nothing is not a number."""
    evidence, summary = evidence_of([flow(bytes=0), flow(bytes=0, source=API, destination=SERVED)], SPAN)
    assert (len(evidence.cells), summary.flows) == (0, 2)


def test_slots_begin_where_the_clock_says() -> None:
    evidence, _ = evidence_of([flow(), flow(start_ms=START_MS + 10_000, end_ms=END_MS + 10_000)], SPAN)
    assert sorted(cell.at_ms for cell in evidence.cells) == [START_MS, START_MS + 10_000]
    assert all(evidence.slot_of(cell) == (cell.at_ms, cell.at_ms + 10_000) for cell in evidence.cells)


@pytest.mark.parametrize("days", [0.01, 1, 7, 31, 365])
def test_a_range_has_so_many_slots_at_most(days: float) -> None:
    evidence = Evidence(TimeRange(0, int(days * 86_400_000)))
    assert evidence.span.to_ms / evidence.slot_ms <= MAX_SLOTS


def test_the_sums_are_the_reports() -> None:
    flows = [
        flow(),
        flow(direction="relay", bytes=10),
        flow(encapsulation="vxlan"),
        flow(source=POSTGRES, destination=API, direction="ingress", bytes=7),
    ]
    evidence, summary = evidence_of(flows, SPAN, parties := Parties())
    wanted = summed(flows, parties, span=SPAN)
    assert summary.slots == wanted.slots == {(START_MS, "cross_zone"): 1017}
    assert (summary.traffic, summary.flows, summary.windows) == (wanted.traffic, wanted.flows, wanted.windows)
    assert sum(evidence.cells.values()) == wanted.bytes
    again = evidence.summary_of({}, like=summary)
    assert (again.traffic, again.slots) == (wanted.traffic, wanted.slots)


def test_archive_and_rows_say_the_same(history: Lived) -> None:
    span = TimeRange(history.begin_ms, history.end_ms)
    parties, evidence, summary = Parties(), Evidence(span), Summary()
    with ArchiveQuery(FlowArchive(str(history.archive)), span) as query:
        query.gather(parties, evidence, summary, Selection())
    flows = [msgspec.convert(each, Flow) for each in history.flows.values()]
    wanted, _ = evidence_of(flows, span, parties)
    assert dict(evidence.cells) == dict(wanted.cells)
    assert {cell.serves for cell in evidence.cells} == {"source", "destination"}
