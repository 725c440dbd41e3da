# SPDX-License-Identifier: Apache-2.0
"""FOCUS, Google Cloud's and Azure's bills beside what was metered."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import Refusal
from history.bill.answer import Answer
from history.bill.books.compare import Comparison
from history.bill.books.resources import resource_of
from history.bill.books.sums import DAY_MS, Billed, Trust
from history.bill.rates import price_file, rates
from history.bill.read import BillFiles
from history.bill.text import lines as lines_of
from history.model.time_range import TimeRange
from prices.book import Side
from prices.file import parse_prices
from tests.support.history import bills
from tests.support.history.bills import (
    aws_rows,
    azure_rows,
    compared,
    flattened,
    focus_rows,
    gcp_rows,
    reasons,
    write_csv,
    write_parquet,
)

ROUNDING = 20


def is_even(found: Comparison) -> bool:
    return abs(found.unexplained) <= ROUNDING and all(abs(reason.bytes) <= ROUNDING for reason in found.reasons)


@pytest.mark.parametrize("write", [write_csv, write_parquet])
@pytest.mark.parametrize(("name", "unit"), bills.UNITS)
def test_a_true_focus_export_leaves_nothing_unexplained(
    tmp_path: Path, write: Callable[[Path, list[dict[str, str]]], Path], name: str, unit: int
) -> None:
    truth = bills.truth()
    billed, found = compared(write(tmp_path / "focus", focus_rows(truth.lines(), unit)), truth.metered())
    assert (billed.title, billed.provider, found.unit.name, found.unit.how_sure) == ("FOCUS", "aws", name, "sure")
    assert is_even(found)
    assert set(found.ways) == {"out", "in"}


def test_focus_without_an_operation_is_regional_and_not_separable(tmp_path: Path) -> None:
    truth = bills.truth()
    lines = truth.lines()
    rows = focus_rows([*lines, replace(lines[0], operation="PublicIP-Out", size=2 * 10**8)], operation=False)
    billed, found = compared(write_csv(tmp_path / "focus.csv", rows), truth.metered())
    assert (billed.is_separable, list(found.ways)) == (False, ["both"])
    assert abs(found.unexplained - 2 * 10**8) <= ROUNDING
    assert rates(billed, found.unit) == []
    with pytest.raises(Refusal, match="does not tell what crossed zones"):
        price_file(billed, found.unit, bill_span(billed))


def bill_span(billed: Billed) -> TimeRange:
    return TimeRange(billed.from_ms, billed.to_ms)


def test_corrections_in_focus_are_no_usage(tmp_path: Path) -> None:
    truth = bills.truth()
    rows = focus_rows(truth.lines())
    rows.append(rows[0] | {"ChargeClass": "Correction", "BilledCost": "-1"})
    billed, found = compared(write_csv(tmp_path / "focus.csv", rows), truth.metered())
    assert is_even(found)
    assert billed.charges["Correction"].cost == -1


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def nested_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def dotted_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_csv(path, flattened(rows))


def bigquery_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = [
        {**row, "usage_start_time": f"{row['usage_start_time'][:10]} {row['usage_start_time'][11:19]} UTC"}
        for row in rows
    ]
    return write_csv(path, flattened(text, "_"))


@pytest.mark.parametrize("write", [jsonl, nested_parquet, dotted_csv, bigquery_csv])
def test_a_true_bill_of_google_cloud_leaves_nothing_unexplained(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], Path]
) -> None:
    truth = bills.truth()
    billed, found = compared(write(tmp_path / "gcp", gcp_rows(truth.lines())), truth.metered(), provider="gcp")
    assert (billed.title, billed.provider) == ("Google Cloud BigQuery export", "gcp")
    assert (list(found.ways), found.unit.how_sure) == (["out"], "known")
    assert found.reasons == []
    assert found.unexplained == 0
    assert {names[0] for names in found.names.values()} == set(bills.ZONES)
    assert billed.apart.keys() == {"Network Inter Zone Ingress"}
    (rate,) = rates(billed, found.unit)
    assert (rate.region, rate.source, rate.destination) == ("europe-west1", bills.RATE, Decimal(0))


def test_a_machine_outside_of_the_cluster_is_another_resource_on_google_cloud(tmp_path: Path) -> None:
    truth = bills.truth()
    lines = truth.lines()
    sent = next(line for line in lines if line.way == "out")
    rows = gcp_rows([*lines, replace(sent, resource="builder")])
    billed, found = compared(jsonl(tmp_path / "gcp.json", rows), truth.metered(), provider="gcp")
    assert reasons(found) == {"other_resources": sent.size}
    assert list(billed.others) == ["my-project/my-project/builder"]


@pytest.mark.parametrize("day", ["%m/%d/%Y", "%Y-%m-%d"])
@pytest.mark.parametrize(("name", "unit"), bills.UNITS)
def test_a_true_list_of_azure_leaves_nothing_unexplained(tmp_path: Path, day: str, name: str, unit: int) -> None:
    truth = bills.truth(length_ms=DAY_MS)
    path = write_csv(tmp_path / "azure.csv", azure_rows(truth.lines(), unit, day=day))
    billed, found = compared(path, truth.metered(), provider="azure")
    assert (billed.title, billed.provider, found.unit.name, found.unit.how_sure) == (
        *("Azure cost details", "azure"),
        *(name, "sure"),
    )
    assert is_even(found)


def test_azure_charges_nothing_and_may_not_list_it(tmp_path: Path) -> None:
    truth = bills.truth(length_ms=DAY_MS)
    lines = [replace(line, operation="Standard Data Transfer Out", cost=Decimal(3)) for line in truth.lines()]
    path = write_csv(tmp_path / "azure.csv", azure_rows(lines))
    billed, found = compared(path, truth.metered(), provider="azure")
    assert reasons(found) == {"not_charged": -found.metered}
    assert found.unexplained == 0
    assert billed.apart.keys() == {"Standard Data Transfer Out"}


def test_machines_of_a_scale_set_are_billed_as_one() -> None:
    machine = "azure:///subscriptions/1/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/np/virtualMachines/3"
    assert resource_of(machine) == (
        "/subscriptions/1/resourcegroups/g/providers/microsoft.compute/virtualmachinescalesets/np"
    )
    assert resource_of("kind://docker/kind/kind-worker") is None
    assert resource_of("aws:///eu-west-1a/i-1") == "i-1"
    assert resource_of("gce://p/z/gke-1") == "p/gke-1"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (focus_rows(bills.truth().lines()), "looks like FOCUS, and lacks BilledCost"),
        (flattened(gcp_rows(bills.truth().lines())), "looks like Google Cloud BigQuery export, and lacks cost"),
        (azure_rows(bills.truth().lines()), "looks like Azure cost details, and lacks CostInBillingCurrency"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, rows: list[Mapping[str, str]], said: str) -> None:
    costs = ("BilledCost", "cost", "CostInBillingCurrency")
    lacking = [{name: value for name, value in row.items() if name not in costs} for row in rows]
    with pytest.raises(Refusal, match=said):
        BillFiles([write_csv(tmp_path / "bill.csv", lacking)])


def test_a_unit_that_is_no_amount_of_bytes_is_refused(tmp_path: Path) -> None:
    rows = [row | {"ConsumedUnit": "Hours"} for row in focus_rows(bills.truth().lines())]
    with pytest.raises(Refusal, match="an amount in bytes"):
        BillFiles([write_csv(tmp_path / "focus.csv", rows)])


def test_bills_of_two_clouds_are_not_mixed(tmp_path: Path) -> None:
    truth = bills.truth()
    paths = [
        jsonl(tmp_path / "g.json", gcp_rows(truth.lines())),
        write_csv(tmp_path / "f.csv", focus_rows(truth.lines())),
    ]
    with pytest.raises(Refusal, match="lines of provider aws, gcp; give files of one cloud at a time"):
        BillFiles(paths)


def test_json_lines_that_were_cut_off_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "gcp.json", gcp_rows(bills.truth().lines()))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Refusal, match="is the file whole"):
        BillFiles([path])


def test_price_files_of_google_cloud_load(tmp_path: Path) -> None:
    truth = bills.truth()
    billed, found = compared(jsonl(tmp_path / "g.json", gcp_rows(truth.lines())), truth.metered(), provider="gcp")
    book = parse_prices(price_file(billed, found.unit, bill_span(billed)), "mine")
    price = book.find("cross_zone", Side("europe-west1"), Side("europe-west1"))
    assert price is not None
    assert (book.unit, price.source, price.destination) == ("GiB", bills.RATE, Decimal(0))


def test_a_side_that_was_not_billed_has_no_rate_and_its_region_no_price(tmp_path: Path) -> None:
    truth = bills.truth()
    sent = [replace(line, more={"product_region_code": "us-east-1"}) for line in truth.lines() if line.way == "out"]
    billed, found = compared(write_csv(tmp_path / "one.csv", aws_rows(sent)), truth.metered())
    (rate,) = rates(billed, found.unit)
    assert (rate.source, rate.destination) == (bills.RATE, None)
    with pytest.raises(Refusal, match="only one side of what crossed zones was billed"):
        price_file(billed, found.unit, bill_span(billed))
    both = write_csv(tmp_path / "both.csv", aws_rows([*truth.lines(), *sent]))
    billed, found = compared(both, truth.metered())
    content = price_file(billed, found.unit, bill_span(billed))
    assert b'# No price of "us-east-1": nothing received was billed there.' in content
    prices = [price for price in parse_prices(content, "mine").prices if price.scope == "cross_zone"]
    assert [(price.source_region, price.source, price.destination) for price in prices] == [
        ("eu-west-1", bills.RATE, bills.RATE)
    ]


def test_what_azure_should_not_charge_is_bad_news(tmp_path: Path) -> None:
    truth = bills.truth(length_ms=DAY_MS)
    for cost, is_good in ((Decimal(0), True), (Decimal(1), False)):
        lines = [replace(line, cost=cost) for line in truth.lines()]
        path = write_csv(tmp_path / "azure.csv", azure_rows(lines))
        billed, found = compared(path, truth.metered(), provider="azure")
        answer = Answer(bill_span(billed), billed, truth.metered(), found, Trust(), [], ["lab"], 3, {}, [], 5.0)
        assert answer.is_good is is_good
        assert any("Azure says that this transfer is free" in line for line in lines_of(answer)) is not is_good
