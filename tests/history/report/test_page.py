# SPDX-License-Identifier: Apache-2.0
"""A report as a page: its numbers are those of the JSON, it stands alone, and it is never too large."""

import base64
import hashlib
import re
from collections import Counter
from decimal import Decimal
from typing import Any, get_args
from xml.etree.ElementTree import Element

import pytest

from history.model.bill import price_summary
from history.model.grouping import By
from history.model.states.events import Event
from history.model.states.ready import Group
from history.model.summary import EXTERNAL
from history.model.time_range import TimeRange
from history.page.render import MOST_BYTES
from history.report import machine
from history.report.data import Difference, Differences, Range, Report
from history.report.page import layout
from history.report.text import trust_facts
from prices.file import shipped
from schemas.flow import Kubernetes, Named, Workload
from tests.support.history.html import by_id, parsed, rows, text_of, values
from tests.support.history.reports import DAY_MS, WINDOW, a_day, audit, report
from tests.support.history.rows import summed
from tests.support.sinks.flows import START_MS, flow, pod

SUBJECT = Group("shop", "Deployment", "api")


def read(made: Report) -> tuple[Element, dict[str, Any]]:
    return parsed(layout.document(made)), machine.as_dict(made)


@pytest.fixture(scope="module")
def priced() -> tuple[Element, dict[str, Any]]:
    return read(report(a_day(), shipped("aws"), top=100))


def test_the_answer_and_the_trust_line_come_first(priced: tuple[Element, dict[str, Any]]) -> None:
    shown, document = priced
    crossing = document["scopes"]["cross_zone"]
    (answer,) = shown.iter("dl")
    assert values(answer) == [crossing["cost"], crossing["cost_per_month"], str(crossing["bytes"])]
    (header,) = shown.iter("header")
    trust = [text_of(each) for each in header.iter("li")]
    assert trust == trust_facts(report(a_day(), shipped("aws")))
    assert "nodes 2 of 3 metered" in trust
    assert "unmeasured 27 s on 1 node" in trust
    text = text_of(shown)
    assert text.index("cluster lab") < text.index("nodes 2 of 3 metered") < text.index("$75,511") < text.index("sent")


def test_zones_by_zones(priced: tuple[Element, dict[str, Any]]) -> None:
    shown, document = priced
    heat = by_id(shown, "heat")
    inside = [each for each in document["zones"] if EXTERNAL not in (each["from"], each["to"])]
    names = [text_of(each) for each in next(rows(heat, "thead")).iter("th")][:-1]
    assert {*names} == {name for each in inside for name in (each["from"], each["to"])}
    wanted = {
        (each["from"], each["to"]): [each[name] for name in ("cost",) if name in each] + [str(each["bytes"])]
        for each in inside
    }
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows(heat):
        source = text_of(row[0])
        found |= {(source, name): values(cell) for name, cell in zip(names, row[1:-1], strict=True)}
    assert {pair: cell for pair, cell in found.items() if cell != ["0"]} == wanted
    whole = values(next(rows(heat, "tfoot"))[-1])
    assert whole == [
        str(sum(Decimal(each.get("cost", 0)) for each in inside)),
        str(sum(each["bytes"] for each in inside)),
    ]
    dark = [
        (text_of(row[0]), name)
        for row in rows(heat)
        for name, cell in zip(names, row[1:], strict=False)
        if cell.get("class") == "h7"
    ]
    assert dark == [("eu-west-1a", "eu-west-1b")], "the dearest is the darkest"


def test_without_prices_zones_show_bytes() -> None:
    shown, document = read(report(a_day()))
    inside = [each["bytes"] for each in document["zones"] if EXTERNAL not in (each["from"], each["to"])]
    found = [int(value) for row in rows(by_id(shown, "heat")) for cell in row[1:-1] for value in values(cell)]
    assert sorted(size for size in found if size) == sorted(inside)
    assert "$" not in text_of(next(shown.iter("main")))


def test_pairs_scopes_and_slots_have_the_numbers_of_the_json(priced: tuple[Element, dict[str, Any]]) -> None:
    shown, document = priced
    pairs = [values(row) for row in rows(by_id(shown, "pairs"))]
    assert pairs == [[str(each["bytes"]), each["cost"], each["cost_per_month"]] for each in document["top_pairs"]]
    by_scope: Counter[str] = Counter()
    for row in rows(by_id(shown, "scopes")):
        by_scope[text_of(row[0]).partition(",")[0].replace("-", "_").replace(" ", "_")] += int(values(row)[0])
    assert by_scope == Counter({scope: sums["bytes"] for scope, sums in document["scopes"].items()})
    slots = by_id(shown, "slots")
    scopes = [text_of(each).replace("-", "_") for each in next(rows(slots, "thead"))][1:-1]
    found = [dict(zip(scopes, map(int, values(row)), strict=False)) for row in rows(slots)]
    assert [Counter(each) for each in found] == [Counter(slot["bytes"]) for slot in document["over_time"]]


@pytest.mark.parametrize("by", get_args(By))
def test_sums_have_the_numbers_of_the_json(by: By) -> None:
    shown, document = read(report(a_day(), shipped("aws"), by=by, top=100))
    ends = ("sent_bytes", "cross_zone_sent_bytes", "received_bytes", "cross_zone_received_bytes")
    columns = (*ends, "bytes", "cross_zone_bytes", "cost")
    wanted = [[str(each[name]) for name in columns if name in each] for each in document["by"]["sums"]]
    found = [values(row) for row in rows(by_id(shown, "sums"))]
    assert found == wanted
    assert [text_of(row[0]) for row in rows(by_id(shown, "sums"))] == [each["name"] for each in document["by"]["sums"]]


def test_two_ranges_are_compared_by_their_rates() -> None:
    week_ago = {"start_ms": START_MS - 7 * DAY_MS, "end_ms": START_MS - 7 * DAY_MS + 450_000}
    grown, gone = pod("web", "eu-west-1b"), pod("gone", "eu-west-1b")
    before = [flow(**week_ago, destination=each, bytes=10**9) for each in (grown, gone)]
    made = report([flow(**WINDOW, destination=grown, bytes=4 * 10**9)], shipped("aws"), before=before)
    ago = made.now.span.earlier(7 * DAY_MS)
    made.before = Range(ago, summed(before, span=ago), price_summary(summed(before, span=ago), shipped("aws")))
    shown, document = read(made)
    changes = [each["bytes_per_hour"] - each["bytes_per_hour_before"] for each in document["top_pairs"]]
    assert [int(values(row)[-1]) for row in rows(by_id(shown, "pairs"))] == changes == [8 * 10**9, -8 * 10**9]
    assert [text_of(row[-1]) for row in rows(by_id(shown, "pairs"))] == ["+100 %", "gone"]
    line, _ = (each for each in shown.iter("path") if each.get("class") == "before")
    (bar,) = [each for each in shown.iter("rect") if each.get("class") == "scope-cross_zone" and "y" in each.attrib]
    top, height = float(bar.attrib["y"]), float(bar.attrib["height"])
    at, above = map(float, line.attrib["d"].removeprefix("M").split(" ")[0].split(","))
    assert at == pytest.approx(float(bar.attrib["x"]), abs=0.1)
    assert above == pytest.approx(top + height / 2, abs=0.2), "half of the bytes in a slot as long"


def test_where_nothing_was_metered_before_nobody_knows_what_changed() -> None:
    made = report(a_day(), before=[])
    shown, _ = read(made)
    lasts = [row[-1] for row in rows(by_id(shown, "pairs"))]
    assert {text_of(cell) for cell in lasts} == {"?"}
    assert not any(element.tag == "data" for cell in lasts for element in cell.iter()), "it would sort as an increase"


def test_what_differs_is_said_with_what_changed_then() -> None:
    made = report(a_day(), shipped("aws"), before=a_day())
    change = Event(START_MS, SUBJECT, "moved", "a 1 -> b 1")
    pairs = [
        Difference("shop/Deployment/api", f"shop/Deployment/{n}", n, 9 * n, -5 * n, -3 * n, [change] * 5)
        for n in range(1, 61)
    ]
    made.differences = Differences(pairs, 7, "the topology holds little")
    shown, document = read(made)
    table = by_id(shown, "differences")
    wanted = [[str(each["bytes_per_hour"]), str(each["bytes_per_hour_before"])] for each in document["differences"]]
    assert [values(row) for row in rows(table)] == wanted[:50]
    first = next(rows(table))
    assert text_of(first[0]).count("2026-11-22 21:46 moved shop/Deployment/api: a 1 -> b 1") == 3
    assert "and 2 changes more" in text_of(first[0])
    assert [text_of(cell) for cell in first[3:]] == ["\u22125 B", "\u22123 B"]
    assert text_of(next(rows(table, "tfoot"))) == "17 more pairs that differ less"
    assert "the topology holds little" in text_of(shown)


def test_unmeasured_time_and_changes_are_drawn_and_listed() -> None:
    events = [
        Event(START_MS + 60_000, SUBJECT, "scaled", "a 1 -> a 2"),
        Event(START_MS + 61_000, SUBJECT, "moved", "b"),
    ]
    shown, _ = read(report(a_day(), events=events))
    kinds = Counter(each.get("class") for each in shown.iter("rect"))
    assert kinds["nobody"] == 1, "the second quarter of the hour"
    assert kinds["partly"] == 1, "27 s of node-b"
    assert len([each for each in shown.iter("path") if each.get("class") == "mark"]) == 2, (
        "one in the drawing, one in its key"
    )
    assert [[text_of(cell) for cell in row] for row in rows(by_id(shown, "changes"))] == [
        ["2026-11-22 21:47", "scaled", "shop/Deployment/api", "a 1 -> a 2"],
        ["2026-11-22 21:47", "moved", "shop/Deployment/api", "b"],
    ]
    (gap,) = rows(by_id(shown, "gaps"))
    assert [text_of(cell) for cell in gap] == ["node-b", "2026-11-22 21:46:40", "27 s", "a new boot"]
    unknown, _ = read(report(a_day(), events_note="what changed in the cluster is not marked: no Kafka"))
    assert "what changed in the cluster is not marked: no Kafka" in text_of(unknown)


def test_books_that_do_not_close_are_said_on_top() -> None:
    shown, _ = read(report(a_day(), audit=audit(mismatches=1, unaccounted={"enricher": 10**9})))
    (header,) = shown.iter("header")
    assert "The books do not close" in text_of(header)
    assert "THE LEDGER DOES NOT CLOSE: 1.00 GB unaccounted" in text_of(header)
    shown, _ = read(report(a_day(), audit=None, trust_note="the ledger was not read: no Kafka"))
    (header,) = shown.iter("header")
    assert "Not reconciled" in text_of(header)
    assert "the ledger was not read: no Kafka" in text_of(header)


def test_a_slot_is_drawn_as_long_as_it_was_metered() -> None:
    """A minute of which 20 s were metered had three times the rate that its bytes come to over a minute."""
    hour = TimeRange(START_MS // 60_000 * 60_000, START_MS // 60_000 * 60_000 + 3_600_000)
    late = {"start_ms": hour.from_ms + 40_000, "end_ms": hour.from_ms + 60_000}
    whole = {"start_ms": hour.from_ms + 60_000, "end_ms": hour.from_ms + 120_000}
    shown, _ = read(report([flow(**late, bytes=10**6), flow(**whole, bytes=3 * 10**6)], span=hour))
    drawn = [each for each in shown.iter("rect") if each.get("class") == "scope-cross_zone"]
    heights, widths = ([float(each.attrib[name]) for each in drawn[:2]] for name in ("height", "width"))
    assert heights[0] == pytest.approx(heights[1], abs=0.2)
    assert widths[0] < widths[1] / 2


def test_nothing_crossed_zones() -> None:
    shown, _ = read(report([flow(**WINDOW, scope="same_zone")]))
    assert "Nothing crossed zones." in text_of(shown)
    assert not [each for each in shown.iter() if each.get("id") == "pairs"]


def test_it_stands_alone(priced: tuple[Element, dict[str, Any]]) -> None:
    """No address of anything else, no style or script but the page's own, which its policy names by hash."""
    shown, _ = priced
    names = Counter(name for each in shown.iter() for name in each.attrib)
    assert not {"src", "href", "style", "srcset", "action", "background"} & {*names}
    assert not [name for name in names if name.startswith("on") or ":" in name]
    (policy,) = [each.attrib["content"] for each in shown.iter("meta") if each.get("http-equiv")]
    for tag in ("style", "script"):
        (found,) = shown.iter(tag)
        digest = base64.b64encode(hashlib.sha256((found.text or "").encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert not re.search(r"url\(|@import|fetch|XMLHttp", found.text or "")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_it_can_be_read_without_eyes(priced: tuple[Element, dict[str, Any]]) -> None:
    shown, _ = priced
    (html,) = shown.iter("html")
    assert html.get("lang") == "en"
    ids = [each.attrib["id"] for each in shown.iter() if "id" in each.attrib]
    assert len(ids) == len({*ids})
    for drawing in (each for each in shown.iter("svg") if each.get("aria-hidden") != "true"):
        assert drawing.get("role") == "img"
        named = drawing.attrib["aria-labelledby"].split()
        assert [by_id(shown, name).tag for name in named] == ["title", "desc"]
        assert all(text_of(by_id(shown, name)) for name in named)
    for table in shown.iter("table"):
        assert {each.get("scope") for each in table.iter("th")} == {"col", "row"}
    for each in shown.iter():
        for name in (each.get("aria-labelledby") or "").split():
            assert name in ids
    headings = [each.tag for each in shown.iter() if re.fullmatch("h[1-6]", each.tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_what_does_not_fit_is_counted() -> None:
    made = report([pair_of(number) for number in range(700)], shipped("aws"), top=10_000)
    shown, document = read(made)
    kept = [values(row) for row in rows(by_id(shown, "pairs"))]
    assert len(kept) == 500
    (rest,) = rows(by_id(shown, "pairs"), "tfoot")
    assert text_of(rest).startswith("200 more pairs")
    crossing = document["scopes"]["cross_zone"]
    assert sum(int(row[0]) for row in [*kept, values(rest)]) == crossing["bytes"]
    assert sum(Decimal(row[1]) for row in [*kept, values(rest)]) == Decimal(crossing["cost"])


def test_the_longest_names_leave_it_below_a_megabyte() -> None:
    """253 characters are the most that a record may hold; each of these takes five bytes in HTML."""
    made = report([pair_of(number, "\"<'&" * 62) for number in range(600)], shipped("aws"), top=10_000)
    document = layout.document(made)
    assert len(document.encode()) <= MOST_BYTES
    shown = parsed(document)
    sizes = [int(values(row)[0]) for part in ("tbody", "tfoot") for row in rows(by_id(shown, "pairs"), part)]
    assert sum(sizes) == made.summary.scopes["cross_zone"]


def test_of_many_zones_those_that_cost_most_are_shown() -> None:
    flows = [
        flow(**WINDOW, source=pod("a", f"eu-west-1{x}"), destination=pod("b", f"eu-west-1{y}"), bytes=10**9 * (x + y))
        for x in range(20)
        for y in range(20)
        if x != y
    ]
    shown, document = read(report(flows, shipped("aws")))
    heat = by_id(shown, "heat")
    assert len(list(rows(heat))) == 16
    assert "4 more zones not shown" in text_of(shown)
    (note,) = [each for each in shown.iter("p") if "more zones not shown" in text_of(each)]
    whole = values(next(rows(heat, "tfoot"))[-1])
    assert int(whole[1]) + int(values(note)[0]) == document["scopes"]["cross_zone"]["bytes"]


def pair_of(number: int, name: str = "api") -> Any:
    k8s = Kubernetes(namespace=Named("shop"), workload=Workload("Deployment", f"{name}{number}"))
    source = pod("x", "eu-west-1a", k8s=k8s)
    return flow(**WINDOW, source=source, destination=pod("db", "eu-west-1b"), bytes=1000 + number)


def test_a_showback_has_the_numbers_of_the_json() -> None:
    shown, document = read(report(a_day(), shipped("aws"), by="namespace", per="hour", top=100))
    (period,) = document["showback"]["periods"]
    (table,) = [each for each in shown.iter("table") if each.get("class") == "period"]
    found = {text_of(row[0]): values(row) for row in rows(table)}
    ends = ("sent_bytes", "cross_zone_sent_bytes", "received_bytes", "cross_zone_received_bytes")
    for each in period["sums"]:
        assert found[each["name"]][:4] == [str(each[name]) for name in ends]
    sent, _, received, *_ = values(next(rows(table, "tfoot")))
    assert int(sent) == int(received) == document["bytes"]
