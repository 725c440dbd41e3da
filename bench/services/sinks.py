# SPDX-License-Identifier: Apache-2.0
"""`make bench-sinks`: flows per CPU second of the sinks, beside `getmany` alone; scrapes of 100,000 series.

The enriched topic holds 800,000 flows, which the enricher made of a cluster with 9,000 pods: records of some 900 bytes,
zstd, two partitions, one broker. CPU is the process's own, user and system, over the last nine tenths of the flows. The
yardstick is a process that calls aiokafka's own `getmany` until it has them all, and does nothing with them.
"""

import asyncio
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

from bench.kafka import pipeline
from bench.kafka.pipeline import Work
from bench.made_up import cluster
from bench.measure import report
from bench.measure.figure import Figure, Target, in_turn
from bench.measure.process import DEADLINE_SECONDS, output_of
from bench.measure.report import Table
from bench.services.enricher import enricher_flags, joined
from common.kafka import topic_admin
from lab.kafka.broker import free_port
from schemas.topology import TopologyState

_CHUNKS = 200
_FLOWS = _CHUNKS * cluster.ROWS
_PARTITIONS = 2
_OBSERVERS, _OBSERVERS_OF_MANY_PAIRS = 4, 40
_SCRAPE_EVERY_SECONDS = 5.0
_SCRAPES = """Series of zonemeter_workload_bytes_total alone; flows as above, but each pod is of a workload of its own,
and nothing is capped. A scrape is timed when all flows are in, five times, of which the median; the intake, in flows
per second of wall time, is that of a sink that is scraped every five seconds beside that of one that is not."""
_METRICS, _FLOWLOG, _FLOW_BYTES, _SCRAPE_SECONDS, _MEANWHILE = 0.5, 0.35, 12.0, 0.5, 0.8


class Rig:
    """One enriched topic, and sinks that read it from the beginning each time."""

    def __init__(self, directory: Path, bootstrap: str, observers: int, states: list[TopologyState]) -> None:
        directory.mkdir()
        self._directory = directory
        self._runs = 0
        self.bytes_a_flow: list[float] = []
        self.scrapes: list[float] = []
        self.series: list[int] = []
        chunks = cluster.chunks(_CHUNKS, observers=observers)
        self._settings = asyncio.run(pipeline.fresh(bootstrap, _PARTITIONS, chunks))
        with pipeline.running("enricher", self._settings, [enricher_flags(directory, states)]) as pids:
            asyncio.run(joined(self._settings, pids, _CHUNKS))

    def read(self) -> float:
        """Return the yardstick's flows per CPU second."""
        settings = self._settings
        words = (settings.kafka_bootstrap, settings.topic_prefix, str(_PARTITIONS))
        return float(output_of("bench.kafka.read_loop", *words))

    def metrics(self, replicas: int = 1) -> float:
        """Return flows per CPU second of so many metrics sinks."""
        each = [["--replicas", str(replicas), "--replica-ordinal", str(ordinal)] for ordinal in range(replicas)]
        with self._running("metrics", [["--state-dir", str(self._new()), *flags] for flags in each]) as consumed:
            work = consumed()
        return work.units / work.cpu_seconds

    def flowlog(self) -> float:
        """Return flows per CPU second of the flow log as Parquet; keep what a flow takes on disk."""
        output = self._new()
        # The last rows are fewer than a cut needs, and would wait for minutes.
        cuts = ["--cut-rows", str(_FLOWS // 8), "--cut-seconds", "15"]
        with self._running("flowlog", [["--output", str(output), *cuts]]) as consumed:
            work = consumed()
        self.bytes_a_flow.append(sum(path.stat().st_size for path in output.rglob("*.parquet")) / _FLOWS)
        return work.units / work.cpu_seconds

    def intake(self, *, scraped: bool) -> float:
        """Return flows per second of a metrics sink that caps no series, while somebody scrapes it and while not."""
        listen = f"127.0.0.1:{free_port()}"
        url = f"http://{listen}/metrics"
        flags = ["--state-dir", str(self._new()), "--max-series", "1000000", "--listen", listen]
        with self._running("metrics", [flags]) as consumed:
            with _scraping(url) if scraped else nullcontext():
                work = consumed()
            if not scraped:
                found = [_scrape(url) for _ in range(5)]
                self.scrapes.append(median(seconds for seconds, _ in found))
                self.series.append(found[-1][1])
        return work.units / work.wall_seconds

    @contextmanager
    def _running(self, room: str, each: Sequence[Sequence[str]]) -> Iterator[Callable[[], Work]]:
        """Run sinks in a new group; give what waits until the group has committed everything."""
        group = f"{self._settings.topic_prefix}{room}-{self._runs}"

        async def consumed(pids: Sequence[int]) -> Work:
            patient = self._settings.model_copy(update={"kafka_deadline_seconds": DEADLINE_SECONDS})
            async with topic_admin.admin_client(patient) as admin:

                async def done() -> int:
                    return sum(at.offset for at in (await admin.list_consumer_group_offsets(group)).values())

                return await pipeline.work(pids, done, _FLOWS)

        with pipeline.running(room, self._settings, [["--group", group, *flags] for flags in each]) as pids:
            yield lambda: asyncio.run(consumed(pids))

    def _new(self) -> Path:
        self._runs += 1
        return self._directory / str(self._runs)


@contextmanager
def _scraping(url: str) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_EVERY_SECONDS):
            _scrape(url)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _scrape(url: str) -> tuple[float, int]:
    """Return how many seconds a scrape takes, and how many series of workloads it has."""
    begun = time.monotonic()
    with urllib.request.urlopen(url, timeout=60) as response:
        text = response.read()
    return time.monotonic() - begun, text.count(b"\nzonemeter_workload_bytes_total{")


def measure(rounds: int) -> Sequence[Table]:
    """Return the tables of the sinks."""
    with tempfile.TemporaryDirectory() as directory, pipeline.broker() as bootstrap:
        usual = Rig(Path(directory) / "usual", bootstrap, _OBSERVERS, cluster.states())
        states = cluster.states(workloads_of_their_own=True)
        many = Rig(Path(directory) / "many", bootstrap, _OBSERVERS_OF_MANY_PAIRS, states)
        read, metrics, both, flowlog = in_turn(
            rounds, usual.read, usual.metrics, lambda: usual.metrics(2), usual.flowlog
        )
        alone, scraped = in_turn(rounds, lambda: many.intake(scraped=False), lambda: many.intake(scraped=True))
    unit, disk = "flows/CPU s", usual.bytes_a_flow[1:]
    throughput = [
        Figure("metrics", unit, metrics, read, target=Target(_METRICS, at_least=True)),
        Figure("two metrics sinks, beside one", unit, both, metrics),
        Figure("flow log, Parquet", unit, flowlog, read, target=Target(_FLOWLOG, at_least=True)),
        Figure("on disk, a flow", "bytes", disk, target=Target(_FLOW_BYTES)),
    ]
    seconds = many.scrapes[1:]
    scrapes = [
        Figure("a scrape", "s", seconds, target=Target(_SCRAPE_SECONDS)),
        Figure("intake while scraped", "flows/s", scraped, alone, target=Target(_MEANWHILE, at_least=True)),
    ]
    text = (__doc__ or "").partition("\n\n")[2]
    return [
        Table("Flows per CPU second", text, throughput),
        Table(f"{median(many.series):,.0f} series", _SCRAPES, scrapes),
    ]


if __name__ == "__main__":
    sys.exit(report.main("sinks", "The sinks", measure))
