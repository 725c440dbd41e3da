# SPDX-License-Identifier: Apache-2.0
"""For each finding: there, nearly there, not there; and what looks like a finding and is none."""

import msgspec
import pytest

from history.advise.advice import Advice
from schemas.flow import Workload
from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario

API, WEB = "shop/Deployment/api", "shop/Deployment/web"
EVERYWHERE = {"a": 1, "b": 1, "c": 1}
CLUSTER_IP = Routing()


def found(advice: Advice) -> list[tuple[str, str, str]]:
    return [(each.finding.kind, each.finding.subject, each.finding.sure) for each in advice.told]


def shop(servers: dict[str, int] = EVERYWHERE, routing: Routing | None = CLUSTER_IP, **more: object) -> Scenario:
    """Return web in every zone, asking api by its Service."""
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, servers)
    scenario.service("api", API, 8080, routing)
    scenario.exchange(WEB, "api", 8080, 10 * GB, 90 * GB, **more)  # type: ignore[arg-type]
    return scenario


# A Service balanced over zones


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


TOLD = Routing(traffic_distribution="PreferClose")


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


def agents(dns: dict[str, int], routing: Routing = CLUSTER_IP, *, local: bool = False) -> Scenario:
    scenario = Scenario()
    scenario.workload(WEB, {"a": 3, "b": 3, "c": 3})
    scenario.workload("kube-system/DaemonSet/dns", dns)
    scenario.service("dns", "kube-system/DaemonSet/dns", 53, routing)
    scenario.exchange(WEB, "dns", 53, 10 * GB, 90 * GB, local=local)
    return scenario


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


# A zone without an end point


def test_a_zone_without_a_replica() -> None:
    advice = shop({"a": 1, "b": 1}, Routing(traffic_distribution="PreferClose"), local=True).advice()
    (each,) = advice.told
    assert (each.finding.kind, each.finding.sure) == ("no_end_point", "likely")
    assert each.spared.bytes == pytest.approx(100 * GB, rel=1e-6)
    (spread,) = each.finding.manifests
    assert (spread["kind"], spread["metadata"]["name"]) == ("Deployment", "api")
    (constraint,) = spread["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"app": "api"}}, "the pods that the Service selects"


def test_without_a_selector_no_manifest_is_made_up() -> None:
    scenario = shop({"a": 1, "b": 1}, Routing(traffic_distribution="PreferClose"), local=True)
    scenario.states = [
        msgspec.structs.replace(state, selector={}) if state.kind == "service" else state for state in scenario.states
    ]
    (each,) = scenario.advice().told
    assert (each.finding.kind, each.finding.manifests) == ("no_end_point", [])
    assert "labelSelector" in each.finding.steps[-1]


def test_a_single_replica_is_asked_about() -> None:
    ((kind, _, sure),) = found(shop({"a": 1}).advice())
    assert (kind, sure) == ("no_end_point", "ask")


def test_a_zone_that_has_got_a_replica_since_is_no_finding() -> None:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, {"a": 1, "b": 1})
    scenario.workload(API, {"c": 1}, from_ms=BEGIN_MS + 20 * HOUR_MS)
    scenario.service("api", API, 8080, TOLD)
    scenario.say((WEB, "c"), (API, "a"), 8080, 10 * GB, 90 * GB, service="api", dnat=True, hours=range(20))
    scenario.say((WEB, "c"), (API, "c"), 8080, 2 * GB, 18 * GB, service="api", dnat=True, hours=range(20, 24))
    assert found(scenario.advice()) == []


def test_a_replica_in_each_zone_is_no_finding() -> None:
    assert found(shop(EVERYWHERE, Routing(traffic_distribution="PreferClose"), local=True).advice()) == []


# What is over


@pytest.mark.parametrize("gone", [WEB, API])
def test_what_has_gone_needs_no_change(gone: str) -> None:
    def without(last_hour: int) -> Advice:
        scenario = shop()
        scenario.states = [
            msgspec.structs.replace(state, to_ms=BEGIN_MS + last_hour * HOUR_MS)
            if state.workload == Workload("Deployment", gone.rpartition("/")[2])
            else state
            for state in scenario.states
        ]
        return scenario.advice()

    assert found(without(12)) == []
    (kind, *_), *_ = found(without(24))
    assert kind == "blind_service"


def test_a_job_that_has_ended_comes_again() -> None:
    scenario = Scenario()
    scenario.workload("shop/CronJob/import", EVERYWHERE, to_ms=BEGIN_MS + 3 * HOUR_MS)
    scenario.workload(API, EVERYWHERE)
    scenario.service("api", API, 8080, CLUSTER_IP)
    scenario.exchange("shop/CronJob/import", "api", 8080, 10 * GB, 90 * GB)
    assert [kind for kind, *_ in found(scenario.advice())] == ["blind_service"]


def test_the_second_of_two_stacks_was_stopped_in_the_middle() -> None:
    scenario = scraped("prometheus-a", "prometheus-b")
    scenario.states = [
        msgspec.structs.replace(state, to_ms=BEGIN_MS + 12 * HOUR_MS) if "prometheus-b" in state.name else state
        for state in scenario.states
    ]
    assert found(scenario.advice()) == []


# The same work twice


def scraped(*stacks: str, sizes: tuple[int, ...] = (60, 60, 60), workload: str = "monitoring/StatefulSet/") -> Scenario:
    scenario = Scenario()
    targets = [f"shop/Deployment/t{number}" for number in range(len(sizes))]
    for target in targets:
        scenario.workload(target, EVERYWHERE)
    for place, stack in enumerate(stacks):
        zone = "ab"[place % 2]
        scenario.workload(f"{workload}{stack}", {zone: 1})
        for target, size in zip(targets, sizes, strict=True):
            for other in "abc":
                client = (f"{workload}{stack}", zone)
                scenario.say(client, (target, other), 9100, size * GB // 100, size * GB, hours=None)
    return scenario


def test_two_monitoring_stacks() -> None:
    advice = scraped("prometheus-a", "prometheus-b").advice()
    ((kind, subject, sure),) = found(advice)
    assert (kind, sure) == ("twice", "ask")
    assert subject.startswith("monitoring/StatefulSet/prometheus-")
    assert advice.told[0].finding.manifests[0]["spec"] == {"replicas": 0}
    assert advice.told[0].spared.bytes == pytest.approx(2 * 3 * 60 * 1.01 * GB, rel=1e-6)


def test_two_replicas_of_one_workload_are_a_pair_on_purpose() -> None:
    scenario = scraped("prometheus")
    for other in "abc":
        for number in range(3):
            client, server = ("monitoring/StatefulSet/prometheus", "b"), (f"shop/Deployment/t{number}", other)
            scenario.say(client, server, 9100, GB, 60 * GB)
    assert found(scenario.advice()) == []


def test_two_that_have_little_in_common_are_no_twins() -> None:
    scenario = scraped("prometheus-a", "prometheus-b")
    for number in range(3):  # the second one pulls from three others as well
        server = (f"other/Deployment/u{number}", "a")
        scenario.say(("monitoring/StatefulSet/prometheus-b", "b"), server, 9100, GB, 60 * GB)
    assert found(scenario.advice()) == []


def test_strangers_that_ask_the_same_servers_are_no_twins() -> None:
    assert found(scraped("billing", "frontdesk").advice()) == []


# Databases, caches, Kafka

POSTGRES = "shop/StatefulSet/postgres"


def database(asked: int, answered: int, replicas: dict[str, int], port: int = 5432) -> Scenario:
    scenario = Scenario()
    scenario.workload(API, EVERYWHERE)
    scenario.workload(POSTGRES, replicas)
    for zone in "abc":
        scenario.say((API, zone), (POSTGRES, "a"), port, asked * GB, answered * GB)
    return scenario


def test_a_database_that_is_read_from_other_zones() -> None:
    ((kind, subject, sure),) = found(database(5, 100, {"a": 1}).advice())
    assert (kind, subject, sure) == ("store_read_across", f"{POSTGRES}:5432", "ask")


def test_a_managed_database_that_is_read_from_other_zones() -> None:
    scenario = Scenario()
    scenario.workload(API, EVERYWHERE)
    for zone in "abc":
        scenario.say((API, zone), ("cidr/orders-db", "a"), 3306, 5 * GB, 100 * GB)
    assert found(scenario.advice()) == [("store_read_across", "cidr/orders-db:3306", "ask")]


def test_a_database_with_a_replica_in_each_of_its_readers_zones_by_now() -> None:
    scenario = database(5, 100, {"a": 1})
    scenario.workload(POSTGRES, {"b": 1, "c": 1}, from_ms=BEGIN_MS + 20 * HOUR_MS)
    assert found(scenario.advice()) == []


def test_a_database_that_is_written_is_the_price_of_availability() -> None:
    advice = database(60, 20, {"a": 1}).advice()
    assert found(advice) == []
    assert advice.unavoidable[0][0].startswith("writes")


def test_a_database_that_is_read_as_much_as_written_is_no_finding() -> None:
    assert found(database(50, 100, {"a": 1}).advice()) == []


def test_replication_within_one_stateful_set_is_the_price_of_availability() -> None:
    scenario = Scenario()
    scenario.workload(POSTGRES, EVERYWHERE)
    for zone in "bc":
        scenario.say((POSTGRES, zone), (POSTGRES, "a"), 5432, GB, 100 * GB)
    advice = scenario.advice()
    assert found(advice) == []
    assert [why for why, _ in advice.unavoidable] == ["replication within one StatefulSet"]


BROKER = "kafka/StatefulSet/broker"


def consumers(asked: int, answered: int, brokers: dict[str, int]) -> Scenario:
    scenario = Scenario()
    scenario.workload(API, EVERYWHERE)
    scenario.workload(BROKER, brokers)
    for zone in "abc":
        for other in brokers:
            scenario.say((API, zone), (BROKER, other), 9092, asked * GB, answered * GB)
    return scenario


def test_consumers_that_fetch_from_other_zones() -> None:
    ((kind, _, sure),) = found(consumers(1, 50, EVERYWHERE).advice())
    assert (kind, sure) == ("kafka_fetch", "likely")


def test_producers_write_to_leaders() -> None:
    advice = consumers(50, 1, EVERYWHERE).advice()
    assert found(advice) == []
    assert any(why.startswith("producers") for why, _ in advice.unavoidable)


def test_brokers_in_one_zone_cannot_be_near() -> None:
    assert found(consumers(1, 50, {"a": 3}).advice()) == []


# The second leg of what comes from outside


def outside(routing: Routing) -> Scenario:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.service("web", WEB, 8080, routing)
    for zone in "bc":
        scenario.say(("cidr/lb", "a"), (WEB, zone), 8080, 50 * GB, 50 * GB, service="web", dnat=True, relay=True)
    return scenario


def test_nodes_that_pass_requests_on() -> None:
    (each,) = outside(Routing(type="LoadBalancer")).advice().told
    assert (each.finding.kind, each.finding.sure) == ("second_leg", "ask")
    assert each.finding.manifests[0]["spec"] == {"externalTrafficPolicy": "Local"}


def test_a_policy_that_is_local_is_no_finding() -> None:
    assert found(outside(Routing(type="LoadBalancer", external_traffic_policy="Local")).advice()) == []
    assert found(outside(Routing()).advice()) == []


def test_who_reaches_the_same_pods_directly_is_not_counted() -> None:
    """A primary sends its replicas what it wrote, without their Service; their readers come by it."""
    scenario = shop()
    for zone in "bc":
        scenario.say((POSTGRES, "a"), (API, zone), 8080, 500 * GB, 10 * GB, service="api")
    (each,) = scenario.advice().told
    assert each.spared.bytes == pytest.approx(200 * GB, rel=1e-6)
    assert (each.finding.kind, each.finding.sure) == ("blind_service", "measured")


# A mesh

ISTIOD = "istio-system/Deployment/istiod-1-27"


def meshed(servers: dict[str, int] = EVERYWHERE, routing: Routing = CLUSTER_IP, *, local: bool = False) -> Scenario:
    """Return web with a sidecar, which asks Istio's control plane and then api's pods."""
    scenario = shop(servers, routing, dnat=False, local=local)
    scenario.workload(ISTIOD, {"a": 1})
    scenario.say((WEB, "a"), (ISTIOD, "a"), 15012, 1000, 1000)
    return scenario


def test_a_sidecar_that_balances_blindly() -> None:
    scenario = meshed()
    scenario.say(("shop/Deployment/cart", "a"), ("shop/Deployment/tax", "a"), 80, GB, GB, service="tax", dnat=True)
    (each,) = scenario.advice().told
    assert (each.finding.kind, each.finding.subject, each.finding.sure) == ("mesh", "shop/Service/api", "likely")
    assert each.spared.bytes == pytest.approx(200 * GB, rel=1e-6)
    (rule,) = each.finding.manifests
    assert rule["spec"]["host"] == "api.shop.svc.cluster.local"
    assert rule["spec"]["trafficPolicy"].keys() == {"loadBalancer", "outlierDetection"}, "one does nothing alone"


def test_where_nothing_is_seen_translated_who_has_no_sidecar_looks_the_same() -> None:
    (each,) = meshed().advice().told
    assert (each.finding.kind, each.finding.sure) == ("mesh", "ask")
    assert any("no request is seen translated" in fact for fact in each.finding.facts)


def test_what_goes_by_the_services_address_is_not_the_meshs_to_spare() -> None:
    """Two of five of web's pods have no sidecar: their requests are seen translated, and pass no mesh."""
    scenario = shop(dnat=False)
    scenario.workload(ISTIOD, {"a": 1})
    scenario.say((WEB, "a"), (ISTIOD, "a"), 15012, 1000, 1000)
    alone = scenario.advice().told[0].spared.bytes
    requests = {cell: size for cell, size in scenario.evidence.cells.items() if cell.service and cell.is_request}
    for cell, size in requests.items():
        scenario.evidence.cells[cell] = size - size * 2 // 5
        scenario.evidence.cells[cell._replace(dnat=True)] = size * 2 // 5
    (each,) = [each for each in scenario.advice().told if each.finding.kind == "mesh"]
    assert each.spared.bytes == pytest.approx(alone * 3 // 5, rel=1e-6)


def test_a_sidecar_that_keeps_to_its_zone_is_no_finding() -> None:
    assert found(meshed(local=True).advice()) == []


def test_a_sidecar_of_a_single_replica_can_do_nothing() -> None:
    assert "mesh" not in {kind for kind, _, _ in found(meshed({"a": 1}).advice())}


def test_a_service_that_a_mesh_reads_the_policy_of_is_no_finding() -> None:
    assert found(meshed(routing=Routing(traffic_distribution="PreferClose")).advice()) == []


def test_who_goes_by_the_service_although_it_has_a_sidecar_is_not_the_meshs() -> None:
    scenario = shop()
    scenario.workload(ISTIOD, {"a": 1})
    scenario.say((WEB, "a"), (ISTIOD, "a"), 15012, 1000, 1000)
    assert [kind for kind, _, _ in found(scenario.advice())] == ["blind_service"]


def test_another_server_at_the_control_planes_port_is_no_mesh() -> None:
    scenario = shop(dnat=False)
    scenario.workload("shop/Deployment/istio-ui", {"a": 1})
    scenario.say((WEB, "a"), ("shop/Deployment/istio-ui", "a"), 15012, 1000, 1000)
    assert found(scenario.advice()) == []


def tunnelled(routing: Routing, *, local: bool = False) -> Scenario:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.workload(API, EVERYWHERE)
    scenario.service("api", API, 8080, routing)
    for zone in "abc":
        for other in zone if local else "abc":
            scenario.say((WEB, zone), (API, other), 15008, 10 * GB, 90 * GB)
    return scenario


def test_a_tunnel_that_balances_blindly() -> None:
    (each,) = tunnelled(CLUSTER_IP).advice().told
    assert (each.finding.kind, each.finding.subject, each.finding.sure) == ("mesh", f"{API}:15008", "likely")
    assert each.finding.manifests == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"trafficDistribution": "PreferClose"},
        }
    ]


def test_a_tunnel_that_is_told_or_local_is_no_finding() -> None:
    assert found(tunnelled(Routing(traffic_distribution="PreferSameZone")).advice()) == []
    assert found(tunnelled(CLUSTER_IP, local=True).advice()) == []


# Load balancers, and what lies outside


def balanced(name: str, targets: dict[str, int], *, crosses: bool = True) -> Scenario:
    scenario = Scenario()
    scenario.workload(WEB, targets)
    scenario.service("web", WEB, 8080, Routing(type="LoadBalancer"))
    for zone in "ab":
        for other in targets if crosses else zone:
            scenario.say((f"cidr/{name}", zone), (WEB, other), 8080, 10 * GB, 90 * GB, service="web")
    return scenario


@pytest.mark.parametrize("kind", ["nlb", "gwlb"])
def test_a_load_balancer_that_sends_to_other_zones(kind: str) -> None:
    (each,) = balanced(f"{kind}/front", {"a": 2, "b": 2}).advice().told
    assert (each.finding.kind, each.finding.subject, each.finding.sure) == (
        "load_balancer",
        f"cidr/{kind}/front",
        "likely",
    )
    assert each.spared.bytes == pytest.approx(200 * GB, rel=1e-6)


@pytest.mark.parametrize("name", ["alb/front", "clb/front", "nlbs"])
def test_a_load_balancer_that_is_not_billed_is_no_finding(name: str) -> None:
    assert found(balanced(name, {"a": 2, "b": 2}).advice()) == []


def test_a_load_balancer_that_keeps_to_its_zones_is_no_finding() -> None:
    assert found(balanced("nlb/front", {"a": 2, "b": 2}, crosses=False).advice()) == []


def test_a_load_balancer_in_a_zone_without_a_target_is_asked_about() -> None:
    scenario = balanced("nlb/front", {"a": 1, "b": 1})
    scenario.say(("cidr/nlb/front", "c"), (WEB, "a"), 8080, 10 * GB, 90 * GB, service="web")
    (each,) = scenario.advice().told
    assert (each.finding.kind, each.finding.sure) == ("load_balancer", "ask")
    assert "zones without a ready target: eu-west-1c" in each.finding.facts


def test_a_load_balancer_whose_zones_are_wrong_in_the_cidr_map_is_asked_about() -> None:
    """It keeps to its zones; the map has its subnets the wrong way round, so all of it seems to cross."""
    scenario = balanced("nlb/front", {"a": 2, "b": 2}, crosses=False)
    for cell, size in list(scenario.evidence.cells.items()):
        del scenario.evidence.cells[cell]
        other = "eu-west-1b" if cell.client.zone == "eu-west-1a" else "eu-west-1a"
        client, server = scenario.parties.at(cell.client, other, "eu-west-1"), cell.server
        ends = (server, client) if cell.serves == "source" else (client, server)
        traffic = cell.traffic._replace(scope="cross_zone", source=ends[0], destination=ends[1])
        scenario.evidence.cells[cell._replace(traffic=traffic)] += size
    (each,) = scenario.advice().told
    assert (each.finding.kind, each.finding.sure) == ("load_balancer", "ask")
    assert any("CIDR map has each subnet in its zone" in fact for fact in each.finding.facts)


def stored(name: str, size: int = 50) -> Scenario:
    scenario = Scenario()
    scenario.workload(WEB, EVERYWHERE)
    scenario.say((WEB, "a"), (f"external/{name}", "a"), 443, GB, size * GB)
    return scenario


@pytest.mark.parametrize("service", ["S3", "DYNAMODB"])
def test_a_store_that_is_reached_by_public_addresses_is_asked_about(service: str) -> None:
    advice = stored(f"aws/{service}/eu-west-1").advice()
    (each,) = advice.told
    assert (each.finding.kind, each.finding.sure) == ("public_store", "ask")
    assert each.finding.elsewhere == pytest.approx(51 * GB, rel=1e-6)
    assert (each.spared.bytes, advice.spared.bytes) == (0, 0), "nothing of it crosses zones"
    assert any(f".{service.lower()} " in step for step in each.finding.steps)


@pytest.mark.parametrize("name", ["aws/S3/us-east-1", "aws/EC2/eu-west-1", "aws/S3", "gcp/Google Cloud/eu-west-1", "x"])
def test_a_store_elsewhere_or_of_others_is_no_finding(name: str) -> None:
    assert found(stored(name).advice()) == []


def test_little_that_goes_to_a_store_is_left_out() -> None:
    advice = stored("aws/S3/eu-west-1", size=5).advice()
    assert (found(advice), len(advice.small)) == ([], 1)
