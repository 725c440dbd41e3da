# SPDX-License-Identifier: Apache-2.0
"""What was over when the range ended is no finding."""

import msgspec
import pytest

from history.advise.advice import Advice
from schemas.flow import Workload
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario
from tests.support.history.shop import API, CLUSTER_IP, EVERYWHERE, WEB, found, scraped, shop


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
