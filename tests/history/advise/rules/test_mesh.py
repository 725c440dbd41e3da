# SPDX-License-Identifier: Apache-2.0
"""What a mesh balances: there, nearly there, not there."""

import pytest

from schemas.topology import Routing
from tests.support.history.scenario import GB, Scenario
from tests.support.history.shop import API, CLUSTER_IP, EVERYWHERE, ISTIOD, WEB, found, meshed, shop


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
