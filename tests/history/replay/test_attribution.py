# SPDX-License-Identifier: Apache-2.0
"""Corrected flows beside the recorded ones: told apart wherever they go, and of one flow never both counted."""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest

from history.model.time_range import rfc3339
from history.replay import command as replay
from history.report import command as report
from schemas.topology import encode_topology_file
from sinks.flowlog.rows.columns import COLUMNS
from tests.docs.printed.commands import ROOT
from tests.history.conftest import Command, Ran
from tests.support.enricher import build
from tests.support.history.lived import Lived, states
from tests.support.history.written import HOUR_MS
from tests.support.services import eventually
from tests.support.sinks.processes import running
from tests.support.sinks.topics import Topics

Rows = dict[str, dict[str, Any]]
SECTION = (ROOT / "docs/replay.md").read_text().partition("### Corrected flows beside the recorded ones")[2]


@pytest.fixture
def run(command: Command, history: Lived) -> Callable[..., Ran]:
    """Run `zonemeter replay` over the whole history."""
    return lambda *argv: command(replay.main, *history.flags, *history.span, *argv)


@pytest.fixture
def rejoin(history: Lived, tmp_path: Path) -> list[str]:
    """The flags of a join that names what was unmapped, and knows a node of an address that sent from outside."""
    cidrs, topology = tmp_path / "cidrs.toml", tmp_path / "topology.json"
    cidrs.write_text('[[cidr]]\ncidr = "10.60.0.0/24"\nname = "orders"\nzone = "eu-west-1c"\nregion = "eu-west-1"\n')
    found = build.node("node-new", "10.99.0.1", "eu-west-1c", from_ms=history.begin_ms - 86_400_000)
    topology.write_bytes(encode_topology_file([*states(history.begin_ms), found]))
    return ["--from-raw", "--cidr-map", str(cidrs), "--topology", str(topology)]


def lines(text: str) -> Rows:
    return {row["id"]: row for row in map(orjson.loads, text.splitlines())}


def of_archive(run: Callable[..., Ran], archive: Path) -> Rows:
    status, out, err = run("--archive", str(archive), "-o", "jsonl")
    assert (status, err) == (0, "")
    assert len(lines(out)) == len(out.splitlines()), "a flow came twice"
    return lines(out)


def bytes_by_scope(rows: Rows) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for row in rows.values():
        sums[row["scope"]] += row["bytes"] if "encapsulation" not in row else 0
    return {scope: size for scope, size in sums.items() if size}


def test_every_form_tells_a_corrected_flow_by_its_version(
    run: Callable[..., Ran], rejoin: list[str], tmp_path: Path
) -> None:
    version = ["--attribution-version", "12"]
    plain = lines(run(*rejoin, "-o", "jsonl")[1])
    assert not any("attribution_version" in row for row in plain.values())
    assert lines(run(*rejoin, *version, "-o", "jsonl")[1]) == {
        id_: row | {"attribution_version": 12} for id_, row in plain.items()
    }
    written = list(csv.DictReader(io.StringIO(run(*rejoin, *version, "-o", "csv")[1])))
    assert tuple(written[0]) == COLUMNS
    assert {row["id"]: row["attribution_version"] for row in written} == dict.fromkeys(plain, "12")
    assert run(*rejoin, *version, "-o", "parquet", "--file", str(tmp_path / "flows.parquet"))[0] == 0
    column = pq.read_table(tmp_path / "flows.parquet")["attribution_version"]
    assert column.to_pylist() == [12] * len(plain)


def test_of_a_topic_with_both_each_flow_log_takes_its_own_and_names_the_others(
    history: Lived, command: Command, run: Callable[..., Ran], rejoin: list[str], tmp_path: Path
) -> None:
    mixed = Topics.make(history.topics.settings.kafka_bootstrap)
    topic = mixed.settings.topics.enriched
    for more in ([*rejoin, "--attribution-version", "1"], []):
        status, out, err = run(*more, "--to-topic", topic)
        assert (status, out) == (0, ""), err
    corrected = lines(run(*rejoin, "-o", "jsonl")[1])
    archives = {version: tmp_path / f"flows-{version}" for version in (0, 1)}
    expected = {0: len(history.flows), 1: len(corrected)}
    common = [*mixed.flags, "--cut-seconds", "0.5"]
    own = [[*common, "--output", str(archives[version]), "--attribution-version", str(version)] for version in (0, 1)]
    with (
        running("flowlog", own[0], tmp_path / "0.log") as first,
        running("flowlog", own[1], tmp_path / "1.log") as other,
    ):

        def is_done() -> bool:
            entries = mixed.ledger("flowlog").values()
            return sum(entry.given.rows for entry in entries) == sum(expected.values()) and (
                len(mixed.dead_letters()) == sum(expected.values())
            )

        eventually(is_done)
        first.terminate()
        other.terminate()
    assert {letter.reason for letter in mixed.dead_letters()} == {"unsupported_version"}
    recorded = of_archive(run, archives[0])
    assert recorded == of_archive(run, history.archive)
    found = of_archive(run, archives[1])
    assert found == {id_: row | {"attribution_version": 1} for id_, row in corrected.items()}
    assert bytes_by_scope(found) != bytes_by_scope(recorded)

    asked = [*mixed.flags, *history.span, "--no-rollups", "-o", "json"]
    for version, rows in ((0, recorded), (1, found)):
        _, out, _ = command(report.main, *asked, "--archive", str(archives[version]))
        told = orjson.loads(out)
        assert {scope: part["bytes"] for scope, part in told["scopes"].items() if part["bytes"]} == bytes_by_scope(rows)
        assert (", attribution_version 1, to " in told["sources"][0]) == bool(version)
    # Of the topic itself, what was recorded.
    _, out, _ = command(report.main, *asked)
    told = orjson.loads(out)
    assert {scope: part["bytes"] for scope, part in told["scopes"].items() if part["bytes"]} == bytes_by_scope(recorded)


def test_the_documented_statement_takes_the_latest_of_each_flow(
    history: Lived, run: Callable[..., Ran], command: Command, rejoin: list[str], tmp_path: Path
) -> None:
    hour_ms = (history.begin_ms // HOUR_MS + 1) * HOUR_MS
    hour = f"{datetime.fromtimestamp(hour_ms / 1000, UTC):date=%Y-%m-%d/hour=%H}"
    corrected = tmp_path / "corrected.parquet"
    documented = re.findall(r"^```\n(zonemeter replay .*?)^```", SECTION, re.MULTILINE | re.DOTALL)[0]
    _, _, *argv = shlex.split(documented.replace("\\\n", " "))
    names = {
        "2026-11-22T21:00:00Z": rfc3339(hour_ms),
        "2026-11-22T22:00:00Z": rfc3339(hour_ms + HOUR_MS),
        "./cidrs.toml": rejoin[2],
        "corrected.parquet": str(corrected),
    }
    assert names.keys() <= set(argv)
    argv = [names.get(each, each) for each in argv]
    assert command(replay.main, *history.flags, *argv, *rejoin[3:])[0] == 0

    statement = re.findall(r"^```sql\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)[0]
    for there, here in (
        ("/var/lib/zonemeter/flowlog", str(history.archive)),
        ("date=2026-11-22/hour=21", hour),
        ("corrected.parquet", str(corrected)),
    ):
        assert there in statement
        statement = statement.replace(there, here)
    with duckdb.connect() as database:
        database.execute(statement)
        columns = "id, bytes, scope, dst_name, attribution_version"
        found = {id_: tuple(rest) for id_, *rest in database.execute(f"SELECT {columns} FROM latest").fetchall()}
        (rows,) = database.execute("SELECT count(*) FROM latest").fetchall()
    again = {
        id_: (row["bytes"], row["scope"], row.get("dst_name"), 1)
        for id_, row in lines(run(*rejoin, "-o", "jsonl")[1]).items()
    }
    recorded = {
        id_: (row["bytes"], row["scope"], row.get("dst_name"), None)
        for id_, row in of_archive(run, history.archive).items()
        if history.flows[id_]["start_ms"] >= hour_ms
    }
    stayed = recorded.keys() - again.keys()
    assert 0 < len(stayed) < len(recorded)
    assert found == {id_: again.get(id_, row) for id_, row in recorded.items()}
    assert rows == (len(recorded),)
    assert sum(size for size, *_ in found.values()) == sum(size for size, *_ in recorded.values())
    assert any(found[id_][1] != row[1] for id_, row in recorded.items())
