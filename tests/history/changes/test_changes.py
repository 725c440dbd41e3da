# SPDX-License-Identifier: Apache-2.0
"""What changed, and what became of the traffic: made-up days whose changes are known."""

from typing import Any

import msgspec
import pytest

from history.changes import text
from history.changes.effects import Effect, effects
from history.model.bill import price_summary
from history.model.party import MeterTraffic
from history.model.states.events import SETTLED_MS, Event, events, known_events
from history.report.data import Range, Report
from prices.file import shipped
from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario

NOON = BEGIN_MS + 12 * HOUR_MS
API, WEB = "shop/Deployment/api", "shop/Deployment/web"


def happened(scenario: Scenario) -> list[tuple[str, str, str, int]]:
    found = events(scenario.states, scenario.evidence.span)
    return [(each.what, str(each.subject), each.detail, each.at_ms) for each in found]


def until(scenario: Scenario, at_ms: int, *names: str) -> None:
    """End the pods whose names begin so."""
    scenario.states = [
        msgspec.structs.replace(state, to_ms=at_ms) if state.kind == "pod" and state.name.startswith(names) else state
        for state in scenario.states
    ]


def test_a_quiet_day() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 2, "b": 1})
    scenario.service("api", API, 80, Routing())
    assert happened(scenario) == []


def test_workloads_that_come_and_go() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1}, from_ms=NOON)
    scenario.workload(WEB, {"b": 1})
    until(scenario, NOON, "web")
    assert happened(scenario) == [
        ("new", API, "none -> eu-west-1a 1", NOON),
        ("gone", WEB, "eu-west-1b 1 -> none", NOON),
    ]


def test_replicas_that_move_out_of_a_zone() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1, "b": 1})
    until(scenario, NOON, "api-a")
    late = Scenario()
    late.workload(API, {"c": 1}, from_ms=NOON)
    scenario.states += [state for state in late.states if state.kind == "pod"]
    assert happened(scenario) == [("moved", API, "eu-west-1a 1, eu-west-1b 1 -> eu-west-1b 1, eu-west-1c 1", NOON)]


def test_more_replicas() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1})
    scenario.workload(API, {"b": 1}, from_ms=NOON)
    assert [each[:3] for each in happened(scenario)] == [("scaled", API, "eu-west-1a 1 -> eu-west-1a 1, eu-west-1b 1")]


def test_a_short_absence_is_no_change() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1})
    pod = next(state for state in scenario.states if state.kind == "pod")
    scenario.states += [
        msgspec.structs.replace(pod, from_ms=NOON, ready=False, resource_version="2"),
        msgspec.structs.replace(pod, from_ms=NOON + SETTLED_MS - 1, resource_version="3"),
    ]
    assert happened(scenario) == []


def test_a_rollout() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1, "b": 1})
    until(scenario, NOON, "api")
    for state in [state for state in scenario.states if state.kind == "pod"]:
        scenario.states.append(msgspec.structs.replace(state, uid=f"{state.uid}-2", from_ms=NOON, to_ms=None))
    assert happened(scenario) == [("rollout", API, "2 new pods", NOON)]


def policy(scenario: Scenario, routing: Routing, at_ms: int = NOON) -> None:
    service = next(state for state in scenario.states if state.kind == "service")
    scenario.states.append(msgspec.structs.replace(service, from_ms=at_ms, resource_version="2", routing=routing))


def test_a_policy() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1})
    scenario.service("api", API, 80, Routing())
    policy(scenario, Routing(traffic_distribution="PreferClose"))
    assert [each[:3] for each in happened(scenario)] == [
        ("policy", "shop/Service/api", "traffic_distribution not set -> PreferClose")
    ]


def helped() -> Scenario:
    """Half of web's traffic crosses zones until noon; then all of it stays, and there is twice as much."""
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1, "b": 1})
    scenario.workload(API, {"a": 1, "b": 1})
    scenario.service("api", API, 8080, Routing())
    for zone in "ab":
        for other in "ab":
            ends = (WEB, zone), (API, other)
            scenario.say(*ends, 8080, 0, 60 * GB, service="api", hours=range(12))
        scenario.say((WEB, zone), (API, zone), 8080, 0, 240 * GB, service="api", hours=range(12, 24))
    policy(scenario, Routing(traffic_distribution="PreferClose"))
    return scenario


def test_the_effect_is_at_the_volume_of_after() -> None:
    scenario = helped()
    (effect,) = effects(events(scenario.states, scenario.evidence.span), scenario.evidence, shipped("aws"))
    assert (effect.before.part, effect.after.part) == (0.5, 0.0)
    assert effect.before.milliseconds == effect.after.milliseconds == 12 * HOUR_MS
    assert effect.bytes_per_hour == pytest.approx(-20 * GB)  # half of 480 GB in 12 hours
    assert effect.cost_per_byte is not None


def test_a_slot_with_the_change_in_it_is_left_out() -> None:
    scenario = helped()
    (effect,) = effects([_event(scenario, NOON + 60_000)], scenario.evidence, None)
    assert effect.before.milliseconds == 12 * HOUR_MS
    assert effect.after.milliseconds == 12 * HOUR_MS - scenario.evidence.slot_ms
    assert effect.cost_per_byte is None


def test_up_to_the_next_change_of_the_same() -> None:
    scenario = helped()
    found = [_event(scenario, NOON), _event(scenario, NOON + 6 * HOUR_MS)]
    first, second = effects(found, scenario.evidence, None)
    assert first.after.milliseconds == second.before.milliseconds == second.after.milliseconds == 6 * HOUR_MS


def test_what_nobody_talked_to_has_no_effect_that_is_known() -> None:
    scenario = Scenario()
    scenario.workload(API, {"a": 1}, from_ms=NOON)
    (effect,) = effects(events(scenario.states, scenario.evidence.span), scenario.evidence, None)
    assert effect.bytes_per_hour is None


def test_as_people_and_programs_get_it() -> None:
    scenario = helped()
    book, summary = shipped("aws"), scenario.summary()
    report = Report(
        Range(scenario.evidence.span, summary, price_summary(summary, book)), ["a test"], "as asked", MeterTraffic(), 5
    )
    changed = effects(events(scenario.states, scenario.evidence.span), scenario.evidence, book)
    shown = "\n".join(text.lines(report, changed))
    assert "50.0 % -> 0.0 %" in shown
    assert "-$292" in shown  # 20 GB an hour, 730 hours, at 0.02
    found: dict[str, Any] = text.as_dict(report, changed)["changes"][0]
    assert (found["what"], found["effect_cost_per_month"]) == ("policy", "-292.0000")
    assert "nothing changed" in "\n".join(text.lines(report, []))


def test_what_was_forgotten_is_not_called_new() -> None:
    """The topic has forgotten the pods before the api's rollout at two."""
    scenario = Scenario()
    scenario.workload(API, {"a": 1}, from_ms=BEGIN_MS + 2 * HOUR_MS)
    scenario.workload(WEB, {"b": 1}, from_ms=BEGIN_MS - HOUR_MS)
    until(scenario, NOON, "web")
    found, note = known_events(scenario.states, scenario.evidence.span)
    assert [(each.what, str(each.subject)) for each in found] == [("gone", WEB)]
    assert note.startswith("the topology holds no pod that ended before 2026-11-23 12:00:00")
    summary = scenario.summary()
    here = Range(scenario.evidence.span, summary, price_summary(summary, None))
    report = Report(here, ["a test"], "as asked", MeterTraffic(), 5, events_note=note)
    assert note in " ".join(text.lines(report, effects(found, scenario.evidence, None)))
    assert "nothing is known to have changed" in "\n".join(text.lines(report, []))
    assert text.as_dict(report, [])["changes_note"] == note


def _event(scenario: Scenario, at_ms: int) -> Event:
    [event] = events(scenario.states, scenario.evidence.span)
    return event._replace(at_ms=at_ms)


def test_effects_are_in_the_order_of_the_events() -> None:
    scenario = helped()
    found: list[Effect] = effects(events(scenario.states, scenario.evidence.span), scenario.evidence, None)
    assert [each.event.at_ms for each in found] == sorted(each.event.at_ms for each in found)
