# SPDX-License-Identifier: Apache-2.0
"""Load balancers, and stores outside the cluster: there, nearly there, not there."""

import pytest

from schemas.topology import Routing
from tests.support.history.scenario import GB, Scenario
from tests.support.history.shop import EVERYWHERE, WEB, found


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
