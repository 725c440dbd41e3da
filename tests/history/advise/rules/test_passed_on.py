# SPDX-License-Identifier: Apache-2.0
"""The second leg of what comes from outside: there, nearly there, not there."""

import pytest

from schemas.topology import Routing
from tests.support.history.scenario import GB
from tests.support.history.shop import API, POSTGRES, found, outside, shop


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
