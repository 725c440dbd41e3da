# SPDX-License-Identifier: Apache-2.0
"""Advice as a page: its numbers are those of the JSON, its YAML is what `-o yaml` prints, and names stay data."""

from typing import Any
from xml.etree.ElementTree import Element

import pytest
import yaml

from history.advise import machine, page
from history.advise.advice import Advice
from history.model.bill import price_summary
from history.model.party import MeterTraffic
from history.page.render import MOST_BYTES
from history.report.data import Range, Report
from prices.file import shipped
from schemas.topology import Routing
from tests.history.advise.test_text import HOSTILE, made
from tests.history.page.test_hostile import NAMES, UNSHOWN, shape
from tests.support.history.html import by_id, parsed, rows, text_of, values
from tests.support.history.scenario import GB, Scenario

Read = tuple[Element, dict[str, Any], Advice]


def read(name: str = "api", namespace: str = "shop") -> Read:
    report, advice, _ = made(name, namespace)
    return parsed(page.document(report, advice)), machine.as_dict(report, advice)["advice"], advice


@pytest.fixture(scope="module")
def shown() -> Read:
    return read()


def article(shown: Element, number: int) -> Element:
    """Return what the page has of one finding."""
    (found,) = [each for each in shown.iter("article") if each.get("aria-labelledby") == f"finding-{number}"]
    return found


def test_the_answer_is_what_all_findings_spare(shown: Read) -> None:
    tree, document, _ = shown
    answer = next(tree.iter("dl"))
    assert values(answer) == [document["spared_at_most"]["cost_per_month"], document["cross_zone"]["cost_per_month"]]
    found = [values(row) for row in rows(by_id(tree, "findings"))]
    spared = [each["spared_at_most"] for each in document["findings"]]
    assert found == [[str(each["bytes"]), each["cost_per_month"]] for each in spared]
    (whole,) = rows(by_id(tree, "findings"), "tfoot")
    assert values(whole) == [str(document["spared_at_most"]["bytes"]), document["spared_at_most"]["cost_per_month"]]
    assert [text_of(row[3]) for row in rows(by_id(tree, "findings"))] == [each["sure"] for each in document["findings"]]


def test_each_finding_has_its_evidence_and_its_change(shown: Read) -> None:
    tree, document, _ = shown
    for each in document["findings"]:
        found = article(tree, each["number"])
        text = text_of(found)
        assert text.startswith(f"{each['number']} {each['subject']}: {each['title']}")
        for part in ("evidence", "conditions", "costs", "steps"):
            assert [said for said in each[part] if " ".join(said.split()) not in text] == [], part
        change, verify = found.iter("pre")
        assert list(yaml.safe_load_all("".join(change.itertext()))) == each["manifests"]
        assert text_of(verify) == each["verify"]
        drawings = [text_of(drawing[0]) for drawing in found.iter("svg") if drawing.get("role") == "img"]
        assert ("Ready end points by zone over time" in drawings) is bool(each["ready"])
        assert "Bytes by pair of zones" in drawings


def test_zones_lose_what_is_spared(shown: Read) -> None:
    """Also where all of it ends: a workload that is stopped sends nothing."""
    _, document, _ = shown
    for each in document["findings"]:
        spared = sum(pair["bytes"] - pair["bytes_after"] for pair in each["zones"])
        assert spared == each["spared_at_most"]["bytes"] > 0


def test_bars_are_as_long_as_the_bytes(shown: Read) -> None:
    tree, document, _ = shown
    (bar,) = [each for each in tree.iter("svg") if each.get("aria-labelledby") == "parts-title parts-desc"]
    sizes = [float(each.attrib["width"]) for each in bar.iter("rect") if each.get("class") == "bar-spared"]
    spared = [each["spared_at_most"]["bytes"] for each in document["findings"]]
    for size, wanted in zip(sizes, spared, strict=True):
        assert size == pytest.approx(960 * wanted / document["cross_zone"]["bytes"] - 1.5, abs=0.1)


def test_the_price_of_availability_is_a_sum() -> None:
    scenario = Scenario()
    scenario.workload("shop/StatefulSet/etcd", dict.fromkeys("abc", 1))
    for client, server in ("ab", "bc", "ca"):
        scenario.say(("shop/StatefulSet/etcd", client), ("shop/StatefulSet/etcd", server), 2380, 100 * GB, 10 * GB)
    report, advice = of(scenario)
    tree, document = parsed(page.document(report, advice)), machine.as_dict(report, advice)["advice"]
    wanted = [[str(each["bytes"]), each["cost"], each["cost_per_month"]] for each in document["price_of_availability"]]
    assert [values(row) for row in rows(by_id(tree, "availability"))] == wanted
    (whole,) = rows(by_id(tree, "availability"), "tfoot")
    assert values(whole)[0] == str(sum(each["bytes"] for each in document["price_of_availability"])) != "0"
    assert "Nothing to change was found." in text_of(tree)


def test_without_prices_it_speaks_of_bytes() -> None:
    scenario = Scenario()
    scenario.workload("shop/Deployment/api", {"a": 1, "b": 1})
    scenario.workload("shop/Deployment/web", {"a": 1, "b": 1})
    scenario.service("api", "shop/Deployment/api", 80, Routing())
    scenario.exchange("shop/Deployment/web", "api", 80, 90 * GB, 900 * GB)
    report, advice = of(scenario, None)
    assert advice.told
    tree = parsed(page.document(report, advice))
    assert "$" not in text_of(next(tree.iter("main")))
    assert str(advice.spared.bytes) in values(by_id(tree, "findings"))


def test_what_does_not_fit_is_counted() -> None:
    scenario = Scenario()
    names = [f"{'n' * 200}{number}" for number in range(80)]
    for name in names:
        scenario.workload(f"shop/Deployment/{name}", {"a": 1, "b": 1})
        scenario.service(f"{name}-service", f"shop/Deployment/{name}", 80, Routing())
        scenario.workload(f"shop/Deployment/{name}-web", {"a": 1, "b": 1})
        scenario.exchange(f"shop/Deployment/{name}-web", f"{name}-service", 80, 90 * GB, 900 * GB)
    report, advice = of(scenario)
    text = page.document(report, advice)
    assert len(text.encode()) <= MOST_BYTES
    tree = parsed(text)
    left_out, whole = rows(by_id(tree, "findings"), "tfoot")
    kept = [values(row) for row in rows(by_id(tree, "findings"))]
    assert text_of(left_out).startswith(f"{len(advice.told) - len(kept)} more findings, not on this page")
    assert len(kept) == len(list(tree.iter("article"))) < len(advice.told) == 80
    assert sum(int(row[0]) for row in [*kept, values(left_out)]) == int(values(whole)[0]) == advice.spared.bytes


PLAIN = shape(read("plain", "plain")[0])


@pytest.mark.parametrize("name", [*HOSTILE, *NAMES.values(), *(name for name, _ in UNSHOWN.values())])
def test_names_are_text_and_nothing_else(name: str) -> None:
    name = name.replace("/", ":")
    tree, _, _ = read(name, name)
    assert shape(tree) == PLAIN


def of(scenario: Scenario, prices: str | None = "aws") -> tuple[Report, Advice]:
    summary, book = scenario.summary(), None if prices is None else shipped(prices)
    report = Report(
        Range(scenario.evidence.span, summary, price_summary(summary, book)), ["a test"], "", MeterTraffic(), 500
    )
    return report, scenario.advice(prices)
