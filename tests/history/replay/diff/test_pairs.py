# SPDX-License-Identifier: Apache-2.0
"""Each byte of either side is in what is found once, whatever was recorded: paired by its row, or of one side alone."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.join.policy import Policy
from history.replay.diff.pairs import Found, Pairs
from schemas.flow import Endpoint, Flow, Kubernetes, Named, Workload, decode_flow
from schemas.ids import split_flow_id
from tests.enricher.join.test_rollup import ROWS, states
from tests.support.enricher.joined import joined, out_of
from tests.support.history.rows import rows_of
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, cloud, flow, flow_id, node, pod

CHUNK = split_flow_id(flow_id())[0]


def made(row: int, **fields: Any) -> Flow:
    return flow(**({"id": flow_id(row=row), "bytes": 100 + row} | fields))


def find(
    directory: Path, recorded: list[Flow], rejoined: list[Flow], rows: int = 4, *, aside: bool = False
) -> list[Found]:
    pairs = Pairs(directory)
    ids = {each.id for each in (*recorded, *rejoined)}
    pairs.add("recorded", rows_of(recorded), ids)
    pairs.add("rejoined", rows_of(rejoined), ids)
    if rows:
        chunk = split_flow_id(recorded[0].id)[0] if recorded else CHUNK
        pairs.add_chunks([(chunk, rows, aside)])
    found = list(pairs.found())
    pairs.close()
    return found


def kinds(found: list[Found]) -> dict[str, tuple[int, int, str]]:
    sums: dict[str, tuple[int, int, str]] = {}
    for each in found:
        flows, size, why = sums.get(each.kind, (0, 0, each.why))
        assert why == each.why
        sums[each.kind] = (flows + each.flows, size + each.bytes, why)
    return sums


def test_what_is_the_same_is_one_row_and_what_differs_has_both(tmp_path: Path) -> None:
    rejoined = [made(0), made(1), made(2, destination=EXTERNAL, scope="external")]
    found = find(tmp_path, [made(0), made(1), made(2)], rejoined)
    assert kinds(found) == {"changed": (1, 102, ""), "same": (2, 201, "")}
    (changed,) = (each for each in found if each.kind == "changed")
    assert changed.then is not None and changed.now is not None
    assert (changed.then["dst_workload"], changed.now["dst_workload"]) == ("postgres", None)
    assert (changed.then["scope"], changed.now["scope"]) == ("cross_zone", "external")


def test_an_address_and_a_port_are_counted_and_not_attributed(tmp_path: Path) -> None:
    other = pod("api", "a", address="10.42.9.9", port=1)
    assert kinds(find(tmp_path, [made(0)], [made(0, source=other)])) == {"same": (1, 100, "")}


def test_a_flow_that_was_written_late_is_its_row(tmp_path: Path) -> None:
    late = made(2, id=flow_id(row=2 + 4 * 3))
    assert kinds(find(tmp_path, [late], [made(2)])) == {"same": (1, 102, "")}


def workload(name: str, zone: str, **overrides: Any) -> Endpoint:
    k8s = Kubernetes(namespace=Named("shop"), workload=Workload("Deployment", name))
    return Endpoint(kind="pod", k8s=k8s, cloud=cloud(zone), **overrides)


def summed(**fields: Any) -> Flow:
    """Return rows 0 and 1 of API to POSTGRES, as `--detail workload` sums them up."""
    ends = {"source": workload("api", "a"), "destination": workload("postgres", "b", port=5432)}
    return made(5, **({**ends, "rows": [0, 1], "bytes": 201, "packets": 4} | fields))


def test_a_sum_is_its_rows_and_what_it_leaves_out_does_not_differ(tmp_path: Path) -> None:
    assert kinds(find(tmp_path, [summed()], [made(0), made(1)])) == {"same": (2, 201, "")}
    moved = [made(0), made(1, destination=pod("mysql", "b"))]
    found = {each.kind: each for each in find(tmp_path, [summed()], moved)}
    assert (found["same"].bytes, found["changed"].bytes, found["changed"].is_sum) == (100, 101, True)
    assert found["changed"].now is not None and found["changed"].now["dst_pod"] is None


@pytest.mark.parametrize("rows", [[0, 1, 2], [0], [0, 7]])
def test_a_sum_of_which_not_all_rows_are_there_is_not_paired(tmp_path: Path, rows: list[int]) -> None:
    found = kinds(find(tmp_path, [summed(rows=rows)], [made(0), made(1)]))
    assert found == {"only_recorded": (1, 201, "unknown"), "only_rejoined": (2, 201, "unknown")}


def test_a_row_that_two_flows_claim_is_of_neither(tmp_path: Path) -> None:
    found = kinds(find(tmp_path, [summed(), made(1)], [made(0), made(1)]))
    assert found == {"only_recorded": (2, 302, "unknown"), "only_rejoined": (2, 201, "unknown")}


def test_other_bytes_are_not_the_same_flow(tmp_path: Path) -> None:
    found = kinds(find(tmp_path, [made(0, bytes=7)], [made(0)]))
    assert found == {"only_recorded": (1, 7, "unknown"), "only_rejoined": (1, 100, "unknown")}


def test_what_one_side_has_says_why_where_that_is_known(tmp_path: Path) -> None:
    assert kinds(find(tmp_path, [made(0)], [], rows=0)) == {"only_recorded": (1, 100, "chunk_not_read")}
    assert kinds(find(tmp_path, [], [made(0)])) == {"only_rejoined": (1, 100, "chunk_not_recorded")}
    aside = find(tmp_path, [made(0), made(1)], [made(0)], aside=True)
    assert kinds(aside) == {"same": (1, 100, ""), "only_recorded": (1, 101, "sender_in_cluster")}
    assert kinds(find(tmp_path, [made(0)], [made(0), made(1)])) == {
        "same": (1, 100, ""),
        "only_rejoined": (1, 101, "unknown"),
    }
    # Rows were put aside, but not this one: it comes to other bytes.
    other = kinds(find(tmp_path, [made(0, bytes=7)], [made(0)], aside=True))
    assert other["only_recorded"] == (1, 7, "unknown")


def test_what_no_filter_wants_on_either_side_is_left_out_on_both(tmp_path: Path) -> None:
    pairs = Pairs(tmp_path)
    pairs.add("recorded", rows_of([made(row) for row in range(3)]), {flow_id(row=0)})
    pairs.add("rejoined", rows_of([made(row) for row in range(4)]), {flow_id(row=1)})
    pairs.add_chunks([(CHUNK, 4, False)])
    assert kinds(list(pairs.found())) == {"same": (2, 201, "")}


ENDS = [API, POSTGRES, EXTERNAL, node("node-a1", "a")]


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[Flow], list[Flow]]:
    """Return flows of one chunk of six rows, as any writer may have recorded them, and as they are joined again."""
    end = st.sampled_from(ENDS)
    joined = [made(row, destination=draw(end)) for row in range(6) if draw(st.integers(0, 5))]
    recorded = {}
    for _ in range(draw(st.integers(0, 8))):
        number = draw(st.integers(0, 14))
        rows = draw(st.none() | st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True))
        exact = sum(100 + row for row in rows or [number % 6])
        size = draw(st.sampled_from([exact, exact, 5]))
        fields = {} if rows is None else {"rows": rows, "packets": 2 * len(rows)}
        recorded[number] = made(number, bytes=size, destination=draw(end), **fields)
    return list(recorded.values()), joined


@settings(max_examples=20)
@given(sides())
def test_whatever_was_recorded_every_byte_is_found_once(
    tmp_path_factory: pytest.TempPathFactory, both: tuple[list[Flow], list[Flow]]
) -> None:
    recorded, rejoined = both
    found = find(tmp_path_factory.getbasetemp(), recorded, rejoined, rows=6)
    for missing, flows in (("only_rejoined", recorded), ("only_recorded", rejoined)):
        assert sum(each.bytes for each in found if each.kind != missing) == sum(each.bytes for each in flows)
    assert all(each.why for each in found if each.kind.startswith("only"))


@settings(max_examples=20)
@given(ROWS, st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=3))
def test_whatever_the_enricher_sums_up_and_however_often_it_is_killed_nothing_differs(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], lives: list[tuple[int, bool]]
) -> None:
    seen: list[bytes] = []
    for cut, rolled_up in [*lives, (10**6, True)]:
        policy = Policy(detail="workload" if rolled_up else "pod")
        seen += joined(rows, out_of(seen), policy, states()).values[:cut]
    recorded = [decode_flow(value) for value in seen]
    rejoined = [decode_flow(value) for value in joined(rows, states=states()).values]
    found = find(tmp_path_factory.getbasetemp(), recorded, rejoined, rows=len(rows))
    assert {each.kind for each in found} <= {"same"}
    assert sum(each.bytes for each in found) == sum(flow.bytes for flow in recorded)
