# SPDX-License-Identifier: Apache-2.0
"""Of hours whose flows expired a replay reads the rollups: the same bytes, and what it cannot tell is said."""

import csv
import io
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from history.read.archive.opened import ArchiveChanged, FlowArchive
from history.read.archive.sql import ArchiveQuery
from history.read.batch import COUNTED_SCHEMA, SCHEMA
from history.replay import command as replay
from history.upkeep.expire import expire, stored_hours
from sinks.flowlog.rows.columns import COLUMNS
from tests.history.conftest import Command, Ran
from tests.support.history.written import BEGIN_MS, HOUR, HOUR_MS, Written, compact, compact_all
from tests.support.sinks.flows import API, EXTERNAL, POSTGRES, flow, flow_id, node, pod

NEXT = "date=2026-11-22/hour=23"
RANGE = ["--from", "2026-11-22T22:00:00Z", "--to", "2026-11-23T00:00:00Z"]
IS_LESS = "what is shown of that is rollups: sums by hour and workload, without pods, addresses and windows of 10 s"
GONE = f"zonemeter replay: of this range, {HOUR} was deleted from the archive; "
# Filters that rollups answer, and no filter.
TOLD = [[], ["-n", "shop"], ["--workload", "postgres"], ["--zone", "b"], ["--port", "5432"], ["--scope", "external"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two hours: six windows each, with traffic inside, outside and of an overlay."""
    made = Written(tmp_path_factory.mktemp("made") / "archive")
    ends = [(API, POSTGRES), (POSTGRES, API), (pod("lone", "a"), EXTERNAL), (EXTERNAL, node("node-a1", "a"))]
    for sequence in range(1, 13):
        start = BEGIN_MS + (sequence > 6) * HOUR_MS + sequence * 10_000
        flows = [
            flow(
                id=flow_id(sequence, row),
                start_ms=start,
                end_ms=start + 10_000,
                source=source,
                destination=to,
                scope="external" if EXTERNAL in (source, to) else "cross_zone",
                bytes=1_000 * sequence + row,
            )
            for row, (source, to) in enumerate(ends)
        ]
        outer: dict[str, Any] = {"source": node("node-a1", "a"), "destination": node("node-b1", "b")}
        times = {"start_ms": start, "end_ms": start + 10_000}
        made.cut(1, [*flows, flow(id=flow_id(sequence, 7), **times, **outer, encapsulation="vxlan")])
    compact_all(made.root)
    return made


@pytest.fixture
def written(made: Written, tmp_path: Path) -> Written:
    """A copy."""
    copy = deepcopy(made)
    copy.move(Path(shutil.copytree(made.root, tmp_path / "archive")))
    return copy


def run(command: Command, written: Written, *flags: str) -> Ran:
    return command(replay.main, "--archive", str(written.root), *RANGE, *flags)


def forget(written: Written, hour: str = HOUR) -> None:
    """Let an hour expire."""
    archive = FlowArchive(str(written.root))
    expire(archive, next(each for each in stored_hours(archive) if each.name == hour))


def test_the_sums_are_those_of_the_flows(command: Command, written: Written) -> None:
    def sums() -> list[Ran]:
        return [run(command, written, *flags, "--sum", "-o", "json") for flags in TOLD]

    before = sums()
    assert all(status == 0 and orjson.loads(out)["bytes"] > 0 and err == "" for status, out, err in before)
    forget(written)
    assert sums() == [(0, out, f"{GONE}{IS_LESS}\n") for _, out, _ in before]
    forget(written, NEXT)
    both = f"zonemeter replay: of this range, 2 hours, {HOUR} to {NEXT}, were deleted from the archive; {IS_LESS}\n"
    assert sums() == [(0, out, both) for _, out, _ in before]


@pytest.mark.parametrize("has_expired", [False, True])
def test_an_archive_that_changes_is_read_again_unless_some_of_it_is_out(
    command: Command, written: Written, monkeypatch: pytest.MonkeyPatch, has_expired: bool
) -> None:
    """Rows of rollups come first: read again, they would count twice."""
    if has_expired:
        forget(written)
    before = run(command, written, "--sum", "-o", "json")
    tables, changes = ArchiveQuery.tables, [ArchiveChanged(str(written.root))]

    def changed(*arguments: Any) -> Any:
        if changes:
            raise changes.pop()
        yield from tables(*arguments)

    monkeypatch.setattr(ArchiveQuery, "tables", changed)
    status, out, err = run(command, written, "--sum", "-o", "json")
    if not has_expired:
        assert (status, out, err) == before
    else:
        assert (status, out) == (2, "")
        assert err.endswith("it was compacted while it was read; run the command again\n")


def test_json_csv_and_parquet_have_the_rows_that_there_are(command: Command, written: Written, tmp_path: Path) -> None:
    flows = [orjson.loads(line) for line in run(command, written, "-o", "jsonl")[1].splitlines()]
    forget(written)
    text = run(command, written, "-o", "jsonl")[1]
    rows = [orjson.loads(line) for line in text.splitlines()]
    sums = [row for row in rows if "flows" in row]
    assert [row for row in rows if "flows" not in row] == [
        row for row in flows if row["window_start"] > "2026-11-22T23"
    ]
    assert len(sums) == 5
    assert {row["flows"] for row in sums} == {6}
    assert {(row["window_start"], row["window_end"]) for row in sums} == {
        ("2026-11-22T22:00:00.000Z", "2026-11-22T23:00:00.000Z")
    }
    assert not any({"id", "observer_node", "raw_offset", "src_pod"} & row.keys() for row in sums)
    assert sum(row["bytes"] for row in rows) == sum(row["bytes"] for row in flows)
    listed = list(csv.DictReader(io.StringIO(run(command, written, "-o", "csv")[1])))
    assert tuple(listed[0]) == (*COLUMNS, "flows")
    assert sum(int(row["flows"]) for row in listed) == len(flows)
    assert sum(int(row["bytes"]) for row in listed) == sum(row["bytes"] for row in flows)
    file = tmp_path / "flows.parquet"
    err = run(command, written, "-o", "parquet", "--file", str(file))[2]
    assert f"30 flows and 5 rows of rollups to {file}" in err
    table = pq.read_table(file)
    assert table.schema == COUNTED_SCHEMA
    assert sum(table["flows"].to_pylist()) == len(flows)


def test_without_rollups_there_is_no_other_column(command: Command, written: Written, tmp_path: Path) -> None:
    file = tmp_path / "flows.parquet"
    run(command, written, "-o", "parquet", "--file", str(file))
    assert pq.read_table(file).schema == SCHEMA


def test_the_table_shows_them_and_counts_the_flows(command: Command, written: Written) -> None:
    forget(written)
    status, out, _ = run(command, written, "--top", "3")
    assert status == 0
    assert "60 flows" in out.splitlines()[1]
    assert out.splitlines()[-1].startswith("and 32 smaller ones")
    assert any(line.startswith("22:00:00") and "shop/postgres" in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--pod", "api-0"], "--pod"),
        (["--source", "10.42.1.17"], "a source or destination that may be a pod, a node or an address"),
    ],
)
def test_what_rollups_cannot_answer_is_refused_for_their_part(
    command: Command, written: Written, flags: list[str], what: str
) -> None:
    refused = f"{HOUR} was deleted from the archive; its rollups are kept, and do not tell {what}"
    later = [row for row in run(command, written, *flags, "-o", "jsonl")[1].splitlines() if "2026-11-22T23" in row]
    assert later
    forget(written)
    status, out, err = run(command, written, *flags, "-o", "jsonl")
    assert (status, sorted(out.splitlines())) == (0, sorted(later))
    assert err == f"zonemeter replay: of this range, {refused}\n"
    forget(written, NEXT)
    status, out, err = run(command, written, *flags, "-o", "jsonl")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert f"its rollups are kept, and do not tell {what}" in err


def test_a_filter_that_finds_nothing_says_what_could_not_be_asked(command: Command, written: Written) -> None:
    forget(written)
    status, out, err = run(command, written, "--pod", "apo-0")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert 'no flow of pod "apo-0" in this range; did you mean api-0?' in err
    assert "its rollups are kept, and do not tell --pod" in err


def test_a_part_of_an_hour_is_not_told(command: Command, written: Written) -> None:
    forget(written)
    part = ["--archive", str(written.root), "--from", "2026-11-22T22:00:20Z", "--to", "2026-11-23T00:00:00Z"]
    status, out, err = command(replay.main, *part, "-o", "jsonl")
    assert (status, len(out.splitlines())) == (0, 30)
    assert err == f"{GONE}its rollups are kept, and do not tell a part of an hour\n"


def test_flows_that_came_after_their_hour_expired_are_flows(command: Command, written: Written) -> None:
    before = run(command, written, "--sum", "-o", "json")[1]
    forget(written)
    for number in range(20, 23):
        late = BEGIN_MS + number * 10_000
        written.cut(1, [flow(id=flow_id(number), start_ms=late, end_ms=late + 10_000)])
    for _ in range(2):
        rows = [orjson.loads(line) for line in run(command, written, "-o", "jsonl")[1].splitlines()]
        assert sum("id" in row for row in rows) == 30 + 3
        found = orjson.loads(run(command, written, "--sum", "-o", "json")[1])
        assert found["bytes"] == orjson.loads(before)["bytes"] + 3_000
        assert found["flows"] == orjson.loads(before)["flows"] + 3
        compact(written.root)


def test_a_damaged_rollup_is_one_line(command: Command, written: Written) -> None:
    forget(written)
    (rollup,) = written.root.glob(f"rollups/{HOUR}/*")
    rollup.write_bytes(rollup.read_bytes()[:100])
    status, out, err = run(command, written, "-o", "jsonl")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert rollup.name in err
