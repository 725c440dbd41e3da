# SPDX-License-Identifier: Apache-2.0
"""Somebody writes in a node's name: the enricher, the audit's service and the command each show it, and go on.

The node's own windows and the forger's go through a real enricher: another boot of the same node, which takes turns
with the true one, and bytes that node-a1 says it sent from the address of a pod on node-b1.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.kafka.publish import Record
from history.audit import command
from lab.kafka.broker import Broker
from schemas.amount import NOTHING
from schemas.ledger import encode_ledger
from schemas.raw import decode_chunk
from tests.support.cli.records import publish
from tests.support.enricher.build import BOOT, encoded, row
from tests.support.enricher.processes import running, topology_file
from tests.support.history.lived import ledger_entry
from tests.support.services import ServiceProcess, eventually, while_running
from tests.support.sinks.topics import Topics

WINDOW_MS = 10_000
OWN, FOREIGN = "10.42.1.17", "10.42.2.9"
FORGED_BOOT = "f0f0f0f0f0f0"


def window(number: int, begin_ms: int, boot: str, source: str, **overrides: Any) -> bytes:
    start = begin_ms + number * WINDOW_MS
    fields = {"sequence": number, "boot_id": boot, "start_ms": start, "end_ms": start + WINDOW_MS} | overrides
    return encoded([row(source, "8.8.8.8", bytes=700)], **fields)


def publish_forgeries(topics: Topics) -> None:
    """Publish raw chunks and ledger entries of the true boot and of the forged one in turn."""
    names, begin_ms = topics.settings.topics, time.time_ns() // 1_000_000 - 120_000
    boots = (BOOT, FORGED_BOOT, BOOT, FORGED_BOOT, BOOT)
    sources = (OWN, OWN, OWN, FOREIGN, OWN)
    raw, ledger = [], []
    for sequence, (boot, source) in enumerate(zip(boots, sources, strict=True)):
        value = window(sequence, begin_ms, boot, source)
        entry = ledger_entry(decode_chunk(value))
        raw.append(Record(names.raw, entry.partition, b"node-a1", value, entry.end_ms))
        ledger.append(Record(names.ledger, entry.partition, entry.key, encode_ledger(entry), entry.end_ms))
    publish(topics.settings, [*raw, *ledger])


def test_two_boots_side_by_side_and_bytes_from_a_foreign_address(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Topics.make(broker.bootstrap)
    publish_forgeries(topics)
    flags = [*topics.flags, "--cluster", "prod-eu"]
    auditor = ServiceProcess(["cli", "run", "audit"], [*flags, "--check-seconds", "0.2"], tmp_path / "audit.log")
    wanted = {"seen_bytes": 3_500.0, "interleaved_nodes": 1.0, "foreign_source_bytes": 700.0, "ratio": 1.0}

    def served() -> bool:
        samples = auditor.samples()
        return all(samples.get((f"zonemeter_audit_{name}", ("prod-eu",))) == wanted[name] for name in wanted)

    with (
        running([*flags, "--topology", str(topology_file(tmp_path))], tmp_path / "enricher.log") as enricher,
        while_running(auditor),
    ):
        eventually(lambda: enricher.metric("foreign_source_bytes_total", "node-a1") == 700)
        eventually(served)
    assert command.main(topics.flags) == 1
    out = capsys.readouterr().out
    assert f"forged?  node-a1: boots {BOOT}, {FORGED_BOOT} go on side by side" in out
    assert "forged?  foreign_source  node-a1 says it sent 700 bytes from addresses of node-b1" in out
    assert "ledger 1.000000   every byte is accounted for" in out


# Of node-a1's own boot: what they claim, and what becomes of them.
FORGED = [
    ({"sequence": 2**53 - 1}, "implausible"),
    ({"generation": 2**53 - 1}, "implausible"),
    ({"start_ms": 0, "end_ms": 10_000}, "implausible"),
    ({"sequence": 500}, "taken"),
    ({"generation": 4, "sequence": 0}, "taken"),
    ({"sequence": 1}, "unannounced"),
]


def test_numbers_made_up_cost_the_node_no_window_and_show(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Topics.make(broker.bootstrap)
    names, begin_ms = topics.settings.topics, time.time_ns() // 1_000_000 - 300_000
    true = [window(sequence, begin_ms, BOOT, OWN) for sequence in range(12)]
    forged = [window(2, begin_ms, BOOT, OWN, **claimed) for claimed, _ in FORGED]
    entries = [ledger_entry(decode_chunk(value)) for value in true]
    # And of a window that was counted somebody says afterwards that there was nothing in it.
    entries.append(replace(entries[1], taken=NOTHING, given=NOTHING, chunks=0))
    partition = entries[0].partition
    publish(
        topics.settings,
        [
            *(Record(names.raw, partition, b"node-a1", value, begin_ms) for value in [*true[:3], *forged, *true[3:]]),
            *(Record(names.ledger, partition, each.key, encode_ledger(each), each.end_ms) for each in entries),
        ],
    )
    flags = [*topics.flags, "--cluster", "prod-eu"]
    auditor = ServiceProcess(["cli", "run", "audit"], [*flags, "--check-seconds", "0.2"], tmp_path / "audit.log")

    def served(name: str) -> float | None:
        return auditor.samples().get((f"zonemeter_audit_{name}", ("prod-eu",)))

    with (
        running([*flags, "--topology", str(topology_file(tmp_path))], tmp_path / "enricher.log") as enricher,
        while_running(auditor),
    ):
        fates = Counter(fate for _, fate in FORGED)
        eventually(lambda: enricher.metric("chunks_total", "enriched") == len(true) + fates["taken"])
        assert enricher.metric("dead_letters_total", "implausible") == fates["implausible"]
        assert enricher.metric("unannounced_repeats_total") == fates["unannounced"]
        assert enricher.metric("renumbered_chunks_total") == 1
        eventually(lambda: served("contradicted_entries") == 1 and served("unannounced_repeat_bytes") == 700)
        eventually(lambda: served("seen_bytes") == 12 * 700)
    assert command.main(topics.flags) == 1
    out = capsys.readouterr().out
    origin = f"prod-eu/node-a1/{BOOT}/3"
    assert f"forged?  contradicted  {origin}/1: collector said 700 bytes in, 700 out, then 0 bytes in, 0 out" in out
    assert f"forged?  {origin}/1/0 came again at raw offset 8 and does not say that it might" in out
    assert "8,400" in next(line for line in out.splitlines() if line.startswith("hook -> raw"))
