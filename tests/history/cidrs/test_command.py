# SPDX-License-Identifier: Apache-2.0
"""CIDR maps tried on history: the sums are those of the flows that the enricher made of the same windows."""

import csv
import io
import tomllib
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.amounts import human
from enricher.index.addresses import Prefix
from enricher.index.cidrs import read_cidr_map
from history.cidrs.command import check, suggest
from history.replay.command import main as replay
from tests.history.conftest import Command
from tests.support.history.lived import CIDRS, Lived


def bytes_of(history: Lived, network: str) -> int:
    """Return the bytes of the flows that have an end in a network."""
    inside = ip_network(network)
    ends = [
        (flow["bytes"], flow["source"]["address"], flow["destination"]["address"]) for flow in history.flows.values()
    ]
    return sum(size for size, *addresses in ends if any(ip_address(address) in inside for address in addresses))


def by_scope(history: Lived) -> Counter[str]:
    sums: Counter[str] = Counter()
    for flow in history.flows.values():
        if "encapsulation" not in flow:
            sums[flow["scope"]] += flow["bytes"]
    return sums


def test_the_map_in_force_takes_what_the_enricher_gave_it(history: Lived, command: Command) -> None:
    status, out, err = command(check, str(history.cidrs), *history.flags, *history.span, "-o", "json")
    assert (status, err) == (0, "")
    answer = orjson.loads(out)
    [entry] = answer["entries"]
    assert entry["bytes"] == bytes_of(history, "10.60.0.0/24") > 0
    assert {scope: after for scope, (_, after) in answer["bytes_before_after"].items() if after} == by_scope(history)
    before = {scope: before for scope, (before, _) in answer["bytes_before_after"].items()}
    moved = before["unknown"] - by_scope(history)["unknown"]
    assert 0 < moved <= entry["bytes"]
    assert sum(before.values()) == sum(by_scope(history).values())


def test_outer_packets_are_apart_as_in_every_other_sum(history: Lived, command: Command) -> None:
    flags = [str(history.cidrs), *history.flags, *history.span]
    outer = sum(flow["bytes"] for flow in history.flows.values() if "encapsulation" in flow)
    answer = orjson.loads(command(check, *flags, "-o", "json")[1])
    assert answer["overlay_outer_before_after"] == [outer, outer]
    assert outer > 0
    replayed = orjson.loads(command(replay, *history.flags, *history.span, "--sum", "-o", "json")[1])
    after = {scope: after for scope, (_, after) in answer["bytes_before_after"].items() if after}
    assert after == {scope: sums["bytes"] for scope, sums in replayed["scopes"].items()}
    assert human(outer) in next(
        line for line in command(check, *flags)[1].splitlines() if line.startswith("overlay's outer packets")
    )


def test_a_map_with_mistakes_is_bad_news_and_says_which(history: Lived, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    file.write_text(
        CIDRS.replace("10.60.0.0/24", "10.99.0.0/16").replace("eu-west-1b", "eu-wset-1b")
        + "[[cidr]]\ncidr = '10.61.0.0/24'\nname = 'nobody'\nzone = 'eu-west-1a'\nregion = 'eu-west-1'\n"
    )
    flags = [str(file), *history.flags, *history.span, "--current", str(history.cidrs)]
    status, out, _ = command(check, *flags)
    assert status == 1
    assert "wrong   10.99.0.0/16 (orders-db): no node is in zone 'eu-wset-1b'; did you mean eu-west-1b?" in out
    assert "took nothing" in next(line for line in out.splitlines() if line.startswith("10.61.0.0/24"))
    assert "with the map in force" in out
    assert max(map(len, out.splitlines())) <= 100
    answer = orjson.loads(command(check, *flags, "-o", "json")[1])
    assert [entry["bytes"] for entry in answer["entries"]] == [bytes_of(history, "10.99.0.0/16"), 0]
    assert {scope: before for scope, (before, _) in answer["bytes_before_after"].items() if before} == by_scope(history)
    assert not answer["sound"]


def test_what_nobody_names_is_listed_by_bytes_with_what_is_known(history: Lived, command: Command) -> None:
    status, out, _ = command(suggest, *history.flags, *history.span, "-o", "json")
    assert status == 0
    listed: list[dict[str, Any]] = orjson.loads(out)
    assert [entry["bytes"] for entry in listed] == sorted((entry["bytes"] for entry in listed), reverse=True)
    networks = {entry["network"]: entry for entry in listed}
    assert {"10.60.0.0/24", "10.99.0.0/24"} <= networks.keys()
    for network in ("10.60.0.0/24", "10.99.0.0/24"):
        entry = networks[network]
        assert entry["bytes"] == entry["sent"] + entry["received"] == bytes_of(history, network)
        assert set(entry["serves"]) <= {"tcp/5432", "tcp/8080", "tcp/443"}
        assert set(entry["peers"]) <= {"shop/web", "shop/api", "shop/postgres", "batch/job", "unknown"}
        assert entry["addresses"] == [network.replace("0.0/24", "0.7" if "60" in network else "0.1")]
    listed = orjson.loads(
        command(suggest, *history.flags, *history.span, "-o", "json", "--cidr-map", str(history.cidrs))[1]
    )
    assert "10.60.0.0/24" not in {entry["network"] for entry in listed}


def test_the_list_as_a_table_and_as_csv(history: Lived, command: Command) -> None:
    _, out, _ = command(suggest, *history.flags, *history.span, "--top", "1")
    assert "serves tcp/" in out
    assert "(PostgreSQL)" in out
    assert "more, " in out
    _, out, _ = command(suggest, *history.flags, *history.span, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {"network", "bytes", "addresses", "serves", "node_zones"} <= rows[0].keys()
    assert int(rows[0]["bytes"]) >= int(rows[-1]["bytes"])


def test_the_list_as_toml_is_a_map_that_check_takes(history: Lived, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "begun.toml"
    file.write_text(command(suggest, *history.flags, *history.span, "-o", "toml")[1])
    entries = tomllib.loads(file.read_text())["cidr"]
    assert {"10.60.0.0/24", "10.99.0.0/24"} <= {entry["cidr"] for entry in entries}
    assert len(read_cidr_map(file.read_bytes(), str(file)).entries) == len(entries)
    status, out, _ = command(check, str(file), *history.flags, *history.span, "-o", "json")
    answer = orjson.loads(out)
    assert {entry["bytes"] > 0 for entry in answer["entries"]} == {True}
    assert status == 0


def test_nothing_there_is_said(history: Lived, command: Command) -> None:
    past = ["--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"]
    assert "no raw window in 2020-01-01" in command(check, str(history.cidrs), *history.flags, *past)[1]
    assert "no raw window in 2020-01-01" in command(suggest, *history.flags, *past)[1]


@pytest.mark.parametrize("flags", [["/no/such/file"], [__file__]])
def test_a_file_that_is_no_map_is_one_line_and_exit_2(history: Lived, command: Command, flags: list[str]) -> None:
    status, _, err = command(check, *flags, *history.flags)
    assert (status, len(err.splitlines())) == (2, 1)
    assert flags[0] in err


def test_networks_as_text() -> None:
    assert str(Prefix(32, 24, 0x0A2A01)) == "10.42.1.0/24"
    assert str(Prefix(128, 64, 0xFD42_0001_0000_0000)) == "fd42:1::/64"
