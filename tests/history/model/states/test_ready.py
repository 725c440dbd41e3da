# SPDX-License-Identifier: Apache-2.0
"""Ready pods per zone, beside a model that looks at each millisecond."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history.model.states.ready import Group, Step, least, mean, ready_pods
from history.model.time_range import TimeRange
from schemas.flow import Workload
from schemas.topology import TopologyState
from tests.support.enricher import build

SPAN = TimeRange(100, 140)
API = Group("shop", "Service", "api")


def api(name: str, node: str, from_ms: int, to_ms: int | None = None, *, ready: bool = True) -> TopologyState:
    fields = {"from_ms": from_ms, "to_ms": to_ms, "ready": ready, "services": ["api"], "namespace": "shop"}
    workload = Workload("Deployment", "api")
    return build.pod(name, "10.42.1.1", node, **fields, workload=workload, resource_version=str(from_ms))


def node(name: str, zone: str | None, from_ms: int = 0, to_ms: int | None = None) -> TopologyState:
    return build.node(name, "10.0.0.1", zone, from_ms=from_ms, to_ms=to_ms, resource_version=str(from_ms))


def test_a_pod_counts_in_its_zone_while_it_is_ready() -> None:
    states = [node("n1", "a"), api("one", "n1", 50, 120), api("one", "n1", 120, ready=False)]
    found = ready_pods(states, SPAN)
    assert found[API] == [Step(100, 120, {"a": 1}), Step(120, 140, {})]
    assert found[Group("shop", "Deployment", "api")] == found[API]


def test_the_zone_is_the_nodes_of_that_time() -> None:
    states = [node("n1", "a", 0, 110), node("n1", "b", 115), api("one", "n1", 50)]
    assert ready_pods(states, SPAN)[API] == [
        Step(100, 110, {"a": 1}),
        Step(110, 115, {"": 1}),
        Step(115, 140, {"b": 1}),
    ]


def test_what_was_never_ready_is_not_there() -> None:
    assert ready_pods([node("n1", "a"), api("one", "n1", 50, ready=False), api("two", "n1", 140)], SPAN) == {}


def test_least_and_mean_over_part_of_it() -> None:
    states = [node("n1", "a"), node("n2", "b"), api("one", "n1", 0), api("two", "n1", 110), api("three", "n2", 0, 120)]
    steps = ready_pods(states, SPAN)[API]
    assert least(steps, 100, 140) == {"a": 1}
    assert least(steps, 110, 120) == {"a": 2, "b": 1}
    assert mean(steps, 100, 120) == {"a": 1.5, "b": 1.0}
    assert least(steps, 90, 140) == {}  # before the range nothing is known


@pytest.mark.parametrize("bounds", [(90, 95), (140, 150)])
def test_beyond_the_range_nothing_is_known(bounds: tuple[int, int]) -> None:
    steps = ready_pods([node("n1", "a"), api("one", "n1", 0)], SPAN)[API]
    assert (least(steps, *bounds), mean(steps, *bounds)) == ({}, {})


times = st.integers(90, 150)
pods = st.builds(
    lambda number, where, begin, length, ready: api(f"p{number}", where, begin, begin + length, ready=ready),
    st.integers(0, 3),
    st.sampled_from(["n1", "n2", "n3"]),
    times,
    st.integers(0, 40),
    st.booleans(),
)
nodes = st.builds(
    lambda name, zone, begin, length: node(name, zone, begin, begin + length),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["a", "b", None]),
    times,
    st.integers(0, 60),
)


@given(st.lists(pods, max_size=6), st.lists(nodes, max_size=4), times, times)
def test_like_looking_at_each_millisecond(
    pods: list[TopologyState], nodes: list[TopologyState], one: int, other: int
) -> None:
    by_key = {state.key + state.name.encode(): state for state in (*pods, *nodes)}
    states = list(by_key.values())
    steps = ready_pods(states, SPAN).get(API, [])
    slow = {at: _slow(states, at) for at in range(SPAN.from_ms, SPAN.to_ms)}
    fast = {at: dict(step.zones) for step in steps for at in range(step.from_ms, step.to_ms)}
    assert fast == (slow if any(slow.values()) else {})
    from_ms, to_ms = max(min(one, other), 100), min(max(one, other), 140)
    if steps and from_ms < to_ms:
        seen = [slow[at] for at in range(from_ms, to_ms)]
        zones = {zone for each in seen for zone in each}
        assert least(steps, from_ms, to_ms) == {
            zone: few for zone in zones if (few := min(each.get(zone, 0) for each in seen))
        }
        assert mean(steps, from_ms, to_ms) == pytest.approx(
            {zone: sum(each.get(zone, 0) for each in seen) / len(seen) for zone in zones}
        )


def _slow(states: list[TopologyState], at: int) -> dict[str, int]:
    """Count at one moment, by the last state of each object that had begun."""
    counts: Counter[str] = Counter()
    for uid in {state.uid for state in states if state.kind == "pod"}:
        pod = _last([state for state in states if state.uid == uid], at)
        if pod is not None and pod.ready:
            there = _last([state for state in states if state.kind == "node" and state.name == pod.node], at)
            counts[(there.zone if there else None) or ""] += 1
    return dict(counts)


def _last(states: list[TopologyState], at: int) -> TopologyState | None:
    """Return the state that holds then: of those that have begun the last one, if it has not ended."""
    begun = [state for state in states if state.from_ms <= at]
    last = max(begun, key=lambda s: (s.from_ms, s.uid, len(s.resource_version), s.resource_version), default=None)
    return None if last is None or (last.to_ms is not None and last.to_ms <= at) else last
