# SPDX-License-Identifier: Apache-2.0
"""Advice as people and programs get it: the numbers agree, YAML is what an API server takes, names stay data."""

import re
import shlex
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common import page, terminal
from common.errors import Refusal
from history.advise import follow, machine, text
from history.advise.advice import Advice
from history.advise.command import Answer
from history.advise.finding import Case
from history.model.bill import price_summary
from history.model.evidence import Evidence
from history.model.party import MeterTraffic
from history.model.states.ready import Group
from history.report import text as report_text
from history.report.data import Range, Report
from prices.file import shipped
from schemas.topology import Routing
from tests.support.history.scenario import BEGIN_MS, GB, HOUR_MS, Scenario

VERSION = "1.34"
# What ends a YAML line, a comment, a fence or a table, and what Markdown and HTML obey.
HOSTILE = (
    'a"b',
    "x: {y",
    "- no",
    "# no",
    "two\nlines: 1",
    "```",
    "<script>alert(1)</script>",
    "[a](http://b)",
    "*b*|c",
)


def made(name: str = "api", namespace: str = "shop") -> tuple[Report, Advice, Evidence]:
    """Return advice with each kind of manifest, for workloads of that name."""
    scenario = Scenario()
    label, reader = f"{namespace}/Deployment/{name}", f"{namespace}/Deployment/{name}-web"
    scenario.workload(label, {"a": 1, "b": 1})
    scenario.workload(reader, {"a": 1, "b": 1, "c": 1})
    scenario.service(name, label, 8080, Routing())
    scenario.exchange(reader, name, 8080, 20 * GB, 200 * GB)
    for stack, zone in (("one", "a"), ("one-b", "b")):
        scenario.workload(f"{namespace}/StatefulSet/{name}{stack}", {zone: 1})
        for number in range(3):
            for other in "abc":
                client = (f"{namespace}/StatefulSet/{name}{stack}", zone)
                scenario.say(client, (f"{namespace}/Deployment/t{number}", other), 9100, GB, 60 * GB)
    summary, book = scenario.summary(), shipped("aws")
    span = scenario.evidence.span
    report = Report(Range(span, summary, price_summary(summary, book)), ["a test"], "as asked", MeterTraffic(), 5)
    return report, scenario.advice(), scenario.evidence


def test_the_answer_first_then_each_finding_with_what_to_apply_and_how_to_check() -> None:
    report, advice, _ = made()
    shown = "\n".join(text.lines(report, advice))
    assert [each.finding.kind for each in advice.told] == ["twice", "blind_service", "no_end_point"]
    assert "3 findings could spare at most" in shown
    assert shown.index("CROSS-ZONE") < shown.index("1  shop/StatefulSet/api") < shown.index("2  shop/Service/api")
    assert "trafficDistribution: PreferClose" in shown
    assert "zonemeter report --since 24h --compare 7d -n shop" in shown
    assert "eu-west-1a 1 eu-west-1b 1" in shown
    assert max(map(len, shown.split("\n"))) <= 130


def test_a_simulation_is_the_report_of_the_range_beside_what_was_measured() -> None:
    report, advice, evidence = made()
    simulated = Answer(report, advice, evidence).simulated([1, 2])
    spared = sum(each.spared.bytes for each in advice.told[:2])
    before, after = report.summary.scopes["cross_zone"], simulated.summary.scopes["cross_zone"]
    assert after == before - spared
    shown = "\n".join(report_text.lines(simulated))
    assert "changed  as if followed: 1 (shop/StatefulSet/apione), 2 (shop/Service/api)" in shown
    assert "on what was measured" in shown
    assert machine.simulated(simulated, [1, 2])["simulated"] == [1, 2]
    with pytest.raises(Refusal, match="there is 1 to 3"):
        Answer(report, advice, evidence).simulated([4])


def test_json_has_the_same_numbers() -> None:
    report, advice, _ = made()
    found = machine.as_dict(report, advice)["advice"]
    assert found["spared_at_most"]["bytes"] == sum(each["spared_at_most"]["bytes"] for each in found["findings"])
    assert found["cross_zone"]["bytes"] == report.summary.scopes["cross_zone"]
    assert float(found["cross_zone"]["cost"]) == pytest.approx(found["cross_zone"]["bytes"] * 2e-11)
    for each in found["findings"]:
        assert sum(pair["bytes"] for pair in each["zones"]) <= each["cross_zone"]["bytes"]


def test_each_manifest_makes_a_valid_object_of_what_is_there() -> None:
    _, advice, _ = made()
    documents = [each for each in yaml.safe_load_all("\n".join(machine.as_yaml(advice))) if each]
    assert [each["kind"] for each in documents] == ["StatefulSet", "Service", "Deployment"]
    for document in documents:
        kubernetes_validate.validate(_merged(_there(document["kind"]), document), VERSION, strict=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_data(name: str) -> None:
    report, advice, _ = made(name.replace("/", ":"), name.replace("/", ":"))
    wanted = name.replace("/", ":")
    documents = [each for each in yaml.safe_load_all("\n".join(machine.as_yaml(advice))) if each]
    assert len(documents) == 3
    assert {each["metadata"]["namespace"] for each in documents} == {wanted}
    markdown = text.markdown(report, advice)
    outside = _outside_fences(markdown)
    assert not any("<script>" in line or re.search(r"(?<!\\)\]\(", line) for line in outside)
    assert machine.as_dict(report, advice)["advice"]["findings"][0]["subject"].startswith(f"{wanted}/")


def test_ready_pods_over_time() -> None:
    scenario = Scenario()
    scenario.workload("shop/Deployment/api", {"a": 1})
    scenario.workload("shop/Deployment/late", {"b": 2}, from_ms=BEGIN_MS + HOUR_MS)
    scenario.service("api", "shop/Deployment/api", 80, Routing())
    scenario.service("api", "shop/Deployment/late", 80, Routing())
    steps = Case(scenario.evidence, scenario.states, scenario.parties).ready[Group("shop", "Service", "api")]
    assert text.ready_line(steps).startswith("eu-west-1a 1 from ")
    assert "eu-west-1a 1 eu-west-1b 2 from" in text.ready_line(steps)
    assert text.ready_line(steps[:1]) == "eu-west-1a 1"


def test_nothing_to_change() -> None:
    scenario = Scenario()
    scenario.workload("shop/Deployment/api", {"a": 1})
    scenario.say(("cidr/db", "a"), ("shop/Deployment/api", "b"), 80, GB, GB)
    summary = scenario.summary()
    report = Report(Range(scenario.evidence.span, summary, price_summary(summary, None)), [], "", MeterTraffic(), 5)
    shown = "\n".join(text.lines(report, scenario.advice(prices=None)))
    assert "nothing to change was found" in shown
    assert "--simulate" not in shown
    assert machine.as_yaml(scenario.advice()) == ["# nothing to change was found"]


def _outside_fences(lines: list[str]) -> list[str]:
    outside, fence = [], ""
    for line in lines:
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.rstrip("abcdefghijklmnopqrstuvwxyz")
        else:
            outside.append(line)
    assert not fence
    return outside


def _there(kind: str) -> dict[str, Any]:
    """Return an object as a cluster may have it."""
    labels = {"app": "api"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "api", "image": "api:1"}]}}
    if kind == "Service":
        return {"spec": {"selector": labels, "ports": [{"port": 80}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"spec": {**spec, "serviceName": "api"} if kind == "StatefulSet" else spec}


def _merged(there: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return an object with a change of some of its fields, as server-side apply merges maps."""
    merged = dict(there)
    for name, value in change.items():
        known = merged.get(name)
        merged[name] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def test_a_name_in_a_command_is_one_word() -> None:
    report, advice, _ = made("api", "a;rm -rf b")
    for each in advice.told:
        words = shlex.split(follow.verification(report, each))
        assert words[words.index("-n") + 1] == "a;rm -rf b"


def test_yaml_is_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    """Folded, a comment would go on as something else."""
    _, advice, _ = made("a" * 60, "b" * 60)
    monkeypatch.setattr(page, "terminal_width", lambda: 40)
    terminal.write_lines(machine.as_yaml(advice))
    documents = [each for each in yaml.safe_load_all(capfdbinary.readouterr().out) if each]
    assert len(documents) == 3
