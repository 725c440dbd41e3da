# SPDX-License-Identifier: Apache-2.0
"""Who bears what, period by period: to the letter, to the byte and to the last digit of the money."""

import csv
import io
import json
from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import page
from common.errors import Refusal
from enricher.index.tenancy import FOREVER
from history.model import grouping
from history.model.bill import NOTHING
from history.model.grouping import OWNERS, By, Per, period_end
from history.model.states.labels import LabelTime, by_slot, label_times, labels_known
from history.model.time_range import TimeRange, parse_instant, rfc3339
from history.read import flow_sql
from history.report import machine
from history.report import text as report_view
from history.report.data import Report
from history.report.grouped.focus import COLUMNS
from history.report.grouped.showback import Period, periods
from history.report.grouped.sums import sums
from prices.book import money
from prices.file import parse_prices, shipped
from schemas.flow import Flow, Kubernetes, Named
from schemas.topology import TopologyState
from tests.support.history.reports import DAY_MS, FLOWS, GB, WINDOW, a_day, report
from tests.support.price_files import price_file
from tests.support.sinks.flows import START_MS, flow, pod

# A file that prices every scope, each side differently and by region, in either unit.
MINE = price_file(
    {"scope": "cross_zone", "source_region": "us-*", "source": 0.000001, "destination": 0.7},
    {"scope": "cross_zone", "source": 0.012345, "destination": 0.01},
    {"scope": "cross_region", "source": 0.02, "destination": 0},
    {"scope": "external", "source": 0.09, "destination": 0.003},
    currency="EUR",
    unit="GiB",
)
PER: tuple[Per, ...] = ("hour", "day", "month")


def at(text: str) -> int:
    return parse_instant(text, 0)


def over_days(flows: list[Flow], starts: list[int]) -> list[Flow]:
    """Return the flows at other times, one after the other."""
    return [
        msgspec.structs.replace(
            one, start_ms=starts[number % len(starts)], end_ms=starts[number % len(starts)] + 10_000
        )
        for number, one in enumerate(flows)
    ]


STARTS = st.lists(
    st.integers(at("2026-10-30T22:00Z"), at("2027-01-01T02:00Z")).map(lambda ms: ms // 10_000 * 10_000),
    min_size=1,
    max_size=5,
)


STRETCHES = st.builds(
    lambda namespace, ends, values: [
        LabelTime(namespace, from_ms, to_ms, value)
        for (from_ms, to_ms), value in zip(pairwise(sorted(ends)), values, strict=False)
    ],
    st.sampled_from(["shop", "zonemeter"]),
    st.sets(st.integers(at("2026-10-30T22:00Z"), at("2027-01-01T02:00Z")), min_size=2, max_size=5),
    st.lists(st.sampled_from(["payments", "(unattributed)", "", None]), min_size=4, max_size=4),
)


@given(
    FLOWS,
    STARTS,
    STRETCHES,
    st.sampled_from(OWNERS),
    st.sampled_from(PER),
    st.sampled_from(["aws", "gcp", "mine", None]),
)
def test_the_parts_are_the_whole(
    flows: list[Flow], starts: list[int], times: list[LabelTime], by: By, per: Per, prices: str | None
) -> None:
    book = parse_prices(MINE.encode(), "mine") if prices == "mine" else prices and shipped(prices)
    flows = over_days(flows, starts)
    span = TimeRange(at("2026-10-30T22:00Z"), at("2027-01-01T02:10Z"))
    label = {"label": "team", "labels": times} if by == "label" else {}
    made = report(flows, book or None, by=by, per=per, span=span, **label)
    found = periods(made, by, per)
    inner = [one for one in flows if one.encapsulation is msgspec.UNSET]
    by_period: Counter[int] = Counter()
    for one in inner:
        by_period[_begin(per, one.start_ms)] += one.bytes
    assert {_begin(per, at(_begins(period))): sum(line.sent for line in period.all) for period in found} == by_period
    lines = [line for period in found for line in period.all]
    assert sum(line.sent for line in lines) == sum(line.received for line in lines) == made.summary.bytes
    crossing = made.summary.scopes.get("cross_zone", 0)
    assert sum(line.sent_across for line in lines) == sum(line.received_across for line in lines) == crossing
    assert sum((line.cost or NOTHING for line in lines), NOTHING) == made.now.bill.total
    assert max(map(len, report_view.lines(made))) <= 100
    _the_same_as_focus(made, found)


def _begins(period: Period) -> str:
    return (period.title.replace(" ", "T") + "-01")[:10] if len(period.title) == 7 else period.title


def _begin(per: Per, at_ms: int) -> int:
    """Return when the period begins that holds a time, by its text."""
    text = rfc3339(at_ms)
    return at({"hour": text[:13] + ":00Z", "day": text[:10], "month": text[:7] + "-01"}[per])


def _the_same_as_focus(made: Report, found: list[Period]) -> None:
    rows = list(csv.DictReader(io.StringIO(machine.as_csv(made))))
    for who, bytes_of, cost_of in (("sender", "sent", "source"), ("receiver", "received", "destination")):
        side = [row for row in rows if row["x_Side"] == who]
        assert sum(int(row["ConsumedQuantity"]) for row in side) == made.summary.bytes
        cost = sum(Fraction(row["ListCost"] or row["ContractedCost"] or 0) for row in side)
        assert cost == Fraction(money(getattr(made.now.bill.total, cost_of)))
        sums: Counter[tuple[str, str]] = Counter()
        for row in side:
            sums[row["ChargePeriodStart"], row["AllocatedResourceId"]] += int(row["ConsumedQuantity"])
        expected: Counter[tuple[str, str]] = Counter()
        for period in found:
            for line in period.lines:
                expected[rfc3339(period.from_ms), line.name] += getattr(line, bytes_of)
            for line in period.unattributed.values():
                expected[rfc3339(period.from_ms), ""] += getattr(line, bytes_of)
        assert +sums == +expected
    charges: dict[tuple[str, ...], Decimal] = defaultdict(Decimal)
    for row in rows:
        (element,) = json.loads(row["AllocatedMethodDetails"], parse_float=Decimal)["Elements"]
        assert element["UsageQuantity"] == int(row["ConsumedQuantity"]) > 0
        price = row["ListUnitPrice"] or row["ContractedUnitPrice"]
        charges[row["ChargePeriodStart"], row["x_Scope"], row["x_Side"], price] += element["AllocatedRatio"]
        if price:
            amount = Fraction(row["ListCost"] or row["ContractedCost"])
            assert amount == Fraction(price) * Fraction(row["PricingQuantity"])
    assert set(charges.values()) <= {Decimal(1)}


GOLDEN = r"""
BY NAMESPACE PER HOUR  TB sent  across  TB received  across  $ sent  $ received      $
2026-11-22 21:00          2.76    1.29         2.76    1.29   12.93       12.93  25.86
  shop                    2.55    1.08         2.70    1.29   10.80       12.93  23.73
  zonemeter              <0.01   <0.01            -       -    0.01        0.00   0.01
  (unattributed)          0.21    0.21         0.06       -    2.12        0.00   2.12
2026-11-22 22:00          0.09    0.09         0.09    0.09    0.90        0.90   1.80
  shop                    0.09    0.09         0.09    0.09    0.90        0.90   1.80
UNATTRIBUTED  cidr 200 GB   external 61.0 GB   node 12.0 GB   unknown 3.00 GB   sent and received
NOT WHOLE     2026-11-22 21:46:40 - 2026-11-22 22:00:00   2026-11-22 22:00:00 - 2026-11-22 22:16:40
"""


def test_a_showback_to_the_letter() -> None:
    later = flow(start_ms=START_MS + 800_000, end_ms=START_MS + 810_000, source=pod("web", "a"), bytes=90 * GB)
    text = report_view.lines(report([*a_day(), later], shipped("aws"), by="namespace", per="hour"))
    at_line = next(number for number, line in enumerate(text) if line.startswith("BY "))
    assert text[at_line : at_line + 9] == GOLDEN.strip().splitlines()


@pytest.mark.parametrize("by", OWNERS)
def test_what_belongs_to_nobody_is_in_no_share(by: By) -> None:
    (period,) = periods(report(a_day(), shipped("aws"), by=by, per="month"), by, "month")
    # By node a node bears its own; of one pod nobody knows on which node it was.
    expected = {"external", "cidr", "unknown", "node" if by != "node" else "pod"}
    assert set(period.unattributed) == expected | ({"label not known"} if by == "label" else set())
    assert "(unattributed)" not in {line.name for line in period.lines}


def test_a_namespace_that_is_called_like_nobody_is_itself() -> None:
    named = pod("x", "a", k8s=Kubernetes(namespace=Named("(unattributed)"), pod=Named("x-0")))
    made = report([*a_day(), flow(**WINDOW, source=named)], shipped("aws"), by="namespace", per="day")
    (period,) = periods(made, "namespace", "day")
    assert [line.sent for line in period.lines if line.name == "(unattributed)"] == [1000]
    rows = list(csv.DictReader(io.StringIO(machine.as_csv(made))))
    assert sum(row["AllocatedResourceId"] == "(unattributed)" for row in rows) == 1
    assert all(bool(row["AllocatedResourceId"]) is not bool(row["x_WhyUnattributed"]) for row in rows)


def test_a_formula_stays_data_in_the_csv() -> None:
    named = pod("x", "a", k8s=Kubernetes(namespace=Named("=1+1"), pod=Named("x-0")))
    made = report([flow(**WINDOW, source=named)], shipped("aws"), by="namespace", per="day")
    rows = list(csv.DictReader(io.StringIO(machine.as_csv(made))))
    assert "'=1+1" in {row["AllocatedResourceName"] for row in rows}
    assert not {cell for row in rows for cell in row.values() if cell.startswith("=")}


def test_focus_has_the_columns_that_are_true_and_no_others() -> None:
    mine = parse_prices(MINE.encode(), "mine")
    for book, filled, empty in ((shipped("aws"), "List", "Contracted"), (mine, "Contracted", "List")):
        text = machine.as_csv(report(a_day(), book, by="namespace", per="day"))
        rows = list(csv.DictReader(io.StringIO(text)))
        assert tuple(rows[0]) == COLUMNS
        assert {"BilledCost", "EffectiveCost"}.isdisjoint(COLUMNS)
        priced = [row for row in rows if row["PricingUnit"]]
        assert all(row[f"{filled}Cost"] and not row[f"{empty}Cost"] for row in priced)
        assert {row["BillingCurrency"] for row in priced} == {book.currency}
        assert {row["x_Scope"] for row in rows if not row["PricingUnit"]} >= {"unknown"}
        assert {row["ChargePeriodStart"] for row in rows} == {rfc3339(START_MS)}, "what of the day is in the range"
        assert {row["AllocatedMethodId"] for row in rows} == {"zonemeter-metered-bytes"}


def test_json_has_each_period_with_all_its_shares() -> None:
    document = machine.as_dict(report(a_day(), shipped("aws"), by="workload", per="day", top=1))
    assert "by" not in document
    found: dict[str, Any] = document["showback"]
    assert (found["by"], found["per"]) == ("workload", "day")
    (period,) = found["periods"]
    assert (period["from"], period["to"], period["whole"]) == (document["from"], document["to"], False)
    whole = sum(line["sent_bytes"] for line in period["sums"]) + period["unattributed"]["sent_bytes"]
    assert whole == period["sent_bytes"] == document["bytes"]
    cost = sum(Decimal(line.get("cost", 0)) for line in period["sums"]) + Decimal(period["unattributed"]["cost"])
    assert cost == Decimal(period["cost"]) == Decimal(period["cost_sent"]) + Decimal(period["cost_received"])


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_it_fits_the_page_whatever_the_names(columns: int) -> None:
    flows = [flow(**WINDOW, source=pod("a-name-that-goes-on-" * 4, "eu-west-1a"), bytes=999 * GB)]
    made = report(flows, parse_prices(MINE.encode(), "mine"), by="workload", per="hour")
    with page.laid_out(columns):
        assert max(map(len, report_view.lines(made))) <= columns


def test_a_month_ends_where_the_next_begins() -> None:
    ends = {"2026-11-01": "2026-12-01", "2026-12-01": "2027-01-01", "2028-02-01": "2028-03-01"}
    for begin, end in ends.items():
        assert rfc3339(period_end("month", at(begin)))[:10] == end


def test_too_many_kinds_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_sql, "MAX_KINDS", 3)
    with pytest.raises(Refusal, match=r"per = hour: more than 3 kinds of traffic .* ask for longer periods"):
        report(a_day(), by="workload", per="hour")
    report(a_day(), by="workload")


def test_a_label_is_as_of_the_window() -> None:
    """Its value changes, is taken off, set to nothing and unknown; a window that a change lies in is of neither."""
    values = ["a", "b", None, ""]
    times = [LabelTime("shop", START_MS + n * 60_000, START_MS + (n + 1) * 60_000, v) for n, v in enumerate(values)]
    starts = [START_MS + n * 60_000 for n in range(5)]
    flows = [flow(start_ms=s, end_ms=s + 10_000, bytes=10**n) for n, s in enumerate(starts)]
    flows.append(flow(start_ms=START_MS + 55_000, end_ms=START_MS + 65_000, bytes=10**6))
    made = report(flows, shipped("aws"), by="label", label="team", labels=times, per="month")
    (period,) = periods(made, "label", "month")
    assert {line.name: (line.sent, line.received) for line in period.lines} == {"a": (1, 1), "b": (10, 10)}
    why = {why: line.sent for why, line in period.unattributed.items()}
    assert why == {"no label": 100, "empty label": 1_000, "label not known": 10**4 + 10**6}
    assert {line.name for line in sums(made, "label")} == {"a", "b", *(f"({each})" for each in why)}


def test_a_flow_is_set_beside_the_stretches_of_its_slot_alone() -> None:
    """Of a label that two controllers fight over there are thousands, most of them outside of the range."""
    span = TimeRange(START_MS, START_MS + 100 * DAY_MS)
    tenth = DAY_MS // 10
    begins = range(span.from_ms - 50 * DAY_MS, span.to_ms + 50 * DAY_MS, tenth)
    times = [LabelTime("shop", at, at + tenth, f"{at}") for at in begins]
    found = list(by_slot(times, span, DAY_MS))
    assert {time.slot for time in found} == set(range(span.from_ms // DAY_MS, -(-span.to_ms // DAY_MS)))
    assert max(Counter(time.slot for time in found).values()) <= 11


def test_a_label_in_every_output() -> None:
    times = [LabelTime("shop", 0, START_MS * 2, '=cmd|"x"'), LabelTime("zonemeter", 0, START_MS * 2, "infra")]
    made = report(a_day(), shipped("aws"), by="label", label="example.com/team", labels=times, per="day")
    text = "\n".join(report_view.lines(made))
    assert "BY LABEL example.com/team PER DAY" in text
    rows = list(csv.DictReader(io.StringIO(machine.as_csv(made))))
    assert {row["AllocatedResourceId"] for row in rows} == {"", "infra", '\'=cmd|"x"'}
    tags = {row["AllocatedResourceId"]: row["AllocatedTags"] for row in rows}
    assert tags[""] == ""
    assert json.loads(tags["infra"]) == {"example.com/team": "infra"}
    assert json.loads(tags['\'=cmd|"x"']) == {"example.com/team": '=cmd|"x"'}
    assert machine.as_dict(made)["showback"]["by"] == "label:example.com/team"
    plain = report(a_day(), shipped("aws"), by="label", label="team", labels=times)
    assert machine.as_dict(plain)["by"]["what"] == "label:team"
    assert machine.as_csv(plain).startswith("label:team,sent_bytes,")
    assert "BY LABEL team " in "\n".join(report_view.lines(plain))


def state(uid: str, from_ms: int, to_ms: int | None, **labels: str | None) -> TopologyState:
    return TopologyState(
        kind="namespace",
        uid=uid,
        resource_version=str(from_ms),
        name="shop",
        from_ms=from_ms,
        to_ms=to_ms,
        labels=labels,
    )


def test_what_a_label_was_comes_from_the_states_of_its_namespace_by_name() -> None:
    states = [
        state("n1", 10, 20, team="a"),
        state("n1", 20, 30, team="a", tier="1"),
        state("n1", 30, 40, team=None, tier="1"),
        state("n2", 50, None, team="b", other=None),
    ]
    pod_state = TopologyState(kind="pod", uid="p", resource_version="1", name="shop", from_ms=0, labels={"team": "x"})
    expected = [LabelTime("shop", 10, 30, "a"), LabelTime("shop", 30, 40, None), LabelTime("shop", 50, FOREVER, "b")]
    for order in (states, states[::-1]):
        assert label_times([*order, pod_state], "team") == expected
    assert labels_known([*states, pod_state]) == ["team", "tier"]


def test_a_label_that_nobody_was_told_to_keep_then_is_not_known_to_be_missing() -> None:
    states = [state("n1", 10, 20, team="a"), state("n1", 20, None, team="a", tier="1")]
    assert label_times(states, "tier") == [LabelTime("shop", 20, FOREVER, "1")]


STATES = st.builds(
    state,
    st.sampled_from("ab"),
    st.integers(0, 9),
    st.integers(0, 12) | st.none(),
    team=st.sampled_from(["a", "b", None]),
)


@given(st.lists(STATES, max_size=6))
def test_what_a_label_was_never_overlaps(states: list[TopologyState]) -> None:
    """Or a byte would be summed up twice."""
    times = label_times(states, "team")
    assert all(one.from_ms < one.to_ms <= two.from_ms for one, two in pairwise(times))


def test_owners_are_what_can_be_summed_up_by() -> None:
    assert set(OWNERS) <= set(grouping.OF_ENDS)
