# SPDX-License-Identifier: Apache-2.0
"""`make bench-scale`: the pipeline from 10 to 5,000 nodes, and what each service takes there.

One broker and real processes of `zonemeter run enricher`, `metrics`, `flowlog` and `audit`, with default settings but
for those below, and group sessions of two minutes: the broker has no processor of its own here. A made-up cluster's
windows (`zonemeter lab synth`) are published as its collectors would, each by itself, as fast as Kafka takes them: with
100 nodes the next of a node comes after a fifth of a second, with 5,000 after seven. A metrics checkpoint costs by the
series that grew, however often: so that it holds as much of each node's window in every row, a seventh, where it is a
tenth in production, it is made every second with 5,000 nodes and every hundredth of one with 50. A flow log is cut
every 15 s, with 5,000 nodes every minute. Even so its files hold three windows of each of 5,000 nodes, where they would
hold 16 in production: what a file takes for each distinct end point stands here five times as dear.

A node has 35 flows a window and 20 pods unless a row says otherwise. CPU is each process's own, user and system, for a
million raw flows, from when the first window of every node is through until all are: names and series are made with the
first, and kept. A third of the raw flows came from nodes that count them, too, and are put aside by the enricher.
Memory is the most that the process ever held. Bytes are those of the topic's log segments at the broker (zstd).
*Through* is how long after the last window was published the last service had taken all. At the end nothing waits in
Kafka, and `zonemeter audit` closes over every byte.

The figures compare two of the rows: linear in flows, flat in nodes and pods.
"""

import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from bench.kafka import pipeline
from bench.measure import report
from bench.measure.chart import chart
from bench.measure.figure import Figure, Target
from bench.measure.process import cpu_seconds, output_of, page, resident_bytes
from bench.measure.report import Table
from common.clock import now_ms
from common.kafka import clients, topic_admin
from common.settings import KafkaSettings
from lab.synth.cluster import SynthCluster
from lab.synth.publish import publish
from lab.synth.traffic import WINDOW_MS, Traffic

CHART = "scale.svg"
_ROOMS = ("enricher", "metrics", "flowlog", "audit")
_TOPICS = ("raw", "enriched", "ledger", "topology")
_PARTITIONS = 12
_PODS_A_NODE, _FLOWS = 20, 35
_DEADLINE_SECONDS = 280.0
_CUT_SECONDS, _WIDE_CUT_SECONDS = 15, 60
# Of so many nodes about a seventh of a window is published in a second, and a checkpoint is made: see above.
_NODES_A_CHECKPOINT_SECOND, _LEAST_CHECKPOINT_SECONDS = 5_000, 0.01
_LOOK_SECONDS = 0.25
# Narrow runs are short, and a core that is shared with others is not the same for a minute.
_FLAT = Target(1.5)


@dataclass(frozen=True, slots=True)
class Width:
    """A cluster, and how many windows of each of its nodes are published."""

    nodes: int
    windows: int
    pods_a_node: int = _PODS_A_NODE
    flows: int = _FLOWS

    @property
    def pods(self) -> int:
        """Pods of the cluster."""
        return self.nodes * self.pods_a_node

    @property
    def raw_flows(self) -> int:
        """Raw flows in all."""
        return self.nodes * self.windows * self.flows

    @property
    def checkpoint_seconds(self) -> float:
        """How often the metrics sink makes a checkpoint."""
        return max(self.nodes / _NODES_A_CHECKPOINT_SECOND, _LEAST_CHECKPOINT_SECONDS)

    @property
    def cut_seconds(self) -> int:
        """How often the flow log is cut."""
        return _CUT_SECONDS if self.nodes < _WIDE.nodes else _WIDE_CUT_SECONDS

    @property
    def is_usual(self) -> bool:
        """Whether a node of it has as many pods and flows as a usual one."""
        return (self.pods_a_node, self.flows) == (_PODS_A_NODE, _FLOWS)

    def __str__(self) -> str:
        pods = [f"{self.pods_a_node} pods each"] if self.pods_a_node != _PODS_A_NODE else []
        flows = [f"{self.flows} flows each"] if self.flows != _FLOWS else []
        return ", ".join([f"{self.nodes:,} nodes", *pods, *flows])


_SMALL, _USUAL, _WIDE = Width(100, 120), Width(1_000, 13), Width(5_000, 4)
_MORE_PODS, _MORE_FLOWS = Width(1_000, 13, pods_a_node=100), Width(1_000, 3, flows=350)
_WIDTHS = (Width(10, 360), _SMALL, _USUAL, _WIDE, _MORE_PODS, _MORE_FLOWS)


@dataclass
class Found:
    """What was found of one width: by service, and by topic in bytes."""

    width: Width
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    enriched: int = 0
    series: int = 0
    published_seconds: float = 0.0
    through_seconds: float = 0.0

    def cpu_a_million(self, room: str) -> float:
        """Return a service's CPU seconds for a million raw flows, those of the first windows left out."""
        width = self.width
        return self.cpu_seconds[room] / (width.raw_flows - width.nodes * width.flows) * 1e6


class Run:
    """One width: services that are ready, then windows, and how far each service is."""

    def __init__(self, width: Width, directory: Path, bootstrap: str) -> None:
        self._width, self._directory = width, directory
        prefix = f"scale-{uuid.uuid4().hex[:8]}."
        # Everything at once on one machine: a broker may be slow to answer those who publish, or only look.
        self._settings = KafkaSettings(
            kafka_bootstrap=bootstrap, topic_prefix=prefix, partitions=_PARTITIONS, kafka_deadline_seconds=300
        )
        self._flags = ["--kafka-bootstrap", bootstrap, "--topic-prefix", prefix, "--partitions", str(_PARTITIONS)]
        self._services: dict[str, tuple[int, str]] = {}
        self.found = Found(width)

    def measure(self, logs: Path) -> Found:
        """Run it to its end; `logs` is where the broker keeps its topics."""
        cluster = SynthCluster(self._width.nodes, self._width.pods, seed=1)
        flags = {
            "enricher": ["--session-seconds", "120"],
            "metrics": ["--checkpoint-seconds", str(self._width.checkpoint_seconds)],
            "flowlog": ["--cut-seconds", str(self._width.cut_seconds), "--session-timeout-seconds", "120"],
            "audit": ["--span-minutes", "120"],
        }
        asyncio.run(pipeline.make_topics(self._settings))
        with pipeline.all_services(self._settings, self._directory, [*cluster.states()], flags) as self._services:
            asyncio.run(self._follow(cluster))
            self.found.peak_bytes = {room: resident_bytes(pid, peak=True) for room, (pid, _) in self._services.items()}
            self.found.series = self._page("metrics", "metrics").count(b"\nzonemeter_workload_bytes_total{")
            self._check_books()
        names = self._settings.topics
        self.found.stored = {topic: _stored(logs, getattr(names, topic)) for topic in _TOPICS}
        return self.found

    async def _follow(self, cluster: SynthCluster) -> None:
        """Publish, and note what each service has spent on all but the first window of each node."""
        width = self._width
        begin_ms = (now_ms() // WINDOW_MS - width.windows) * WINDOW_MS
        traffic = Traffic(cluster, "default", width.flows, begin_ms)
        await publish(self._settings, traffic, range(1))
        before = await self._through(width.nodes)
        began = time.monotonic()
        await publish(self._settings, traffic, range(1, width.windows))
        published = time.monotonic()
        after = await self._through(width.nodes * width.windows)
        self.found.cpu_seconds = {room: after[room] - before[room] for room in _ROOMS}
        self.found.published_seconds = published - began
        self.found.through_seconds = time.monotonic() - published

    async def _through(self, windows: int) -> dict[str, float]:
        """Wait until each service has taken so many windows; return the CPU seconds that it had spent by then."""
        spent, deadline = {}, time.monotonic() + _DEADLINE_SECONDS
        async with topic_admin.admin_client(self._settings) as admin:
            for room in _ROOMS:
                while not await self._is_through(admin, room, windows):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self._width}: {room} is not through within {_DEADLINE_SECONDS:.0f} s")
                    await asyncio.sleep(_LOOK_SECONDS)
                spent[room] = cpu_seconds(self._services[room][0])
        return spent

    async def _is_through(self, admin: AIOKafkaAdminClient, room: str, windows: int) -> bool:
        if room == "audit":
            lines = self._page("audit", "metrics").decode().splitlines()
            closed = [line for line in lines if line.startswith("zonemeter_audit_windows{") and '"closed"' in line]
            return sum(float(line.rpartition(" ")[2]) for line in closed) == windows
        try:
            offsets = await admin.list_consumer_group_offsets(f"{self._settings.topic_prefix}{room}")
        except GroupCoordinatorNotAvailableError:  # the broker's first group
            return False
        taken = sum(at.offset for at in offsets.values())
        if room == "enricher" and taken == windows:
            self.found.enriched = await self._enriched()
        return bool(taken == (windows if room == "enricher" else self.found.enriched))

    async def _enriched(self) -> int:
        consumer = clients.new_consumer(self._settings)
        await consumer.start()
        try:
            places = pipeline.places(self._settings.topics.enriched, self._settings)
            return sum((await consumer.end_offsets(places)).values())
        finally:
            await clients.close(consumer)

    def _check_books(self) -> None:
        """Raise `RuntimeError` unless every byte is accounted for."""
        words = ("audit", *self._flags, "--since", "24h", "--settle-seconds", "0", "-o", "json")
        books = json.loads(output_of("cli", *words))
        if books["late_windows"] or books["windows"] != self._width.nodes * self._width.windows:
            raise RuntimeError(f"{self._width}: the ledger does not close: {books}")

    def _page(self, room: str, path: str) -> bytes:
        return page(f"http://{self._services[room][1]}/{path}") or b""


def _stored(logs: Path, topic: str) -> int:
    """Return the bytes of a topic's records at the broker."""
    return sum(segment.stat().st_size for segment in logs.glob(f"{topic}-*/*.log"))


def measure(rounds: int) -> Sequence[Table]:
    """Return the table of all widths, and the figures that compare two of them."""
    runs: list[list[Found]] = []
    with tempfile.TemporaryDirectory() as directory, pipeline.broker(Path(directory)) as bootstrap:
        for number in range(rounds * len(_WIDTHS)):
            place = Path(directory) / f"run-{number}"
            place.mkdir()
            run = Run(_WIDTHS[number % len(_WIDTHS)], place, bootstrap)
            if number % len(_WIDTHS) == 0:
                runs.append([])
            runs[-1].append(run.measure(Path(directory) / "kafka/data"))
            print(_row(runs[-1][-1]), file=sys.stderr)
    return tables(runs)


def tables(runs: Sequence[Sequence[Found]]) -> list[Table]:
    """Return what rounds of all widths come to; a row of the table is of the last round."""
    text = (__doc__ or "").partition("\n\n")[2]
    rows = "\n".join([_HEAD, *map(_row, runs[-1])])
    picture = f"![CPU, memory and bytes at the broker by the number of nodes]({CHART})"
    of = [{found.width: found for found in each} for each in runs]
    figures = [
        Figure(
            f"{room}: {wide}, beside {narrow}",
            "CPU s a million",
            [found[wide].cpu_a_million(room) for found in of],
            [found[narrow].cpu_a_million(room) for found in of],
            target=_FLAT,
        )
        for wide, narrow in ((_WIDE, _SMALL), (_MORE_PODS, _USUAL), (_MORE_FLOWS, _USUAL))
        for room in _ROOMS
    ]
    shown = f"{text.strip()}\n\n{rows}\n\n{picture}"
    return [Table("From 10 to 5,000 nodes", shown, figures, {CHART: drawn(runs[-1])})]


_COLUMNS = (
    "",
    "windows",
    "raw flows",
    "enriched",
    *(f"{room}: CPU s a million, MB" for room in _ROOMS),
    "raw: B a flow",
    "enriched: B a flow",
    "ledger: B a window",
    "topology: B a pod",
    "series",
    "published in, through after",
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|"


def _row(found: Found) -> str:
    width, stored = found.width, found.stored
    number, windows = report.number, found.width.nodes * found.width.windows
    cells = [
        str(width),
        f"{windows:,}",
        f"{width.raw_flows:,}",
        f"{found.enriched:,}",
        *(f"{number(found.cpu_a_million(room))}, {number(found.peak_bytes[room] / 1e6)}" for room in _ROOMS),
        number(stored["raw"] / width.raw_flows),
        number(stored["enriched"] / found.enriched),
        number(stored["ledger"] / windows),
        number(stored["topology"] / width.pods),
        f"{found.series:,}",
        f"{number(found.published_seconds)} s, {number(found.through_seconds)} s",
    ]
    return f"| {' | '.join(cells)} |"


def drawn(runs: Sequence[Found]) -> str:
    """Return the picture: by thousands of nodes, with what is usual of a node."""
    usual = [found for found in runs if found.width.is_usual]
    lines: dict[str, Callable[[Found, str], float]] = {
        "CPU seconds for a million raw flows": lambda found, room: found.cpu_a_million(room),
        "memory at most, MB": lambda found, room: found.peak_bytes[room] / 1e6,
    }
    panels = {
        title: {room: [(found.width.nodes, value(found, room)) for found in usual] for room in _ROOMS}
        for title, value in lines.items()
    }
    panels["bytes at the broker for a raw flow"] = {
        topic: [(found.width.nodes, found.stored[topic] / found.width.raw_flows) for found in usual]
        for topic in ("raw", "enriched", "ledger")
    }
    return chart(panels, "nodes")


if __name__ == "__main__":
    sys.exit(report.main("scale", "Scale", measure, rounds=1))
