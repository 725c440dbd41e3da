# SPDX-License-Identifier: Apache-2.0
"""`zonemeter bill` against a real Kafka."""

import csv
import errno
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import orjson
import pytest

from common import page
from history.bill import command as bill
from history.bill.books.sums import GB, GIB, HOUR_MS
from history.report import command as report
from prices.file import load_prices
from schemas.topology import encode_topology_file
from tests.history.conftest import Command, Ran
from tests.support.history import bills
from tests.support.history.billed_history import publish
from tests.support.history.bills import BEGIN_MS, aws_rows, rfc3339, write_csv
from tests.support.history.lived import Lived
from tests.support.price_files import with_free_pair
from tests.support.sinks.topics import Topics

Run = Callable[..., Ran]
TRUTH = bills.truth(periods=3)
SPAN = ["--from", rfc3339(BEGIN_MS), "--to", rfc3339(BEGIN_MS + 3 * HOUR_MS)]


@pytest.fixture
def run(command: Command) -> Run:
    """Run `zonemeter bill`."""
    return lambda *argv: command(bill.main, *argv)


@pytest.fixture
def cur(tmp_path: Path) -> str:
    """A true bill."""
    return str(write_csv(tmp_path / "cur.csv", aws_rows(TRUTH.lines(), GIB)))


@pytest.fixture(scope="module")
def metered(broker: Any) -> Topics:
    """Topics with three hours, whole."""
    topics = Topics.make(broker.bootstrap)
    publish(topics, TRUTH)
    return topics


def test_a_true_bill_is_good_news(metered: Topics, run: Run, cur: str) -> None:
    status, out, err = run(cur, *metered.flags)
    assert (status, err) == (0, "")
    assert "GiB = 1,073,741,824 bytes" in out
    assert "nodes 3 of 3 metered" in out
    assert "within 5 %" in out
    assert "ledger 1.000000" in out
    assert max(map(len, out.splitlines())) <= 100
    found = document(run, cur, *metered.flags, *SPAN)
    assert abs(found["unexplained_bytes"]) < 20
    assert (found["unit"]["name"], found["unit"]["how_sure"]) == ("GiB", "sure")
    assert found["metered_bytes"] == sum(TRUTH.metered().cells.values())
    assert [period["from"] for period in found["periods"]] == [rfc3339(BEGIN_MS + n * HOUR_MS) for n in range(3)]
    assert found["resources"][0]["nodes"] == ["node-a1"]


def document(run: Run, *argv: str, status: int = 0) -> dict[str, Any]:
    found, out, err = run(*argv, "-o", "json")
    assert (found, err) == (status, "")
    parsed: dict[str, Any] = orjson.loads(out)
    return parsed


def test_csv_has_every_sum(metered: Topics, run: Run, cur: str) -> None:
    status, out, _ = run(cur, *metered.flags, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    (whole,) = (row for row in rows if row["what"] == "total")
    for what in ("way", "period", "resource"):
        assert sum(int(row["metered_bytes"]) for row in rows if row["what"] == what) == int(whole["metered_bytes"])


def test_what_is_unexplained_is_bad_news_above_the_tolerance(metered: Topics, run: Run, tmp_path: Path) -> None:
    lines = TRUTH.lines()
    lines[0] = replace(lines[0], size=lines[0].size + sum(line.size for line in lines) // 10)
    path = str(write_csv(tmp_path / "cur.csv", aws_rows(lines)))
    status, out, _ = run(path, *metered.flags)
    assert status == 1
    assert "MORE THAN 5 %" in out
    assert run(path, *metered.flags, "--tolerance", "10")[0] == 0


def test_on_a_narrow_page_prose_is_broken_as_prose(
    metered: Topics, run: Run, cur: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "WHOLE", page.Page(50, 50))
    out = run(cur, *metered.flags)[1]
    assert " the same with --write-prices FILE, then" in out
    assert " \\\n" not in out.partition(" the same with")[2]


def test_time_that_a_collector_missed_is_sized_by_the_ledger(broker: Any, run: Run, cur: str) -> None:
    topics = Topics.make(broker.bootstrap)
    publish(topics, TRUTH, [("node-b1", sequence) for sequence in (15, 16, 17)])
    found = document(run, cur, *topics.flags)
    lost = sum(size // 12 * 3 for at, source, _, size in TRUTH.sent if source == "node-b1" and at == BEGIN_MS + HOUR_MS)
    reasons = {each["why"]: each["bytes"] for each in found["reasons"]}
    assert found["trust"]["unmeasured_seconds"] == {"node-b1": 900}
    assert abs(reasons["unmeasured_time"] - lost) < 100
    assert abs(reasons["sent_unmetered"] - lost) < 100
    assert abs(found["unexplained_bytes"]) < 200


def test_prices_are_written_as_they_are_read(
    metered: Topics, run: Run, command: Command, cur: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "mine.toml", list[bool]()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: synced.append(path.exists()))
        status, out, _ = run(cur, *metered.flags, "--write-prices", str(path))
    assert (status, synced) == (0, [False, True]), "on disk before it has its name"
    assert "the same with --write-prices FILE, then report --prices FILE" in out
    book = load_prices(str(path))
    (price,) = (price for price in book.prices if price.scope == "cross_zone")
    assert (price.source, price.destination, book.unit, price.source_region) == (
        *(bills.RATE, bills.RATE),
        *("GiB", "eu-west-1"),
    )
    status, out, _ = command(report.main, *metered.flags, *SPAN, "--prices", str(path), "-o", "json")
    found = orjson.loads(out)
    assert status == 0
    charged = sum(line.price(GIB) for line in TRUTH.lines())
    assert abs(float(found["scopes"]["cross_zone"]["cost"]) - float(charged)) < 1e-6
    status, _, err = run(cur, *metered.flags, "--write-prices", str(tmp_path / "none" / "mine.toml"))
    assert (status, len(err.splitlines())) == (2, 1)


def test_prices_that_cannot_be_written_leave_nothing(
    metered: Topics, run: Run, cur: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {*tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    status, _, err = run(cur, *metered.flags, "--write-prices", str(tmp_path / "mine.toml"))
    assert (status, len(err.splitlines())) == (2, 1)
    assert "No space left on device" in err
    assert {*tmp_path.iterdir()} == before


def refused(ran: Ran, said: str, status: int = 2) -> None:
    found, out, err = ran
    assert (found, out) == (status, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_bill_of_another_month_is_refused(metered: Topics, run: Run, tmp_path: Path) -> None:
    early = [
        replace(line, start_ms=line.start_ms - 31 * 86_400_000, end_ms=line.end_ms - 31 * 86_400_000)
        for line in TRUTH.lines()
    ]
    path = str(write_csv(tmp_path / "cur.csv", aws_rows(early)))
    refused(run(path, *metered.flags), "nothing was metered in 2026-10-23 00:00:00 - 2026-10-23 03:00:00 UTC")
    refused(run(path, *metered.flags, *SPAN), "is it of another month?")


def test_a_bill_of_another_account_is_refused(metered: Topics, run: Run, tmp_path: Path) -> None:
    theirs = [replace(line, account="999", resource=f"i-0{line.node[5:]}") for line in TRUTH.lines()]
    path = str(write_csv(tmp_path / "cur.csv", aws_rows(theirs)))
    refused(run(path, *metered.flags), "none of the bill's resources is a node of the cluster: accounts 999")


def test_wrong_use_is_refused(metered: Topics, run: Run, cur: str) -> None:
    refused(run(cur, *metered.flags, "--unit", "MB"), "unit (--unit, ZONEMETER_UNIT)")
    refused(run(cur, *metered.flags, "--tolerance", "-1"), "tolerance")
    refused(run(*metered.flags), "required: FILE")
    refused(run(cur, *metered.flags, "--prices", "/nonexistent"), "expected aws, azure, gcp or a file")
    refused(run(cur, *metered.flags, "--topology", "/nonexistent"), "topology = '/nonexistent'")
    refused(run(cur, *metered.flags, "--archive", "/nonexistent"), "does not exist")


def test_a_pair_of_zones_that_a_price_file_calls_free_may_be_missing(metered: Topics, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(with_free_pair(source_zone="eu-west-1a", destination_zone="eu-west-1b"))
    lines = [line for line in TRUTH.lines() if line.node != "node-a1" or line.way != "out"]
    cur = str(write_csv(tmp_path / "cur.csv", aws_rows(lines)))
    found = document(run, cur, *metered.flags, "--prices", str(path), "--tolerance", "100", status=0)
    free = sum(size for _, source, to, size in TRUTH.sent if (source, to) == ("node-a1", "node-b1"))
    assert abs({each["why"]: each["bytes"] for each in found["reasons"]}["free"] + free) < 100


def test_part_of_a_period_is_left_out_and_said(metered: Topics, run: Run, cur: str) -> None:
    status, out, err = run(cur, *metered.flags, "--from", rfc3339(BEGIN_MS + 1_800_000), "--to", SPAN[3], "-o", "json")
    assert status == 0
    assert "compared is 2026-11-23 01:00:00 - 2026-11-23 03:00:00 UTC: the whole hours of the bill" in err
    assert orjson.loads(out)["from"] == rfc3339(BEGIN_MS + HOUR_MS)


def test_names_with_markup_stay_data(metered: Topics, run: Run, tmp_path: Path) -> None:
    name = "=cmd|'<script>alert(1)</script>\x1b[2J\"; DROP TABLE lines; --"
    more = [replace(TRUTH.lines()[0], resource=name, account='"><b>', size=10**6)]
    path = str(write_csv(tmp_path / "cur.csv", aws_rows([*TRUTH.lines(), *more])))
    status, out, _ = run(path, *metered.flags)
    assert status == 0
    assert "\x1b" not in out
    found = document(run, path, *metered.flags)
    assert found["bill"]["other_resources"] == {f'"><b>/{name}': {"bytes": 10**6, "cost": "0.000008", "lines": 1}}
    assert abs(found["unexplained_bytes"]) < 20
    rows = list(csv.reader(io.StringIO(run(path, *metered.flags, "-o", "csv")[1])))
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row)


def test_topic_and_archive_say_the_same(history: Lived, run: Run, tmp_path: Path) -> None:
    """The archive's windows are a few minutes on both sides of a full hour; all else of the two is unmeasured."""
    full = (history.begin_ms // HOUR_MS + 1) * HOUR_MS
    states = [replace_node(state, full) for state in bills.states()]
    topology = tmp_path / "topology.json"
    topology.write_bytes(encode_topology_file(states))
    lines = [
        bills.Line(at, at + HOUR_MS, node, way, 10**12)
        for at in (full - HOUR_MS, full)
        for node in bills.ZONES
        for way in ("out", "in")
    ]
    path = str(write_csv(tmp_path / "cur.csv", aws_rows(lines, GB)))
    flags = [path, *history.flags, "--topology", str(topology), "--unit", "GB", "--tolerance", "100"]
    topic = document(run, *flags)
    archive = document(run, *flags, "--archive", str(history.archive))
    assert topic.pop("sources") != archive.pop("sources")
    assert topic == archive
    crossing = [f for f in history.flows.values() if f["scope"] == "cross_zone" and "encapsulation" not in f]
    sent = sum(f["bytes"] for f in crossing if f["direction"] == "relay" or "node" in f["source"].get("k8s", {}))
    assert topic["ways"]["out"]["metered_bytes"] == sent
    assert topic["relayed_bytes"] == sum(f["bytes"] for f in crossing if f["direction"] == "relay")


def replace_node(state: Any, at_ms: int) -> Any:
    return type(state)(**{name: getattr(state, name) for name in state.__struct_fields__} | {"from_ms": at_ms - 10**8})
