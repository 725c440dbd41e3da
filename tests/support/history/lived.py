# SPDX-License-Identifier: Apache-2.0
"""A stretch of history as the pipeline left it: raw chunks through a real enricher and a real flow log."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from common.kafka import clients
from history.model.time_range import timestamp
from history.read.topic import read_topic
from schemas.amount import Amount
from schemas.ledger import LedgerRecord, encode_ledger
from schemas.raw import RawChunk, decode_chunk
from schemas.topology import Served, TopologyState, encode_topology, encode_topology_file
from sinks.flowlog.archive.manifest import decode_manifest
from tests.support.enricher import build
from tests.support.services import eventually
from tests.support.sinks.processes import running
from tests.support.sinks.topics import PARTITIONS, Topics

CLUSTER = "prod-eu"
NODES = {"node-a1": "eu-west-1a", "node-a2": "eu-west-1a", "node-b1": "eu-west-1b", "node-c1": "eu-west-1c"}
WINDOWS = 30
WINDOW_MS = 10_000
# A window that nobody counted.
MISSING = ("node-c1", 10)
RUBBISH = b"\xffnot a chunk"
CIDRS = """
[[cidr]]
cidr = "10.60.0.0/24"
name = "orders-db"
zone = "eu-west-1b"
region = "eu-west-1"
"""


@dataclass(frozen=True)
class Lived:
    """What there is to read back. `flows`: by id, as they stand in the enriched topic."""

    topics: Topics
    flows: dict[str, dict[str, Any]]
    begin_ms: int
    end_ms: int
    archive: Path
    cidrs: Path

    @property
    def flags(self) -> list[str]:
        """The flags that make a command read these topics."""
        return self.topics.flags

    @property
    def span(self) -> list[str]:
        """The flags that name the whole time."""
        return ["--from", rfc3339(self.begin_ms), "--to", rfc3339(self.end_ms)]

    @property
    def windows(self) -> list[dict[str, Any]]:
        """The flows in order of time and id."""
        return sorted(self.flows.values(), key=lambda flow: (flow["start_ms"], flow["id"]))


def states(begin_ms: int) -> list[TopologyState]:
    """Four nodes in three zones; a pod of each workload on each, one of which takes another's address over.

    The namespace shop changes teams when half of the time is over; batch is of none.
    """
    found = [
        build.node(name, f"10.0.0.{number}", zone, from_ms=begin_ms - 86_400_000, pod_cidrs=(f"10.42.{number}.0/24",))
        for number, (name, zone) in enumerate(NODES.items(), start=1)
    ]
    for number, name in enumerate(NODES, start=1):
        for place, workload in enumerate(("web", "api", "postgres"), start=1):
            fields: dict[str, Any] = {"from_ms": begin_ms - 3_600_000}
            if workload == "postgres":
                fields |= {"services": ["db"], "served": [Served("db", "tcp", 5432)]}
            if (number, workload) == (2, "web"):
                fields["to_ms"] = begin_ms + WINDOWS * WINDOW_MS // 2
            found.append(build.pod(f"{workload}-{number}", f"10.42.{number}.{place}", name, **fields))
    heir = {"from_ms": begin_ms + WINDOWS * WINDOW_MS // 2, "namespace": "batch"}
    found.append(build.pod("job-2", "10.42.2.1", "node-a2", **heir))
    moved_ms = begin_ms + WINDOWS * WINDOW_MS // 2
    found += [
        build.namespace("shop", from_ms=begin_ms - 3_600_000, to_ms=moved_ms, labels={"team": "web", "tier": "1"}),
        build.namespace("shop", resource_version="61", from_ms=moved_ms, labels={"team": "core", "tier": "1"}),
        build.namespace("batch", from_ms=begin_ms - 3_600_000, labels={"team": None}),
    ]
    return found


def chunks(begin_ms: int, seed: int = 7) -> Iterator[tuple[str, int, bytes]]:
    """Yield node, window end and encoded chunk: every kind of traffic, an empty window, a chunk that comes twice."""
    chance = random.Random(seed)
    for sequence in range(WINDOWS):
        for number, node in enumerate(NODES, start=1):
            start = begin_ms + sequence * WINDOW_MS
            if (node, sequence) == MISSING:
                continue
            rows = [] if (sequence, number) == (3, 1) else list(_rows(chance, number))
            head = {"node": node, "sequence": sequence, "start_ms": start, "end_ms": start + WINDOW_MS}
            encoded = build.encoded(rows, **head)
            yield node, start + WINDOW_MS, encoded
            if sequence == 5:
                yield node, start + WINDOW_MS, build.encoded(rows, **head, maybe_repeat=True)


def _rows(chance: random.Random, number: int) -> Iterator[dict[str, Any]]:
    here = [f"10.42.{number}.{place}" for place in (1, 2, 3)]
    others = [f"10.42.{n}.{place}" for n in range(1, 5) for place in (1, 2, 3)]
    elsewhere = ["11.0.0.10", "10.60.0.7", "10.99.0.1", "10.42.3.77", "2c0f:ff00::10", "10.0.0.3"]
    for place in range(chance.randrange(3, 12)):
        size = chance.choice([60, 1_500, 1_000_000, 2**40])
        source, destination = chance.choice(here), chance.choice(others + elsewhere)
        if ":" in destination:
            source = "fd00::1"
        port = chance.choice([5432, 8080, 443])
        row = build.row(source, destination, dst_port=port, bytes=size + place, packets=size // 1_000 + 1)
        row["server"] = place % 3
        kind = chance.random()
        if kind < 0.1:
            row |= {"src": chance.choice(elsewhere[:3]), "dst": source, "direction": 1, "dnat": None}
        elif kind < 0.2:
            row |= {"src": "11.0.0.10", "dst": chance.choice(others), "direction": 2, "dnat": 1}
        elif kind < 0.3:
            row |= {"src": f"10.0.0.{number}", "dst": "10.0.0.4", "protocol": 17, "dst_port": 4789, "encapsulation": 1}
        yield row


@contextmanager
def lived(bootstrap: str, directory: Path) -> Iterator[Lived]:
    """Let the history happen: enricher and flow log run until all of it is through both."""
    topics = Topics.make(bootstrap)
    begin_ms = (time.time_ns() // 1_000_000 - 7_200_000) // 3_600_000 * 3_600_000 - 100_000
    topology, cidrs, archive = directory / "topology.json", directory / "cidrs.toml", directory / "flows"
    topology.write_bytes(encode_topology_file(states(begin_ms)))
    cidrs.write_text(CIDRS)
    common = ["--cluster", CLUSTER, *topics.flags]
    files = ["--topology", str(topology), "--cidr-map", str(cidrs)]
    asyncio.run(_publish(topics, _history(begin_ms)))
    made, seen = list(_raw(begin_ms)), 0
    with running("enricher", [*common, *files], directory / "enricher.log") as enricher:
        with running("flowlog", [*common, "--output", str(archive), "--cut-seconds", "0.5"], directory / "log") as log:
            # In two halves, so that each partition gets more than one manifest.
            for records in (made[: len(made) // 2], made[len(made) // 2 :]):
                asyncio.run(_publish(topics, records))
                seen += sum(record.kind == "chunk" for record in records)
                eventually(partial(_settled, topics, archive, seen))
            log.terminate()
        enricher.terminate()
    flows = {flow["id"]: flow for flow in map(orjson.loads, _values(topics))}
    yield Lived(topics, flows, begin_ms, begin_ms + WINDOWS * WINDOW_MS, archive, cidrs)


class _Made(NamedTuple):
    """A record to publish; `kind` says what it is: chunk, ledger, topology or rubbish."""

    kind: str
    key: bytes
    value: bytes
    partition: int
    timestamp_ms: int


def _history(begin_ms: int) -> list[_Made]:
    return [_Made("topology", state.key, encode_topology(state), 0, begin_ms) for state in states(begin_ms)]


def _raw(begin_ms: int) -> Iterator[_Made]:
    for node, end_ms, value in chunks(begin_ms):
        partition = clients.partition_for(node, PARTITIONS)
        entry = ledger_entry(decode_chunk(value))
        yield _Made("ledger", entry.key, encode_ledger(entry), partition, end_ms)
        yield _Made("chunk", node.encode(), value, partition, end_ms)
    yield _Made("rubbish", b"node-a1", RUBBISH, 0, begin_ms + 1)


async def _publish(topics: Topics, records: list[_Made]) -> None:
    names = topics.settings.topics
    topic = {"topology": names.topology, "ledger": names.ledger, "chunk": names.raw, "rubbish": names.raw}
    producer = clients.new_producer(topics.settings)
    await producer.start()
    try:
        for record in records:
            where = {"partition": record.partition, "timestamp_ms": record.timestamp_ms}
            await producer.send(topic[record.kind], record.value, key=record.key, **where)
        await producer.flush()
    finally:
        await producer.stop()


def ledger_entry(chunk: RawChunk) -> LedgerRecord:
    """Return what the collector says of a window of one chunk."""
    amount = Amount(sum(chunk.bytes), sum(chunk.packets), len(chunk.src))
    return LedgerRecord(
        hop="collector",
        id=chunk.id.rpartition("/")[0],
        partition=clients.partition_for(chunk.node, PARTITIONS),
        start_ms=chunk.start_ms,
        end_ms=chunk.end_ms,
        taken=amount,
        given=amount,
        node=chunk.node,
        chunks=1,
    )


def _given(topics: Topics, chunks: int) -> int:
    """Return how many flows the enricher gave out once it has taken every chunk, else 0."""
    entries = topics.ledger("enricher")
    return sum(entry.given.rows for entry in entries.values()) if len(entries) == chunks else 0


def _settled(topics: Topics, archive: Path, chunks: int) -> bool:
    """Return whether so many chunks are through the enricher and their flows in the archive."""
    given = _given(topics, chunks)
    return given > 0 and _archived(archive) == given


def _archived(archive: Path) -> int:
    manifests = [decode_manifest(path.read_bytes()) for path in archive.glob("_manifests/p=*/*.json")]
    return sum(file.rows for manifest in manifests for file in manifest.files)


def _values(topics: Topics) -> list[bytes]:
    async def read() -> list[bytes]:
        enriched = topics.settings.topics.enriched
        return [record.value async for batch in read_topic(topics.settings, enriched) for record in batch]

    return asyncio.run(read())


def rfc3339(at_ms: int) -> str:
    """Return a time as the commands take it, to the second."""
    return timestamp(at_ms).replace(" ", "T") + "Z"
