# SPDX-License-Identifier: Apache-2.0
"""What docs/queries.md and docs/archive.md ask an archive is answered, by DuckDB, polars and pyarrow, and is right."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest

from tests.docs.printed.commands import ROOT
from tests.support.history.lived import Lived
from tests.support.history.written import compact_all

DOCUMENTED = "/var/lib/zonemeter/flowlog"
QUERIES = (ROOT / "docs/queries.md").read_text()
ARCHIVE = (ROOT / "docs/archive.md").read_text()


def blocks(page: str, language: str, archive: Path) -> list[str]:
    """Return a page's blocks of code, about this archive."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [block.replace(DOCUMENTED, str(archive)) for block in found]


def questions() -> dict[str, str]:
    """Return the queries by the question that they answer."""
    return dict(re.findall(r"^## (.*?)\n.*?^```sql\n(.*?)^```", QUERIES, re.MULTILINE | re.DOTALL))


@pytest.fixture
def flows(history: Lived) -> duckdb.DuckDBPyConnection:
    """A connection that has the documented view."""
    connection = duckdb.connect()
    connection.execute(blocks(QUERIES, "sql", history.archive)[0])
    return connection


def expected(history: Lived, what: str) -> Counter[Any]:
    """Return bytes by a field of the flows, as they stand in the topic; outer packets left out."""
    sums: Counter[Any] = Counter()
    for flow in history.flows.values():
        if "encapsulation" not in flow:
            sums[flow[what]] += flow["bytes"]
    return sums


@pytest.mark.parametrize("question", questions())
def test_a_question_has_an_answer(flows: duckdb.DuckDBPyConnection, question: str) -> None:
    assert flows.execute(questions()[question]).fetchall()


def test_scopes_add_up_to_what_the_topic_has(history: Lived, flows: duckdb.DuckDBPyConnection) -> None:
    answer = flows.execute(questions()["How much of the traffic crosses zones?"]).fetchall()
    assert {scope: round(gb * 1e9) for scope, gb, _ in answer} == pytest.approx(expected(history, "scope"))


def test_pairs_namespaces_and_zones_add_up_to_what_crosses_zones(
    history: Lived, flows: duckdb.DuckDBPyConnection
) -> None:
    crossing = expected(history, "scope")["cross_zone"]
    for question, times in (
        ("Which workloads send it to which?", 1),
        ("What does it cost each namespace?", 2),
        ("When?", 1),
    ):
        without_limit = questions()[question].replace("LIMIT 20", "")
        [[total]] = flows.execute(f"SELECT sum(gb) FROM ({without_limit.rstrip().rstrip(';')})").fetchall()
        assert total * 1e9 == pytest.approx(times * crossing), question


def test_an_address_is_whose_it_was(flows: duckdb.DuckDBPyConnection) -> None:
    answer = flows.execute(questions()["Who had this address, and when?"]).fetchall()
    assert [(namespace, pod) for namespace, pod, *_ in answer] == [("shop", "web-2"), ("batch", "job-2")]
    assert answer[0][4] <= answer[1][3]


def test_what_a_service_keeps_in_a_zone_adds_up(history: Lived, flows: duckdb.DuckDBPyConnection) -> None:
    query = questions()["How much of what a Service exchanges stays in the zone?"].replace("LIMIT 20", "")
    answer = flows.execute(query).fetchall()
    served = [
        flow
        for flow in history.flows.values()
        if "encapsulation" not in flow
        and flow["scope"] in ("same_node", "same_zone", "cross_zone")
        and any("service" in flow[end].get("k8s", {}) for end in ("source", "destination"))
    ]
    local = sum(flow["bytes"] for flow in served if flow["scope"] != "cross_zone")
    assert sum(gb for _, _, gb, _ in answer) * 1e9 == pytest.approx(sum(flow["bytes"] for flow in served))
    assert sum(gb * (percent or 0) / 100 for *_, gb, percent in answer) * 1e9 == pytest.approx(local, rel=0.01)
    assert all(service for service, *_ in answer)


def test_what_is_new_was_not_there_before(flows: duckdb.DuckDBPyConnection) -> None:
    query = questions()["What is new since yesterday?"]
    assert flows.execute(query.replace("INTERVAL 1 DAY", "INTERVAL 20 SECOND")).fetchall() != []
    pairs = "SELECT DISTINCT source, destination FROM flows WHERE scope = 'cross_zone'"
    # The history is less than a day.
    assert len(flows.execute(query.replace("LIMIT 20", "")).fetchall()) == len(flows.execute(pairs).fetchall())


def test_polars_and_pandas_say_the_same(history: Lived) -> None:
    crossing: Counter[Any] = Counter()
    for flow in history.flows.values():
        if flow["scope"] == "cross_zone" and "encapsulation" not in flow:
            names = flow["source"].get("k8s", {})
            crossing[names.get("namespace", {}).get("name"), names.get("workload", {}).get("name")] += flow["bytes"]
    for block in blocks(QUERIES, "python", history.archive):
        *before, last = block.strip().splitlines()
        names = {}
        exec("\n".join(before), names)
        answer = eval(last, names)
        rows = answer.to_dicts() if hasattr(answer, "to_dicts") else answer.to_dict("records")
        # What is missing is NaN in pandas.
        ends = (
            [None if row[name] != row[name] else row[name] for name in ("src_namespace", "src_workload")]
            for row in rows
        )
        assert {tuple(end): row["bytes"] for end, row in zip(ends, rows, strict=True)} == crossing


def test_other_readers_take_the_directory_as_it_is(history: Lived) -> None:
    crossing: Counter[Any] = Counter()
    for flow in history.flows.values():
        if flow["scope"] == "cross_zone":
            crossing[flow["source"].get("k8s", {}).get("namespace", {}).get("name")] += flow["bytes"]
    [polars, pyarrow] = blocks(ARCHIVE, "python", history.archive)
    for block in (polars, pyarrow):
        *before, last = block.strip().splitlines()
        names: dict[str, Any] = {}
        exec("\n".join(before), names)
        answer = eval(last, names)
        rows = answer.to_dicts() if block is polars else answer.to_pylist()
        found = {row["src_namespace"]: row.get("bytes", row.get("bytes_sum")) for row in rows}
        assert found == crossing


def test_pandas_way_takes_the_directory(history: Lived) -> None:
    assert "`pyarrow.parquet.read_table`" in ARCHIVE
    table = pyarrow.parquet.read_table(history.archive / "flows")
    assert sorted(table["id"].to_pylist()) == sorted(history.flows)


def test_the_documented_list_of_files_of_a_compacted_archive_is_the_files(history: Lived, tmp_path: Path) -> None:
    archive = Path(shutil.copytree(history.archive, tmp_path / "flows"))
    assert compact_all(archive)
    # What a compaction has replaced and not deleted yet does not count.
    left = next(iter(history.archive.glob("flows/*/*/*.parquet"))).relative_to(history.archive)
    counting = {str(path.relative_to(archive)) for path in archive.glob("flows/*/*/*.parquet")}
    shutil.copy(history.archive / left, archive / left)
    [query] = blocks(ARCHIVE, "sql", archive)
    assert {path for (path,) in duckdb.connect().execute(query).fetchall()} == counting


def test_the_documented_list_of_files_is_the_files(history: Lived) -> None:
    [query] = re.findall(r"`(SELECT unnest.*?)`", ARCHIVE, re.DOTALL)
    found = duckdb.connect().execute(query.replace("_manifests", f"{history.archive}/_manifests")).fetchall()
    there = {str(path.relative_to(history.archive)) for path in history.archive.glob("flows/*/*/*.parquet")}
    assert {path for (path,) in found} == there
