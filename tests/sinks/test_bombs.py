# SPDX-License-Identifier: Apache-2.0
"""Batches that unpack to more than anybody reads, in the topics that sinks and audit read: named, and passed over."""

from pathlib import Path

import pytest

from tests.support.batches import BOMBS, SMALL_BOMB, bomb, bomb_within_limits, publish
from tests.support.services import ServiceProcess, eventually, while_running
from tests.support.sinks.flows import encoded, window
from tests.support.sinks.processes import running
from tests.support.sinks.topics import Topics

# A quarter of what the manifests allow (k8s/base/services/metrics.yaml, flowlog.yaml).
MOST_BYTES = 256 * 1024 * 1024


@pytest.mark.parametrize("room", ["metrics", "flowlog"])
def test_a_sink_puts_each_into_a_dead_letter_and_takes_what_follows(topics: Topics, tmp_path: Path, room: str) -> None:
    topics.produce({0: map(encoded, window(1, 3))})
    for codec in BOMBS:
        publish(topics.settings.kafka_bootstrap, topics.settings.topics.enriched, 0, bomb_within_limits(codec))
    topics.produce({0: map(encoded, window(2, 3)), 1: map(encoded, window(1, 3, "node-b1"))})
    where = {"metrics": ["--state-dir", str(tmp_path / "state")], "flowlog": ["--output", str(tmp_path / "out")]}
    with running(room, [*topics.flags, *where[room]], tmp_path / "log") as sink:
        eventually(lambda: sink.samples().get(("zonemeter_flows_taken_total", ())) == 9)
        assert sink.samples()["zonemeter_records_refused_total", ("batch_too_large",)] == len(BOMBS)
        assert sink.samples()["zonemeter_records_missed_total", ()] == 0
        assert sink.peak_bytes() < MOST_BYTES
        assert sink.terminate() == 0
    letters = [(each.reason, each.partition, each.first_offset, each.offset) for each in topics.dead_letters()]
    assert letters == [("batch_too_large", 0, first, first + 15) for first in range(3, 3 + 16 * len(BOMBS), 16)]
    lost = [entry.lost for entry in topics.ledger(room).values() if entry.lost]
    assert sum(each["batch_too_large"].rows for each in lost) == len(BOMBS)


def test_the_audit_passes_over_them(topics: Topics, tmp_path: Path) -> None:
    names = topics.settings.topics
    for topic in (names.ledger, names.topology):
        publish(topics.settings.kafka_bootstrap, topic, 0, bomb("zstd", SMALL_BOMB, records=16))
    audit = ServiceProcess(["cli", "run", "audit"], topics.flags, tmp_path / "log")
    with while_running(audit):
        eventually(audit.ready)
        refused = audit.samples()["zonemeter_audit_refused_records_total", ("batch_too_large",)]
        assert refused == 2
    assert f"{names.topology}-0@15" in (tmp_path / "log").read_text()
