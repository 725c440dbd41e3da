# SPDX-License-Identifier: Apache-2.0
"""`make bench-enricher`: flows per CPU second from Kafka to Kafka, beside a loop that only fetches and sends.

One enricher with one partition, a static topology of 9,000 pods; chunks of 4,000 flows, records of some 900 bytes,
zstd, one broker. CPU is the process's own, user and system, over the last nine tenths of the chunks, so that its start
is not in it. The bare loop fetches the same raw chunks and sends ready-made records, the very values that the enricher
makes, with aiokafka: once one record a call (`send`), as most services do, and once in explicit batches
(`send_batch`), which is three times as cheap and what the enricher itself does. The target is for the first.

A node sends a chunk a window, and a usual one has some 35 flows in it: the same number of flows is joined from such
chunks, beside those of 4,000. Such a chunk costs 100 to 200 us by itself: it is decoded, checked for a repeat and
resolved, an address of it stands for a row and not for four, and it has a ledger entry of its own.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.kafka import pipeline
from bench.kafka.bare_loop import RULE
from bench.made_up import cluster
from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.process import output_of, resident_bytes
from bench.measure.report import Table
from common.kafka import clients
from common.settings import KafkaSettings
from schemas.topology import TopologyState, encode_topology_file

_CHUNKS = 100
_TARGET = 0.6
_FEW_ROWS, _FEW_ROWS_TARGET = 35, 1 / 1.3


class Rig:
    """A fresh set of topics that hold the raw chunks for each measurement."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._chunks = cluster.chunks(_CHUNKS)
        self._small = cluster.chunks(_CHUNKS * cluster.ROWS // _FEW_ROWS, rows=_FEW_ROWS)
        self._flags = enricher_flags(directory)
        self.resident: list[float] = []

    def enricher(self, *flags: str, rows: int = cluster.ROWS) -> float:
        """Return the enricher's flows per CPU second, from chunks of so many rows."""
        chunks = self._chunks if rows == cluster.ROWS else self._small
        settings = self._fresh(chunks)
        with pipeline.running("enricher", settings, [[*self._flags, *flags]]) as pids:
            work = asyncio.run(joined(settings, pids, len(chunks)))
            self.resident.append(resident_bytes(pids[0], peak=True) / 1e6)
        return work.units * rows / work.cpu_seconds

    def bare_loop(self, how: str) -> float:
        """Return the yardstick's."""
        settings = self._fresh(self._chunks)
        words = (settings.kafka_bootstrap, settings.topic_prefix, how, str(_CHUNKS))
        found = json.loads(output_of("bench.kafka.bare_loop", *words))
        return float(found["flows"] / found["cpu_seconds"])

    def _fresh(self, chunks: Sequence[cluster.Chunk]) -> KafkaSettings:
        return asyncio.run(pipeline.fresh(self._bootstrap, 1, chunks))


def enricher_flags(directory: Path, states: list[TopologyState] | None = None) -> list[str]:
    """Write the bench cluster's files; return the flags of an enricher that joins with them."""
    (directory / "topology.json").write_bytes(encode_topology_file(states or cluster.states()))
    rule = {"cidr": RULE.cidr, "name": RULE.name, "zone": RULE.zone, "region": RULE.region}
    (directory / "cidrs.json").write_text(json.dumps({"cidr": [rule]}))
    flags = ["--topology", str(directory / "topology.json"), "--cluster", cluster.CLUSTER]
    return [*flags, "--cidr-map", str(directory / "cidrs.json")]


async def joined(settings: KafkaSettings, pids: Sequence[int], chunks: int) -> pipeline.Work:
    """Wait until all chunks are joined, and return what that took: a ledger record is one chunk."""
    consumer = clients.new_consumer(settings)
    await consumer.start()
    ledger = pipeline.places(settings.topics.ledger, settings)

    async def done() -> int:
        return sum((await consumer.end_offsets(ledger)).values())

    try:
        return await pipeline.work(pids, done, chunks)
    finally:
        await clients.close(consumer)


def measure(rounds: int) -> Sequence[Table]:
    """Return the table of the enricher's throughput."""
    with tempfile.TemporaryDirectory() as directory, pipeline.broker() as bootstrap:
        rig = Rig(Path(directory), bootstrap)
        measures: list[Callable[[], float]] = [
            rig.enricher,
            lambda: rig.enricher("--detail", "workload"),
            lambda: rig.enricher(rows=_FEW_ROWS),
            lambda: rig.bare_loop("send"),
            lambda: rig.bare_loop("batches"),
        ]
        ours, rolled, small, one_by_one, batches = in_turn(rounds, *measures)
    unit = "flows/CPU s"
    figures = [
        Figure("beside one record a call", unit, ours, one_by_one, target=Target(_TARGET, at_least=True)),
        Figure("beside explicit batches", unit, ours, batches),
        Figure("`--detail workload`, beside explicit batches", unit, rolled, batches),
        Figure(
            f"chunks of {_FEW_ROWS} rows, beside chunks of {cluster.ROWS:,}",
            unit,
            small,
            ours,
            target=Target(_FEW_ROWS_TARGET, at_least=True),
        ),
    ]
    text = (__doc__ or "").partition("\n\n")[2] + f"\nIt held {max(rig.resident):.0f} MB at most."
    return [Table("The enricher, Kafka to Kafka", text, figures)]


if __name__ == "__main__":
    sys.exit(report.main("enricher", "The enricher", measure))
