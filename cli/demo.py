# SPDX-License-Identifier: Apache-2.0
"""`zonemeter demo`: the lab, its traffic, a table per window, the audit at the end.

Exit status 0 only if the ledger closes over packets really seen.
"""

import asyncio
import contextlib
import platform
import time
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import Field
from rich.console import Console

from collector.preflight import check_host
from common import kafka
from common.errors import Refusal
from common.settings import KafkaSettings, Settings, load, refuse
from lab import cluster, stories
from lab.errors import LabError
from lab.interrupts import run_interruptible
from lab.services import Files, Ports
from replay.audit import AuditSettings, audit_range
from replay.audit_view import print_table
from replay.ledger_book import Audit
from replay.summary import Summariser, Summary
from replay.summary_view import print_summary
from replay.time_range import TimeRange, timestamp
from schemas.flow import decode_head

WINDOW_MS = 10_000
# A window is shown once every node's flows of it are there, or this long after its end.
PATIENCE_MS = 4_000
# How long the last windows may take through every hop, the flow log's cut included, before that is bad news.
SETTLE_SECONDS = 60.0


class DemoSettings(Settings):
    """Show the main job on real packets: a cluster of namespaces, real traffic, a table per window, the audit."""

    duration: int | None = Field(None, ge=20, description="seconds of traffic to show, then end; else until Ctrl-C")
    prefix: str = Field("zm", description="what everything that the demo makes begins with")


def main(argv: list[str]) -> int:
    """Run the demo; return 0 if the ledger closes."""
    settings = load(DemoSettings, "demo", argv)
    try:
        return run_interruptible(Demo(settings).run())
    except (LabError, Refusal) as error:
        refuse("zonemeter demo", str(error))


class Demo:
    """One run of the demo."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._console = Console(width=100, highlight=False)
        self._ports = Ports()
        self._kafka = KafkaSettings(kafka_bootstrap=f"127.0.0.1:{self._ports.kafka}")
        self._begun_ms = _now_ms()

    async def run(self) -> int:
        """Bring everything up, show it, audit it, and leave nothing behind whatever happens."""
        plan = stories.shop(self._settings.prefix)
        self._console.print(
            f"zonemeter demo: {len(plan.nodes)} nodes, {len({n.zone for n in plan.nodes})} zones, real packets, "
            "real Kafka. Ctrl-C stops and cleans up."
        )
        check_host()
        self._ok(f"kernel {platform.release()}, BTF     hook netfilter, IPv4 + IPv6")
        interrupted = False
        try:
            files = await cluster.up(plan, self._ports, say=self._ok)
            cluster.start_traffic(plan)
            self._ok("traffic: shop, databases, monitoring, IPv6, internet")
            try:
                await self._show(len(plan.nodes), files)
            except asyncio.CancelledError:
                interrupted = True
                _uncancel()
            audit = await self._audit(plan.prefix)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await cluster.down(plan.prefix)
        self._console.print(
            "cleaned up: no namespace, process or pin is left" + (" (interrupted)" if interrupted else "")
        )
        return 0 if audit.closes else 1

    def _ok(self, line: str) -> None:
        self._console.print(f"  ok  {line:<70} {(_now_ms() - self._begun_ms) / 1000:6.1f} s")

    async def _show(self, nodes: int, files: Files) -> None:
        wait = (WINDOW_MS - _now_ms() % WINDOW_MS) // 1000
        self._console.print(f"First window closes in {wait} s ...\n")
        self._hint(files)
        async with contextlib.AsyncExitStack() as stack:
            duration = self._settings.duration
            if duration is not None:
                await stack.enter_async_context(_quietly(duration))
            async for start_ms, summary in _windows(self._kafka, self._begun_ms, nodes):
                self._print_window(start_ms, summary, nodes)

    def _hint(self, files: Files) -> None:
        ports, topics = self._ports, self._kafka.topics
        self._console.print(f" watch    curl -s 127.0.0.1:{ports.metrics}/metrics | grep zone_bytes")
        self._console.print(f" consume  kcat -b 127.0.0.1:{ports.kafka} -C -t {topics.enriched} -o end")
        self._console.print(f" logs     {files.logs}")
        self._console.print(" audit    .venv/bin/zonemeter audit --since 5m\n")

    def _print_window(self, start_ms: int, summary: Summary, nodes: int) -> None:
        unknown = 100 * summary.scopes.get("unknown", 0) / summary.bytes if summary.bytes else 0.0
        end = timestamp(start_ms + WINDOW_MS)[11:]
        self._console.print(
            f"window {timestamp(start_ms)[11:]}-{end} UTC     nodes {len(summary.observers)}/{nodes}   "
            f"flows {summary.flows}   unknown {unknown:.1f} %"
        )
        print_summary(self._console, summary, WINDOW_MS / 1000)
        self._console.print()

    async def _audit(self, prefix: str) -> Audit:
        """Stop traffic and collectors, let the rest drain, and close the books over the whole run."""
        self._console.print("stopping traffic and collectors; the last windows drain ...")
        await asyncio.to_thread(cluster.stop, prefix, "traffic")
        await asyncio.to_thread(cluster.stop, prefix, "collector")
        settings = AuditSettings(kafka_bootstrap=self._kafka.kafka_bootstrap, settle_seconds=0)
        span = TimeRange(self._begun_ms, _now_ms())
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            audit = await audit_range(settings, span, _now_ms())
            if (audit.closes and not audit.absent) or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        print_table(audit, span, self._console)
        return audit


async def _windows(settings: KafkaSettings, from_ms: int, nodes: int) -> AsyncIterator[tuple[int, Summary]]:
    """Yield each window's summary, in order, for ever."""
    consumer: AIOKafkaConsumer = kafka.new_consumer(settings)
    await consumer.start()
    try:
        partitions = [TopicPartition(settings.topics.enriched, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        summariser = Summariser()
        open_: dict[int, Summary] = {}
        while True:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    flow = decode_head(record.value)
                    start_ms = flow.start_ms - flow.start_ms % WINDOW_MS
                    if start_ms + WINDOW_MS > from_ms:
                        summariser.add(open_.setdefault(start_ms, Summary()), flow)
            for start_ms in sorted(open_):
                overdue = _now_ms() > start_ms + WINDOW_MS + PATIENCE_MS
                if not overdue and len(open_[start_ms].observers) < nodes:
                    break
                if _now_ms() > start_ms + WINDOW_MS + 1_000:
                    yield start_ms, open_.pop(start_ms)
    finally:
        await kafka.close(consumer)


@contextlib.asynccontextmanager
async def _quietly(seconds: float) -> AsyncIterator[None]:
    """End the block after so long, without an error."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


def _uncancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
