# SPDX-License-Identifier: Apache-2.0
"""AWS's bill beside what was metered: even where both are true, and each distortion named and sized."""

import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from common.errors import Refusal
from history.bill.books.resources import Nodes
from history.bill.books.sums import DAY_MS, GB, GIB, HOUR_MS, NodeCell, Trust
from history.bill.read import BillFiles
from tests.support.history import bills
from tests.support.history.bills import BEGIN_MS, Line, aws_rows, compared, reasons, write_csv, write_parquet

# Amounts have twelve decimals, of which a byte is the ninth.
ROUNDING = 20


def legacy_csv(path: Path, lines: list[Line], unit: int) -> Path:
    return write_csv(path / "cur.csv.gz", aws_rows(lines, unit, legacy=True))


def cur_csv(path: Path, lines: list[Line], unit: int) -> Path:
    return write_csv(path / "cur.csv", aws_rows(lines, unit))


def cur_parquet(path: Path, lines: list[Line], unit: int) -> Path:
    return write_parquet(path / "cur.parquet", aws_rows(lines, unit))


@pytest.mark.parametrize("write", [legacy_csv, cur_csv, cur_parquet])
@pytest.mark.parametrize(("name", "unit"), bills.UNITS)
@pytest.mark.parametrize("length_ms", [HOUR_MS, DAY_MS])
def test_a_true_bill_leaves_nothing_unexplained(
    tmp_path: Path, write: Callable[[Path, list[Line], int], Path], name: str, unit: int, length_ms: int
) -> None:
    truth = bills.truth(length_ms=length_ms)
    billed, found = compared(write(tmp_path, truth.lines(), unit), truth.metered())
    assert (found.unit.name, found.unit.how_sure) == (name, "sure")
    assert billed.period_ms == length_ms
    assert abs(found.unexplained) <= ROUNDING
    assert found.metered == sum(truth.metered().cells.values())
    assert reasons(found) == {} or max(map(abs, reasons(found).values())) <= ROUNDING
    assert billed.is_final is True
    assert set(found.ways) == {"out", "in"}
    assert {names[0] for names in found.names.values()} == set(bills.ZONES)


def spoilt(tmp_path: Path, lines: list[Line], **options: object) -> tuple[dict[str, int], int]:
    _, found = compared(cur_csv(tmp_path, lines, GB), bills.truth().metered(), **options)  # type: ignore[arg-type]
    assert found.unit.how_sure == "sure"
    return reasons(found), found.unexplained


@pytest.mark.parametrize("operation", ["PublicIP-In", "LoadBalancing-PublicIP-Out", "VPCPeering-In", ""])
def test_what_did_not_cross_zones_is_named_by_its_operation(tmp_path: Path, operation: str) -> None:
    lines = bills.truth().lines()
    more = [replace(lines[0], operation=operation or " ", size=7 * 10**9, resource="i-0feedfeedfeedfeed")]
    found, left = spoilt(tmp_path, lines + more)
    assert found == {"regional": 7 * 10**9}
    assert abs(left) <= ROUNDING


def test_resources_that_are_not_nodes_are_sized(tmp_path: Path) -> None:
    lines = bills.truth().lines()
    other = [replace(line, resource="arn:aws:rds:eu-west-1:111122223333:db:orders") for line in lines[:3]]
    billed, found = compared(cur_csv(tmp_path, lines + other, GB), bills.truth().metered())
    expected = sum(line.size for line in other)
    assert abs(reasons(found)["other_resources"] - expected) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING
    assert (billed.other_resources, list(billed.others)) == (1, [f"{bills.ACCOUNT}/orders"])


def test_lines_that_came_twice_count_once_and_are_sized(tmp_path: Path) -> None:
    lines = bills.truth().lines()
    path = cur_csv(tmp_path, lines, GB)
    billed, found = compared([path, path], bills.truth().metered())
    assert billed.twice.lines == len(lines)
    assert abs(reasons(found)["twice"] - sum(line.size for line in lines)) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


def test_a_node_without_a_collector_is_sized_and_so_is_what_others_got_from_it(tmp_path: Path) -> None:
    truth = bills.truth()
    gone = [sent for sent in truth.sent if sent[1] == "node-c1"]
    metered = bills.without(truth.metered(), gone)
    path = cur_csv(tmp_path, truth.lines(), GIB)
    _, found = compared(path, metered, trust=Trust(unmetered={"node-c1"}))
    lost = sum(size for *_, size in gone)
    assert (found.unit.name, found.unit.how_sure) == ("GiB", "sure")
    assert abs(reasons(found)["unmetered_nodes"] - lost) <= ROUNDING
    assert abs(reasons(found)["sent_unmetered"] - lost) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


def test_time_that_nobody_metered_is_estimated_by_the_nodes_own_rate(tmp_path: Path) -> None:
    truth = bills.truth()
    # A quarter of an hour of one node, at a steady rate.
    gone = [
        (at, source, to, size // 4) for at, source, to, size in truth.sent if source == "node-b1" and at == BEGIN_MS
    ]
    gap = (BEGIN_MS + 600_000, BEGIN_MS + 600_000 + HOUR_MS // 4)
    metered = bills.without(truth.metered(), gone)
    _, found = compared(cur_csv(tmp_path, truth.lines(), GB), metered, trust=Trust(unmeasured={"node-b1": [gap]}))
    lost = sum(size for *_, size in gone)
    assert abs(reasons(found)["unmeasured_time"] - lost) <= ROUNDING
    assert abs(reasons(found)["sent_unmetered"] - lost) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


def test_an_hour_in_which_nothing_was_metered_is_unmeasured_time(tmp_path: Path) -> None:
    truth = bills.truth()
    gone = [sent for sent in truth.sent if sent[0] == BEGIN_MS]
    metered = bills.without(truth.metered(), gone)
    metered.windows.remove((BEGIN_MS, BEGIN_MS + HOUR_MS))
    _, found = compared(cur_csv(tmp_path, truth.lines(), GB), metered)
    assert abs(reasons(found)["unmeasured_time"] - 2 * sum(size for *_, size in gone)) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


@pytest.mark.parametrize(
    ("why", "trust"), [("lost", Trust(lost={"node-a1": 0.2})), ("coverage", Trust(coverage={"node-a1": 0.8}))]
)
def test_what_was_lost_or_not_seen_is_estimated(tmp_path: Path, why: str, trust: Trust) -> None:
    truth = bills.truth()
    gone = [(at, source, to, size // 5) for at, source, to, size in truth.sent if source == "node-a1"]
    _, found = compared(cur_csv(tmp_path, truth.lines(), GB), bills.without(truth.metered(), gone), trust=trust)
    lost = sum(size for *_, size in gone)
    assert found.unit.how_sure == "sure"
    assert abs(reasons(found)[why] - lost) <= ROUNDING
    assert abs(reasons(found)["sent_unmetered"] - lost) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


def test_unknown_bytes_explain_no_more_than_they_are(tmp_path: Path) -> None:
    truth = bills.truth()
    metered = truth.metered()
    cell = NodeCell(BEGIN_MS, "node-a1", "out")
    metered.cells[cell] -= 5 * 10**8
    metered.unknown[cell] = 3 * 10**8
    metered.unknown[NodeCell(BEGIN_MS, "node-b1", "out")] = 10**9
    _, found = compared(cur_csv(tmp_path, truth.lines(), GB), metered)
    assert reasons(found) == {"unknown": 3 * 10**8}
    assert abs(found.unexplained - 2 * 10**8) <= ROUNDING


def test_a_bill_that_is_not_final_lacks_its_last_days(tmp_path: Path) -> None:
    truth = bills.truth(periods=5, length_ms=DAY_MS)
    last = BEGIN_MS + 4 * DAY_MS
    lines = [
        replace(line, size=line.size // 2 if line.start_ms == last else line.size, invoice="") for line in truth.lines()
    ]
    billed, found = compared(cur_csv(tmp_path, lines, GB), truth.metered())
    assert billed.is_final is False
    missing = sum(line.size for line in truth.lines() if line.start_ms == last) // 2
    assert abs(reasons(found)["not_final"] + missing) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING
    early = [replace(line, size=line.size // 2) if line.start_ms == BEGIN_MS else line for line in lines]
    _, found = compared(cur_csv(tmp_path, early, GB), truth.metered())
    assert found.unexplained < -(10**9), "the first days are filled"


def test_what_a_price_file_says_is_free_may_be_missing(tmp_path: Path) -> None:
    truth = bills.truth()
    metered = truth.metered()
    cell = NodeCell(BEGIN_MS, "node-a1", "in")
    metered.cells[cell] += 4 * 10**8
    metered.free[cell] = 4 * 10**8
    _, found = compared(cur_csv(tmp_path, truth.lines(), GB), metered)
    assert abs(reasons(found)["free"] + 4 * 10**8) <= ROUNDING
    assert abs(found.unexplained) <= ROUNDING


def test_a_difference_without_a_reason_is_unexplained_where_it_is(tmp_path: Path) -> None:
    truth = bills.truth()
    lines = truth.lines()
    lines[0] = replace(lines[0], size=lines[0].size + 3 * 10**9)
    _, found = compared(cur_csv(tmp_path, lines, GB), truth.metered())
    assert abs(found.unexplained - 3 * 10**9) <= ROUNDING
    resource = bills.INSTANCES[lines[0].node]
    assert abs(found.resources[resource].unexplained - 3 * 10**9) <= ROUNDING
    assert abs(found.periods[lines[0].start_ms].unexplained - 3 * 10**9) <= ROUNDING
    assert found.billed - found.metered == found.explained + found.unexplained


def test_credits_and_discounts_are_no_bytes_and_discounts_change_the_rate(tmp_path: Path) -> None:
    truth = bills.truth()
    lines = truth.lines()
    more = [
        replace(lines[0], kind="Credit", cost=Decimal("-3.5")),
        replace(lines[0], kind="EdpDiscount", cost=Decimal("-0.01")),
        replace(lines[0], kind="Tax", cost=Decimal("2")),
    ]
    billed, found = compared(cur_csv(tmp_path, lines + more, GB), truth.metered())
    assert abs(found.unexplained) <= ROUNDING
    assert {name: each.cost for name, each in billed.charges.items()} == {
        "Credit": Decimal("-3.5"),
        "EdpDiscount": Decimal("-0.01"),
        "Tax": Decimal(2),
    }
    (rate,) = billed.rates.values()
    charged = sum(line.price(GB) for line in lines if line.way == "out")
    discount = Decimal("-0.01") if lines[0].way == "out" else 0
    assert abs(rate.out.cost - charged - discount) < Decimal("1e-9")


def test_the_newer_usage_types_name_the_way(tmp_path: Path) -> None:
    truth = bills.truth()
    names = {"out": "EUW2-DataTransfer-xAZ-Out-Bytes", "in": "DataTransfer-xAZ-In-Bytes"}
    lines = [replace(line, usage=names[line.way], operation="RunInstances") for line in truth.lines()]
    _, found = compared(cur_csv(tmp_path, lines, GB), truth.metered())
    assert found.reasons == []
    assert abs(found.unexplained) <= ROUNDING


def test_other_transfer_is_listed_apart(tmp_path: Path) -> None:
    truth = bills.truth()
    lines = truth.lines()
    more = [
        replace(lines[0], usage=f"EU-{name}", size=number * 10**9)
        for number, name in enumerate(("NatGateway-Bytes", "DataTransfer-Out-Bytes", "USE1-AWS-Out-Bytes"), 1)
    ]
    billed, found = compared(cur_csv(tmp_path, lines + more, GB), truth.metered())
    assert {name: each.units for name, each in billed.apart.items()} == {
        "AWS-Out-Bytes": 3,
        "DataTransfer-Out-Bytes": 2,
        "NatGateway-Bytes": 1,
    }
    assert abs(found.unexplained) <= ROUNDING


def test_without_resource_ids_the_sums_are_compared(tmp_path: Path) -> None:
    truth = bills.truth()
    rows = aws_rows(truth.lines())
    for row in rows:
        del row["line_item_resource_id"]
    billed, found = compared(write_csv(tmp_path / "cur.csv", rows), truth.metered())
    assert not billed.names_resources
    assert list(found.resources) == ["*"]
    assert abs(found.unexplained) <= ROUNDING


def test_a_name_given_to_another_machine_is_matched_as_of_then(tmp_path: Path) -> None:
    truth = bills.truth()
    half = BEGIN_MS + 2 * HOUR_MS
    states = bills.states()
    first = states[0]
    states[0] = msgspec.structs.replace(first, to_ms=half)
    states.append(msgspec.structs.replace(first, from_ms=half, provider_id="aws:///eu-west-1a/i-0ddd", uid="another"))
    lines = [
        replace(line, resource="i-0ddd") if line.node == "node-a1" and line.start_ms >= half else line
        for line in truth.lines()
    ]
    _, found = compared(cur_csv(tmp_path, lines, GB), truth.metered(), nodes=Nodes(states))
    assert found.reasons == []
    assert abs(found.unexplained) <= ROUNDING
    assert found.names["i-0ddd"] == ["node-a1"]


def read(*paths: Path) -> None:
    with BillFiles(paths) as bill:
        bill.billed(bill.span, {"i-1"})


def refusal(*paths: Path) -> str:
    with pytest.raises(Refusal) as caught:
        read(*paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_which_a_column_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    rows = aws_rows(bills.truth().lines())
    for row in rows:
        del row["line_item_operation"]
        del row["line_item_currency_code"]
    said = refusal(write_csv(tmp_path / "cur.csv", rows))
    assert "looks like AWS Cost and Usage Report, and lacks line_item_operation, line_item_currency_code" in said


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("name,colour\na,b\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "cur.zip").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    assert "not a bill that is known here" in refusal(tmp_path / "other.csv")
    assert "is empty" in refusal(tmp_path / "empty.csv")
    assert "unpack it" in refusal(tmp_path / "cur.zip")
    assert "No such file or directory" in refusal(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        assert "is a directory, a pipe or a device" in refusal(tmp_path / name)


def test_a_name_that_is_a_pattern_is_a_name(tmp_path: Path) -> None:
    lines = bills.truth().lines()
    write_csv(tmp_path / "cur1.csv", aws_rows(lines[:1]))
    path = write_csv(tmp_path / "cur[1]*.csv", aws_rows(lines))
    with BillFiles([path]) as bill:
        assert bill.billed(bill.span, set()).lines == len(lines)


@pytest.mark.parametrize("name", ["cur.csv", "cur.csv.gz", "cur.parquet"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    rows = aws_rows(bills.truth(periods=40).lines())
    path = write_parquet(tmp_path / name, rows) if name.endswith("parquet") else write_csv(tmp_path / name, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b",InterZone-") if name == "cur.csv" else len(whole) * 2 // 3])
    assert "is the file whole?" in refusal(path)


def test_a_last_line_without_an_end_is_noted(tmp_path: Path) -> None:
    path = cur_csv(tmp_path, bills.truth().lines(), GB)
    path.write_bytes(path.read_bytes()[:-4])
    with BillFiles([path]) as bill:
        assert bill.notes == [f"{path}: its last line has no end; was the file cut off?"]


@pytest.mark.parametrize("column", ["line_item_usage_amount", "line_item_usage_start_date", "line_item_unblended_cost"])
def test_a_value_that_cannot_be_read_is_refused(tmp_path: Path, column: str) -> None:
    rows = aws_rows(bills.truth().lines())
    rows[0] = rows[0] | {column: "12,5x"}
    assert "1 line of transfer between zones without a time" in refusal(write_csv(tmp_path / "cur.csv", rows))


def test_several_currencies_are_refused(tmp_path: Path) -> None:
    lines = bills.truth().lines()
    path = cur_csv(tmp_path, [*lines, replace(lines[0], currency="EUR")], GB)
    assert "lines of currency EUR, USD; give files of one currency" in refusal(path)


def test_lines_of_a_month_are_refused(tmp_path: Path) -> None:
    line = replace(bills.truth().lines()[0], end_ms=BEGIN_MS + 30 * DAY_MS)
    assert "of 30 days each; export the bill by the day" in refusal(cur_csv(tmp_path, [line], GB))


def test_a_bill_without_transfer_is_refused(tmp_path: Path) -> None:
    line = replace(bills.truth().lines()[0], usage="EU-BoxUsage:m7g.large")
    assert "without a line of transfer within a region" in refusal(cur_csv(tmp_path, [line], GB))


def test_accounts_can_be_chosen(tmp_path: Path) -> None:
    lines = bills.truth().lines()
    path = cur_csv(tmp_path, [*lines, replace(lines[0], account="999", currency="EUR")], GB)
    with BillFiles([path], [bills.ACCOUNT]) as bill:
        assert list(bill.billed(bill.span, set()).accounts) == [bills.ACCOUNT]
    with pytest.raises(Refusal, match="no line of account 7; the bill has 111122223333, 999"):
        BillFiles([path], ["7"])
