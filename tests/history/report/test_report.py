# SPDX-License-Identifier: Apache-2.0
"""The report from flows made by hand: its text to the letter, its sums, its prices."""

import csv
import dataclasses
import io
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.result import Audit, Shortfall
from common import page
from common.errors import Refusal
from history.model.bill import NOTHING
from history.model.grouping import OF_ENDS, By
from history.model.time_range import TimeRange
from history.report import machine
from history.report import text as report_view
from history.report.command import compared
from history.report.grouped.sums import sums
from prices.book import money
from prices.file import shipped
from schemas.flow import SCOPES, Flow, Observer
from tests.support.history.reports import DAY_MS, FLOWS, GB, WINDOW, a_day, audit, report
from tests.support.history.rows import summed
from tests.support.sinks.flows import END_MS, START_MS, cloud, flow, other, pod

GOLDEN = r"""
zonemeter report   cluster lab   2026-11-22 21:46:40 - 2026-11-22 22:16:40 UTC (30 m)
source   topic zonemeter.flows.enriched.v1   15 flows
prices   AWS list prices as of 2026-11-23 (as asked)   $0.02 per GB across zones
         billed: sender and receiver
trust    nodes 2 of 3 metered   coverage out 99.9 %, in 100.0 %   ledger 1.000000
         unknown 0.11 % (3.12 GB)   unmeasured 27 s on 1 node   never metered: fargate-1

CROSS-ZONE   1.29 TB   48.0 % of in-region   $25.86   = $75,511 a month at this rate
             over 15 m of 30 m metered; a month is 730 h; list prices, no discounts

TB from \ to  eu-west-1a  eu-west-1b  eu-west-1c  us-east-1a     other traffic     TB
eu-west-1a          1.40        0.65        0.31           -     same node       0.30
eu-west-1b          0.29           -           -       <0.01     same zone       1.10
eu-west-1c          0.04           -           -           -     cross-region   <0.01
us-east-1a             -           -           -           -     external out    0.06
                                                                 unknown        <0.01

TOP PAIRS                                          zones       GB      $  $/month
shop/Deployment/postgres  ->  shop/Deployment/web  a -> b,c   950  19.00   55,480
cidr/orders-db*           ->  shop/Deployment/api  b -> a     200   4.00   11,680
shop/Deployment/web       ->  shop/Deployment/api  b -> a    90.0   1.80    5,256
4 more                                                       53.0   1.06    3,095
* counted on receipt: the sender has no collector; what it is billed is assumed, not verified

UNKNOWN      vpc_unmapped 3.00 GB   zone_missing 123 MB
METER'S OWN  3.00 GB   3.00 GB of it across zones   $0.06, 0.23 % of the above   included above
OVERLAY      99.0 GB in outer packets, whose inner ones are counted: in no sum
NO PRICE     cross-region 2.00 GB: not in the cost
BY TIER      external 61.0 GB: $3.05 to $5.49, lowest to highest tier: not in the cost
ASSUMED      $2.00 of the cost is the far side's, in the CIDR map: as any other end's

next   zonemeter replay --since 30m --scope unknown
       zonemeter cidrs suggest --since 30m
       zonemeter prices list
       zonemeter report --since 30m --compare 7d
       zonemeter report --since 30m -o csv
"""


def test_the_report_to_the_letter() -> None:
    assert report_view.lines(report(a_day(), shipped("aws"))) == GOLDEN.strip().splitlines()


def test_what_is_long_goes_on_on_the_next_line_and_is_not_cut() -> None:
    why = "the ledger was not read: " + "Kafka at a.long.name.example.com:9092, " * 4 + "the end"
    text = report_view.lines(report(a_day(), audit=None, trust_note=why))
    at = next(number for number, line in enumerate(text) if "the ledger was not read" in line)
    assert " ".join(" ".join(text[at : at + 3]).split()).startswith(why)
    assert max(map(len, text)) <= 100


def test_that_nothing_is_known_of_the_meters_own_traffic_is_said() -> None:
    text = "\n".join(report_view.lines(report([flow(**WINDOW)])))
    assert "METER'S OWN  none seen   known by namespace zonemeter and Kafka at 10.0.9.9:9092 (--own-kafka)" in text
    text = "\n".join(report_view.lines(report([flow(**WINDOW)], filters={"namespace": ["shop"]})))
    assert "METER'S OWN" not in text


def test_prices_of_ones_own_are_not_called_list_prices() -> None:
    text = "\n".join(report_view.lines(report(a_day(), dataclasses.replace(shipped("aws"), name="mine.toml"))))
    assert "prices   AWS, a file of your own, as of 2026-11-23" in text
    assert "list price" not in text


@pytest.mark.parametrize(
    ("book", "cost", "billed"),
    [
        ("aws", "$25.86", "billed: sender and receiver"),
        ("gcp", "$12.04", "billed: sender"),
        ("azure", "$0.00", "billed: nobody"),
    ],
)
def test_dollars_by_cloud(book: str, cost: str, billed: str) -> None:
    text = "\n".join(report_view.lines(report(a_day(), shipped(book))))
    assert f"of in-region   {cost}   = $" in text
    assert billed in text


def test_what_is_by_tier_is_a_range_beside_the_dollars() -> None:
    made = report(a_day(), shipped("aws"))
    found = machine.as_dict(made)
    assert found["by_tier"] == {"external": {"bytes": 61 * GB, "cost_lowest": "3.05", "cost_highest": "5.49"}}
    assert "cost" not in found["scopes"]["external"]
    assert "external" not in found["unpriced"]
    assert found["prices"]["assumed_far_side"] == "2"


def test_a_price_that_names_the_far_side_assumes_nothing() -> None:
    aws = shipped("aws")
    named = dataclasses.replace(aws.prices[0], source_name="orders-*", source=Decimal(0))
    made = report(a_day(), dataclasses.replace(aws, prices=(named, *aws.prices)))
    assert made.now.bill.assumed == 0
    assert not any("ASSUMED" in line for line in report_view.lines(made))


def test_without_prices_there_is_no_dollar() -> None:
    text = report_view.lines(report(a_day(), None, prices_why="none: zones named as lab-1a are of no one cloud"))
    assert not [line for line in text if "$" in line]
    assert "prices   none: zones named as lab-1a are of no one cloud   --prices aws|azure|gcp|FILE adds dollars" in text
    assert "       zonemeter report --since 30m --prices aws" in text


def test_compared_with_a_week_before() -> None:
    week = {"start_ms": START_MS - 7 * DAY_MS, "end_ms": START_MS - 7 * DAY_MS + 900_000}
    api, web, db = pod("api", "eu-west-1a"), pod("web", "eu-west-1b"), pod("postgres", "eu-west-1a")
    before = [
        flow(**week, source=db, destination=web, bytes=475 * GB),
        flow(**week, source=pod("gone", "eu-west-1c"), destination=api, bytes=200 * GB),
    ]
    text = "\n".join(report_view.lines(report(a_day(), shipped("aws"), before=before, top=10)))
    assert "+92 % on 7d before: 5.17 TB/h, was 2.70 TB/h" in text
    assert "vs 7d" in text
    rows = {line.split()[0] + line.split()[2]: line.split()[-2:] for line in text.splitlines() if " -> " in line}
    assert rows["shop/Deployment/postgresshop/Deployment/web"] == ["+100", "%"]
    assert rows["shop/Deployment/goneshop/Deployment/api"][-1] == "gone"
    assert rows["cidr/orders-db*shop/Deployment/api"][-1] == "new"
    assert "rates:" not in text


def test_rates_are_compared_and_not_amounts_where_less_time_was_metered() -> None:
    early = {"start_ms": START_MS - 7 * DAY_MS, "end_ms": START_MS - 7 * DAY_MS + 450_000}
    made = report([flow(**WINDOW, bytes=GB)], before=[flow(**early, bytes=GB // 2)])
    text = "\n".join(report_view.lines(made))
    assert "+0 % on 7d before: 4.00 GB/h, was 4.00 GB/h" in text
    assert "rates: over 15 m metered now, over 7 m 30 s metered 7d before" in text
    assert next(line for line in text.splitlines() if " -> " in line).endswith("+0 %")
    document = machine.as_dict(made)
    assert document["scopes"]["cross_zone"]["bytes_per_hour"] == 4 * GB
    (pair,) = document["top_pairs"]
    assert (pair["bytes_per_hour"], pair["bytes_per_hour_before"]) == (4 * GB, 4 * GB)


@pytest.mark.parametrize("more_ms", [0, 400, 3_000])
def test_two_durations_are_only_said_where_they_read_differently(more_ms: int) -> None:
    """240 s and 243 s were once called "4 m were metered of 4 m: not like for like"."""
    early = {"start_ms": START_MS - 7 * DAY_MS, "end_ms": START_MS - 7 * DAY_MS + 240_000 + more_ms}
    made = report([flow(start_ms=START_MS, end_ms=START_MS + 240_000)], before=[flow(**early)])
    text = "\n".join(report_view.lines(made))
    assert "like for like" not in text
    assert ("rates: over 4 m metered now, over 4 m 03 s metered 7d before" in text) is (more_ms == 3_000)


def test_what_is_gone_of_the_time_before_is_said() -> None:
    made = report([flow(**WINDOW)], before=[flow(start_ms=START_MS - 7 * DAY_MS, end_ms=START_MS - 7 * DAY_MS + 9_000)])
    assert made.before is not None
    made.before = dataclasses.replace(made.before, whole=False)
    assert "some of what was metered 7d before is gone" in "\n".join(report_view.lines(made))


def test_a_comparison_leaves_out_at_both_ends_what_may_not_have_come_in_from_every_node() -> None:
    now = START_MS + 240_000
    part, before = compared(TimeRange(START_MS, now), "1h", now)
    assert (part.from_ms, part.to_ms, part.ended_by_ms) == (START_MS, now, now - 30_000)
    assert before == TimeRange(START_MS - 3_600_000, now - 3_600_000, now - 3_630_000)
    past, _ = compared(TimeRange(START_MS, now), "1h", now + 90_000)
    assert past.ended_by_ms is None, "all of a range that is over for long has come in"
    text = "\n".join(report_view.lines(report([flow(**WINDOW)], now=dataclasses.replace(report([]).now, span=part))))
    assert "left out windows that ended after 21:50:10" in text


def test_nothing_before_is_said() -> None:
    nothing = "\n".join(report_view.lines(report(a_day(), before=[])))
    assert "nothing was metered 7d before" in nothing


def test_a_ledger_that_does_not_close_is_loud() -> None:
    short = audit(in_flight=2)
    short.miss(Shortfall("enricher", "lab/n/b/1/1", 5 * GB, 10, "not enriched"))
    text = report_view.lines(report(a_day(), audit=short))
    assert any("THE LEDGER DOES NOT CLOSE: 5.00 GB unaccounted" in line for line in text)
    assert any("2 windows under way" in line for line in text)
    assert "next   zonemeter audit --since 30m" in text


def test_without_a_ledger_the_reason_is_said() -> None:
    text = "\n".join(report_view.lines(report(a_day(), audit=None, trust_note="the ledger was not read: no Kafka")))
    assert "the ledger was not read: no Kafka" in text
    assert "ledger 1" not in text


@pytest.mark.parametrize("books", [None, audit()], ids=["no ledger", "a ledger"])
def test_what_could_not_be_decoded_is_said_with_a_ledger_and_without(books: Audit | None) -> None:
    text = "\n".join(report_view.lines(report(a_day(), audit=books, refused=2)))
    assert "2 records not to be decoded" in text


@pytest.mark.parametrize("zones", [1, 2, 6, 12, 40])
def test_it_fits_100_columns_whatever_the_names(zones: int) -> None:
    names = [f"northamerica-northeast{number}-a" for number in range(zones)]
    flows = [
        flow(
            source=pod("a-workload-with-a-name-that-never-ends-" * 3, one),
            destination=pod("another-one-of-that-kind-" * 4, two),
            bytes=GB,
            scope="cross_zone" if one != two else "same_zone",
        )
        for one in names
        for two in names
    ]
    text = report_view.lines(
        report(
            flows,
            shipped("gcp"),
            before=flows,
            filters={"namespace": ["n" * 150]},
            sources=["archive /" + "x" * 200],
            top=50,
        )
    )
    assert max(map(len, text)) <= 100
    assert "shop/Deplo" in "\n".join(text) or zones == 1


def test_a_relayed_packet_leaves_the_observers_zone() -> None:
    relayed = flow(
        source=other("external"),
        destination=pod("api", "b"),
        direction="relay",
        observer=Observer("node-a", cloud("a")),
        bytes=7,
    )
    assert summed([relayed]).zones == {("a", "b"): 7}


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("by", [None, "workload", "hour"])
def test_nothing_breaks_within_a_number_or_a_name(columns: int, by: By | None) -> None:
    before = None if by == "hour" else a_day()
    flows = [*a_day(), flow(**WINDOW, source=pod("a-name-that-goes-on-" * 4, "eu-west-1a"), bytes=999 * GB)]
    made = report(flows, shipped("aws"), by=by, before=before, sources=["archive /var/lib/" + "x" * 150])
    with page.laid_out(None):
        whole = report_view.lines(made)
    with page.laid_out(columns):
        text = report_view.lines(made)
    assert max(map(len, text)) <= columns
    words = {word for line in whole for word in line.split()}
    shortened = {word for line in text for word in line.split()} - words - {"\\", "a", "b", "c"}
    zones = {f"{one}," for one in "abc"}
    assert all(".." in word or word in zones for word in shortened), shortened
    assert by is not None or "a-name-that-goes-on-" * 4 in "\n".join(whole)


@given(FLOWS)
def test_everything_adds_up_to_the_flows(flows: list[Flow]) -> None:
    made = report(flows, shipped("aws"))
    inner = [one for one in flows if one.encapsulation is msgspec.UNSET]
    total = sum(one.bytes for one in inner)
    scopes = Counter(dict.fromkeys(SCOPES, 0))
    for one in inner:
        scopes[one.scope] += one.bytes
    summary = made.summary
    assert summary.bytes == total
    assert summary.flows == len(inner)
    assert summary.outer_bytes == sum(one.bytes for one in flows) - total
    assert {scope: size for scope, size in summary.scopes.items() if size} == +scopes
    assert sum(summary.zones.values()) == total - scopes["unknown"]
    assert sum(summary.unknown.values()) == scopes["unknown"]
    assert sum(made.zone_matrix().values()) == total - scopes["unknown"] - scopes["external"]
    assert sum(pair.bytes for pair in made.pairs()) == scopes["cross_zone"]
    assert Fraction(money(made.now.bill.total.total)) == Fraction(scopes["cross_zone"], 50 * 10**9)
    assert sum(pair.cost.total for pair in made.pairs() if pair.cost) == made.now.bill.total.total
    bill = made.now.bill
    tiered = sum(each.bytes for each in bill.by_tier.values())
    free = sum(
        size for traffic, size in made.summary.traffic.items() if traffic.scope == "external" and traffic in bill.costs
    )
    apart = sum(scopes[s] for s in ("cross_region", "external", "unknown"))
    assert sum(bill.unpriced.values()) + tiered + free == apart
    assert all(each.lowest <= each.highest for each in bill.by_tier.values())
    assert bill.assumed <= bill.total.total
    assert max(map(len, report_view.lines(made))) <= 100


@given(FLOWS, st.sampled_from(get_args(By)))
def test_every_way_to_sum_up_adds_up_to_the_whole(flows: list[Flow], by: By) -> None:
    made = report(flows, shipped("gcp"), by=by, label="team" if by == "label" else "")
    found = sums(made, by)
    whole = made.summary.bytes
    assert sum(line.sent for line in found) == whole
    assert sum(line.received for line in found) == (whole if by in OF_ENDS else 0)
    assert sum(line.sent_across for line in found) == made.summary.scopes.get("cross_zone", 0)
    assert sum((line.cost or NOTHING for line in found), NOTHING) == made.now.bill.total
    assert len({line.name for line in found}) == len(found)
    assert max(map(len, report_view.lines(made))) <= 100


def test_sums_by_namespace_to_the_letter() -> None:
    text = report_view.lines(report(a_day(), shipped("aws"), by="namespace", before=a_day(), top=2))
    at = next(number for number, line in enumerate(text) if line.startswith("BY "))
    assert text[at : at + 5] == SUMS.strip().splitlines()


SUMS = r"""
BY NAMESPACE  TB sent  across zones  TB received  across zones      $  vs 7d
shop             2.55          1.08         2.70          1.29  23.73   +0 %
(cidr)           0.20          0.20            -             -   2.00   +0 %
4 more           0.01          0.01         0.06             -   0.13   +0 %
all              2.76          1.29         2.76          1.29  25.86   +0 %
"""


@given(FLOWS)
def test_the_csv_and_the_json_hold_the_same(flows: list[Flow]) -> None:
    made = report(flows, shipped("gcp"))
    rows = list(csv.DictReader(io.StringIO(machine.as_csv(made))))
    document = machine.as_dict(made)
    assert sum(int(row["bytes"]) for row in rows) == document["bytes"] == made.summary.bytes
    cost = sum(Fraction(row["cost_source"] or 0) + Fraction(row["cost_destination"] or 0) for row in rows)
    assert cost == sum(Fraction(scope.get("cost", 0)) for scope in document["scopes"].values())
    assert all(row["cost_destination"] in ("", "0") for row in rows), "Google Cloud bills the sender alone"
    over_time: Counter[str] = Counter()
    for slot in document["over_time"]:
        over_time.update(slot["bytes"])
    assert over_time == Counter({scope: sums["bytes"] for scope, sums in document["scopes"].items()})
    assert document["prices"]["as_of"] == "2026-09-20"
    assert END_MS > START_MS


def test_a_range_before_there_was_time_is_refused() -> None:
    span = TimeRange(START_MS, START_MS + 1_800_000)
    for compare in ("100000d", "999999999999d"):
        with pytest.raises(Refusal, match=r"^compare = '.*': that range begins before 1970"):
            compared(span, compare, START_MS)
