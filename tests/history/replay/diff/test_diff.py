# SPDX-License-Identifier: Apache-2.0
"""`replay --diff` against a real Kafka: what a new join changes, to the byte, and why where that is known."""

import csv
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from history.replay import command as replay
from history.replay.diff.text import CSV_COLUMNS
from schemas.topology import encode_topology_file
from tests.history.conftest import Command, Ran
from tests.support.enricher import build
from tests.support.history.lived import Lived, rfc3339, states

Run = Callable[..., Ran]
# Orders-db is not in it, and what was unmapped is.
OTHER = '[[cidr]]\ncidr = "10.99.0.0/16"\nname = "=legacy"\nzone = "eu-west-1c"\nregion = "eu-west-1"\n'


@pytest.fixture
def run(command: Command, history: Lived) -> Run:
    """Run `zonemeter replay --from-raw --diff` over the whole history."""
    common = [*history.flags, *history.span, "--from-raw", "--diff"]
    return lambda *argv: command(replay.main, *common, *argv)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.toml"
    path.write_text(OTHER)
    return path


def size(history: Lived, wanted: Callable[[dict[str, Any]], bool] = lambda flow: True) -> int:
    return sum(flow["bytes"] for flow in history.flows.values() if wanted(flow))


def addresses(flow: dict[str, Any]) -> set[str]:
    return {flow["source"]["address"], flow["destination"]["address"]}


def test_with_what_the_enricher_had_nothing_differs(history: Lived, run: Run) -> None:
    status, out, err = run("--cidr-map", str(history.cidrs), "-o", "json")
    assert (status, err.count("\n")) == (0, 1)  # a chunk that cannot be decoded
    found = orjson.loads(out)
    same = {"flows": len(history.flows), "bytes": size(history)}
    assert found["recorded"] == found["rejoined"] == same
    assert found["differences"] == [{"kind": "same", "why": [], "columns": [], **same}]
    assert run("--cidr-map", str(history.cidrs))[1].endswith("\nNothing differs.\n")


def test_another_map_names_other_things_and_that_is_why(history: Lived, run: Run, other: Path) -> None:
    status, out, _ = run("--cidr-map", str(other), "--prices", "aws", "-o", "json")
    assert status == 0
    found = orjson.loads(out)
    rows = found["differences"]
    assert found["recorded"]["bytes"] == found["rejoined"]["bytes"] == size(history)
    assert sum(row["bytes"] for row in rows) == size(history)

    def of(reason: str) -> int:
        return sum(row["bytes"] for row in rows if any(why.endswith(f" {reason}") for why in row["why"]))

    assert of("cidr_added") == size(history, lambda flow: "10.99.0.1" in addresses(flow)) > 0
    orders = size(history, lambda flow: "10.60.0.7" in addresses(flow))
    assert of("cidr_removed") == orders > 0
    assert {why for row in rows for why in row["why"]} <= {
        f"{end} cidr_{what}" for end in ("source", "destination") for what in ("added", "removed")
    }
    assert {row["kind"] for row in rows} == {"changed", "same"}
    legacy = [row for row in rows if row.get("rejoined", {}).get("destination") == "cidr/=legacy"]
    assert legacy
    for row in legacy:
        assert (row["recorded"]["scope"], row["recorded"]["destination"]) == ("unknown", "unknown")
        assert "dst_name" in row["columns"]
        assert "cost_recorded" not in row, "what is unknown has no price"
    crossing = [row for row in legacy if row["rejoined"]["scope"] == "cross_zone"]
    # $0.01 per GB for either side, as AWS says.
    assert (
        sum(Decimal(row["cost_rejoined"]) for row in crossing)
        == sum(row["bytes"] for row in crossing) * Decimal("0.02") / 10**9
    )
    for side in ("recorded", "rejoined"):
        costs = [Decimal(row[f"cost_{side}"]) for row in rows if f"cost_{side}" in row]
        assert Decimal(found[side]["cost"]) == sum(costs)


def test_every_form_has_the_same_rows(run: Run, other: Path) -> None:
    flags = ["--cidr-map", str(other), "--prices", "aws"]
    rows = orjson.loads(run(*flags, "-o", "json")[1])["differences"]
    assert [orjson.loads(line) for line in run(*flags, "-o", "jsonl")[1].splitlines()] == rows
    listed = list(csv.DictReader(io.StringIO(run(*flags, "-o", "csv")[1])))
    assert tuple(listed[0]) == CSV_COLUMNS
    assert [(row["kind"], int(row["bytes"]), row["why"]) for row in listed] == [
        (row["kind"], row["bytes"], ", ".join(row["why"])) for row in rows
    ]
    text = run(*flags, "--top", "3")[1]
    assert "cidr_added: an entry of the CIDR map holds it now" in text
    assert f"and {len(rows) - 1 - 3:,} smaller ones" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_filter_wants_what_either_side_calls_so(history: Lived, run: Run, other: Path) -> None:
    for flags in (["--workload", "cidr/orders-db"], ["--workload", "cidr/=legacy"]):
        found = orjson.loads(run("--cidr-map", str(other), *flags, "-o", "json")[1])
        address = "10.60.0.7" if "orders" in flags[1] else "10.99.0.1"
        assert found["recorded"]["bytes"] == found["rejoined"]["bytes"]
        assert found["recorded"]["bytes"] == size(history, lambda flow, a=address: a in addresses(flow))  # type: ignore[misc]
    status, out, err = run("--cidr-map", str(other), "-n", "shpo", "-o", "json")
    assert (status, out) == (1, "")
    assert 'no flow of namespace "shpo" in this range; did you mean shop?' in err


def test_a_pod_that_became_known_late(history: Lived, run: Run, tmp_path: Path) -> None:
    heir = build.pod("late-3", "10.42.3.77", "node-b1", from_ms=history.begin_ms - 3_600_000)
    topology = tmp_path / "topology.json"
    topology.write_bytes(encode_topology_file([*states(history.begin_ms), heir]))
    flags = ["--cidr-map", str(history.cidrs), "--topology", str(topology), "-o", "json"]
    rows = [row for row in orjson.loads(run(*flags)[1])["differences"] if row["kind"] == "changed"]
    assert sum(row["bytes"] for row in rows) == size(history, lambda flow: "10.42.3.77" in addresses(flow)) > 0
    assert {why for row in rows for why in row["why"]} == {"destination topology_later"}


def test_another_price_file_changes_money_alone(history: Lived, run: Run, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(
        'title = "Ours"\ncurrency = "USD"\nunit = "GB"\nas_of = 2026-11-23\n[[price]]\nscope = "cross_zone"\n'
        'source = 0.5\ndestination = 0\nurl = "https://example.com"\n'
    )
    flags = ["--cidr-map", str(history.cidrs), "--prices", str(prices), "--prices-before", "aws", "-o", "json"]
    status, out, err = run(*flags)
    assert status == 0, err
    rows = orjson.loads(out)["differences"]
    crossing = [row for row in rows if row["why"] and row["recorded"]["scope"] == "cross_zone"]
    assert crossing
    assert sum(row["bytes"] for row in crossing) == size(
        history, lambda flow: flow["scope"] == "cross_zone" and "encapsulation" not in flow
    )
    for row in crossing:
        assert (row["kind"], row["why"], row["recorded"]) == ("same", ["flow prices"], row["rejoined"])
        assert Decimal(row["cost_rejoined"]) == Decimal(row["cost_recorded"]) * 25


def test_a_range_without_flows(command: Command, history: Lived) -> None:
    span = ["--from", rfc3339(history.begin_ms - 60_000), "--to", rfc3339(history.begin_ms)]
    status, out, err = command(replay.main, *history.flags, *span, "--from-raw", "--diff")
    assert (status, out) == (1, "")
    assert err.startswith("zonemeter replay: no flow in ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--diff"], "diff needs --from-raw"),
        (["--prices", "aws"], "only mean something with --diff"),
        (["--from-raw", "--diff", "--sum"], "diff excludes sum"),
        (["--from-raw", "--diff", "-o", "parquet"], "diff excludes sum, to_topic, file and output = parquet"),
        (["--from-raw", "--diff", "--prices-before", "aws"], "prices_before needs --prices"),
        (["--from-raw", "--diff", "--prices", "/nonexistent"], "/nonexistent"),
        (["--from-raw", "--diff", "--archive", "/tmp"], "the archive holds no raw flows"),
    ],
)
def test_wrong_use_is_one_line(command: Command, flags: list[str], said: str) -> None:
    status, out, err = command(replay.main, *flags)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
