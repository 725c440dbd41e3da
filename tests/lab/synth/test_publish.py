# SPDX-License-Identifier: Apache-2.0
"""`zonemeter lab synth` with a broker: what stands in the topics then, and what an enricher makes of it."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from cli import lab
from common.kafka.clients import partition_for
from lab.kafka.broker import Broker
from lab.synth import publish
from schemas.ledger import decode_ledger
from schemas.raw import decode_chunk
from schemas.topology import decode_topology_file
from tests.support.enricher import processes
from tests.support.enricher.topics import Topics
from tests.support.services import eventually

NODES, FLOWS, WINDOWS = 4, 20, 3
SIZE = ["--nodes", str(NODES), "--pods", "20", "--flows", str(FLOWS), "--windows", str(WINDOWS)]


@pytest.fixture(scope="module")
def topics(broker: Broker) -> Topics:
    """The five topics under a prefix of this file's own, with three partitions."""
    return Topics.make(broker.bootstrap)


def test_an_enricher_that_starts_from_the_written_topology_names_every_end(topics: Topics, tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    assert lab.synth([*topics.flags, *SIZE, "--topology", str(file)]) == 0

    assert topics.topology() == decode_topology_file(file.read_bytes())
    records = topics.records(topics.settings.topics.raw)
    chunks = [decode_chunk(record.value) for record in records]
    assert all(record.partition == partition_for(chunk.node, 3) for record, chunk in zip(records, chunks, strict=True))
    assert Counter(chunk.node for chunk in chunks) == dict.fromkeys({chunk.node for chunk in chunks}, WINDOWS)
    assert len(chunks) == NODES * WINDOWS
    entries = [decode_ledger(record.value) for record in topics.records(topics.settings.topics.ledger)]
    assert sorted((entry.id, entry.given.bytes) for entry in entries) == sorted(
        (chunk.id.rpartition("/")[0], sum(chunk.bytes)) for chunk in chunks
    )

    with processes.running([*topics.flags, "--topology", str(file)], tmp_path / "enricher.log"):
        made = eventually(lambda: found if len(found := topics.ledger()) == len(chunks) else None)
    flows = topics.flows()
    assert sum(entry.given.rows for entry in made.values()) == len(flows) > 0
    assert sum(entry.taken.rows for entry in made.values()) == NODES * FLOWS * WINDOWS
    assert "unknown" not in {flow.scope for flow in flows}


def test_topics_that_are_not_there_are_named(topics: Topics, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        lab.synth([*topics.flags, "--partitions", "5"])
    assert refused.value.code == 2
    assert "flows.raw.v1 has 3 partitions; run it with --partitions 3" in one_line(capsys)
    with pytest.raises(SystemExit):
        lab.synth([*topics.flags, "--topic-prefix", "nobodys."])
    assert "topic nobodys.flows.raw.v1 does not exist; run zonemeter topics apply" in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zonemeter lab synth: ")
    return line


def test_live_windows_are_published_when_they_have_ended(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only stands still or waits: the first window has ended when this begins."""
    at_ms, waited, raw = [1_795_400_003_000], [], topics.settings.topics.raw
    before = len(topics.records(raw))

    async def wait(seconds: float) -> None:
        waited.append((seconds, len(await asyncio.to_thread(topics.records, raw)) - before))
        at_ms[0] += max(round(seconds * 1000), 0)

    for module in (lab, publish):
        monkeypatch.setattr(module, "now_ms", lambda: at_ms[0])
    monkeypatch.setattr(publish, "sleep", wait)
    assert lab.synth([*topics.flags, *SIZE, "--cluster", "live", "--live"]) == 0
    assert waited == [(-3, 0), (7, NODES), (10, 2 * NODES)]
    chunks = [decode_chunk(record.value) for record in topics.records(raw)]
    assert sorted(chunk.end_ms for chunk in chunks if chunk.cluster == "live") == sorted(
        1_795_400_000_000 + n * 10_000 for n in range(WINDOWS) for _ in range(NODES)
    )
