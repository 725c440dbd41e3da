# SPDX-License-Identifier: Apache-2.0
"""The metrics sink as a process, with a real Kafka: exact through kill -9 at every step, and through rubbish."""

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from common.service.running import Service
from schemas.amount import Amount
from sinks.metrics import main
from sinks.metrics.settings import MetricsSettings
from tests.support.builders import total
from tests.support.services import Samples, eventually
from tests.support.sinks.flows import encoded, flow, pod, window
from tests.support.sinks.processes import SinkProcess, running
from tests.support.sinks.topics import Topics

ZONE = ("zonemeter_zone_bytes_total", ("lab", "a", "b", "cross_zone"))
PACKETS = ("zonemeter_zone_packets_total", ("lab", "a", "b", "cross_zone"))
POINTS = [
    "before-letters",
    "after-letters",
    "before-checkpoint",
    "within-checkpoint",
    "after-checkpoint",
    "before-ledger",
    "after-ledger",
    "before-group-commit",
    "after-group-commit",
]


def flags(topics: Topics, state: Path, *more: str) -> list[str]:
    return [*topics.flags, "--state-dir", str(state), "--checkpoint-seconds", "0.1", *more]


def zone_bytes(sink: SinkProcess, expected: int) -> Samples | None:
    samples = sink.samples()
    assert samples.get(ZONE, 0) <= expected, "counted twice"
    return samples if samples.get(ZONE) == expected else None


def readiness(sink: SinkProcess, says: str) -> str | None:
    status, reasons = sink.get("/readyz")
    return reasons if status == 503 and says in reasons else None


def windows(sequences: range, rows: int = 20) -> dict[int, list[bytes]]:
    """Flows of three nodes, one to a partition."""
    return {
        partition: [encoded(each) for seq in sequences for each in window(seq, rows, f"node-{partition}")]
        for partition in range(3)
    }


def bytes_of(sequences: range, rows: int = 20) -> int:
    return 3 * len(sequences) * sum(100 + row for row in range(rows))


def check_ledger(topics: Topics, expected_bytes: int, expected_parts: int) -> None:
    entries = topics.ledger("metrics").values()
    assert all(entry.balance() is None for entry in entries)
    parts: Counter[str] = Counter()
    for entry in entries:
        assert total(entry.parts) == entry.given
        parts.update({chunk: amount.bytes for chunk, amount in entry.parts.items()})
    assert sum(parts.values()) == expected_bytes
    assert len(parts) == expected_parts


def test_counts_serves_and_says_so_in_the_ledger(topics: Topics, tmp_path: Path) -> None:
    topics.produce(windows(range(5)))
    with running("metrics", flags(topics, tmp_path / "state"), tmp_path / "log") as sink:
        samples = eventually(lambda: zone_bytes(sink, bytes_of(range(5))))
        assert samples[PACKETS] == 3 * 5 * 20
        assert samples["pod_cross_zone_network_traffic_bytes_total", ("shop", "api-0")] == bytes_of(range(5))
        assert samples["zonemeter_flows_taken_total", ()] == 300
        assert sink.ready()
        body = sink.get("/metrics")[1]
        assert sink.terminate() == 0
    check_ledger(topics, bytes_of(range(5)), 15)
    promtool = subprocess.run(["promtool", "check", "metrics"], input=body.encode(), capture_output=True)
    assert (promtool.returncode, promtool.stdout, promtool.stderr) == (0, b"", b"")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_it_loses_and_doubles_nothing(topics: Topics, tmp_path: Path, point: str) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    for first in (0, 10):
        topics.produce(windows(range(first, first + 3)))
        topics.produce({0: [b"rubbish"]})
        with running("metrics", flags(topics, state), log, f"{point}:1") as sink:
            assert sink.wait() == -9
    # The enricher, too, may have died and put out its last window again.
    topics.produce(windows(range(12, 13)))
    with running("metrics", flags(topics, state), log) as sink:
        repeated = ("zonemeter_flows_repeated_total", ())
        eventually(lambda: (zone_bytes(sink, bytes_of(range(6))) and sink.samples()[repeated] >= 60) or None)
        assert zone_bytes(sink, bytes_of(range(6)))
        assert sink.terminate() == 0
    check_ledger(topics, bytes_of(range(6)), 18)
    assert {(letter.partition, letter.offset) for letter in topics.dead_letters()} == {(0, 60), (0, 121)}


def test_after_a_restart_counters_are_there_before_kafka_is(topics: Topics, tmp_path: Path) -> None:
    topics.produce(windows(range(2)))
    with running("metrics", flags(topics, tmp_path / "state"), tmp_path / "log") as sink:
        eventually(lambda: zone_bytes(sink, bytes_of(range(2))))
    away = ["--kafka-bootstrap", "127.0.0.1:1", "--kafka-deadline-seconds", "1"]
    with running("metrics", flags(topics, tmp_path / "state", *away), tmp_path / "log") as sink:
        eventually(lambda: zone_bytes(sink, bytes_of(range(2))))
        reasons = eventually(lambda: readiness(sink, "Kafka at 127.0.0.1:1"))
        assert {line.partition(":")[0] for line in reasons.splitlines()} == {"kafka", "topics"}
        assert sink.terminate() == 0


def test_what_was_counted_before_is_served_only_with_everything_else(tmp_path: Path) -> None:
    names: list[str] = []

    class Watched(Service):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "render" and value:
                names.extend(family.name for family in self.registry.collect())

    async def serve() -> None:
        service = Watched("metrics")
        service.stopping.set()
        await main.serve(service, MetricsSettings(kafka_bootstrap="127.0.0.1:1", state_dir=tmp_path))
        assert names == [family.name for family in service.registry.collect()]

    asyncio.run(serve())
    assert "zonemeter_flows_repeated" in names


def test_replicas_share_the_partitions_and_one_may_leave(topics: Topics, tmp_path: Path) -> None:
    topics.produce(windows(range(3)))
    third = bytes_of(range(3)) // 3
    with (
        running("metrics", flags(topics, tmp_path / "0", "--replicas", "2"), tmp_path / "log0") as even,
        running(
            "metrics", flags(topics, tmp_path / "1", "--replicas", "2", "--replica-ordinal", "1"), tmp_path / "log1"
        ) as odd,
    ):
        eventually(lambda: zone_bytes(even, 2 * third))
        eventually(lambda: zone_bytes(odd, third))
        assert (even.terminate(), odd.terminate()) == (0, 0)
    topics.produce(windows(range(3, 4)))
    # What the other one counted is not counted again: its positions are committed to the group.
    with running("metrics", flags(topics, tmp_path / "0"), tmp_path / "log0") as alone:
        eventually(lambda: zone_bytes(alone, 2 * third + third))
        assert alone.terminate() == 0
    check_ledger(topics, bytes_of(range(4)), 12)


def test_rubbish_goes_to_the_dead_letters_and_the_rest_goes_on(topics: Topics, tmp_path: Path) -> None:
    huge = b'"' + b"x" * 900_000 + b'"'
    rubbish: list[bytes | None] = [None, b"", b"\x00\xff", b"[]", b'{"id":1}', huge]
    topics.produce({1: [encoded(flow(bytes=100)), *rubbish, *(encoded(each) for each in window(2, 3))]})
    with running("metrics", flags(topics, tmp_path / "state"), tmp_path / "log") as sink:
        samples = eventually(lambda: zone_bytes(sink, 100 + 303))
        assert samples["zonemeter_records_refused_total", ("too_large",)] == 1
        assert sink.terminate() == 0
    letters = topics.dead_letters()
    assert [(letter.partition, letter.offset, letter.reason) for letter in letters] == [
        (1, 1, "not_json"),
        (1, 2, "not_json"),
        (1, 3, "not_json"),
        (1, 4, "schema_mismatch"),
        (1, 5, "schema_mismatch"),
        (1, 6, "too_large"),
    ]
    assert letters[5].value_size == len(huge)
    assert {letter.refused_by for letter in letters} == {"metrics"}
    [entry] = topics.ledger("metrics").values()
    assert entry.lost == {"not_json": Amount(0, 0, 3), "schema_mismatch": Amount(0, 0, 2), "too_large": Amount(0, 0, 1)}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--replicas", "2", "--replica-ordinal", "2"], "expected less than replicas", id="ordinal"),
        pytest.param(["--replicas", "4"], "at most one per partition", id="more-replicas-than-partitions"),
        pytest.param(["--max-series", "-1"], "max_series (--max-series", id="negative"),
        pytest.param(["--state-dir", "/proc/none"], "state_dir = '/proc/none'", id="state-not-writable"),
    ],
)
def test_bad_settings_end_it_with_one_line(topics: Topics, tmp_path: Path, more: list[str], says: str) -> None:
    with running("metrics", flags(topics, tmp_path / "state", *more), tmp_path / "log") as sink:
        assert sink.wait() == 2
    [line] = (tmp_path / "log").read_text().splitlines()
    assert says in line


def test_a_taken_port_ends_it_with_one_line(topics: Topics, tmp_path: Path) -> None:
    with running("metrics", flags(topics, tmp_path / "a"), tmp_path / "log-a") as first:
        eventually(lambda: first.ready() or None)
        with running("metrics", flags(topics, tmp_path / "b", "--listen", first.listen), tmp_path / "log-b") as second:
            assert second.wait() == 2
    [line] = (tmp_path / "log-b").read_text().splitlines()
    assert "address already in use; choose another" in line


def test_pods_are_many_series_are_few(topics: Topics, tmp_path: Path) -> None:
    flows = [encoded(each) for app in range(50) for each in window(app, 1, source=pod(f"app-{app}", "a"))]
    topics.produce({0: flows})
    with running("metrics", flags(topics, tmp_path / "state", "--max-series", "10"), tmp_path / "log") as sink:
        samples = eventually(lambda: zone_bytes(sink, 5_000))
    pairs = {labels: value for (name, labels), value in samples.items() if name == "zonemeter_workload_bytes_total"}
    assert (len(pairs), sum(pairs.values())) == (11, 5_000)
