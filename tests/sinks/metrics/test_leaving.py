# SPDX-License-Identifier: Apache-2.0
"""Series come and go, names change hands, the sink starts again: the sums stay exact, and nothing ever falls.

The judge is a Prometheus that knows only what is served: it reads the text as often as it must, and adds up.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from prices.file import load_prices
from sinks.intake import Intake, Lane, Row
from sinks.metrics import family
from sinks.metrics.aggregate import SWEEP_MS, Aggregate
from sinks.metrics.checkpoint import Checkpoint, State
from sinks.metrics.ends import End, Ends
from sinks.metrics.exposition import Exposition
from sinks.metrics.families import (
    KUBEZONNET_BYTES,
    LEFT,
    OTHER,
    WORKLOAD_BYTES,
    WORKLOAD_COST,
    ZONE_BYTES,
    ZONE_COST,
    Sample,
)
from sinks.metrics.family import HEAVY_BYTES, SEEN_MS
from tests.support.hostile import EXAMPLES
from tests.support.sinks.flows import END_MS, encoded, flow, flow_id, pod, records

AWS = load_prices("aws")
HOUR_MS = 3_600_000
MB = 1_000_000
WORKLOAD, ZONE, KUBEZONNET = WORKLOAD_BYTES.name, ZONE_BYTES.name, KUBEZONNET_BYTES.name
COST = WORKLOAD_COST.name
Key = tuple[str, tuple[str, ...]]


def rows_of(names: Sequence[str]) -> list[Row[End]]:
    """Return a flow of each workload to the same database."""
    values = [encoded(flow(id=flow_id(1, n), source=pod(name, "a"))) for n, name in enumerate(names)]
    return Intake(Ends().make).take(Lane(0), records(values), END_MS).rows


class Sink:
    """The counting part of a sink: rows in, text out, by way of a checkpoint."""

    def __init__(self, budget: int, idle_ms: int = 24 * HOUR_MS, directory: Path | None = None) -> None:
        """Begin with nothing; with a directory, checkpoints go through the file there."""
        self._budget, self._idle_ms, self._directory = budget, idle_ms, directory
        self.now_ms = END_MS
        self.rows: dict[int, Sample] = {}
        self.counted = 0
        self.start()

    def start(self) -> None:
        """Start again from the checkpoint."""
        if self._directory is not None:
            state = State(self._directory, "topic")
            assert {sample.number: sample for sample in state.load().series} == self.rows
            state.close()
        self.aggregate = Aggregate(self._budget, self._budget, AWS, self._idle_ms)
        for sample in sorted(self.rows.values()):
            self.aggregate.restore(sample)
        self._shown = Exposition([each.spec for each in self.aggregate.families.values()], 30_000)
        self._shown.apply(self.rows.values(), [])

    def take(self, *brought: tuple[Row[End], int]) -> None:
        """Count flows of these sizes, and make a checkpoint."""
        rows = [row._replace(flow=replace(row.flow, bytes=size)) for row, size in brought]
        self.aggregate.add(rows, Lane(0).books)
        self.counted += sum(size for _, size in brought)
        changes = self.aggregate.fold(self.now_ms)
        self.rows |= {sample.number: sample for sample in changes.samples}
        for number in changes.removed:
            del self.rows[number]
        if self._directory is not None:
            state = State(self._directory, "topic")
            state.commit(Checkpoint(1, series=changes.samples, removed=changes.removed))
            state.close()
        self._shown.apply(changes.samples, [], changes.removed)

    def wait(self, milliseconds: int) -> None:
        """Let time go by."""
        self.now_ms += milliseconds

    def served(self) -> dict[Key, int]:
        """Return what is served."""
        text = self._shown.render(self.now_ms).decode()
        samples = [sample for found in text_string_to_metric_families(text) for sample in found.samples]
        return {
            (sample.name, tuple(sample.labels.values())): int(sample.value)
            for sample in samples
            if sample.name in (WORKLOAD, ZONE, KUBEZONNET)
        }

    def names(self) -> set[str]:
        """Return the workloads that have a name."""
        return {labels[3] for name, labels in self.served() if name == WORKLOAD} - {OTHER, LEFT}


class Prometheus:
    """Reads what is served and keeps the last value of each series, as long as it ever was."""

    def __init__(self) -> None:
        self.last: dict[Key, int] = {}

    def scrape(self, sink: Sink) -> None:
        """Read; nothing may be less than before, and the sums are what was counted."""
        served = sink.served()
        fallen = {key for key, value in served.items() if value < self.last.get(key, 0)}
        assert not fallen
        # A sum of what is gone is one value only, so that it increases by nothing.
        assert not {key for key, value in served.items() if is_left(key) and value > self.last.get(key, value)}
        self.last |= served
        for name in (WORKLOAD, KUBEZONNET, ZONE):
            assert sum(value for key, value in served.items() if key[0] == name) == sink.counted
            # What all series increased by since they were 0: what `increase` adds up to, but for their first samples.
            grown = sum(value for key, value in self.last.items() if key[0] == name and not is_left(key))
            assert grown == sink.counted

        # Money as whole numbers: what is shown is rounded.
        costs = {
            name: sum(each.value for each in sink.aggregate.families[name].served) for name in (COST, ZONE_COST.name)
        }
        assert costs[COST] == costs[ZONE_COST.name]


def is_left(key: Key) -> bool:
    return any(value.startswith(LEFT) for value in key[1])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "take", "idle", "start"]),
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 1000, MB, 50 * MB, 5000 * MB])), max_size=4),
        st.sampled_from([1_000, SWEEP_MS, 2 * SWEEP_MS]),
    ),
    max_size=40,
)


@EXAMPLES
@given(STEPS, st.integers(0, 3))
def test_whatever_comes_and_goes_sums_are_exact_and_nothing_falls(
    steps: list[tuple[str, list[tuple[int, int]], int]], budget: int
) -> None:
    sink, prometheus = Sink(budget), Prometheus()
    rows = rows_of([f"app-{number}" for number in range(6)])
    for what, brought, pause_ms in steps:
        if what == "idle":
            sink.wait(25 * HOUR_MS)
        elif what == "start":
            sink.start()
        sink.take(*((rows[number], size) for number, size in brought))
        prometheus.scrape(sink)
        sink.wait(pause_ms)


def minutes(sink: Sink, count: int, *brought: tuple[Row[End], int]) -> None:
    """Let minutes go by in each of which the same is brought."""
    for _ in range(count):
        sink.wait(SWEEP_MS)
        sink.take(*brought)


def test_a_thousand_finished_jobs_leave_and_a_new_pair_has_its_name() -> None:
    sink, prometheus = Sink(budget=100), Prometheus()
    jobs = rows_of([f"job-{number}" for number in range(100)])
    (late,) = rows_of(["late"])
    sink.take(*((row, 1000) for row in jobs))
    assert len(sink.names()) == 100
    prometheus.scrape(sink)
    minutes(sink, 10)
    sink.wait(24 * HOUR_MS)
    sink.take((late, 5000 * MB))
    prometheus.scrape(sink)
    assert sink.names() == {"late"}
    sink.take((late, 5000 * MB))
    prometheus.scrape(sink)
    assert sink.served()[WORKLOAD, key_of("late")] == 5000 * MB, "what it brought before has its name is in _other_"


def test_a_heavy_pair_takes_the_name_of_a_light_one_that_is_idle_at_once() -> None:
    sink, prometheus = Sink(budget=3), Prometheus()
    busy, small, job, heavy = rows_of(["busy", "small", "job", "heavy"])
    sink.take((busy, 90 * MB), (small, 1000), (job, 1000))
    minutes(sink, 6, (busy, 90 * MB), (small, 2000))
    assert sink.names() == {"busy", "small", "job"}
    sink.take((heavy, 5 * MB))
    prometheus.scrape(sink)
    minutes(sink, 1, (busy, 90 * MB), (small, 2000))
    assert sink.names() == {"busy", "small", "heavy"}
    sink.take((heavy, 5000 * MB))
    prometheus.scrape(sink)
    assert sink.served()[WORKLOAD, key_of("heavy")] == 5000 * MB


def test_a_light_one_that_is_busy_goes_once_its_last_value_was_served_for_long_enough() -> None:
    sink, prometheus = Sink(budget=1), Prometheus()
    small, heavy = rows_of(["small", "heavy"])
    sink.take((small, 1000))
    minutes(sink, 6, (small, 1000))
    minutes(sink, 1, (small, 1000), (heavy, 500 * MB))
    for _ in range(SEEN_MS // SWEEP_MS - 1):
        minutes(sink, 1, (small, 1000), (heavy, 500 * MB))
        prometheus.scrape(sink)
        assert sink.served()[WORKLOAD, key_of("small")] == 8000, "it counts no more"
    minutes(sink, 1, (small, 1000), (heavy, 500 * MB))
    prometheus.scrape(sink)
    assert sink.names() == {"heavy"}


def test_pairs_that_are_about_as_heavy_leave_each_other_alone() -> None:
    sink = Sink(budget=2)
    rows = rows_of(["a", "b", "c", "d"])
    sink.take(*((row, 10 * MB) for row in rows))
    minutes(sink, 60, *((row, size * MB) for row, size in zip(rows, (10, 12, 18, 15), strict=True)))
    assert sink.names() == {"a", "b"}
    light = Sink(budget=1)
    light.take((rows[0], 1))
    minutes(light, 60, (rows[1], HEAVY_BYTES // 20))
    assert light.names() == {"a"}, "what is not heavy waits until there is room"


def test_who_comes_back_goes_on_from_where_it_was_also_after_a_restart(tmp_path: Path) -> None:
    sink, prometheus = Sink(budget=5, directory=tmp_path), Prometheus()
    (job,) = rows_of(["job"])
    for runs in range(1, 4):
        sink.take((job, 7000))
        prometheus.scrape(sink)
        assert sink.served()[WORKLOAD, key_of("job")] == 7000 * runs
        minutes(sink, 10)
        sink.wait(24 * HOUR_MS)
        sink.take()
        prometheus.scrape(sink)
        assert sink.names() == set()
        sink.start()
        prometheus.scrape(sink)


def test_nothing_leaves_before_it_was_served_for_a_while_after_a_start() -> None:
    sink = Sink(budget=5)
    (job,) = rows_of(["job"])
    sink.take((job, 7000))
    sink.wait(25 * HOUR_MS)
    sink.start()
    sink.take()
    minutes(sink, 4)
    assert sink.names() == {"job"}
    minutes(sink, 1)
    assert sink.names() == set()


def key_of(name: str) -> tuple[str, ...]:
    return ("lab", "shop", "Deployment", name, "a", "shop", "Deployment", "postgres", "b", "cross_zone")


def test_prometheus_itself_sees_no_reset_and_no_traffic_in_what_is_gone(tmp_path: Path) -> None:
    """Two hours, scraped each minute; series are idle for half an hour, go, and some come back."""
    sink = Sink(budget=2, idle_ms=HOUR_MS // 2)
    early, again, busy = rows_of(["early", "again", "busy"])
    seen: dict[Key, list[str]] = {}
    for minute in range(120):
        brought = [(busy, 10)] if minute > 50 else []
        brought += [(early, 7000)] if minute < 3 else []
        brought += [(again, 500)] if minute % 60 < 3 else []
        sink.take(*brought)
        served = sink.served()
        for key in seen.keys() | served.keys():
            values = seen.setdefault(key, ["_"] * minute)
            values.append(str(served[key]) if key in served else "_" if values[-1] in ("_", "stale") else "stale")
        sink.wait(SWEEP_MS)
    assert sum(is_left(key) for key in seen) > 3
    name, left = WORKLOAD, f'{WORKLOAD}{{src_workload="{LEFT}"}}'
    sums = [(f"sum({name}) - sum({ZONE})", minute, 0) for minute in range(0, 120, 10)]
    asked = [(f"sum(resets({name}[2h]))", 119, 0), (f"sum(increase({left}[2h]))", 119, 0), *sums]
    labels = {each.name: each.labels for each in (WORKLOAD_BYTES, ZONE_BYTES, KUBEZONNET_BYTES)}
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f"{key[0]}{{{named(labels[key[0]], key[1])}}}", "values": " ".join(values)}
            for key, values in seen.items()
        ],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": value}]}
            for expr, minute, value in asked
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def named(labels: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))


def test_jobs_without_end_grow_nothing_and_cost_the_same_each_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MAX_LEFT", 300)
    sink = Sink(budget=200)
    written: Counter[int] = Counter()
    fold: Callable[[int], family.Changes] = sink.aggregate.fold

    def counting(now_ms: int) -> family.Changes:
        changes = fold(now_ms)
        written[day] += len(changes.samples) + len(changes.removed)
        return changes

    monkeypatch.setattr(sink.aggregate, "fold", counting)
    sizes = []
    for day in range(12):
        for row in rows_of([f"job-{day}-{number}" for number in range(100)]):
            sink.take((row, 1000))
            sink.wait(24 * 36_000)
        sizes.append((len(sink.rows), len(sink.served())))
    assert sizes[-1] == sizes[-2] == sizes[-3]
    assert sum(value for key, value in sink.served().items() if key[0] == WORKLOAD) == sink.counted
    assert written[11] <= written[6] + 2


def test_names_that_look_like_ours_are_added_up_with_those_that_have_none() -> None:
    sink, prometheus = Sink(budget=5), Prometheus()
    sink.take(*((row, 1000) for row in rows_of([LEFT, f"{LEFT}7", "api"])))
    prometheus.scrape(sink)
    sink.start()
    prometheus.scrape(sink)
    assert sink.names() == {"api"}


def test_those_that_wait_are_bounded_and_the_heaviest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "MAX_WAITING", 100)
    sink = Sink(budget=1)
    rows = rows_of([f"app-{number}" for number in range(1_000)])
    sink.take((rows[0], 1))
    minutes(sink, 6)
    heavy, *others = rows[1:]
    for number, row in enumerate(others):
        sink.take((row, 1000 + number % 7), (heavy, 100 * MB))
        assert len(sink.aggregate.families[WORKLOAD].waiting) <= 100
    minutes(sink, 1)
    assert sink.names() == {"app-1"}
