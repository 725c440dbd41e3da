# SPDX-License-Identifier: Apache-2.0
"""The same work done twice: there, nearly there, not there."""

import pytest

from tests.support.history.scenario import GB
from tests.support.history.shop import found, scraped


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
