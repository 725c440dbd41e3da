# SPDX-License-Identifier: Apache-2.0
"""Work grows with the cluster, not with its square; what grows beyond all measure is refused."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Refusal
from history.advise.finding import Case
from history.advise.rules import twice
from history.model.time_range import TimeRange
from history.read import flow_sql
from schemas.topology import Routing
from tests.support.history.rows import evidence_of
from tests.support.history.scenario import GB, Scenario
from tests.support.sinks.flows import END_MS, START_MS, flow, pod

targets = st.dictionaries(
    st.tuples(st.sampled_from([f"shop/Deployment/t{n}" for n in range(8)]), st.just(9100)), st.just(GB), min_size=1
)


@given(st.dictionaries(st.integers(0, 9).map(lambda n: f"monitoring/StatefulSet/p{n}"), targets, max_size=8))
def test_no_pair_that_does_the_same_is_missed(pulled: dict[str, dict[tuple[str, int], int]]) -> None:
    candidates = set(twice._alike(pulled))
    for one, other in combinations(sorted(pulled), 2):
        if twice._is_twin(one, other, pulled[one], pulled[other]):
            assert (one, other) in candidates


def test_what_all_ask_makes_no_pairs() -> None:
    pulled = {
        f"shop/Deployment/w{n}": {
            ("dns", 53): GB,
            ("api", 443): GB,
            **{(f"shop/Deployment/own{n}-{k}", 80): GB for k in range(3)},
        }
        for n in range(300)
    }
    assert list(twice._alike(pulled)) == []


def test_pods_are_looked_through_once_however_many_services_there_are() -> None:
    scenario = Scenario()
    for number in range(20):
        scenario.workload(label := f"shop/DaemonSet/w{number}", {"a": 1, "b": 1})
        scenario.service(f"s{number}", label, 53, Routing())
    case = Case(scenario.evidence, scenario.states, scenario.parties)
    assert case.nodes is case.nodes
    assert len(case.nodes) == 40


def test_how_a_service_is_used_is_worked_out_once() -> None:
    scenario = Scenario()
    scenario.workload("shop/Deployment/api", {"a": 1, "b": 1})
    scenario.workload("shop/Deployment/web", {"a": 1, "b": 1})
    scenario.service("api", "shop/Deployment/api", 80, Routing())
    scenario.exchange("shop/Deployment/web", "api", 80, GB, GB)
    case = Case(scenario.evidence, scenario.states, scenario.parties)
    (service,) = case.by_service
    assert case.use(service) is case.use(service)


def test_more_conversations_than_memory_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_sql, "MAX_CELLS", 10)
    scan = [flow(source=pod("scanner", "a"), destination=pod("api", "b", port=port)) for port in range(1, 12)]
    with pytest.raises(Refusal, match="more than 10 kinds of conversations"):
        evidence_of(scan, TimeRange(START_MS, END_MS))
