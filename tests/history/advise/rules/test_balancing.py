# SPDX-License-Identifier: Apache-2.0
"""Services balanced over zones: there, nearly there, not there; and what looks like it and is not."""

import msgspec
import pytest

from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario
from tests.support.history.shop import API, CLUSTER_IP, EVERYWHERE, POSTGRES, TOLD, WEB, agents, found, shop


def test_a_service_that_is_balanced_blindly() -> None:
    scenario = shop()
    advice = scenario.advice()
    assert found(advice) == [("blind_service", "shop/Service/api", "measured")]
    (each,) = advice.told
    # Two thirds of 300 GB cross zones, and each zone has an end point: all of it can stay.
    assert each.spared.bytes == pytest.approx(200 * GB, rel=1e-6)
    assert each.finding.manifests == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"trafficDistribution": "PreferClose"},
        }
    ]


def test_what_is_local_already_is_no_finding() -> None:
    assert found(shop(local=True).advice()) == []


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone", "PreferSameNode"])
def test_a_service_that_was_told_and_does_it_is_no_finding(distribution: str) -> None:
    assert found(shop(routing=Routing(traffic_distribution=distribution), local=True).advice()) == []


@pytest.mark.parametrize(
    ("hinted", "said"),
    [
        (3, "on all 3 ready end points"),
        (0, "on 0 of 3 ready end points"),
        (2, "on 2 of 3 ready end points: kube-proxy"),
        (None, "the topology has no EndpointSlice"),
    ],
)
def test_a_service_that_was_told_and_does_it_not(hinted: int | None, said: str) -> None:
    scenario = shop(routing=TOLD)
    if hinted is not None:
        scenario.slice("api", {"a": (2, min(hinted, 2)), "b": (1, max(hinted - 2, 0))})
    (each,) = scenario.advice().told
    assert (each.finding.kind, each.finding.sure, each.finding.manifests) == ("not_followed", "likely", [])
    assert each.spared.bytes == pytest.approx(200 * GB, rel=1e-6)
    assert any(said in fact for fact in each.finding.facts)


@pytest.mark.parametrize("before", [None, 0, 3])
def test_hints_that_are_new_say_nothing_of_who_follows_them(before: int | None) -> None:
    """The slices are watched, or the hints are there, since an hour ago; or half of them have gone since then."""
    scenario = shop(routing=TOLD)
    scenario.slice("api", {"a": (3, 0 if before == 3 else 3)})
    late = msgspec.structs.replace(scenario.states.pop(), from_ms=BEGIN_MS + 23 * HOUR_MS, resource_version="2")
    if before is not None:
        scenario.slice("api", {"a": (3, before)})
    scenario.states.append(late)
    (each,) = scenario.advice().told
    (said,) = (fact for fact in each.finding.facts if fact.startswith("hints "))
    assert said.endswith("and that since 2026-11-23 23:00 UTC only")
    assert each.finding.steps == ["look again when the hints have been as they are for a day"]


def test_a_rollout_leaves_hints_as_they_are() -> None:
    """Each state of the slice has hints on all that is ready then."""
    scenario = shop(routing=TOLD)
    scenario.slice("api", {"a": (3, 3)})
    for hour in (22, 23):
        scenario.slice("api", {"a": (hour, hour)})
        state = scenario.states.pop()
        scenario.states.append(
            msgspec.structs.replace(state, from_ms=BEGIN_MS + hour * HOUR_MS, resource_version=f"{hour}")
        )
    (each,) = scenario.advice().told
    assert "hints on all 23 ready end points: who balances does not follow them" in each.finding.facts


def test_a_service_that_was_told_lately_is_no_finding() -> None:
    """Connections that are there stay where they are."""
    scenario = Scenario(hours=48)
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, EVERYWHERE)
    scenario.service("api", API, 8080, TOLD, from_ms=BEGIN_MS + 30 * HOUR_MS)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB)
    assert found(scenario.advice()) == []


def test_a_service_that_was_told_and_keeps_a_part_is_no_finding() -> None:
    scenario = shop(routing=TOLD, local=True)
    scenario.exchange(WEB, "api", 8080, 5 * GB, 45 * GB)  # old connections, or a kube-proxy that is
    assert found(scenario.advice()) == []


def test_a_single_replica_cannot_be_balanced_otherwise() -> None:
    assert "blind_service" not in {kind for kind, _, _ in found(shop({"a": 1}).advice())}


def test_where_no_request_is_translated_nothing_is_said_of_services() -> None:
    advice = shop(dnat=False).advice()
    assert found(advice) == []
    assert any("translated" in note for note in advice.notes)


def test_pinned_connections_are_asked_about() -> None:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, EVERYWHERE)
    scenario.service("api", API, 8080, CLUSTER_IP)
    for zone, other in (("a", "b"), ("b", "c"), ("c", "a")):  # each client holds one connection, to another zone
        scenario.say((WEB, zone), (API, other), 8080, 10 * GB, 90 * GB, service="api", dnat=True)
    assert found(scenario.advice()) == [("blind_service", "shop/Service/api", "ask")]


def test_time_in_which_a_zone_had_no_end_point_does_not_water_down_what_stayed_in_it() -> None:
    """While zone a has an end point, 60 % of what it asks stays there, where blind balancing would leave a third."""
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1})
    scenario.workload(API, {"b": 1, "c": 1})
    scenario.workload(API, {"a": 1}, from_ms=BEGIN_MS + 12 * HOUR_MS)
    scenario.service("api", API, 8080, CLUSTER_IP)
    for server, size, hours in (("b", 100, range(12)), ("a", 60, range(12, 24)), ("c", 40, range(12, 24))):
        ends = ((WEB, "a"), (API, server))
        scenario.say(*ends, 8080, size * GB, size * GB, service="api", dnat=True, hours=hours)
    each = next(each for each in scenario.advice().told if each.finding.kind == "blind_service")
    assert each.finding.sure == "ask"
    assert any("60.0 % stays in the zone; spread blindly, 33.3 % would" in fact for fact in each.finding.facts)


def test_a_zone_from_which_somebody_answered_is_not_without_an_end_point() -> None:
    """The topology has forgotten the pod that zone c had in the morning, and knows those of the other zones."""
    scenario = Scenario()
    scenario.workload(WEB, {"c": 1})
    scenario.workload(API, {"a": 1, "b": 1})
    scenario.service("api", API, 8080, CLUSTER_IP)
    morning, whole = range(12), range(24)
    for server, hours in (("a", whole), ("b", whole), ("c", morning)):
        scenario.say(
            (WEB, "c"), (API, server), 8080, len(hours) * GB, len(hours) * GB, service="api", dnat=True, hours=hours
        )
    (each,) = [each for each in scenario.advice().told if each.finding.kind == "no_end_point"]
    assert each.spared.bytes == pytest.approx(2 * 2 * 12 * GB, rel=1e-6), "the afternoon's"


def test_session_affinity_is_asked_about() -> None:
    assert found(shop(routing=Routing(session_affinity="ClientIP")).advice())[0][2] == "ask"


def test_a_zone_that_would_get_too_much_is_asked_about() -> None:
    scenario = Scenario()
    scenario.workload(WEB, {"a": 9, "b": 1})
    scenario.workload(API, {"a": 1, "b": 2})
    scenario.service("api", API, 8080, CLUSTER_IP)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB)
    ((kind, _, sure),) = found(scenario.advice())
    assert (kind, sure) == ("blind_service", "ask")
    assert any("2.70 x" in cost for cost in scenario.advice().told[0].finding.costs)


def test_only_zones_that_had_an_end_point_then_are_counted() -> None:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, {"a": 1, "b": 1})
    scenario.workload("shop/Deployment/late", {"c": 1}, from_ms=BEGIN_MS + 12 * HOUR_MS)
    scenario.service("api", API, 8080, CLUSTER_IP)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB)
    told = next(each for each in scenario.advice().told if each.finding.kind == "blind_service")
    assert told.spared.bytes == pytest.approx(100 * GB, rel=1e-6)  # half of what a and b send; c had nothing ready


def test_time_that_the_topology_does_not_hold_is_not_judged() -> None:
    """The history begins at noon: before, no pod is known to have been ready, and yet some answered."""
    scenario = Scenario()
    noon = {"from_ms": BEGIN_MS + 12 * HOUR_MS}
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, EVERYWHERE, **noon)
    scenario.workload(POSTGRES, EVERYWHERE, **noon)
    scenario.service("api", API, 8080, CLUSTER_IP)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB)
    for zone, other in (("a", "b"), ("b", "c"), ("c", "a")):
        scenario.say((WEB, zone), (POSTGRES, other), 5432, 5 * GB, 100 * GB)
    advice = scenario.advice()
    assert found(advice) == [("blind_service", "shop/Service/api", "measured")]
    assert advice.told[0].spared.bytes == pytest.approx(100 * GB, rel=1e-6), "of the other half of the day"
    assert any(note.startswith("for 50.0 % of what Services exchanged") for note in advice.notes)


def test_another_clusters_topology_is_no_evidence() -> None:
    scenario = shop()
    scenario.states = [state for state in scenario.states if state.kind != "pod"]
    advice = scenario.advice()
    assert found(advice) == []
    assert any("is it this cluster's topology" in note for note in advice.notes)


def test_a_policy_that_changed_counts_from_then_on() -> None:
    scenario = shop()
    service = next(state for state in scenario.states if state.kind == "service")
    now = msgspec.structs.replace(
        service,
        from_ms=BEGIN_MS + 12 * HOUR_MS,
        resource_version="2",
        routing=Routing(traffic_distribution="PreferClose"),
    )
    scenario.states.append(now)
    assert found(scenario.advice()) == [], "told for half a day: connections stay where they are"
    back = msgspec.structs.replace(now, from_ms=BEGIN_MS + 18 * HOUR_MS, resource_version="3", routing=CLUSTER_IP)
    scenario.states.append(back)
    (each,) = scenario.advice().told
    assert each.spared.bytes == pytest.approx(50 * GB, rel=1e-6)  # six hours of 24


def test_a_zone_that_moves_in_the_middle() -> None:
    """A node of zone a is a node of zone b from noon on: what went to it from there is local then."""
    scenario = shop({"a": 1, "b": 1})
    node = next(state for state in scenario.states if state.name == "node-a0")
    moved = {"from_ms": BEGIN_MS + 12 * HOUR_MS, "zone": "eu-west-1b", "resource_version": "2"}
    scenario.states.append(msgspec.structs.replace(node, **moved))
    told = [each for each in scenario.advice().told if each.finding.kind == "blind_service"]
    # After noon all end points are in b: no zone but b has one, and the last state has them in one zone only.
    assert told == []


def test_much_that_is_unknown_makes_it_less_sure() -> None:
    scenario = shop()
    scenario.unknown = 10 * GB
    advice = scenario.advice()
    assert found(advice)[0][2] == "likely"
    assert any("unknown" in note for note in advice.notes)


def test_what_is_not_worth_it_is_counted_and_left_out() -> None:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, EVERYWHERE)
    scenario.service("api", API, 8080, CLUSTER_IP)
    scenario.exchange(WEB, "api", 8080, GB, 4 * GB)  # 10 GB a day: $6 a month
    advice = scenario.advice()
    assert (found(advice), len(advice.small)) == ([], 1)


def test_the_old_annotation() -> None:
    (each,) = shop(routing=Routing(topology_mode="Auto")).advice().told
    assert each.finding.kind == "topology_mode"
    assert "topology-mode-" in each.finding.steps[0]


def test_an_annotation_that_works_is_no_finding() -> None:
    assert found(shop(routing=Routing(topology_mode="Auto"), local=True).advice()) == []


def test_the_annotation_wins_over_a_distribution() -> None:
    both = Routing(topology_mode="Auto", traffic_distribution="PreferClose")
    assert [kind for kind, _, _ in found(shop(routing=both).advice())] == ["topology_mode"]


# Agents on each node


def test_an_agent_on_each_node() -> None:
    (each,) = agents({"a": 3, "b": 3, "c": 3}).advice().told
    assert each.finding.kind == "node_agent"
    assert each.finding.manifests[0]["spec"] == {"trafficDistribution": "PreferSameNode"}


def test_an_agent_that_some_nodes_lack() -> None:
    (each,) = agents({"a": 3, "b": 3, "c": 2}).advice().told
    assert each.finding.kind == "blind_service"


def test_an_agent_that_is_asked_on_its_node_is_no_finding() -> None:
    everywhere = {"a": 3, "b": 3, "c": 3}
    assert found(agents(everywhere, local=True).advice()) == []
    assert found(agents(everywhere, Routing(internal_traffic_policy="Local")).advice()) == []


# Headless


def test_clients_that_choose_themselves_are_asked_about() -> None:
    (each,) = shop(routing=Routing(headless=True), dnat=False).advice().told
    assert (each.finding.kind, each.finding.sure, each.finding.manifests) == ("headless", "ask", [])


def test_a_stateful_sets_own_headless_service_is_no_finding() -> None:
    scenario, label = Scenario(), "shop/StatefulSet/etcd"
    scenario.workload(label, EVERYWHERE)
    scenario.service("etcd", label, 2380, Routing(headless=True))
    scenario.exchange(label, "etcd", 2380, 50 * GB, 50 * GB, dnat=False)
    advice = scenario.advice()
    assert found(advice) == []
    assert [why.partition(":")[0] for why, _ in advice.unavoidable] == ["quorum"]


def test_headless_and_local_is_no_finding() -> None:
    assert found(shop(routing=Routing(headless=True), dnat=False, local=True).advice()) == []
