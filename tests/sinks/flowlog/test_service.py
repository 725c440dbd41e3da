# SPDX-License-Identifier: Apache-2.0
"""The flow log as a process, with a real Kafka: no row twice and none missing, whatever dies and when."""

import os
import signal
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import duckdb
import orjson
import pytest

from tests.support.builders import total
from tests.support.services import eventually
from tests.support.sinks.disk import small_disk
from tests.support.sinks.flows import encoded, flow_id, window
from tests.support.sinks.processes import running
from tests.support.sinks.topics import Topics

POINTS = [
    "before-letters:1",
    "after-letters:1",
    "before-intent:1",
    "after-intent:1",
    "within-file:3",  # the first two are the probe of the directory and the intent
    "after-file:3",
    "after-file:4",
    "before-manifest:1",
    "before-manifest:2",
    "after-manifest:1",
    "after-manifest:2",
    "before-ledger:1",
    "after-ledger:1",
    "before-group-commit:1",
    "after-group-commit:1",
]
ROWS = 20


def flags(topics: Topics, output: Path | str, *more: str) -> list[str]:
    # A killed member keeps its partitions until its session ends; a named one takes them back at once.
    named = ["--group-instance-id", "one", "--session-timeout-seconds", "6"]
    return [*topics.flags, "--output", str(output), "--cut-seconds", "0.3", *named, *more]


def windows(sequences: Iterable[int]) -> dict[int, list[bytes]]:
    """Flows of three nodes, one to a partition; sequence 80 and later is another hour."""
    return {
        partition: [encoded(each) for seq in sequences for each in window(seq, ROWS, f"node-{partition}")]
        for partition in range(3)
    }


def all_ids(sequences: Iterable[int]) -> Counter[str]:
    return Counter(flow_id(seq, row, f"node-{p}") for seq in sequences for p in range(3) for row in range(ROWS))


def stored(output: Path, suffix: str = "parquet") -> Counter[str]:
    """The ids of all rows, read by DuckDB as any user would: by a glob over the directories."""
    function = "read_parquet" if suffix == "parquet" else "read_json"
    with duckdb.connect() as database:
        query = f"SELECT id FROM {function}('{output}/flows/date=*/hour=*/*.{suffix}')"
        try:
            return Counter(row[0] for row in database.execute(query).fetchall())
        except duckdb.IOException:
            # None is there yet, or one was deleted between being listed and being read.
            return Counter()


def holds(output: Path, expected: Counter[str], suffix: str = "parquet") -> bool | None:
    found = stored(output, suffix)
    assert not found - expected, "rows that should not be there, or twice"
    return found == expected or None


def check_ledger(topics: Topics, expected: Counter[str]) -> None:
    parts: Counter[str] = Counter()
    for entry in topics.ledger("flowlog").values():
        assert entry.balance() is None
        assert total(entry.parts) == entry.given
        parts.update({chunk: amount.rows for chunk, amount in entry.parts.items()})
    assert parts == Counter(each.rpartition("/")[0] for each in expected.elements())


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_writes_rows_into_hive_directories(topics: Topics, tmp_path: Path, suffix: str) -> None:
    topics.produce(windows([1, 2, 100]))
    output = tmp_path / "out"
    with running("flowlog", flags(topics, output, "--format", suffix), tmp_path / "log") as sink:
        eventually(lambda: holds(output, all_ids([1, 2, 100]), suffix))
        assert sink.ready()
        assert sink.samples()["zonemeter_flows_taken_total", ()] == 9 * ROWS
        assert sink.terminate() == 0
    check_ledger(topics, all_ids([1, 2, 100]))
    function = "read_parquet" if suffix == "parquet" else "read_json"
    with duckdb.connect() as database:
        hours = database.execute(
            f"SELECT date::VARCHAR, hour::INT, count(*), sum(bytes)::BIGINT, max(src_workload) "
            f"FROM {function}('{output}/**/*.{suffix}', hive_partitioning = true) "
            "WHERE dst_zone = 'b' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    size = 3 * sum(range(100, 100 + ROWS))
    assert hours == [("2026-11-22", 21, 6 * ROWS, 2 * size, "api"), ("2026-11-22", 22, 3 * ROWS, size, "api")]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_it_loses_and_doubles_nothing(topics: Topics, tmp_path: Path, point: str) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    for first in (0, 10):
        topics.produce(windows(range(first, first + 3)))
        topics.produce({0: [b"rubbish"]})
        with running("flowlog", flags(topics, output), log, point) as sink:
            assert sink.wait() == -signal.SIGKILL
    topics.produce(windows([12, 13]))
    expected = all_ids([0, 1, 2, 10, 11, 12, 13])
    with running("flowlog", flags(topics, output), log) as sink:
        eventually(lambda: holds(output, expected))
        assert sink.terminate() == 0
    assert holds(output, expected)
    check_ledger(topics, expected)
    assert {(letter.partition, letter.offset) for letter in topics.dead_letters()} == {(0, 60), (0, 121)}
    leftovers = [path.name for path in output.rglob("*") if path.name.endswith((".tmp", ".intent"))]
    assert leftovers == []
    others = [path for path in output.rglob("*") if path.stat().st_mode & stat.S_IRWXO]
    assert others == [], "nobody else may read who talks to whom"


def test_what_is_held_back_is_written_when_it_is_told_to_stop(topics: Topics, tmp_path: Path) -> None:
    topics.produce(windows([1]))
    with running("flowlog", flags(topics, tmp_path / "out", "--cut-seconds", "600"), tmp_path / "log") as sink:
        eventually(lambda: sink.samples().get(("zonemeter_flows_taken_total", ())) == 3 * ROWS or None)
        assert stored(tmp_path / "out") == Counter()
        assert sink.terminate() == 0
    assert stored(tmp_path / "out") == all_ids([1])
    check_ledger(topics, all_ids([1]))


def test_many_rows_are_cut_before_their_time(topics: Topics, tmp_path: Path) -> None:
    more = ["--cut-seconds", "600", "--cut-rows", str(3 * ROWS)]
    with running("flowlog", flags(topics, tmp_path / "out", *more), tmp_path / "log"):
        topics.produce({0: windows(range(3))[0]})
        eventually(lambda: len(stored(tmp_path / "out")) == 3 * ROWS or None)


def test_replicas_share_and_take_over_without_doubling(topics: Topics, tmp_path: Path) -> None:
    output = tmp_path / "out"
    expected = all_ids(range(4))
    plain = [*topics.flags, "--output", str(output), "--cut-seconds", "0.3", "--session-timeout-seconds", "6"]
    with running("flowlog", plain, tmp_path / "log1") as first:
        topics.produce(windows([0]))
        eventually(lambda: holds(output, all_ids([0])))
        with running("flowlog", plain, tmp_path / "log2") as second:
            eventually(lambda: second.ready() or None)
            topics.produce(windows([1]))
            eventually(lambda: holds(output, all_ids([0, 1])))
            # Frozen past its session, the first one loses its partitions, and wakes up with old rows in its hands.
            topics.produce(windows([2]))
            os.kill(first.process.pid, signal.SIGSTOP)
            eventually(lambda: holds(output, all_ids([0, 1, 2])))
            topics.produce(windows([3]))
            eventually(lambda: holds(output, expected))
            os.kill(first.process.pid, signal.SIGCONT)
            assert second.terminate() == 0
        topics.produce(windows([4]))
        eventually(lambda: holds(output, all_ids(range(5))))
        assert first.terminate() == 0
    assert holds(output, all_ids(range(5)))
    check_ledger(topics, all_ids(range(5)))


def test_a_full_disk_is_waited_for(topics: Topics, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        output, filler = disk / "out", disk / "filler"
        with running("flowlog", flags(topics, output, "--format", "jsonl"), tmp_path / "log") as sink:
            topics.produce(windows([0]))
            eventually(lambda: holds(output, all_ids([0]), "jsonl"))
            filler.write_bytes(b"x" * _free(disk))
            topics.produce(windows([1, 2]))
            eventually(lambda: "No space left on device; retrying" in sink.get("/readyz")[1] or None)
            filler.unlink()
            eventually(lambda: holds(output, all_ids([0, 1, 2]), "jsonl"))
            eventually(lambda: sink.ready() or None)
            assert sink.terminate() == 0
        check_ledger(topics, all_ids([0, 1, 2]))


def _free(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_bavail * state.f_bsize


def printed(path: Path) -> Counter[str]:
    """The ids of the whole lines in a file."""
    return Counter(orjson.loads(line)["id"] for line in path.read_bytes().splitlines(True) if line.endswith(b"\n"))


def test_lines_on_stdout(topics: Topics, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    stdout = flags(topics, "-", "--format", "jsonl")
    topics.produce(windows([1]))
    with running("flowlog", stdout, tmp_path / "log", stdout=lines) as sink:
        eventually(lambda: printed(lines) == all_ids([1]) or None)
        assert sink.terminate() == 0
    check_ledger(topics, all_ids([1]))
    topics.produce(windows([2]))
    with running("flowlog", stdout, tmp_path / "log", stdout=lines) as sink:
        eventually(lambda: printed(lines) == all_ids([1, 2]) or None)
        assert sink.terminate() == 0
    check_ledger(topics, all_ids([1, 2]))


def test_it_ends_when_nobody_reads_stdout(topics: Topics, tmp_path: Path) -> None:
    topics.produce(windows([1]))
    reader, writer = os.pipe()
    try:
        with running("flowlog", flags(topics, "-", "--format", "jsonl"), tmp_path / "log", stdout=writer) as sink:
            os.close(reader)
            assert sink.wait() == 0
    finally:
        os.close(writer)
    assert "nobody reads stdout" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--output", "-", "--format", "parquet"], "stdout takes only --format jsonl", id="stdout-parquet"),
        pytest.param(["--output", "/proc/none"], "expected a directory to write to", id="not-writable"),
        pytest.param(["--output", "gopher://x"], "expected a directory or a URI", id="scheme"),
        pytest.param(["--format", "csv"], "format (--format", id="format"),
        pytest.param(["--cut-rows", "0"], "cut_rows (--cut-rows", id="cut-rows"),
    ],
)
def test_bad_settings_end_it_with_one_line(topics: Topics, tmp_path: Path, more: list[str], says: str) -> None:
    with running("flowlog", flags(topics, tmp_path / "out", *more), tmp_path / "log") as sink:
        assert sink.wait() == 2
    [line] = (tmp_path / "log").read_text().splitlines()
    assert says in line
