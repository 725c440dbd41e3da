# SPDX-License-Identifier: Apache-2.0
"""The audit's service on a real broker: what it serves is what was put into the ledger, faults and all."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from common.kafka.publish import Record
from lab.kafka.broker import Broker
from schemas.amount import NOTHING
from schemas.ids import Origin, chunk_id
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.topology import TopologyState, encode_topology
from tests.support.builders import ORIGIN, START_MS, collector_entry, enricher_entry, sink_entry
from tests.support.cli.records import publish
from tests.support.services import ServiceProcess, eventually, while_running
from tests.support.sinks.topics import Topics

CLUSTER = (ORIGIN.cluster,)
# The manifests' limit.
MEMORY_LIMIT = 512 * 1024**2
TWIN = Origin(ORIGIN.cluster, ORIGIN.node, "aaaaaaaaaaaa")


class Ledger:
    """A ledger whose windows end now, and an audit that follows it."""

    def __init__(self, topics: Topics, directory: Path) -> None:
        self.topics = topics
        self.directory = directory
        self.shift_ms = time.time_ns() // 1_000_000 - START_MS - 300_000

    def entries(self, *entries: LedgerRecord) -> None:
        """Publish entries, their times moved to a few minutes ago."""
        moved = [
            replace(entry, start_ms=entry.start_ms + self.shift_ms, end_ms=entry.end_ms + self.shift_ms)
            for entry in entries
        ]
        topic = self.topics.settings.topics.ledger
        publish(self.topics.settings, [Record(topic, 0, e.key, encode_ledger(e), e.end_ms) for e in moved])

    def windows(self, *sequences: int, size: int = 1_000) -> None:
        """Publish windows that are whole."""
        for hop in (collector_entry, enricher_entry):
            self.entries(*(hop(sequence, size) for sequence in sequences))
        for sink in ("metrics", "flowlog"):
            self.entries(sink_entry(sink, sequences[0], dict.fromkeys(sequences, size)))

    def service(self, *more: str) -> ServiceProcess:
        """Start an audit."""
        flags = [
            *more,
            *self.topics.flags,
            "--cluster",
            ORIGIN.cluster,
            "--check-seconds",
            "0.2",
            "--settle-seconds",
            "30",
        ]
        return ServiceProcess(["cli", "run", "audit"], flags, self.directory / "audit.log")


@pytest.fixture
def ledger(broker: Broker, tmp_path: Path) -> Iterator[Ledger]:
    yield Ledger(Topics.make(broker.bootstrap), tmp_path)


def shown(service: ServiceProcess, name: str, *labels: str) -> float | None:
    """Return a gauge of the cluster."""
    return service.samples().get((f"zonemeter_audit_{name}", CLUSTER + labels))


def test_it_says_what_is_wrong_and_takes_it_back_when_it_comes_after_all(ledger: Ledger) -> None:
    node = TopologyState(kind="node", uid="u", resource_version="1", name="node-b1", from_ms=0)
    topology = ledger.topics.settings.topics.topology
    publish(ledger.topics.settings, [Record(topology, 0, node.key, encode_topology(node), START_MS)])
    ledger.windows(0, 1, 2)
    with while_running(ledger.service()) as service:
        eventually(lambda: shown(service, "ratio") == 1)
        assert service.ready()
        assert shown(service, "seen_bytes") == 3_000
        assert (shown(service, "nodes", "metered"), shown(service, "nodes", "in_cluster")) == (1, 1)

        # The flow log passes over window 3, and window 5 has not come to it yet.
        ledger.entries(*(entry(s, 500) for s in (3, 4, 5) for entry in (collector_entry, enricher_entry)))
        ledger.entries(sink_entry("metrics", 3, {3: 500, 4: 500, 5: 500}), sink_entry("flowlog", 4, {4: 500}))
        eventually(lambda: shown(service, "unaccounted_bytes", "flowlog") == 500)
        assert shown(service, "late_bytes", "flowlog") == 500
        assert shown(service, "ratio") == 1 - 500 / 4_000 - 0
        assert shown(service, "windows", "open") == shown(service, "windows", "late") == 1

        ledger.entries(sink_entry("flowlog", 3, {3: 500}), sink_entry("flowlog", 5, {5: 500}))
        eventually(lambda: shown(service, "ratio") == 1 and shown(service, "late_bytes", "flowlog") == 0)
        assert shown(service, "seen_bytes") == 4_500


def test_topics_that_are_deleted_under_it_are_named_and_it_goes_on_with_new_ones(ledger: Ledger) -> None:
    names = ledger.topics.settings.topics
    ledger.windows(0)
    with while_running(ledger.service()) as service:
        eventually(lambda: shown(service, "ratio") == 1)
        asyncio.run(ledger.topics.delete())
        missing = f"topics: topics {names.ledger}, {names.topology} do not exist: zonemeter topics apply"
        eventually(lambda: missing in service.get("/readyz")[1])
        asyncio.run(ledger.topics.apply())
        eventually(service.ready)
        ledger.windows(1)
        eventually(lambda: shown(service, "seen_bytes") == 2_000)


def test_gaps_twins_repeats_and_rubbish_show(ledger: Ledger) -> None:
    ledger.windows(0)
    ledger.windows(3)
    ledger.entries(collector_entry(4, 0, origin=TWIN, clock_step_ms=-2_000), enricher_entry(4, 0, origin=TWIN))
    chunk = chunk_id(ORIGIN, 1, 3, 0)
    repeat = enricher_entry(3, 1_000)
    ledger.entries(
        replace(repeat, id=f"{chunk}@9", given=NOTHING, aside={"repeat": repeat.given}),
        collector_entry(5, 0),
        enricher_entry(5, 0),
    )
    topic = ledger.topics.settings.topics.ledger
    publish(ledger.topics.settings, [Record(topic, 1, b"k", b"rubbish", START_MS + ledger.shift_ms)])
    with while_running(ledger.service()) as service:
        eventually(lambda: shown(service, "ratio") == 1)
        assert shown(service, "interleaved_nodes") == 1
        assert shown(service, "repeated_bytes") == 1_000
        assert shown(service, "unmeasured_seconds") == 20 + 10
        assert shown(service, "clock_steps") == 1
        assert service.samples()["zonemeter_audit_refused_records_total", ("not_json",)] == 1


def test_killed_and_started_again_it_says_the_same(ledger: Ledger) -> None:
    ledger.windows(*range(20))
    ledger.entries(*(entry(s, 100) for s in (20, 21) for entry in (collector_entry, enricher_entry)))
    ledger.entries(sink_entry("metrics", 21, {21: 100}))

    def sums(service: ServiceProcess) -> dict[str, float]:
        eventually(lambda: shown(service, "ratio") is not None)
        gauges = ("zonemeter_audit_lag", "zonemeter_audit_kept")
        audit = {str(key): value for key, value in service.samples().items() if "audit" in key[0]}
        return {key: value for key, value in audit.items() if not any(gauge in key for gauge in gauges)}

    with while_running(ledger.service()) as service:
        before = sums(service)
        service.kill()
    with while_running(ledger.service()) as service:
        assert sums(service) == before
        assert service.terminate() == 0
    assert before[str(("zonemeter_audit_unaccounted_bytes", ("lab", "metrics")))] == 100


def test_a_broker_that_was_silent_does_not_make_the_figures_stand_still(tmp_path: Path) -> None:
    """What there is to look at is spread out by how long it takes, and waiting for Kafka is no part of that."""
    own = Broker(tmp_path / "kafka")
    try:
        asyncio.run(own.start())
        ledger = Ledger(Topics.make(own.bootstrap), tmp_path)
        ledger.windows(0)
        with while_running(ledger.service()) as service:
            eventually(lambda: shown(service, "seen_bytes") == 1_000)
            assert own.process is not None
            os.kill(own.process.pid, signal.SIGSTOP)
            time.sleep(8)  # five times as long is longer than the wait below
            os.kill(own.process.pid, signal.SIGCONT)
            ledger.windows(1)
            eventually(lambda: shown(service, "seen_bytes") == 2_000)
    finally:
        own.kill()


def test_20_000_clusters_made_up_are_one_series_cost_little_and_it_still_ends_when_told(ledger: Ledger) -> None:
    made_up = (Origin(f"made-up-{number}", "node", "0" * 12) for number in range(20_000))
    ledger.windows(0)
    ledger.entries(*(collector_entry(0, 10, origin=origin) for origin in made_up))
    ledger.windows(1)
    with while_running(ledger.service("--max-clusters", "10")) as service:
        eventually(lambda: shown(service, "seen_bytes") == 2_000)
        samples = service.samples()
        other = samples["zonemeter_audit_seen_bytes", ("_other_",)]
        assert other == samples["zonemeter_audit_unaccounted_bytes", ("_other_", "collector")]
        clusters = {labels[0] for (name, labels) in samples if name == "zonemeter_audit_seen_bytes"}
        assert len(clusters) <= 12
        assert other == 10 * (20_000 - (len(clusters) - 2))
        assert service.peak_bytes() < MEMORY_LIMIT
        assert service.terminate() == 0
