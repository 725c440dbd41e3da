# SPDX-License-Identifier: Apache-2.0
"""Where ready pods are, by workload and zone: which are shown, and for how long a zone that was left stays."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from enricher.index.ownership import Index
from enricher.index.parts import PART
from enricher.index.ready import KEPT_MS, Ready, ReadyPods
from enricher.metrics import EnricherMetrics
from schemas.flow import Workload
from schemas.topology import TopologyState
from tests.support.enricher.build import START, done, node, pod

NODES = [node("node-a", "10.0.0.1", "a"), node("node-b", "10.0.0.2", "b"), node("node-x", "10.0.0.3", None)]
HOUR = 3_600_000


def ready(name: str, where: str, **overrides: Any) -> TopologyState:
    return pod(name, "", where, ready=True, **overrides)


def index(*states: TopologyState) -> Index:
    made = Index()
    for state in (*NODES, *states):
        made.apply(state)
    return made


def count(counted: ReadyPods, now_ms: int) -> Ready:
    return done(counted.counting(now_ms))


def web(zones: dict[str, int]) -> dict[tuple[str, str, str, str], int]:
    return {("shop", "Deployment", "web", zone): count for zone, count in zones.items()}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param([ready("web-1", "node-a"), ready("web-2", "node-b")], {"a": 1, "b": 1}, id="two-zones"),
        pytest.param([ready("web-1", "node-a"), ready("web-2", "node-a")], {}, id="one-zone"),
        pytest.param(
            [ready("web-1", "node-a"), pod("web-2", "", "node-b", ready=False)], {}, id="the-other-is-not-ready"
        ),
        pytest.param([ready("web-1", "node-a"), ready("web-2", "node-x")], {"": 1, "a": 1}, id="a-node-without-a-zone"),
        pytest.param([ready("web-1", "node-a"), ready("web-2", "node-q")], {"": 1, "a": 1}, id="a-node-not-known"),
        pytest.param(
            [ready("web-1", "node-a"), ready("web-2", "node-b", to_ms=START - HOUR)],
            {"a": 1, "b": 0},
            id="left-before-the-start",
        ),
        pytest.param(
            [
                ready("web-1", "node-a"),
                ready("web-2", "node-b", from_ms=START - 2 * KEPT_MS, to_ms=START - KEPT_MS - 1),
            ],
            {},
            id="left-long-ago",
        ),
        pytest.param(
            [
                ready("web-1", "node-a"),
                ready("web-2", "node-b"),
                pod("web-2", "", "node-b", ready=False, resource_version="101", from_ms=START - HOUR),
            ],
            {"a": 1, "b": 0},
            id="ready-no-longer",
        ),
        pytest.param(
            [ready(f"web-{where}", f"node-{where}", workload=Workload("Job", "web")) for where in "ab"], {}, id="a-job"
        ),
        pytest.param(
            [ready(f"web-{where}", f"node-{where}", workload=Workload("DaemonSet", "web")) for where in "ab"],
            {},
            id="a-daemonset",
        ),
        pytest.param(
            [ready(f"web-{where}", f"node-{where}", workload=None) for where in "ab"], {}, id="of-no-workload"
        ),
    ],
)
def test_what_is_shown(states: list[TopologyState], expected: dict[str, int]) -> None:
    assert count(ReadyPods(index(*states)), START) == Ready(web(expected), 0)


def test_a_zone_that_was_left_stays_for_a_day_with_nothing() -> None:
    known = index(ready("web-1", "node-a"), ready("web-2", "node-b"))
    counted = ReadyPods(known)
    assert count(counted, START).pods == web({"a": 1, "b": 1})
    known.apply(ready("web-2", "node-b", to_ms=START + 10))
    known.apply(ready("web-3", "node-a", from_ms=START + 20))
    assert count(counted, START + 60_000).pods == web({"a": 2, "b": 0})
    assert count(counted, START + KEPT_MS).pods == web({"a": 2, "b": 0})
    assert count(counted, START + KEPT_MS + 1).pods == {}
    # What a restart forgets, the topic's history knows.
    assert count(ReadyPods(known), START + 25 * HOUR).pods == web({"a": 2, "b": 0})


def test_a_node_made_again_under_its_name_has_its_new_zone() -> None:
    known = index(ready("web-1", "node-a"), ready("web-2", "node-b"))
    known.apply(node("node-b", "10.0.0.2", "b", to_ms=START - 10))
    known.apply(node("node-b", "10.0.0.2", "c", uid="uid-again", from_ms=START))
    assert count(ReadyPods(known), START).pods == web({"a": 1, "c": 1})


def test_there_is_a_bound_and_who_is_shown_stays() -> None:
    def both(name: str) -> list[TopologyState]:
        return [ready(f"{name}-{where}", f"node-{where}") for where in "ab"]

    known = index(*both("m"), *both("n"))
    counted = ReadyPods(known, most=2)
    assert count(counted, START).left_out == 0
    for state in both("a"):
        known.apply(state)
    shown = count(counted, START)
    assert {name for _, _, name, _ in shown.pods} == {"m", "n"}
    assert shown.left_out == 1


def test_a_series_leaves_with_its_workload() -> None:
    registry = CollectorRegistry()
    metrics = EnricherMetrics(registry, Index())
    name = "zonemeter_enricher_ready_pods"

    def shown() -> dict[tuple[str, ...], float]:
        samples = [s for family in registry.collect() for s in family.samples if s.name == name]
        return {tuple(sample.labels.values()): sample.value for sample in samples}

    list(metrics.showing(Ready(web({"a": 2, "b": 1}), 0)))
    assert shown() == web({"a": 2, "b": 1})
    list(metrics.showing(Ready(web({"a": 3}), 5)))
    assert shown() == web({"a": 3})
    assert registry.get_sample_value("zonemeter_enricher_ready_pods_left_out") == 5


def test_a_long_look_is_in_parts_and_says_how_it_was_at_its_beginning() -> None:
    """The event loop joins chunks in between, and what Kubernetes shows meanwhile changes the index."""
    pods = [ready(f"web-{number}", f"node-{'ab'[number % 2]}") for number in range(3 * PART)]
    known = index(*pods)
    work = ReadyPods(known).counting(START)
    yields = 0
    with pytest.raises(StopIteration) as done:
        while True:
            next(work)
            yields += 1
            known.apply(ready(f"late-{yields}", "node-a", from_ms=START + yields))
            known.apply(ready("web-0", "node-a", to_ms=START + 1))
            known.prune(START - 1)
    assert yields > 3 * len(pods) // PART
    assert done.value.value == Ready(web({"a": len(pods) // 2, "b": len(pods) // 2}), 0)
