# SPDX-License-Identifier: Apache-2.0
"""`zonemeter demo`: the case it was built for, told by a lab with real packets, in two acts.

Act one is the shop as found: a database read across zones, a monitoring stack that exists twice. At its end `advise`
finds both. Act two applies the very manifests that it printed, for real, and compares what that saved with what
`advise --simulate` had promised. Then the audit. Exit status 0 only if the ledger closes over packets really seen.
"""

import asyncio
import contextlib
import itertools
import platform
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import Field

from audit.result import Audit
from cli import demo_story
from cli.lab import LabPrefix
from collector.host.preflight import check_host
from common.amounts import command_lines, labelled
from common.clock import now_ms
from common.entry_point import entry_point
from common.errors import Nothing
from common.settings import KafkaSettings, Settings
from common.terminal import say
from history.advise import machine
from history.advise import text as advice_text
from history.advise.command import AdviseSettings, ask
from history.audit import text
from history.audit.command import AuditSettings, audit_range
from history.model.filters import Selection
from history.model.time_range import TimeRange
from history.read.live import LiveWindow, follow
from history.read.topic_sql import Sieve
from history.text.live import title
from history.text.summary import summary_lines
from lab import cluster, stories
from lab.apply import applied
from lab.interrupts import run_interruptible
from lab.plan import Plan
from lab.services import Files, Ports, zonemeter
from prices.file import shipped

WINDOW_MS = 10_000
# Without --duration: how long act one lasts.
ACT_SECONDS = 60
# By so long after its end, a window of every node of the lab has come in.
COMING_IN_MS = 4_000
# How long the last windows may take through every hop, the flow log's cut included, before that is bad news.
SETTLE_SECONDS = 60.0


class DemoSettings(Settings):
    """Show the main job on real packets: a cluster of namespaces, real traffic, a table per window, the audit."""

    duration: int | None = Field(
        None, ge=30, description="seconds of traffic, half of them for each act, then end; else until Ctrl-C"
    )
    prefix: LabPrefix = Field("zm", description="what everything that the demo makes begins with")
    free_ports: bool = Field(False, description="listen on ports that are free now, not on the usual ones")


@entry_point("demo", DemoSettings)
def main(settings: DemoSettings) -> int:
    """Run the demo; return 0 if the ledger closes."""
    try:
        return run_interruptible(Demo(settings).run())
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; cleaned up: no namespace, process or pin is left") from None


class Demo:
    """One run of the demo."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._ports = Ports.free() if settings.free_ports else Ports()
        self._kafka = KafkaSettings(kafka_bootstrap=f"127.0.0.1:{self._ports.kafka}")
        self._prices = shipped("aws")
        self._found = stories.found(settings.prefix)
        self._story = demo_story.Story(self._prices, WINDOW_MS)
        self._begun_ms = now_ms()

    async def run(self) -> int:
        """Bring everything up, show it, audit it, and leave nothing behind whatever happens."""
        plan = self._found
        zones = len({node.zone for node in plan.nodes})
        self._print(
            f"zonemeter demo: {len(plan.nodes)} nodes, {zones} zones, real packets, real Kafka. "
            "Ctrl-C stops and cleans up."
        )
        check_host()
        self._ok(f"kernel {platform.release()}, BTF     hook netfilter, IPv4 + IPv6")
        try:
            files = await cluster.up(plan, self._ports, say=self._ok)
            cluster.start_traffic(plan)
            self._ok("traffic: shop, databases, 2 x prometheus, IPv6, internet")
            try:
                await self._show(plan, files)
            except asyncio.CancelledError:
                _uncancel()  # Ctrl-C ends the show; what it showed is audited all the same
            audit = await self._close(plan, files)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await cluster.down(plan.prefix)
        self._print("cleaned up: no namespace, process or pin is left")
        return 0 if audit.has_arrived else 1

    async def _show(self, plan: Plan, files: Files) -> None:
        self._print(f"First window closes in {(WINDOW_MS - now_ms() % WINDOW_MS) / 1000:.0f} s ...", "")
        self._hint(files)
        duration = self._settings.duration
        stopping = asyncio.Event()
        director = asyncio.create_task(self._direct(duration, stopping), name="director")
        windows = follow(self._kafka, WINDOW_MS, Sieve(Selection()), stopping)
        try:
            async with contextlib.aclosing(windows):
                async for window in windows:
                    if window is not None and window.end_ms > self._begun_ms:
                        self._window(window)
                    if director.done():
                        director.result()  # raises what it died of
        finally:
            director.cancel()

    async def _direct(self, duration: int | None, stopping: asyncio.Event) -> None:
        """Change the scene after act one, end the show after act two."""
        act = ACT_SECONDS if duration is None else duration / 2
        self._story.begin_ms = now_ms()
        await asyncio.sleep(act)
        self._story.change_ms = now_ms()
        mended = await self._advise()
        await asyncio.to_thread(cluster.stop, self._found.prefix, "traffic")
        await cluster.change(self._found, mended)
        cluster.start_traffic(mended)
        self._story.changed_ms = now_ms()
        if duration is not None:
            await asyncio.sleep(act)
            # The last window of act two is shown before the curtain falls.
            await asyncio.sleep((WINDOW_MS - now_ms() % WINDOW_MS) / 1000 + 2.5)
            stopping.set()

    async def _advise(self) -> Plan:
        """Print what is advised on act one; return the lab's plan with the manifests that were printed applied."""
        # Whole windows of act one that have come in from every node; so little evidence only a demo goes by.
        begin_ms = -(-self._story.begin_ms // WINDOW_MS) * WINDOW_MS
        span = TimeRange(begin_ms, max((now_ms() - COMING_IN_MS) // WINDOW_MS * WINDOW_MS, begin_ms + WINDOW_MS))
        settings = AdviseSettings(
            kafka_bootstrap=self._kafka.kafka_bootstrap, prices="aws", own_kafka=self._own()[1], force=True
        )
        try:
            answer = await ask(settings, span, now_ms())
        except Nothing as nothing:
            self._print(f"act 2 of 2: no advice: {nothing}; nothing is changed", "")
            return self._found
        self._print("what zonemeter advise says of act 1:", "", *advice_text.lines(answer.report, answer.advice), "")
        numbers = [each.number for each in answer.advice.told]
        if numbers:
            crossing = [part.summary.scopes.get("cross_zone", 0) for part in answer.simulated(numbers).ranges]
            self._story.left = crossing[0] / crossing[1]
        self._print("act 2 of 2: the changes above are applied to the lab, as kubectl apply would ...", "")
        manifests = yaml.safe_load_all("\n".join(machine.as_yaml(answer.advice)))
        return applied(self._found, [each for each in manifests if each])

    def _window(self, window: LiveWindow) -> None:
        self._story.take(window)
        self._print(*title(window, f"/{len(self._found.nodes)}", self._story.act_of(window)))
        summary = window.summary
        self._print(*summary_lines(summary, WINDOW_MS / 1000, self._prices), "")

    async def _close(self, plan: Plan, files: Files) -> Audit:
        """Stop traffic and collectors, let the rest drain, say what was saved, and close the books."""
        self._print("stopping traffic and collectors; the last windows drain ...", "")
        await asyncio.to_thread(cluster.stop, plan.prefix, "traffic")
        await asyncio.to_thread(cluster.stop, plan.prefix, "collector")
        settings = AuditSettings(kafka_bootstrap=self._kafka.kafka_bootstrap, settle_seconds=0)
        span = TimeRange(self._begun_ms, now_ms())
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            audit = await audit_range(settings, span, now_ms())
            if (audit.has_arrived and not audit.absent) or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        await self._report(span)
        self._print(*self._story.lines(), *text.lines(audit, span))
        try:
            kept = keep(files.logs, Path("demo"), self._begun_ms)
        except OSError as error:
            self._print(f"the flow log could not be kept: {error}")
            return audit
        start, end = (datetime.fromtimestamp(at / 1000, UTC) for at in (span.from_ms, span.to_ms + 1000))
        between = f"--from {start:%Y-%m-%dT%H:%M:%SZ} --to {end:%Y-%m-%dT%H:%M:%SZ}"
        self._print("the flow log is kept; the same report from it, now or next week:")
        flags = f"--archive {kept} {between} --prices aws {' '.join(self._own())}"
        for row in command_lines(f".venv/bin/zonemeter report {flags}", 3):
            self._print(f"   {row}")
        return audit

    async def _report(self, span: TimeRange) -> None:
        """Print what `zonemeter report` says of the whole run, but for what to do next: this cluster ends now."""
        start = datetime.fromtimestamp(span.from_ms / 1000, UTC).isoformat()
        flags = ("--from", start, "--prices", "aws", *self._own(), "--kafka-bootstrap", self._kafka.kafka_bootstrap)
        process = await asyncio.create_subprocess_exec(*zonemeter("report", *flags), stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        self._print(*said.decode().partition("\nnext ")[0].split("\n"))

    def _hint(self, files: Files) -> None:
        ports, topics = self._ports, self._kafka.topics
        where = "" if ports.kafka == Ports().kafka else f" --kafka-bootstrap {self._kafka.kafka_bootstrap}"
        act = ACT_SECONDS if self._settings.duration is None else self._settings.duration / 2
        self._print(" in a second terminal, in this directory:")
        for line in (
            f".venv/bin/zonemeter top{where}",
            f".venv/bin/zonemeter report --since 2m --prices aws {' '.join(self._own())}{where}",
            "   (--own-kafka: where the collectors reach Kafka, so that the meter's own traffic is told apart)",
            f".venv/bin/zonemeter replay --since 2m -n monitoring --scope cross_zone{where}",
            f".venv/bin/zonemeter audit --since 5m{where}",
            f"curl -s 127.0.0.1:{ports.metrics}/metrics | grep zone_bytes",
            f"kcat -b 127.0.0.1:{ports.kafka} -C -t {topics.enriched} -o end",
        ):
            is_remark = line.startswith(" ")
            self._print(*(f"   {row}" for row in ([line] if is_remark else command_lines(line, 3))))
        self._print(f" flow logs   {files.logs}")
        self._print(f" act 1 of 2: as found; act 2 in {act:.0f} s", "")

    def _own(self) -> tuple[str, str]:
        """Return the flag that says where the collectors reach Kafka, so that the meter's own traffic is told."""
        return "--own-kafka", f"{self._found.control_v4}:{self._ports.kafka_fabric}"

    def _ok(self, line: str) -> None:
        head = f"  ok {(now_ms() - self._begun_ms) / 1000:6.1f} s  "
        self._print(*labelled(head, line.split("     "), len(head), "     "))

    def _print(self, *lines: str) -> None:
        say(*lines, flush=True)


def keep(logs: Path, into: Path, begun_ms: int) -> Path:
    """Copy the flow log out of the lab, which is about to go, into a directory of this demo's own; return that.

    Never over what is there: the command that an earlier demo printed shall find what it was printed for.
    """
    name = f"flows-{datetime.fromtimestamp(begun_ms / 1000, UTC):%Y%m%dT%H%M%SZ}"
    into.mkdir(exist_ok=True)
    kept = into / name
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            kept.mkdir()
            break
        kept = into / f"{name}-{number}"
    if logs.exists():
        shutil.copytree(logs, kept, dirs_exist_ok=True)
    return kept


def _uncancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
