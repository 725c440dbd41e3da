# SPDX-License-Identifier: Apache-2.0
"""`report --compare`: which pairs differ, by what, and what changed then. Made-up days whose changes are known."""

from typing import Any

import msgspec

from history.model.bill import price_summary
from history.model.party import MeterTraffic
from history.report import machine, text
from history.report.data import Difference, Range, Report
from history.report.differences.compare import differences
from history.report.differences.text import MOST_CHANGES
from prices.file import shipped
from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario

BEFORE, NOW = range(12), range(12, 24)
NOON = BEGIN_MS + 12 * HOUR_MS
API, WEB, DB = "shop/Deployment/api", "shop/Deployment/web", "shop/StatefulSet/db"


def compared(scenario: Scenario, top: int = 5, note: str = "", **fields: Any) -> Report:
    """Return the report of the afternoon, compared with the morning."""

    def part(hours: range) -> Range:
        summary = scenario.summary(hours)
        return Range(scenario.span(hours), summary, price_summary(summary, shipped("aws")))

    report = Report(part(NOW), ["a test"], "as asked", MeterTraffic(), top, part(BEFORE), "12h", **fields)
    assert report.before is not None
    report.differences = differences(report, report.before, [] if note else scenario.states, note)
    return report


def found(report: Report) -> list[Difference]:
    assert report.differences is not None
    return report.differences.pairs


def told(report: Report) -> list[list[tuple[str, str]]]:
    return [[(each.what, str(each.subject)) for each in pair.changed] for pair in found(report)]


def say(scenario: Scenario, source: str, to: tuple[str, str], hours: range, gb_an_hour: int, zone: str = "a") -> None:
    """Let a workload send to another; nothing comes back."""
    scenario.say((source, zone), to, 80, gb_an_hour * GB * len(hours), 0, hours=hours)


def end(scenario: Scenario, at_ms: int, *names: str) -> None:
    scenario.states = [
        msgspec.structs.replace(state, to_ms=at_ms) if state.kind == "pod" and state.name.startswith(names) else state
        for state in scenario.states
    ]


def moved() -> Scenario:
    """The api leaves zone a, where web is, at noon; web asks as much as before. Beside it something is as it was."""
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1})
    scenario.workload(API, {"a": 1})
    end(scenario, NOON, "api-a")
    scenario.workload(API, {"b": 1}, from_ms=NOON)
    say(scenario, WEB, (API, "a"), BEFORE, 10)
    say(scenario, WEB, (API, "b"), NOW, 10)
    say(scenario, WEB, (DB, "b"), range(24), 3)
    return scenario


def test_replicas_that_moved_are_what_changed_then() -> None:
    report = compared(moved())
    (pair,) = found(report)
    assert (pair.source, pair.destination) == (WEB, API)
    assert (pair.bytes_per_hour, pair.bytes_per_hour_before) == (10 * GB, 0)
    assert (pair.by_volume, pair.by_zones) == (0, 10 * GB)
    assert told(report) == [[("moved", API)]]


def test_volume_and_zones_add_up_to_the_change() -> None:
    """Half of 4 GB an hour crosses before, three quarters of 8 after."""
    scenario = Scenario()
    for zone, before, now in (("a", 2, 2), ("b", 2, 6)):
        say(scenario, WEB, (API, zone), BEFORE, before)
        say(scenario, WEB, (API, zone), NOW, now)
    (pair,) = found(compared(scenario))
    assert (pair.by_volume, pair.by_zones, pair.change) == (2 * GB, 2 * GB, 4 * GB)


def test_a_policy_of_the_service_before_an_end_concerns_the_pair() -> None:
    scenario = moved()
    scenario.states = [state for state in scenario.states if state.from_ms != NOON]
    end(scenario, NOON + 48 * HOUR_MS, "api-a")
    scenario.service("api", API, 80, Routing())
    service = next(state for state in scenario.states if state.kind == "service")
    other = msgspec.structs.replace(service, uid="service-other", name="other")
    for each in (service, other):
        routing = Routing(traffic_distribution="PreferClose")
        again = msgspec.structs.replace(each, from_ms=NOON, resource_version="2", routing=routing)
        scenario.states += [each, again] if each is other else [again]
    assert told(compared(scenario)) == [[("policy", "shop/Service/api")]]


def test_a_workload_that_is_new_can_only_add_and_one_that_is_gone_only_take_away() -> None:
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1})
    scenario.workload(API, {"b": 1}, from_ms=NOON)
    scenario.workload(DB, {"b": 1})
    end(scenario, NOON, "db")
    say(scenario, WEB, (API, "b"), NOW, 10)
    say(scenario, WEB, (DB, "b"), BEFORE, 8)
    report = compared(scenario)
    assert [pair.change for pair in found(report)] == [10 * GB, -8 * GB]
    assert told(report) == [[("new", API)], [("gone", DB)]]
    # What cannot be is left out: the new end got less than before.
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1}, from_ms=NOON)
    say(scenario, WEB, (API, "b"), BEFORE, 10)
    assert told(compared(scenario)) == [[]]


def test_what_touches_the_difference_comes_first() -> None:
    """A rollout of web and a move of the api; where more crosses the move is first, where more is sent the rollout."""

    def day(gb: tuple[int, int]) -> Scenario:
        scenario = Scenario()
        scenario.workload(WEB, {"a": 1})
        scenario.workload(API, {"a": 1})
        end(scenario, NOON + HOUR_MS, "web")
        end(scenario, NOON, "api-a")
        scenario.workload(API, {"b": 1}, from_ms=NOON)
        pod = next(state for state in scenario.states if state.name == "web-a0")
        scenario.states.append(msgspec.structs.replace(pod, uid="web-2", from_ms=NOON + HOUR_MS, to_ms=None))
        for zone, size in zip("ab", gb, strict=True):
            say(scenario, WEB, (API, zone), BEFORE, 4)
            say(scenario, WEB, (API, zone), NOW, size)
        return scenario

    assert told(compared(day((0, 8)))) == [[("moved", API), ("rollout", WEB)]]
    assert told(compared(day((8, 8)))) == [[("rollout", WEB), ("moved", API)]]


def test_where_nothing_is_known_to_have_changed_it_says_so() -> None:
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1})
    say(scenario, WEB, ("cidr/orders-db", "b"), BEFORE, 1)
    say(scenario, WEB, ("cidr/orders-db", "b"), NOW, 5)
    report = compared(scenario)
    assert told(report) == [[]]
    shown = "\n".join(text.lines(report))
    assert "nothing is known to have changed at either end" in shown
    assert "then:" not in shown.replace("then: what changed", "")


def test_what_has_been_forgotten_is_not_taken_for_new() -> None:
    """The pods before a rollout at two o'clock are not in the topic any more: nobody knows that there were any."""
    scenario = Scenario()
    scenario.workload(WEB, {"a": 1}, from_ms=BEGIN_MS + 2 * HOUR_MS)
    scenario.workload(DB, {"b": 2})
    end(scenario, NOON, "db-b1")
    say(scenario, WEB, (DB, "b"), NOW, 5)
    report = compared(scenario)
    assert told(report) == [[("scaled", DB)]]
    assert report.differences is not None
    assert report.differences.note == (
        "the topology holds no pod that ended before 2026-11-23 12:00:00: where pods were then is not known"
    )


def test_the_greatest_and_how_many_more() -> None:
    scenario = Scenario()
    for number in range(4):
        say(scenario, f"shop/Deployment/c{number}", (API, "b"), NOW, number + 1)
    report = compared(scenario, top=2)
    assert [pair.source[-2:] for pair in found(report)] == ["c3", "c2"]
    assert "2 pairs more" in text.lines(report)


def test_of_what_crosses_alone_nobody_knows_why() -> None:
    report = compared(moved(), filters={"scope": ["cross_zone"]})
    (pair,) = found(report)
    assert (pair.by_volume, pair.by_zones, pair.change) == (None, None, 10 * GB)
    assert [line.split()[-2:] for line in text.lines(report) if line.startswith(WEB)][-1] == ["?", "?"]


def test_as_people_and_programs_get_it() -> None:
    report = compared(moved())
    shown = text.lines(report)
    at = shown.index(next(line for line in shown if line.startswith("WHAT DIFFERS")))
    assert shown[at].split()[2:] == ["GB/h", "was", "by", "volume", "by", "zones"]
    assert shown[at + 1].split() == [WEB, "->", API, "10.0", "0.00", "+0.00", "+10.0"]
    assert shown[at + 2] == f"    then: 2026-11-23 12:00 moved {API}: eu-west-1a 1 -> eu-west-1b 1"
    assert "it need not be the cause" in "\n".join(shown)
    (pair,) = machine.as_dict(report)["differences"]
    assert pair == {
        "source": WEB,
        "destination": API,
        "bytes_per_hour": 10 * GB,
        "bytes_per_hour_before": 0,
        "by_volume_bytes_per_hour": 0,
        "by_zones_bytes_per_hour": 10 * GB,
        "changed": [
            {
                "at": "2026-11-23T12:00:00Z",
                "what": "moved",
                "subject": API,
                "detail": "eu-west-1a 1 -> eu-west-1b 1",
            }
        ],
    }


def test_more_changes_than_a_table_shows() -> None:
    scenario = moved()
    for hour in range(13, 18):
        scenario.workload(f"{API}", {"c": 1}, from_ms=BEGIN_MS + hour * HOUR_MS, uid=f"more-{hour}")
    report = compared(scenario)
    assert len(found(report)[0].changed) == 6
    shown = text.lines(report)
    assert sum(line.startswith("    then: ") for line in shown) == MOST_CHANGES
    assert "    and 3 changes more" in shown


def test_without_a_topology_the_rates_are_split_all_the_same() -> None:
    report = compared(moved(), note="what changed in the cluster is not marked: no Kafka")
    (pair,) = found(report)
    assert (pair.by_zones, pair.changed) == (10 * GB, [])
    assert "what changed in the cluster is not marked: no Kafka" in "\n".join(text.lines(report))
    assert machine.as_dict(report)["differences_note"] == "what changed in the cluster is not marked: no Kafka"


def test_pairs_that_are_as_they_were() -> None:
    scenario = Scenario()
    say(scenario, WEB, (API, "b"), range(24), 5)
    report = compared(scenario)
    assert found(report) == []
    assert "WHAT DIFFERS  no pair sends another amount across zones" in text.lines(report)


def test_a_pair_of_a_time_before_that_was_metered_and_had_none_of_it_is_new() -> None:
    """All flows of before are left out by a filter: that is another thing than time that nobody metered."""
    scenario = Scenario()
    say(scenario, WEB, (API, "b"), NOW, 5)
    report = compared(scenario)
    assert report.before is not None
    report.before.summary.windows.add((BEGIN_MS, NOON))
    assert text.change_facts(report)[0] == "new on 12h before: 5.00 GB/h, was 0 B/h"
    report.before.summary.windows.clear()
    assert text.change_facts(report) == ["nothing was metered 12h before"]
    (row,) = [line for line in text.lines(report) if line.startswith(f"{WEB} ") and "%" not in line][:1]
    assert row.split()[-1] == "?"


def test_where_other_nodes_were_metered_the_rates_say_so() -> None:
    report = compared(moved())
    assert report.before is not None
    report.now.summary.observers |= {"a", "b", "c", "d"}
    report.before.summary.observers |= {"a", "b"}
    said = "4 nodes metered now, 2 12h before: what others send is in no rate"
    assert said in text.change_facts(report)
    assert [machine.as_dict(report)["nodes"], machine.as_dict(report)["before"]["nodes"]] == [4, 2]
    report.before.summary.observers |= {"c", "d"}
    assert said not in text.change_facts(report)
