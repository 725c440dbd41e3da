# SPDX-License-Identifier: Apache-2.0
"""Zones without a replica, and stores and brokers far from who reads them: there, nearly there, not there."""

import msgspec
import pytest

from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario
from tests.support.history.shop import API, EVERYWHERE, POSTGRES, TOLD, WEB, found, shop


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
        msgspec.structs.replace(state, selector=None) if state.kind == "service" else state for state in scenario.states
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


# Databases, caches, Kafka


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
